// How images are cut into tiles for the correlation kernels.
//
// A pixel only ever meets pixels a multiple of `stride` away, so an image falls apart into
// stride x stride interleaved lattices, on each of which the displacements are dense. A tile is
// kTileRows x kTileColumns pixels of one lattice; kernels count in steps of its lattice.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "../correlation.h"
#include "launch.cuh"

namespace flowmatch::cuda {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 32;
constexpr int kPixels = 4;  // neighbours in a thread: 4 x 8 threads, a warp, hold a tile

// A stride longer than the image does the same as one just as long, and cannot overflow.
inline CorrelationShape clamped(CorrelationShape s) {
  s.stride = std::min(s.stride, std::max(s.height, s.width));
  return s;
}

// Tiles of all images; what is computed for a tile is cut into parts, a block each.
struct Tiling {
  int64_t side, phases_y, phases_x, rows, columns, parts;

  Tiling(const CorrelationShape& s, int64_t parts)
      : side(s.side()),
        phases_y(std::min(s.stride, s.height)),
        phases_x(std::min(s.stride, s.width)),
        rows(ceil_div(ceil_div(s.height, s.stride), kTileRows)),
        columns(ceil_div(ceil_div(s.width, s.stride), kTileColumns)),
        parts(parts) {}
  int64_t tiles(int64_t batch) const {
    return batch * phases_y * rows * columns * phases_x * parts;
  }
};

// Where a block works: (y, x) is the tile's first pixel. Parts and interleaved columns come first,
// so that blocks that share cache lines run at the same time.
struct Place {
  int64_t batch, y, x;
  int part;

  __device__ Place(int64_t tile, const CorrelationShape& s, const Tiling& t) {
    const auto take = [&](int64_t count) {
      const int64_t index = tile % count;
      tile /= count;
      return index;
    };
    part = static_cast<int>(take(t.parts));
    x = take(t.phases_x);
    x += take(t.columns) * kTileColumns * s.stride;
    y = take(t.rows) * kTileRows * s.stride;
    y += take(t.phases_y);
    batch = tile;
  }
};

// `count` things in the fewest parts of at most `most`, as equal as can be: the size of a part.
inline int even_part(int64_t count, int64_t most) {
  return static_cast<int>(ceil_div(count, ceil_div(count, most)));
}

__device__ inline bool inside(int64_t i, int64_t size) { return i >= 0 && i < size; }

}  // namespace flowmatch::cuda
