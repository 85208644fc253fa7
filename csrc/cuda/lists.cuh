// Lists of the k smallest values of a query, ordered by value and index, and how the lists of parts
// of the references become one.
#pragma once
#include "../nearest.h"
#include "launch.cuh"

namespace flowmatch::cuda {

// Inserts into a list in order of value and then of index, which does not depend on the order of
// insertions. Returns whether the pair belongs to the list.
template <typename A>
__device__ bool insert_in_order(A* values, int64_t* index, int64_t k, A value, int64_t n) {
  const auto precedes = [&](int64_t i) {
    return value < values[i] || (value == values[i] && (index[i] < 0 || n < index[i]));
  };
  if (!precedes(k - 1)) return false;
  int64_t at = k - 1;
  for (; at > 0 && precedes(at - 1); --at) {
    values[at] = values[at - 1];
    index[at] = index[at - 1];
  }
  values[at] = value;
  index[at] = n;
  return true;
}

// Lists of each part of the references, [parts, count, k]; in `scratch`, or, of one part, in the
// outputs themselves.
template <typename A>
struct PartLists {
  A* values;
  int64_t* indices;

  PartLists(A* distance, int64_t* index, uint64_t* scratch, int64_t parts, int64_t count, int64_t k)
      : values(parts > 1 ? reinterpret_cast<A*>(scratch + parts * count * k) : distance),
        indices(parts > 1 ? reinterpret_cast<int64_t*>(scratch) : index) {}
};

// What a list's values become in the output. product: values are negative products.
__device__ inline float distance_of(float value, bool product) {
  return product ? -value : sqrt(value);
}
__device__ inline double distance_of(double value, bool product) {
  return product ? -value : sqrt(value);
}
__device__ inline int32_t distance_of(int32_t value, bool) {
  return value == 0x7fffffff ? -1 : value;
}

// Merges the lists of all parts, which may be the outputs themselves, and turns values into
// distances.
template <typename A>
__global__ void merge_kernel(int64_t first_tile, const A* values, const int64_t* indices,
                             A* distance, int64_t* index, int64_t count, int64_t k, int64_t parts,
                             bool product) {
  const int64_t n = (first_tile + blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= count) return;
  distance += n * k, index += n * k;
  for (int64_t i = 0; parts > 1 && i < k; ++i) {
    distance[i] = values[n * k + i];
    index[i] = indices[n * k + i];
  }
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t from = (part * count + n) * k;
    for (int64_t i = 0; i < k && indices[from + i] >= 0; ++i) {
      if (!insert_in_order(distance, index, k, values[from + i], indices[from + i])) break;
    }
  }
  for (int64_t i = 0; i < k; ++i) distance[i] = distance_of(distance[i], product);
}

template <typename A>
void merge(const PartLists<A>& lists, A* distance, int64_t* index, int64_t count, int64_t k,
           int64_t parts, bool product, void* stream) {
  constexpr int threads = 128;
  launch(merge_kernel<A>, ceil_div(count, threads), threads, 0, stream,
         static_cast<const A*>(lists.values), static_cast<const int64_t*>(lists.indices), distance,
         index, count, k, parts, product);
}

}  // namespace flowmatch::cuda
