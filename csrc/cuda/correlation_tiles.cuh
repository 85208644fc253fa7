// The tiling of images for the correlation kernels.
//
// A pixel is only compared with pixels a multiple of `stride` away, so an image consists of
// stride x stride interleaved lattices, on each of which the displacements are dense. A tile is
// kTileRows x kTileColumns pixels of one lattice; coordinates inside a tile are in lattice steps.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "../correlation.h"
#include "launch.cuh"

namespace flowmatch::cuda {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 32;
constexpr int kPixels = 4;  // adjacent pixels per thread: a tile takes 4 x 8 threads, a warp

// The tiles of all images. The work of a tile is divided into parts, one block each.
struct Tiling {
  int64_t side_y, side_x, phases_y, phases_x, rows, columns, parts;

  Tiling(const CorrelationShape& s, int64_t parts)
      : side_y(s.side_y()),
        side_x(s.side_x()),
        phases_y(std::min(s.stride, s.height)),
        phases_x(std::min(s.stride, s.width)),
        rows(ceil_div(ceil_div(s.height, s.stride), kTileRows)),
        columns(ceil_div(ceil_div(s.width, s.stride), kTileColumns)),
        parts(parts) {}
  int64_t tiles(int64_t batch) const {
    return batch * phases_y * rows * columns * phases_x * parts;
  }
};

// The position of a block: (y, x) is the tile's first pixel. Parts and interleaved columns vary
// fastest, so that blocks that share cache lines run at the same time.
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

// The size of a part when `count` items are divided into the fewest parts of at most `most` items,
// as equal as possible.
inline int even_part(int64_t count, int64_t most) {
  return static_cast<int>(ceil_div(count, ceil_div(count, most)));
}

__device__ inline bool inside(int64_t i, int64_t size) { return i >= 0 && i < size; }

}  // namespace flowmatch::cuda
