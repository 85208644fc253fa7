// How `nearest` searches one batch item on the CPU.
//
// A first pass looks at all pairs through products, in float32 or, where the CPU multiplies
// bfloat16, in that: score = |r|^2 / 2 - q.r, which orders a query's references as their distances
// do. What it gets wrong is bounded: |error| <= E (`error_bound`). So all references whose score is
// within 2 E of the k-th smallest are kept, and of these few the distances are computed as
// |q - r|^2, without cancellation: results are those of float32 distances throughout, the same bits
// whatever the first pass computed with. A query with too many such references is compared with
// all of them.
#pragma once
#include <cmath>
#include <limits>

#include "nearest.h"
#include "panels.h"
#include "stable.h"

namespace flowmatch {

#if defined(__x86_64__)
// out[i][j] = sum_c queries[c][i] * panel[c][j], for pairs of bfloat16 in a word.
__attribute__((target("avx512f,avx512bf16"))) inline void multiply_tile_bf16(const void* queries_,
                                                                             const void* panel_,
                                                                             int64_t depth,
                                                                             float* out) {
  const auto* queries = static_cast<const int32_t*>(queries_);
  const auto* panel = static_cast<const int32_t*>(panel_);
  constexpr int count = avx512::kQueries;
  __m512 acc[count][2];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
  for (int64_t c = 0; c < depth; c += 2, queries += count, panel += 32) {
    const auto left = (__m512bh)_mm512_loadu_si512(panel);
    const auto right = (__m512bh)_mm512_loadu_si512(panel + 16);
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      const auto query = (__m512bh)_mm512_set1_epi32(queries[i]);
      acc[i][0] = _mm512_dpbf16_ps(acc[i][0], query, left);
      acc[i][1] = _mm512_dpbf16_ps(acc[i][1], query, right);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
    _mm512_storeu_ps(out + i * 32, acc[i][0]);
    _mm512_storeu_ps(out + i * 32 + 16, acc[i][1]);
  }
}
#endif

constexpr int64_t kBlock = 16;       // tiles of queries that a panel is used for while it is cached
constexpr int64_t kMostFound = 256;  // candidates of a query beyond k
constexpr int64_t kNone = -1;

template <class A>
constexpr A kFar = std::numeric_limits<A>::infinity();

// The k nearest so far, in order; and in the first pass whatever may turn out to be one of them.
template <class A>
struct List {
  A* scores;       // [k] the smallest so far, in order
  A* found;        // [capacity] candidates, in order of index
  int64_t* index;  // [capacity]
  int64_t count, capacity, k;
  A margin, limit;  // limit: the largest score that may still matter
  bool full;        // of candidates: all references must be looked at

  void clear(A twice_the_error) {
    count = 0;
    margin = twice_the_error;
    full = false;
    limit = kFar<A>;
    std::fill(scores, scores + k, kFar<A>);
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
    found[count] = score;
    index[count++] = n;
  }
  void drop_beyond_limit() {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (found[i] <= limit) {
        found[kept] = found[i];
        index[kept++] = index[i];
      }
    }
    full = kept > capacity / 2 + k / 2;  // else every few candidates would be sorted out again
    count = kept;
    if (full) limit = -kFar<A>;
  }
};

// Room for the lists of one block of queries.
template <class A>
struct Lists {
  Lists(int64_t queries, int64_t k)
      : scores(new A[queries * k]),
        found(new A[queries * (k + kMostFound)]),
        index(new int64_t[queries * (k + kMostFound)]),
        lists(new List<A>[queries]) {
    const int64_t capacity = k + kMostFound;
    for (int64_t i = 0; i < queries; ++i) {
      lists[i] = {scores.get() + i * k,
                  found.get() + i * capacity,
                  index.get() + i * capacity,
                  0,
                  capacity,
                  k,
                  0,
                  0,
                  false};
    }
  }
  std::unique_ptr<A[]> scores, found;
  std::unique_ptr<int64_t[]> index;
  std::unique_ptr<List<A>[]> lists;
};

// What one batch item is searched with and for.
template <class A>
struct Search {
  const A *query, *reference;  // [queries, depth], [references, depth]
  int64_t queries, references, depth, k;
  bool product, halves;
  const bool* mask;  // [queries, stride]
  int64_t mask_stride;
  A* distance;
  int64_t* index;
  bool* mutual;
  bool allowed(int64_t q, int64_t r) const { return !mask || mask[q * mask_stride + r]; }
};

template <class A>
struct Kernels {
  void (*multiply)(const void*, const void*, int64_t, A*);
  uint64_t (*score)(A*, const A*, A);
  void (*columns)(const A*, A, A*, A*);
  A (*exact)(const A*, const A*, int64_t, bool);
  int64_t queries, panel;
};

