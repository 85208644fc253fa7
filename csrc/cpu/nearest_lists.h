// Lists of candidates and results of nearest on the CPU.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

#include "../nearest.h"

namespace flowmatch::cpu {

constexpr int64_t kMaxExtraCandidates =
    256;  // candidates of a query beyond k, or k if that is more

// Up to this k the smallest values are kept in order, by insertion, which takes time proportional
// to k. For a larger k values are collected, and the largest are dropped whenever the memory is
// full.
constexpr int64_t kMaxSorted = 32;

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
template <class A>
constexpr A kTiny = std::numeric_limits<A>::min() * 1024;

// A query's candidates in the first pass: references that may be among the k nearest.
template <class A>
struct List {
  A* scores;       // [k] the smallest scores so far, in order; if not `sorted`, scratch [capacity]
  A* candidates;   // [capacity] scores of the candidates, in order of index
  int64_t* index;  // [capacity] indices of the candidates
  int64_t count, capacity, k;
  A margin, limit;  // limit: the largest score that may still matter
  bool sorted;
  bool full;  // too many candidates: all references must be compared

  void clear(A twice_the_error) {
    count = 0;
    margin = twice_the_error;
    full = false;
    limit = kInfinity<A>;
    if (sorted) std::fill(scores, scores + k, kInfinity<A>);
  }
  void add(A score, int64_t n) {
    if (!(score <= limit)) return;
    if (sorted && score < scores[k - 1]) {
      int64_t at = k - 1;
      for (; at > 0 && score < scores[at - 1]; --at) scores[at] = scores[at - 1];
      scores[at] = score;
      limit = scores[k - 1] + margin;
    }
    if (count == capacity) drop_beyond_limit();
    if (full || !(score <= limit)) return;
    candidates[count] = score;
    index[count++] = n;
  }
  // Sets the limit of a list that is not sorted, from its candidates. A histogram finds a score
  // that is at least the k-th smallest; if it is much more, because of outliers, the k-th is
  // selected.
  void lower_limit() {
    if (sorted || full || count < k) return;
    constexpr int kBuckets = 512;
    const auto ends = std::minmax_element(candidates, candidates + count);
    const A low = *ends.first, scale = (kBuckets - 1) / std::max(*ends.second - low, kTiny<A>);
    int32_t counts[kBuckets] = {};
    A largest[kBuckets];
    std::fill(largest, largest + kBuckets, -kInfinity<A>);
    for (int64_t i = 0; i < count; ++i) {
      const auto bucket = static_cast<int32_t>((candidates[i] - low) * scale);
      ++counts[bucket];
      largest[bucket] = std::max(largest[bucket], candidates[i]);
    }
    int64_t below = 0;
    int bucket = -1;
    A kth = -kInfinity<A>;
    while (below < k) {
      below += counts[++bucket];
      kth = std::max(kth, largest[bucket]);
    }
    if (below > k + k / 8) {
      std::copy(candidates, candidates + count, scores);
      std::nth_element(scores, scores + k - 1, scores + count);
      kth = scores[k - 1];
    }
    limit = kth + margin;
  }
  void drop_beyond_limit() {
    lower_limit();
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (candidates[i] <= limit) {
        candidates[kept] = candidates[i];
        index[kept++] = index[i];
      }
    }
    full = kept > capacity / 2 + k / 2;  // or this function would run again after few candidates
    count = kept;
    if (full) limit = -kInfinity<A>;
  }
};

// A neighbour and the exact value that it is ordered by; equal values are ordered by index.
template <class A>
struct Neighbour {
  A value;
  int64_t index;
  bool operator<(const Neighbour& other) const {
    return value < other.value || (value == other.value && index < other.index);
  }
};

// Memory for the neighbours of one query with k > kMaxSorted.
template <class A>
struct Neighbours {
  std::unique_ptr<Neighbour<A>[]> all;  // [2 k]
  std::unique_ptr<uint64_t[]> keys;     // [4 k]
};

