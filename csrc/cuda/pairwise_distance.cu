// All distances between two sets of vectors.
#include "../pairwise_distance.h"
#include "pairs.cuh"

namespace flowmatch::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kPairThreads)
    pairwise_distance_kernel(int64_t first_tile, const T* __restrict__ x, const T* __restrict__ y,
                             T* __restrict__ out, PairwiseShape s) {
  using A = Sum<T>;
  const int64_t across = ceil_div(s.columns, kPairTile), down = ceil_div(s.rows, kPairTile);
  const int64_t tile = first_tile + blockIdx.x;
  const int64_t b = tile / (across * down);
  const int64_t i0 = tile / across % down * kPairTile, j0 = tile % across * kPairTile;
  A sum[4][4];
  pair_tile(x + (b * s.rows + i0) * s.depth, s.rows - i0, y + (b * s.columns + j0) * s.depth,
            s.columns - j0, s.depth, s.metric == Metric::dot, shared_memory<A>(), sum);
  const int64_t i = i0 + threadIdx.x / 16 * 4, j = j0 + threadIdx.x % 16 * 4;
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    if (i + n / 4 >= s.rows || j + n % 4 >= s.columns) continue;
    const A value = sum[n / 4][n % 4];
    out[(b * s.rows + i + n / 4) * s.columns + j + n % 4] =
        narrow<T>(s.metric == Metric::dot ? value : sqrt(value));
  }
}

}  // namespace

template <typename T>
void pairwise_distance(const T* x, const T* y, T* out, const PairwiseShape& s, void* stream) {
  const int64_t tiles = s.batch * ceil_div(s.rows, kPairTile) * ceil_div(s.columns, kPairTile);
  launch(pairwise_distance_kernel<T>, tiles, kPairThreads, kPairWords * sizeof(Sum<T>), stream, x,
         y, out, s);
}

template void pairwise_distance(const float*, const float*, float*, const PairwiseShape&, void*);
template void pairwise_distance(const double*, const double*, double*, const PairwiseShape&, void*);
template void pairwise_distance(const __half*, const __half*, __half*, const PairwiseShape&, void*);
template void pairwise_distance(const __nv_bfloat16*, const __nv_bfloat16*, __nv_bfloat16*,
                                const PairwiseShape&, void*);

}  // namespace flowmatch::cuda
