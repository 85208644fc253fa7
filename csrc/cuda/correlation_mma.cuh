// The cost volume of halves on tensor cores, for correlation.cu to choose.
#pragma once
#include "../correlation.h"

namespace flowmatch::cuda {

template <typename T>  // __half or __nv_bfloat16; has_mma() must hold
void correlation_mma(const T* f1, const T* f2, T* volume, const CorrelationShape& s, void* stream);

}  // namespace flowmatch::cuda
