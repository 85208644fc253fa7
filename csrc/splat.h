// Forward warping (splatting): shapes and kernels, without PyTorch.
#pragma once
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FLOWMATCH_EVERYWHERE __host__ __device__
#else
#define FLOWMATCH_EVERYWHERE
#endif

namespace flowmatch {

// image, out: [B, C, H, W]   flow: [B, 2, H, W], (u, v)   all contiguous.
// Each pixel of the image, a source, is added to the four pixels around (x + u, y + v), its
// targets, with bilinear weights. Targets outside the image are left out.
struct SplatShape {
  int64_t batch, channels, height, width;
  constexpr int64_t pixels() const { return height * width; }
};

// The upper left target of a source, and the distance from there: weights are 1 - fx and fx along
// x, 1 - fy and fy along y.
template <class A>
struct Landing {
  int64_t y, x;
  A fy, fx;
  bool inside;  // whether any target may be inside the image
};

// Where pixel (y, x) lands. Flow that is not finite, or longer than any image, is outside. The flow
// is split before it is added to the pixel: its fraction keeps all its digits.
template <class A>
FLOWMATCH_EVERYWHERE Landing<A> landing(const A* flow, const SplatShape& s, int64_t y, int64_t x) {
  constexpr A beyond = 1 << 24;
  const A u = flow[y * s.width + x], v = flow[s.pixels() + y * s.width + x];
  if (!(std::abs(u) < beyond && std::abs(v) < beyond)) return {0, 0, 0, 0, false};
  const A left = std::floor(u), top = std::floor(v);
  const int64_t to_x = x + static_cast<int64_t>(left), to_y = y + static_cast<int64_t>(top);
  const bool inside = to_x >= -1 && to_x < s.width && to_y >= -1 && to_y < s.height;
  return {to_y, to_x, v - top, u - left, inside};
}

// The bilinear value of a plane at a landing, zero outside, and its derivatives along x and y.
template <class A>
struct Sample {
  A value, over_x, over_y;
};

template <class A>
FLOWMATCH_EVERYWHERE Sample<A> sample(const A* plane, const SplatShape& s, const Landing<A>& at) {
  const bool top = at.y >= 0, bottom = at.y + 1 < s.height;
  const bool left = at.x >= 0, right = at.x + 1 < s.width;
  const int64_t corner = at.y * s.width + at.x;
  const A a = top && left ? plane[corner] : 0, b = top && right ? plane[corner + 1] : 0;
  const A c = bottom && left ? plane[corner + s.width] : 0;
  const A d = bottom && right ? plane[corner + s.width + 1] : 0;
  const A upper = (1 - at.fx) * a + at.fx * b, lower = (1 - at.fx) * c + at.fx * d;
  return {(1 - at.fy) * upper + at.fy * lower, (1 - at.fy) * (b - a) + at.fy * (d - c),
          lower - upper};
}

// Both namespaces have the same two functions, for float and double. splat_grad computes the
// gradients of sum(g * out) with respect to the image and the flow.

namespace cpu {

template <typename A>
void splat(const A* image, const A* flow, A* out, const SplatShape& s);
template <typename A>
void splat_grad(const A* g, const A* image, const A* flow, A* grad_image, A* grad_flow,
                const SplatShape& s);

}  // namespace cpu

namespace cuda {

// The number of values of the scratch memory `boxes`.
int64_t splat_boxes(const SplatShape& s);

template <typename A>
void splat(const A* image, const A* flow, int64_t* boxes, A* out, const SplatShape& s,
           void* stream);
template <typename A>
void splat_grad(const A* g, const A* image, const A* flow, A* grad_image, A* grad_flow,
                const SplatShape& s, void* stream);

}  // namespace cuda
}  // namespace flowmatch
