// The correlation lookup on tensor cores, called by correlation_lookup.cu.
#pragma once
#include "../correlation_lookup.h"

namespace flowmatch::cuda {

// correlation_lookup() of half types; returns false and does nothing if it cannot run.
template <typename T>
bool correlation_lookup_mma(const T* f1, const T* const* f2, const float* coords, T* out,
                            const LookupShape* shapes, int levels, void* stream);

}  // namespace flowmatch::cuda
