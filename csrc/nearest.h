// Exact nearest neighbours: shapes and kernels, without PyTorch.
#pragma once
#include <cstdint>

#include "metric.h"

namespace flowmatch {

// query: [B, N, D]   reference: [B, M, D]   distance, index: [B, N, k]   mutual: [B, N]
// query_lengths, reference_lengths: [B], number of valid vectors per batch item; null for all.
// mask: [B, N, M], which pairs are allowed; null for all.
//
// With l2 the smallest distances are returned, with dot the largest products; equal ones are
// ordered by index. A missing neighbour has distance inf (dot: -inf) and index kNoNeighbour.
// Vectors that are not finite have no neighbours and are neighbours of none.
struct NearestShape {
  int64_t batch, queries, references, depth, k;
  Metric metric;
  const int64_t *query_lengths, *reference_lengths;
  const bool* mask;
};

constexpr int64_t kNoNeighbour = -1;

// The same for bits packed into words, padded with zeros. Hamming distances; -1 for a missing
// neighbour.
struct HammingShape {
  int64_t batch, queries, references, words, k;
  const int64_t *query_lengths, *reference_lengths;
  const bool* mask;
};

// The number of valid vectors of batch item b, of `most` in memory.
constexpr int64_t length_of(const int64_t* lengths, int64_t b, int64_t most) {
  if (!lengths) return most;
  return lengths[b] < 0 ? 0 : lengths[b] < most ? lengths[b] : most;
}

// Inserts `value`, which must be smaller than the last, into the k smallest values so far, in
// ascending order. Equal values stay in order of insertion.
template <class A>
constexpr void insert(A* values, int64_t* index, int64_t k, A value, int64_t n) {
  int64_t at = k - 1;
  for (; at > 0 && value < values[at - 1]; --at) {
    values[at] = values[at - 1];
    index[at] = index[at - 1];
  }
  values[at] = value;
  index[at] = n;
}

// Both namespaces have the same two functions. mutual: whether the query is also the nearest of its
// nearest reference; null if not requested. A: float, or double where T is double.

namespace cpu {

template <typename T, typename A>
void nearest(const T* query, const T* reference, A* distance, int64_t* index, bool* mutual,
             const NearestShape& s);
void nearest_hamming(const uint64_t* query, const uint64_t* reference, int32_t* distance,
                     int64_t* index, bool* mutual, const HammingShape& s);

}  // namespace cpu

namespace cuda {

// A block has a tile of queries. Where these are too few to fill a GPU, each block goes through a
// part of the references, and the lists of the parts are merged. There are at most `blocks` blocks,
// which run at the same time: each begins with empty lists, which takes as long as many tiles.
constexpr int64_t parts_of(int64_t tiles, int64_t blocks, int64_t references, int64_t least) {
  const int64_t wanted = tiles < 1 ? 1 : blocks / tiles, most = references / least;
  const int64_t parts = wanted < most ? wanted : most;
  return parts < 1 ? 1 : parts;
}
constexpr int64_t kLongestMerge = 32;  // lists longer than this are not worth merging

constexpr int64_t nearest_parts(const NearestShape& s) {
  return s.k > kLongestMerge
             ? 1
             : parts_of(s.batch * ((s.queries + 127) / 128), 264, s.references, 1024);
}
constexpr int64_t hamming_parts(const HammingShape& s) {
  return s.k > kLongestMerge
             ? 1
             : parts_of(s.batch * ((s.queries + 127) / 128), 1056, s.references, 256);
}

// The search for the nearest query of each reference.
constexpr NearestShape exchanged(const NearestShape& s) {
  return {s.batch,  s.references,        s.queries,       s.depth, 1,
          s.metric, s.reference_lengths, s.query_lengths, s.mask};
}

// Words of the lists of all parts: an index and a value of at most 4 bytes for each entry.
constexpr int64_t list_words(int64_t parts, int64_t count, int64_t k) {
  return parts > 1 ? (3 * parts * count * k + 1) / 2 : 0;
}
constexpr int64_t nearest_lists(const NearestShape& s, bool mutual) {
  const int64_t forward = list_words(nearest_parts(s), s.batch * s.queries, s.k);
  const int64_t back =
      mutual ? list_words(nearest_parts(exchanged(s)), s.batch * s.references, 1) : 0;
  return forward > back ? forward : back;
}

// scratch: nearest_scratch() words.
template <typename T, typename A>
void nearest(const T* query, const T* reference, A* distance, int64_t* index, bool* mutual,
             uint64_t* scratch, const NearestShape& s, void* stream);
constexpr int64_t nearest_scratch(const NearestShape& s, bool mutual) {
  const int64_t squares = s.batch * (s.queries + s.references);
  const int64_t back = mutual ? s.batch * s.references : 0;  // an index and a distance for each
  return back + (back + squares + 1) / 2 + nearest_lists(s, mutual);
}
// scratch: hamming_scratch() words.
void nearest_hamming(const uint64_t* query, const uint64_t* reference, int32_t* distance,
                     int64_t* index, bool* mutual, uint64_t* scratch, const HammingShape& s,
                     void* stream);
constexpr int64_t hamming_scratch(const HammingShape& s, bool mutual) {
  return (mutual ? s.batch * s.references : 0) +
         list_words(hamming_parts(s), s.batch * s.queries, s.k);
}

}  // namespace cuda
}  // namespace flowmatch
