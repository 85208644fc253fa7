// The correlation lookup (RAFT's, without its volume): shapes and kernels, without PyTorch.
#pragma once
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FLOWMATCH_EVERYWHERE __host__ __device__
#else
#define FLOWMATCH_EVERYWHERE
#endif

namespace flowmatch {

// f1: [B, H, W, C]   f2: [B, H2, W2, C]   coords: [B, 2, H, W], (x, y)   out: [B, D, H, W]
// A pixel of f1 is compared with a window of f2 around coords * scale. The window is
// rows() x columns() pixels ("taps"); each 2 x 2 neighbours are blended into one of
// D = (2 Ry + 1) (2 Rx + 1) results.
struct LookupShape {
  int64_t batch, channels, height, width, height2, width2;
  int64_t radius_y, radius_x;
  double scale_y, scale_x;
  constexpr int64_t pixels() const { return height * width; }
  constexpr int64_t pixels2() const { return height2 * width2; }
  constexpr int64_t side_y() const { return 2 * radius_y + 1; }
  constexpr int64_t side_x() const { return 2 * radius_x + 1; }
  constexpr int64_t displacements() const { return side_y() * side_x(); }
  constexpr int64_t rows() const { return side_y() + 1; }
  constexpr int64_t columns() const { return side_x() + 1; }
  constexpr int64_t taps() const { return rows() * columns(); }
};

// A window's first pixel in f2, and the fractional part of the coordinates.
template <class A>
struct LookupWindow {
  int64_t y, x;
  A fy, fx;
};

// The window of a pixel of f1. Coordinates that are not finite, or larger than any image, are moved
// outside every image.
template <class A>
FLOWMATCH_EVERYWHERE LookupWindow<A> window(const A* coords, const LookupShape& s, int64_t pixel) {
  constexpr A beyond = 1 << 24;
  A x = coords[pixel] * static_cast<A>(s.scale_x);
  A y = coords[s.pixels() + pixel] * static_cast<A>(s.scale_y);
  if (!(std::abs(x) < beyond && std::abs(y) < beyond)) x = y = -beyond;
  const A left = std::floor(x), top = std::floor(y);
  return {static_cast<int64_t>(top) - s.radius_y, static_cast<int64_t>(left) - s.radius_x, y - top,
          x - left};
}

// Both namespaces have the same two functions, on the CPU for one level. A: float, or double where
// T is double.

namespace cpu {

template <typename T, typename A>
void correlation_lookup(const T* f1, const T* f2, const A* coords, T* out, const LookupShape& s);
template <typename T, typename A>
void correlation_lookup_grad(const T* g, const T* f1, const T* f2, const A* coords, T* grad1,
                             T* grad2, A* grad_coords, const LookupShape& s);

}  // namespace cpu

namespace cuda {

// Backward, the gradient of f2 is computed in tiles, each from several parts of the pixels of f1:
// as many as fill a GPU, because a coarse level of a pyramid has few tiles.
constexpr int64_t kLookupTileY = 4, kLookupTileX = 8, kLookupBlocks = 512;
constexpr int64_t lookup_tiles(const LookupShape& s) {
  return s.batch * ((s.height2 + kLookupTileY - 1) / kLookupTileY) *
         ((s.width2 + kLookupTileX - 1) / kLookupTileX);
}
constexpr int64_t lookup_parts(const LookupShape& s) {
  const int64_t wanted = (kLookupBlocks + lookup_tiles(s) - 1) / lookup_tiles(s);
  const int64_t most = (s.pixels() + 31) / 32;  // 32 pixels are selected at a time
  return wanted < most ? wanted : most;
}
// The elements of `scratch`: the taps, and the sums of each part.
constexpr int64_t lookup_scratch(const LookupShape& s) {
  return s.batch * (s.pixels() * s.taps() + lookup_parts(s) * s.pixels2() * s.channels);
}
// All levels of a pyramid: f2 and shapes of each, which differ in the second image's size and the
// scale only. out: [B, levels * D, H, W].
template <typename T, typename A>
void correlation_lookup(const T* f1, const T* const* f2, const A* coords, T* out,
                        const LookupShape* shapes, int levels, void* stream);
template <typename T, typename A>
void correlation_lookup_grad(const T* g, const T* f1, const T* f2, const A* coords, T* grad1,
                             T* grad2, A* grad_coords, A* scratch, const LookupShape& s,
                             void* stream);

}  // namespace cuda
}  // namespace flowmatch
