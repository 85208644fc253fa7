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

// How many vectors of batch b count, of at most `most`.
constexpr int64_t length_of(const int64_t* lengths, int64_t b, int64_t most) {
  if (!lengths) return most;
  return lengths[b] < 0 ? 0 : lengths[b] < most ? lengths[b] : most;
}

// Inserts into the k nearest so far, which are in order, what is nearer than the last of them; of
// equal figures, what comes later stays behind.
template <class A>
constexpr void insert(A* figures, int64_t* index, int64_t k, A figure, int64_t n) {
  int64_t at = k - 1;
  for (; at > 0 && figure < figures[at - 1]; --at) {
    figures[at] = figures[at - 1];
    index[at] = index[at - 1];
  }
  figures[at] = figure;
  index[at] = n;
}

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
