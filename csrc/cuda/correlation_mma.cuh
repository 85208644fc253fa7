// The cost volume on tensor cores, called by correlation.cu and correlation_grad.cu.
#pragma once
#include "../correlation.h"

namespace flowmatch::cuda {

// T: __half, __nv_bfloat16, or float (as TF32). Both return false and do nothing on GPUs without
// tensor cores.
template <typename T>
bool correlation_mma(const T* f1, const T* f2, T* volume, const CorrelationShape& s, void* stream);

template <typename T>
bool correlation_grad_mma(const T* g, const T* other, T* grad, const CorrelationShape& s,
                          bool first, void* stream);

}  // namespace flowmatch::cuda
