// All distances between two sets of vectors: geometry and CUDA kernels, without PyTorch.
#pragma once
#include <cstdint>

#include "nearest.h"

namespace flowmatch {

// x: [B, N, D]   y: [B, M, D]   out: [B, N, M]
struct PairwiseShape {
  int64_t batch, rows, columns, depth;
  Metric metric;
};

// Distances come from |x|^2 + |y|^2 - 2 x.y, unless that is so small a part of |x|^2 + |y|^2 that
// more than some of its digits are lost: then from |x - y|^2.
constexpr double kCancelled = 1.0 / 32;

namespace cuda {

template <typename T>
void pairwise(const T* x, const T* y, T* out, const PairwiseShape& s, void* stream);

}  // namespace cuda
}  // namespace flowmatch
