#pragma once
#include "../nearest.h"

namespace flowmatch::cuda {

// nearest() on tensor cores; false where it cannot run. `scratch` is as nearest_scratch() says.
template <typename T>
bool nearest_mma(const T* query, const T* reference, float* distance, int64_t* index, bool* mutual,
                 uint64_t* scratch, const NearestShape& s, void* stream);

}  // namespace flowmatch::cuda
