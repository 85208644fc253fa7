// Lists of candidates and results of nearest on the CPU.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>

#include "../nearest.h"

namespace flowmatch::cpu {

constexpr int64_t kMaxExtraCandidates = 256;  // candidates of a query beyond k

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();

// A query's candidates in the first pass: references that may be among the k nearest.
template <class A>
struct List {
  A* scores;       // [k] the smallest scores so far, in order
  A* candidates;   // [capacity] scores of the candidates, in order of index
  int64_t* index;  // [capacity] indices of the candidates
  int64_t count, capacity, k;
  A margin, limit;  // limit: the largest score that may still matter
  bool full;        // too many candidates: all references must be compared

  void clear(A twice_the_error) {
    count = 0;
    margin = twice_the_error;
    full = false;
    limit = kInfinity<A>;
    std::fill(scores, scores + k, kInfinity<A>);
  }
  void add(A score, int64_t n) {
    if (!(score <= limit)) return;
    if (score < scores[k - 1]) {
      int64_t at = k - 1;
      for (; at > 0 && score < scores[at - 1]; --at) scores[at] = scores[at - 1];
      scores[at] = score;
      limit = scores[k - 1] + margin;
    }
    if (count == capacity) drop_beyond_limit();
    if (full) return;
    candidates[count] = score;
    index[count++] = n;
  }
  void drop_beyond_limit() {
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

// Memory for the lists of one block of queries.
template <class A>
struct Lists {
  Lists(int64_t queries, int64_t k)
      : scores(new A[queries * k]),
        candidates(new A[queries * (k + kMaxExtraCandidates)]),
        index(new int64_t[queries * (k + kMaxExtraCandidates)]),
        lists(new List<A>[queries]) {
    const int64_t capacity = k + kMaxExtraCandidates;
    for (int64_t i = 0; i < queries; ++i) {
      lists[i] = {scores.get() + i * k,
                  candidates.get() + i * capacity,
                  index.get() + i * capacity,
                  0,
                  capacity,
                  k,
                  0,
                  0,
                  false};
    }
  }
  std::unique_ptr<A[]> scores, candidates;
  std::unique_ptr<int64_t[]> index;
  std::unique_ptr<List<A>[]> lists;
};

// The k nearest in order, from exact values added one by one.
template <class A>
struct Best {
  A* values;
  int64_t* index;
  int64_t k;
  Best(A* values, int64_t* index, int64_t k) : values(values), index(index), k(k) {
    std::fill(values, values + k, kInfinity<A>);
    std::fill(index, index + k, kNoNeighbour);
  }
  void add(A value, int64_t n) {  // in order of n, which decides between equal values
    if (!(value < values[k - 1]) || !std::isfinite(value)) return;
    insert(values, index, k, value, n);
  }
};

}  // namespace flowmatch::cpu