// Bits that are ordered as values are.
inline uint32_t ordered_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value == 0) bits = 0;  // for -0, too
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Sorts keys by their upper halves; equal ones stay in order. Returns the sorted array, which is
// `keys` or `other`.
inline uint64_t* radix_sort(uint64_t* keys, uint64_t* other, int64_t count) {
  int32_t counts[4][256] = {};
  for (int64_t i = 0; i < count; ++i) {
    for (int digit = 0; digit < 4; ++digit) ++counts[digit][keys[i] >> (32 + 8 * digit) & 255];
  }
  for (int digit = 0; digit < 4; ++digit) {
    const int shift = 32 + 8 * digit;
    if (counts[digit][keys[0] >> shift & 255] == count) continue;  // all the same
    int32_t start = 0;
    for (int32_t& n : counts[digit]) {
      const int32_t size = n;
      n = start;
      start += size;
    }
    for (int64_t i = 0; i < count; ++i) other[counts[digit][keys[i] >> shift & 255]++] = keys[i];
    std::swap(keys, other);
  }
  return keys;
}

// Memory for the lists of one block of queries, and for one query's neighbours.
template <class A>
struct Lists {
  Lists(int64_t queries, int64_t references, int64_t k) {
    const bool sorted = k <= kMaxSorted;
    const int64_t extra = sorted ? kMaxExtraCandidates : std::max(kMaxExtraCandidates, k);
    const int64_t capacity = std::min(k + extra, references);  // references all fit: never full
    scores.reset(new A[sorted ? queries * k : capacity]);
    candidates.reset(new A[queries * capacity]);
    index.reset(new int64_t[queries * capacity]);
    lists.reset(new List<A>[queries]);
    const int64_t most = sorted ? 0 : std::min(k, references);
    neighbours = {std::unique_ptr<Neighbour<A>[]>(new Neighbour<A>[2 * most]),
                  std::unique_ptr<uint64_t[]>(new uint64_t[4 * most])};
    for (int64_t i = 0; i < queries; ++i) {
      lists[i] = {scores.get() + (sorted ? i * k : 0),
                  candidates.get() + i * capacity,
                  index.get() + i * capacity,
                  0,
                  capacity,
                  k,
                  0,
                  0,
                  sorted,
                  false};
    }
  }
  std::unique_ptr<A[]> scores, candidates;
  std::unique_ptr<int64_t[]> index;
  std::unique_ptr<List<A>[]> lists;
  Neighbours<A> neighbours;
};

// The k nearest in order, from exact values added one by one.
template <class A>
struct Best {
  A* values;
  int64_t* index;
  int64_t k;
  const Neighbours<A>* memory;
  int64_t most, count = 0;
  bool by_index = true;  // whether the neighbours in memory are in order of their indices
  A limit = kInfinity<A>;
  // `references`: the number of values that may be added.
  Best(A* values, int64_t* index, int64_t k, const Neighbours<A>* memory, int64_t references)
      : values(values), index(index), k(k), memory(memory), most(std::min(k, references)) {
    std::fill(values, values + k, kInfinity<A>);
    std::fill(index, index + k, kNoNeighbour);
  }
  void add(A value, int64_t n) {  // in order of n, which decides between equal values
    if (!(value < limit) || !std::isfinite(value)) return;
    if (k <= kMaxSorted) {
      insert(values, index, k, value, n);
      limit = values[k - 1];
      return;
    }
    memory->all[count++] = {value, n};
    if (count < 2 * most) return;
    Neighbour<A>* all = memory->all.get();
    std::nth_element(all, all + most - 1, all + count);
    limit = all[most - 1].value;
    count = most;
    by_index = false;
  }
  void finish() {
    if (k <= kMaxSorted || count == 0) return;
    Neighbour<A>* all = memory->all.get();
    if constexpr (std::is_same_v<A, float>) {
      if (by_index && count < int64_t{1} << 31) return finish_by_digits(all);
    }
    std::sort(all, all + count);
    for (int64_t i = 0; i < std::min(count, most); ++i) {
      values[i] = all[i].value;
      index[i] = all[i].index;
    }
  }
  void finish_by_digits(const Neighbour<A>* all) {
    uint64_t* keys = memory->keys.get();
    for (int64_t i = 0; i < count; ++i) {
      keys[i] = static_cast<uint64_t>(ordered_bits(all[i].value)) << 32 | static_cast<uint32_t>(i);
    }
    const uint64_t* sorted = radix_sort(keys, keys + 2 * most, count);
    for (int64_t i = 0; i < std::min(count, most); ++i) {
      const Neighbour<A>& neighbour = all[static_cast<uint32_t>(sorted[i])];
      values[i] = neighbour.value;
      index[i] = neighbour.index;
    }
  }
};

}  // namespace flowmatch::cpu
