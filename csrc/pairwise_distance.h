// All distances between two sets of vectors: shape and kernels, without PyTorch.
#pragma once
#include <cstdint>

#include "metric.h"

namespace flowmatch {

// x: [B, N, D]   y: [B, M, D]   out: [B, N, M]
struct PairwiseShape {
  int64_t batch, rows, columns, depth;
  Metric metric;
};

namespace cpu {

// T: float, double, Half, BFloat16.
template <typename T>
void pairwise_distance(const T* x, const T* y, T* out, const PairwiseShape& s);

// out = g / distance elementwise, and 0 where the distance is 0.
template <typename T>
void pairwise_distance_weight(const T* g, const T* distance, T* out, int64_t count);

}  // namespace cpu

namespace cuda {

// T: float, double, __half, __nv_bfloat16. A: float, or double where T is double. scratch: the
// squared lengths of x and y, pairwise_scratch() elements.
template <typename T, typename A>
void pairwise_distance(const T* x, const T* y, T* out, A* scratch, const PairwiseShape& s,
                       void* stream);
constexpr int64_t pairwise_scratch(const PairwiseShape& s) {
  return s.batch * (s.rows + s.columns);
}

}  // namespace cuda
}  // namespace flowmatch
