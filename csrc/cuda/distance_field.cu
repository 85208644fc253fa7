// Truncated distance fields: a thread computes one voxel. It begins with the row of cells that the
// voxel is in, and then goes through those rows within the truncation that can have a nearer point.
#include "../distance_field.h"
#include "launch.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kThreads = 128;

// starts[i]: the first point whose cell is i or a later one, for all cells and one more.
__global__ void starts_kernel(int64_t first_tile, const int64_t* __restrict__ keys, int* starts,
                              FieldShape s) {
  const int64_t i = (first_tile + blockIdx.x) * kThreads + threadIdx.x;
  if (i <= s.cells()) starts[i] = static_cast<int>(first_of(keys, s.points, i));
}

// Along one axis, in voxels: the distance from a voxel to cell `begin + i` is at least
// gap(low + i * side).
template <typename A>
struct CellsOnAxis {
  A low, side, slack;  // slack: more than the error of a point's cell

  __device__ CellsOnAxis(const FieldShape& s, int axis, int64_t begin, A centre, A at) {
    const double edge = s.origin[axis] + s.cell * static_cast<double>(begin);
    const double epsilon = sizeof(A) == 4 ? 1e-6 : 1e-14;
    low = static_cast<A>((edge - centre) / s.voxel - at);
    side = static_cast<A>(s.cell / s.voxel);
    slack = static_cast<A>(0.02 * s.cell / s.voxel +
                           epsilon * (abs(static_cast<double>(centre)) + abs(s.origin[axis])) /
                               s.voxel);
  }
  __device__ A gap(int64_t i) const {
    const A from = low + side * static_cast<A>(i);
    return max(A(0), max(from, -from - side) - slack);
  }
  // The cell with the voxel, or the nearest of `count` ones.
  __device__ int64_t own(int64_t count) const {
    const A i = floor(-low / side);
    return i >= static_cast<A>(count) ? count - 1 : i > 0 ? static_cast<int64_t>(i) : 0;
  }
};

// `starts` is null where it would need too much memory.
template <typename A>
__global__ void distance_field_kernel(int64_t first_tile, const A* __restrict__ points,
                                      const int64_t* __restrict__ keys,
                                      const int* __restrict__ starts, const A* __restrict__ centres,
                                      const A* __restrict__ frames, A* __restrict__ out,
                                      FieldShape s) {
  const int64_t n = (first_tile + blockIdx.x) * kThreads + threadIdx.x;
  if (n >= s.centres * s.voxels()) return;
  const int size = static_cast<int>(s.size), voxel = static_cast<int>(n % s.voxels());
  const int64_t k = n / s.voxels();
  const A* centre = centres + 3 * k;
  const A* frame = frames + 9 * k;
  const A middle = static_cast<A>(size - 1) / 2;
  const A local[3] = {static_cast<A>(voxel % size) - middle,
                      static_cast<A>(voxel / size % size) - middle,
                      static_cast<A>(voxel / (size * size)) - middle};
  const double reach = s.truncation * s.voxel;
  A at[3];  // the voxel relative to the keypoint, in voxels along the cloud's axes
  CellRange range[3];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    at[axis] = frame[axis] * local[0] + frame[3 + axis] * local[1] + frame[6 + axis] * local[2];
    range[axis] = cells_near(s, axis, centre[axis] + s.voxel * at[axis], reach);
  }
  const CellsOnAxis<A> x_cells(s, 0, range[0].begin, centre[0], at[0]);
  const CellsOnAxis<A> y_cells(s, 1, range[1].begin, centre[1], at[1]);
  const CellsOnAxis<A> z_cells(s, 2, range[2].begin, centre[2], at[2]);
  const A scale = static_cast<A>(1 / s.voxel);
  A best = static_cast<A>(s.truncation * s.truncation);
  // Row (z, y) of cells, counted from the ranges' begin, at least `gap` (squared) away.
  const auto visit = [&](int64_t z, int64_t y, A gap) {
    const A reach_x = sqrt(best - gap) + x_cells.slack;  // no farther along x
    const auto cells = static_cast<A>(range[0].end - range[0].begin);
    const A low = floor((-reach_x - x_cells.low) / x_cells.side);
    const A high = floor((reach_x - x_cells.low) / x_cells.side) + 1;
    const int64_t row =
        ((range[2].begin + z) * s.counts[1] + range[1].begin + y) * s.counts[0] + range[0].begin;
    const int64_t first = row + static_cast<int64_t>(min(max(low, A(0)), cells));
    const int64_t end = row + static_cast<int64_t>(min(max(high, A(0)), cells));
    if (first >= end) return;
    int64_t p = starts ? starts[first] : first_of(keys, s.points, first);
    const int64_t stop = starts ? starts[end] : first_of(keys, s.points, end);
    for (; p < stop; ++p) {
      A square = 0;
#pragma unroll
      for (int axis = 0; axis < 3; ++axis) {
        const A apart = (points[3 * p + axis] - centre[axis]) * scale - at[axis];
        square += apart * apart;
      }
      best = min(best, square);
    }
  };
  const int64_t down = range[1].end - range[1].begin, deep = range[2].end - range[2].begin;
  if (down > 0 && deep > 0) visit(z_cells.own(deep), y_cells.own(down), A(0));
  for (int64_t z = 0; z < deep; ++z) {
    const A gap_z = z_cells.gap(z);
    if (!(gap_z * gap_z < best)) continue;
    for (int64_t y = 0; y < down; ++y) {
      const A gap_y = y_cells.gap(y), gap = gap_z * gap_z + gap_y * gap_y;
      if (gap < best) visit(z, y, gap);
    }
  }
  out[n] = 1 - sqrt(best) / static_cast<A>(s.truncation);
}

}  // namespace

template <typename A>
void distance_field(const A* points, const int64_t* keys, const A* centres, const A* frames, A* out,
                    int* scratch, const FieldShape& s, void* stream) {
  int* starts = field_scratch(s) ? scratch : nullptr;
  if (starts) {
    launch(starts_kernel, ceil_div(s.cells() + 1, kThreads), kThreads, 0, stream, keys, starts, s);
  }
  launch(distance_field_kernel<A>, ceil_div(s.centres * s.voxels(), kThreads), kThreads, 0, stream,
         points, keys, static_cast<const int*>(starts), centres, frames, out, s);
}

template void distance_field(const float*, const int64_t*, const float*, const float*, float*, int*,
                             const FieldShape&, void*);
template void distance_field(const double*, const int64_t*, const double*, const double*, double*,
                             int*, const FieldShape&, void*);

}  // namespace flowmatch::cuda
