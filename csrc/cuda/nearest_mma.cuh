// Exact nearest neighbours on tensor cores, called by nearest.cu.
#pragma once
#include "../nearest.h"

namespace flowmatch::cuda {

// nearest() on tensor cores; returns false if it cannot run. scratch: nearest_scratch() words.
template <typename T>
bool nearest_mma(const T* query, const T* reference, float* distance, int64_t* index, bool* mutual,
                 uint64_t* scratch, const NearestShape& s, void* stream);

}  // namespace flowmatch::cuda
