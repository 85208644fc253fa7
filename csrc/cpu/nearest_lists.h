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

// A query's candidates in the first pass: references that may be among the k nearest. Of each a
// lower and an upper bound on its score are known.
template <class A>
struct List {
  A* smallest;     // [k] the smallest upper bounds so far, in order; if not `sorted`, scratch
  A* lower;        // [capacity] lower bounds of the candidates, in order of index
  A* upper;        // [capacity] upper bounds; not used if `sorted`
  int64_t* index;  // [capacity] indices of the candidates
  int64_t count, capacity, k;
  A limit;  // the largest lower bound that may still matter
  bool sorted;
  bool full;      // too many candidates: they, or if not `sorted` all references, are compared
  bool compared;  // earlier candidates were compared

  void clear() {
    count = 0;
    full = compared = false;
    limit = kInfinity<A>;
    if (sorted) std::fill(smallest, smallest + k, kInfinity<A>);
  }
  // Adds a reference, if it matters, to a list with less than `capacity` candidates.
  void add(A low, A high, int64_t n) {
    if (!(low <= limit)) return;
    if (sorted && high < smallest[k - 1]) {
      int64_t at = k - 1;
      for (; at > 0 && high < smallest[at - 1]; --at) smallest[at] = smallest[at - 1];
      smallest[at] = high;
      limit = smallest[k - 1];
    }
    if (!sorted) upper[count] = high;
    lower[count] = low;
    index[count++] = n;
  }
  // Sets the limit of a list that is not sorted, from its candidates. A histogram finds a bound
  // that is at least the k-th smallest; if it is much more, because of outliers, the k-th is
  // selected.
  void lower_limit() {
    if (sorted || full || count < k) return;
    constexpr int kBuckets = 512;
    const auto ends = std::minmax_element(upper, upper + count);
    const A low = *ends.first, scale = (kBuckets - 1) / std::max(*ends.second - low, kTiny<A>);
    int32_t counts[kBuckets] = {};
    A largest[kBuckets];
    std::fill(largest, largest + kBuckets, -kInfinity<A>);
    for (int64_t i = 0; i < count; ++i) {
      const auto bucket = static_cast<int32_t>((upper[i] - low) * scale);
      ++counts[bucket];
      largest[bucket] = std::max(largest[bucket], upper[i]);
    }
    int64_t below = 0;
    int bucket = -1;
    limit = -kInfinity<A>;
    while (below < k) {
      below += counts[++bucket];
      limit = std::max(limit, largest[bucket]);
    }
    if (below > k + k / 8) {
      std::copy(upper, upper + count, smallest);
      std::nth_element(smallest, smallest + k - 1, smallest + count);
      limit = smallest[k - 1];
    }
  }
  void drop_beyond_limit() {
    lower_limit();
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (lower[i] <= limit) {
        if (!sorted) upper[kept] = upper[i];
        lower[kept] = lower[i];
        index[kept++] = index[i];
      }
    }
    full = kept > capacity / 2 + k / 2;  // or this function would run again after few candidates
    count = kept;
    if (full && !sorted) limit = -kInfinity<A>;
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
    smallest.reset(new A[sorted ? queries * k : capacity]);
    lower.reset(new A[queries * capacity]);
    upper.reset(new A[sorted ? 0 : queries * capacity]);
    index.reset(new int64_t[queries * capacity]);
    lists.reset(new List<A>[queries]);
    const int64_t most = sorted ? 0 : std::min(k, references);
    neighbours = {std::unique_ptr<Neighbour<A>[]>(new Neighbour<A>[2 * most]),
                  std::unique_ptr<uint64_t[]>(new uint64_t[4 * most])};
    for (int64_t i = 0; i < queries; ++i) {
      lists[i] = {smallest.get() + (sorted ? i * k : 0),
                  lower.get() + i * capacity,
                  upper.get() + (sorted ? 0 : i * capacity),
                  index.get() + i * capacity,
                  0,
                  capacity,
                  k,
                  0,
                  sorted,
                  false,
                  false};
    }
  }
  std::unique_ptr<A[]> smallest, lower, upper;
  std::unique_ptr<int64_t[]> index;
  std::unique_ptr<List<A>[]> lists;
  Neighbours<A> neighbours;
};

// The k nearest in order, from exact values added one by one.
template <class A>
struct Best {
  A* values = nullptr;
  int64_t* index = nullptr;
  int64_t k = 0;
  const Neighbours<A>* memory = nullptr;
  int64_t most = 0, count = 0;
  bool by_index = true;  // whether the neighbours in memory are in order of their indices
  A limit = kInfinity<A>;
  Best() = default;
  // `references`: the number of values that may be added. `begun`: `values` and `index` have the
  // nearest so far; not for k > kMaxSorted.
  Best(A* values, int64_t* index, int64_t k, const Neighbours<A>* memory, int64_t references,
       bool begun)
      : values(values), index(index), k(k), memory(memory), most(std::min(k, references)) {
    if (begun) {
      limit = values[k - 1];
      return;
    }
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