template <class A>
Kernels<A> kernels(bool halves) {
  Kernels<A> found = {FLOWMATCH_PICK(multiply_tile<A>), FLOWMATCH_PICK(score_panel<A>),
                      FLOWMATCH_PICK(lower_columns<A>), FLOWMATCH_PICK(exact_pair<A>),
                      FLOWMATCH_PICK(kQueries),         FLOWMATCH_PICK(kPanel<A>)};
#if defined(__x86_64__)
  if constexpr (std::is_same_v<A, float>) {
    if (halves) found.multiply = multiply_tile_bf16;
  }
#endif
  return found;
}

// How far apart scores may be from what they stand for, for a query of this norm, of which `rest`
// is lost in bfloat16. Sums of depth terms, each rounded in turn, are off by (depth + 2) u times
// the sum of magnitudes: so are the products, and so are the exact figures that decide in the end.
// |r|^2 / 2 and the difference are rounded once. In bfloat16 what was cut off is missing too. And
// no relative bound holds below the smallest normal number: bfloat16 products take every figure
// there, on the way in or out, for zero.
template <class A>
double error_bound(const Search<A>& s, double norm, double rest, const Packed<A>& r) {
  const double u = (s.depth + 4) * static_cast<double>(std::numeric_limits<A>::epsilon());
  const double most = r.most_norm;
  double bound = u * (norm * most + most * most + (norm + most) * (norm + most) / 2);
  bound += (s.depth + 4) * static_cast<double>(std::numeric_limits<A>::min()) * (4 + norm + most);
  if (s.halves) {
    const double left = most + r.most_rest;
    bound += rest * left + (norm + rest) * r.most_rest + u * (norm + rest) * left;
  }
  return bound;
}

// The k nearest in order, from exact figures that come one by one.
template <class A>
struct Best {
  A* figure;
  int64_t* index;
  int64_t k;
  Best(A* figure, int64_t* index, int64_t k) : figure(figure), index(index), k(k) {
    std::fill(figure, figure + k, kFar<A>);
    std::fill(index, index + k, kNone);
  }
  void add(A value, int64_t n) {  // of increasing n: what is equal stays behind
    if (!(value < figure[k - 1]) || !std::isfinite(value)) return;
    insert(figure, index, k, value, n);
  }
};

// The figure that is the smaller the nearer: squared distance, or the product's negative.
template <class A>
A figure(const Search<A>& s, const Kernels<A>& f, int64_t q, int64_t r) {
  const A exact = f.exact(s.query + q * s.depth, s.reference + r * s.depth, s.depth, s.product);
  return s.product ? -exact : exact;
}

template <class A>
void finish_query(const Search<A>& s, const Kernels<A>& f, int64_t q, const List<A>* list) {
  Best<A> best(s.distance + q * s.k, s.index + q * s.k, s.k);
  if (list) {
    for (int64_t i = 0; i < list->count; ++i) {
      if (list->found[i] <= list->limit) {
        best.add(figure(s, f, q, list->index[i]), list->index[i]);
      }
    }
  } else {
    for (int64_t r = 0; r < s.references; ++r) {
      if (s.allowed(q, r)) best.add(figure(s, f, q, r), r);
    }
  }
  for (int64_t i = 0; i < s.k; ++i) {
    best.figure[i] = s.product ? -best.figure[i] : std::sqrt(best.figure[i]);
  }
}

// Whether another query is nearer to reference r than q is.
template <class A>
bool has_nearer(const Search<A>& s, const Kernels<A>& f, int64_t q, int64_t r) {
  const A own = figure(s, f, q, r);
  for (int64_t n = 0; n < s.queries; ++n) {
    if (n == q || !s.allowed(n, r)) continue;
    const A other = figure(s, f, n, r);
    if (std::isfinite(other) && (other < own || (other == own && n < q))) return true;
  }
  return false;
}

