// Exact nearest neighbours: geometry and CUDA kernels, with no knowledge of PyTorch.
#pragma once
#include <cstdint>

namespace flowmatch {

enum class Metric { l2, dot };  // smallest distance, or largest product

// query: [B, N, D]   reference: [B, M, D]   distance, index: [B, N, k]   mutual: [B, N]
// Of batch b the first query_lengths[b] and reference_lengths[b] vectors count, all where null;
// mask: [B, N, M], what may be paired, or null. Equal distances are ordered by index. What has no
// neighbour gets an infinite distance (of the worse sign) and index -1; nor has a vector that is
// not finite.
struct NearestShape {
  int64_t batch, queries, references, depth, k;
  Metric metric;
  const int64_t *query_lengths, *reference_lengths;
  const bool* mask;
};

// The same for bits packed into words, padded with zeros; hamming distances, -1 for none.
struct HammingShape {
  int64_t batch, queries, references, words, k;
  const int64_t *query_lengths, *reference_lengths;
  const bool* mask;
};

namespace cuda {

// mutual: whether the nearest reference's nearest query is this one; null if not wanted.
// `scratch` has as many words as nearest_scratch() says.
template <typename T, typename A>
void nearest(const T* query, const T* reference, A* distance, int64_t* index, bool* mutual,
             uint64_t* scratch, const NearestShape& s, void* stream);
inline int64_t nearest_scratch(const NearestShape& s, bool mutual) {
  const int64_t squares = s.batch * (s.queries + s.references);
  const int64_t back = mutual ? s.batch * s.references : 0;  // a number and a distance for each
  return back + (back + squares + 1) / 2;
}
// The same for bits; `columns`, [B, M], is scratch, and not needed without `mutual`.
void nearest_hamming(const uint64_t* query, const uint64_t* reference, int32_t* distance,
                     int64_t* index, bool* mutual, uint64_t* columns, const HammingShape& s,
                     void* stream);

}  // namespace cuda
}  // namespace flowmatch
