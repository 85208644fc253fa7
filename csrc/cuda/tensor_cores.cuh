// The kernels on tensor cores, called by those on CUDA cores. Each returns false and does nothing
// if it cannot run: on GPUs before sm_80, or for sizes that it does not serve.
#pragma once
#include "../correlation.h"
#include "../correlation_lookup.h"
#include "../nearest.h"

namespace flowmatch::cuda {

// correlation() and correlation_grad() for T = __half, __nv_bfloat16, or float as TF32.
template <typename T>
bool correlation_mma(const T* f1, const T* f2, T* volume, const CorrelationShape& s, void* stream);

template <typename T>
bool correlation_grad_mma(const T* g, const T* other, T* grad, const CorrelationShape& s,
                          bool first, void* stream);

// correlation_lookup() of half types.
template <typename T>
bool correlation_lookup_mma(const T* f1, const T* const* f2, const float* coords, T* out,
                            const LookupShape* shapes, int levels, void* stream);

// nearest(). scratch: nearest_scratch() words.
template <typename T>
bool nearest_mma(const T* query, const T* reference, float* distance, int64_t* index, bool* mutual,
                 uint64_t* scratch, const NearestShape& s, void* stream);

}  // namespace flowmatch::cuda
