// Truncated distance fields around keypoints: shapes and kernels, without PyTorch.
#pragma once
#include <cstdint>

namespace flowmatch {

// points: [P, 3], ordered by keys   keys: [P], index of a point's cell, x fastest
// centres: [K, 3]   frames: [K, 3, 3], rows are the axes of the grid   out: [K, D, D, D]
// Voxel (z, y, x) lies at centre + frame^T ((x, y, z) - (D - 1) / 2) voxel; its value is
// 1 - min(distance, reach) / reach, with the distance to the nearest point.
struct FieldShape {
  int64_t points, centres, size;
  double voxel, truncation;  // side of a voxel in metres; truncation in voxels
  double origin[3], cell;    // origin and side of the cells
  int64_t counts[3];         // cells along x, y, z
  constexpr int64_t voxels() const { return size * size * size; }
  constexpr int64_t cells() const { return counts[0] * counts[1] * counts[2]; }
};

// The cells along one axis within `reach` of a coordinate, clamped to the grid.
struct CellRange {
  int64_t begin, end;
};
constexpr CellRange cells_near(const FieldShape& s, int axis, double at, double reach) {
  const double low = (at - reach - s.origin[axis]) / s.cell;
  const double high = (at + reach - s.origin[axis]) / s.cell;
  const auto most = static_cast<double>(s.counts[axis]);
  // A half-open range, with one extra cell on each side against rounding.
  const double first = low - 1 < 0 ? 0 : low - 1 > most ? most : low - 1;
  const double last = high + 2 < first ? first : high + 2 > most ? most : high + 2;
  return {static_cast<int64_t>(first), static_cast<int64_t>(last)};
}

// Index of the first point whose key is at least `key`.
constexpr int64_t first_of(const int64_t* keys, int64_t count, int64_t key) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keys[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

namespace cpu {

template <typename A>  // float or double
void distance_field(const A* points, const int64_t* keys, const A* centres, const A* frames, A* out,
                    const FieldShape& s);

}  // namespace cpu

namespace cuda {

// A table of the cells' first points, unless it is large or an int cannot count them:
// field_scratch() ints.
constexpr int64_t field_scratch(const FieldShape& s) {
  constexpr int64_t most = int64_t{1} << 24;
  const bool few = s.counts[0] <= most && s.counts[1] <= most / s.counts[0] &&
                   s.counts[2] <= most / (s.counts[0] * s.counts[1]);
  return few && s.points < (int64_t{1} << 31) ? s.cells() + 1 : 0;
}

template <typename A>  // float or double
void distance_field(const A* points, const int64_t* keys, const A* centres, const A* frames, A* out,
                    int* scratch, const FieldShape& s, void* stream);

}  // namespace cuda
}  // namespace flowmatch