// A block of queries against all references, and the columns it lowers.
template <class A>
void search_block(const Search<A>& s, const Kernels<A>& f, const Packed<A>& q, const Packed<A>& r,
                  const A* offsets, int64_t first_tile, int64_t tiles, A* products, Lists<A>* room,
                  A* best, A* second) {
  const int64_t size = s.halves ? (s.depth + 1) / 2 : s.depth;
  const int64_t start = first_tile * f.queries;
  const int64_t count = std::min(tiles * f.queries, s.queries - start);
  for (int64_t i = 0; i < count; ++i) {
    const bool counts = !std::isnan(q.half[start + i]);
    const double error = error_bound(s, q.norm[start + i], q.rest[start + i], r);
    room->lists[i].clear(static_cast<A>(2 * error));
    if (!counts) room->lists[i].limit = -kFar<A>;
  }
  for (int64_t g = 0; g < r.groups; ++g) {
    const A* panel = r.values.get() + g * f.panel * size;
    for (int64_t t = 0; t < tiles; ++t) {
      f.multiply(q.values.get() + (first_tile + t) * f.queries * size, panel, s.depth, products);
      const int64_t rows = std::min(f.queries, count - t * f.queries);
      for (int64_t i = 0; i < rows; ++i) {
        List<A>& list = room->lists[t * f.queries + i];
        A* scores = products + i * f.panel;
        uint64_t found = f.score(scores, offsets + g * f.panel, list.limit);
        for (; found; found &= found - 1) {
          const int j = __builtin_ctzll(found);
          list.add(scores[j], g * f.panel + j);
        }
        if (best) {
          const A own = q.half[start + t * f.queries + i];  // NaN, if not a vector that counts
          const A half = s.product ? own * 0 : own;
          f.columns(scores, half, best + g * f.panel, second + g * f.panel);
        }
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const List<A>& list = room->lists[i];
    finish_query(s, f, start + i, list.full ? nullptr : &list);
  }
}

// Mutual: r is q's nearest; is q that of r? Where the two lowest scores of the column are further
// apart than errors can bring them, they say; else all queries are looked at.
template <class A>
bool is_mutual(const Search<A>& s, const Kernels<A>& f, int64_t q, double error, const A* best,
               const A* second) {
  const int64_t r = s.index[q * s.k];
  if (r == kNone) return false;
  if (best) {
    const double own = s.product ? -static_cast<double>(s.distance[q * s.k])
                                 : 0.5 * s.distance[q * s.k] * s.distance[q * s.k];
    if (own - error > best[r] + error) return false;
    if (own + error < second[r] - error) return true;
  }
  return !has_nearer(s, f, q, r);
}

template <class A>
void search(const Search<A>& s, std::vector<Lists<A>>* rooms) {
  const Kernels<A> f = kernels<A>(s.halves);
  const auto q = pack(s.query, s.queries, s.depth, f.queries, s.halves);
  const auto r = pack(s.reference, s.references, s.depth, f.panel, s.halves);
  // Of scores: |r|^2 / 2, or for products 0; NaN where there is nothing to be found.
  const std::unique_ptr<A[]> offsets(new A[r.groups * f.panel]);
  std::transform(r.half.get(), r.half.get() + r.groups * f.panel, offsets.get(),
                 [&](A half) { return s.product ? half * 0 : half; });
  const double reach = q.most_norm + r.most_norm;
  const bool direct = s.mask || !(reach * reach < 1e-2 * std::numeric_limits<A>::max());
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t shares = ((q.groups + kBlock - 1) / kBlock + threads - 1) / threads * threads;
  const int64_t tiles_of_block = (q.groups + shares - 1) / shares;  // as many for each thread
  const int64_t blocks = (q.groups + tiles_of_block - 1) / tiles_of_block;
  const int64_t columns = s.mutual && !direct ? r.groups * f.panel : 0;
  Scratch<A> scratch(f.queries * f.panel + 2 * columns);
  std::atomic<int64_t> next_room{0};
  const std::unique_ptr<A[]> lowest(new A[2 * columns]);
  std::fill(lowest.get(), lowest.get() + 2 * columns, kFar<A>);
  std::atomic_flag merging = ATOMIC_FLAG_INIT;
  const int64_t work = tiles_of_block * f.queries * s.references * s.depth;
  parallel_rows(blocks, work, [&](int64_t begin, int64_t end) {
    A* products = scratch.take();
    A* best = columns ? products + f.queries * f.panel : nullptr;
    std::fill(best, best + 2 * columns, kFar<A>);
    Lists<A>* room = &(*rooms)[next_room++ % threads];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * tiles_of_block;
      const int64_t tiles = std::min(tiles_of_block, q.groups - first);
      if (direct) {
        const int64_t from = first * f.queries;
        const int64_t to = std::min(from + tiles * f.queries, s.queries);
        for (int64_t n = from; n < to; ++n) finish_query<A>(s, f, n, nullptr);
      } else {
        search_block(s, f, q, r, offsets.get(), first, tiles, products, room, best, best + columns);
      }
    }
    while (columns && merging.test_and_set()) {
    }
    for (int64_t j = 0; j < columns; ++j) {  // the order of threads changes nothing
      A *low = &lowest[j], *next = &lowest[columns + j];
      *next = std::min(std::max(*low, best[j]), std::min(*next, best[columns + j]));
      *low = std::min(*low, best[j]);
    }
    merging.clear();
  });
  if (!s.mutual) return;
  // Beside the scores' errors there are those of |q|^2 / 2, and of the distance, squared again.
  const double error = error_bound(s, q.most_norm, q.most_rest, r) +
                       8 * std::numeric_limits<A>::epsilon() * reach * reach;
  parallel_rows(s.queries, s.depth, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      s.mutual[n] =
          is_mutual(s, f, n, error, columns ? lowest.get() : nullptr, lowest.get() + columns);
    }
  });
}

template <class A>
void nothing_found(const Search<A>& s, int64_t from, int64_t to) {
  std::fill(s.distance + from * s.k, s.distance + to * s.k, s.product ? -kFar<A> : kFar<A>);
  std::fill(s.index + from * s.k, s.index + to * s.k, kNone);
  if (s.mutual) std::fill(s.mutual + from, s.mutual + to, false);
}

}  // namespace flowmatch
