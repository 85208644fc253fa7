// Truncated distance fields: a thread computes one voxel by searching the cells within the
// truncation.
#include "../distance_field.h"
#include "launch.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kThreads = 128;

template <typename A>
__global__ void distance_field_kernel(int64_t first_tile, const A* __restrict__ points,
                                      const int64_t* __restrict__ keys,
                                      const A* __restrict__ centres, const A* __restrict__ frames,
                                      A* __restrict__ out, FieldShape s) {
  const int64_t n = (first_tile + blockIdx.x) * kThreads + threadIdx.x;
  if (n >= s.centres * s.voxels()) return;
  const int64_t k = n / s.voxels(), voxel = n % s.voxels();
  const A* centre = centres + 3 * k;
  const A* frame = frames + 9 * k;
  const A middle = static_cast<A>(s.size - 1) / 2;
  const A local[3] = {static_cast<A>(voxel % s.size) - middle,
                      static_cast<A>(voxel / s.size % s.size) - middle,
                      static_cast<A>(voxel / (s.size * s.size)) - middle};
  const double reach = s.truncation * s.voxel;
  A at[3];  // the voxel relative to the keypoint, in voxels along the cloud's axes
  CellRange range[3];
  for (int axis = 0; axis < 3; ++axis) {
    at[axis] = frame[axis] * local[0] + frame[3 + axis] * local[1] + frame[6 + axis] * local[2];
    range[axis] = cells_near(s, axis, centre[axis] + s.voxel * at[axis], reach);
  }
  const A scale = static_cast<A>(1 / s.voxel);
  A best = static_cast<A>(s.truncation * s.truncation);
  for (int64_t z = range[2].begin; z < range[2].end; ++z) {
    for (int64_t y = range[1].begin; y < range[1].end; ++y) {
      const int64_t row = (z * s.counts[1] + y) * s.counts[0];
      int64_t p = first_of(keys, s.points, row + range[0].begin);
      for (; p < s.points && keys[p] < row + range[0].end; ++p) {
        A square = 0;
        for (int axis = 0; axis < 3; ++axis) {
          const A apart = (points[3 * p + axis] - centre[axis]) * scale - at[axis];
          square += apart * apart;
        }
        best = min(best, square);
      }
    }
  }
  out[n] = 1 - sqrt(best) / static_cast<A>(s.truncation);
}

}  // namespace

template <typename A>
void distance_field(const A* points, const int64_t* keys, const A* centres, const A* frames, A* out,
                    const FieldShape& s, void* stream) {
  launch(distance_field_kernel<A>, ceil_div(s.centres * s.voxels(), kThreads), kThreads, 0, stream,
         points, keys, centres, frames, out, s);
}

template void distance_field(const float*, const int64_t*, const float*, const float*, float*,
                             const FieldShape&, void*);
template void distance_field(const double*, const int64_t*, const double*, const double*, double*,
                             const FieldShape&, void*);

}  // namespace flowmatch::cuda
