// The search for the nearest neighbours of one batch item on the CPU.
//
// A first pass computes a score for all pairs from products, in float32, or in bfloat16 if the CPU
// can multiply it: score = |r|^2 / 2 - q.r, which orders a query's references as their distances
// do. The scores' errors are bounded: |error| <= E (ErrorBound), which depends on the pair. All
// references whose score - E is at most the k-th smallest score + E are kept as candidates, and
// only for these the distances are computed as |q - r|^2, without cancellation. The results are
// therefore those of float32 distances throughout, bit-identical whatever the precision of the
// first pass. When there is no memory for more candidates, they are compared, or for long lists all
// references. For distances, the scores are those of vectors minus a centre of the references: the
// shorter the vectors, the smaller the errors.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "../nearest.h"
#include "../stable.h"
#include "nearest_lists.h"
#include "panels.h"

namespace flowmatch::cpu {

#if defined(__x86_64__)
// out[i][j] = sum_c queries[c][i] * panel[c][j], with two bfloat16 values per word.
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

constexpr int64_t kBlock = 16;          // tiles of queries that share a panel while it is cached
constexpr int64_t kMaxTile = 13;        // queries of a tile, at most
constexpr int64_t kQueriesToDrop = 64;  // with fewer, looking for repeated references does not pay

// The inputs and outputs of one batch item.
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

// The functions for this CPU's instruction set.
template <class A>
struct Kernels {
  void (*multiply)(const void*, const void*, int64_t, A*);
  uint64_t (*score)(A*, const A*, A);
  void (*columns)(const A*, A, A*, A*);
  int64_t queries, panel;
};

template <class A>
Kernels<A> kernels(bool halves) {
  Kernels<A> chosen = {FLOWMATCH_PICK(multiply_tile<A>), FLOWMATCH_PICK(score_panel<A>),
                       FLOWMATCH_PICK(lower_columns<A>), FLOWMATCH_PICK(kQueries),
                       FLOWMATCH_PICK(kPanel<A>)};
#if defined(__x86_64__)
  if constexpr (std::is_same_v<A, float>) {
    if (halves) chosen.multiply = multiply_tile_bf16;
  }
#endif
  return chosen;
}

// Bound on the difference between a score and the value that decides, for a query and a reference
// with these norms, of which the rest is lost by rounding to bfloat16. Sums of `depth` terms, each
// rounded in turn, have an error of at most (depth + 2) u times the sum of magnitudes. That holds
// for the products as well as for the exact values that decide in the end. |r|^2 / 2, the
// difference, and the differences to the centre are rounded once. In bfloat16 the rounding of the
// inputs is added. Finally, no relative bound holds below the smallest normal number: bfloat16
// products flush subnormal inputs and outputs to zero.
template <class A>
struct ErrorBound {  // of a query, as a polynomial of a reference's norm and rest
  double constant, by_norm, by_rest, by_square;

  ErrorBound() = default;
  ErrorBound(const Search<A>& s, double norm, double rest) {
    const double u = (s.depth + 6) * static_cast<double>(std::numeric_limits<A>::epsilon());
    const double tiny = (s.depth + 4) * static_cast<double>(std::numeric_limits<A>::min());
    const double products = u + (s.halves ? u : 0);
    constant = u * norm * norm / 2 + tiny * (4 + norm);
    by_norm = u * norm + products * norm + tiny;
    by_square = u * 3 / 2;
    by_rest = 0;
    if (!s.halves) return;
    by_norm += rest * (1 + u);
    by_rest = (norm + 2 * rest) * (1 + u);
  }
  double operator()(double norm, double rest) const {
    return constant + by_norm * norm + by_rest * rest + by_square * norm * norm;
  }
};

// About the mean of the references, from a sample. Differences of whole numbers stay whole, which
// bfloat16 represents exactly up to 256.
template <class A>
std::vector<double> centre_of(const Search<A>& s) {
  constexpr int64_t kSample = 64;
  std::vector<double> sums(s.depth, 0.0);
  double count = 0;
  bool whole = true;
  for (int64_t r = 0; r < s.references; r += (s.references + kSample - 1) / kSample) {
    const A *v = s.reference + r * s.depth, *end = v + s.depth;
    if (!std::all_of(v, end, [](A value) { return std::isfinite(value); })) continue;
    whole = whole && std::all_of(v, end, [](A value) { return value == std::nearbyint(value); });
    std::transform(v, end, sums.begin(), sums.begin(), std::plus<double>());
    ++count;
  }
  for (double& sum : sums) {
    const double mean = count && std::isfinite(sum) ? sum / count : 0;
    sum = whole ? std::nearbyint(mean) : mean;
  }
  return sums;
}

// Collects the results of query q.
template <class A>
Best<A> best_of(const Search<A>& s, int64_t q, const Neighbours<A>* memory, bool begun = false) {
  return {s.distance + q * s.k, s.index + q * s.k, s.k, memory, s.references, begun};
}

// Adds the exact values of query q with references. Pairs are ordered by their squared distance or
// negative product, smallest first. row(i) is the reference of pair i, or -1 for none.
template <class A, class Row>
void add_exact(const Search<A>& s, int64_t q, int64_t count, const Row& row, Best<A>* best) {
  for_each_exact(s.query + q * s.depth, s.reference, s.depth, s.product, count, row,
                 [&](A value, int64_t r) { best->add(s.product ? -value : value, r); });
}

template <class A>
void write_results(const Search<A>& s, Best<A>* best) {
  best->finish();
  for (int64_t i = 0; i < s.k; ++i) {
    best->values[i] = s.product ? -best->values[i] : std::sqrt(best->values[i]);
  }
}

// Calls drop(r) for each reference that k references before it equal: no query can have it among
// its k nearest, as equal distances are ordered by index. Without them, repeated vectors, such as
// zeros, would all be candidates of the queries near them.
template <class A, class Drop>
void drop_repeated(const Search<A>& s, const Drop& drop) {
  const auto bytes = [&](int64_t r) {
    return std::string_view(reinterpret_cast<const char*>(s.reference + r * s.depth),
                            s.depth * sizeof(A));
  };
  const std::unique_ptr<uint64_t[]> hashes(new uint64_t[s.references]);
  parallel_rows(s.references, s.depth, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) hashes[r] = std::hash<std::string_view>()(bytes(r));
  });
  int64_t slots = 1;
  while (slots < 2 * s.references) slots *= 2;
  struct Slot {
    int64_t first = -1, count = 0;
  };
  const std::unique_ptr<Slot[]> table(new Slot[slots]);
  for (int64_t r = 0; r < s.references; ++r) {
    int64_t at = hashes[r] & (slots - 1);
    while (table[at].first >= 0 &&
           (hashes[table[at].first] != hashes[r] || bytes(table[at].first) != bytes(r))) {
      at = (at + 1) & (slots - 1);
    }
    if (table[at].first < 0) table[at].first = r;
    if (table[at].count++ >= s.k) drop(r);
  }
}

// Compares a query with its candidates, and empties the list. `last`: writes the results.
template <class A>
void compare_candidates(const Search<A>& s, int64_t q, const Neighbours<A>* memory, bool last,
                        List<A>* list) {
  Best<A> best = best_of(s, q, memory, list->compared);
  const auto row = [&](int64_t i) { return list->lower[i] <= list->limit ? list->index[i] : -1; };
  add_exact(s, q, list->count, row, &best);
  list->count = 0;
  list->full = false;
  list->compared = true;
  if (last) write_results(s, &best);
}

// Queries that are compared with all references.
template <class A>
struct Direct {
  static constexpr int64_t kMost = 16, kReferences = 32;  // those are in the L1 cache meanwhile
  int64_t queries[kMost], count = 0;

  void add(const Search<A>& s, int64_t q, const Neighbours<A>* memory) {
    queries[count++] = q;
    // The neighbours in memory are those of one query.
    if (count == kMost || s.k > kMaxSorted) finish(s, memory);
  }
  void finish(const Search<A>& s, const Neighbours<A>* memory) {
    Best<A> best[kMost];
    for (int64_t n = 0; n < count; ++n) best[n] = best_of(s, queries[n], memory);
    for (int64_t from = 0; from < s.references; from += kReferences) {
      const int64_t references = std::min(kReferences, s.references - from);
      for (int64_t n = 0; n < count; ++n) {
        const auto row = [&](int64_t i) { return s.allowed(queries[n], from + i) ? from + i : -1; };
        add_exact(s, queries[n], references, row, &best[n]);
      }
    }
    for (int64_t n = 0; n < count; ++n) write_results(s, &best[n]);
    count = 0;
  }
};

// Whether another query is nearer to reference r than q is.
template <class A>
bool has_nearer(const Search<A>& s, int64_t q, int64_t r) {
  constexpr int64_t kStep = 512;
  const A* reference = s.reference + r * s.depth;
  A own = kInfinity<A>;
  bool nearer = false;
  const auto first = [&](int64_t) { return q; };
  for_each_exact(reference, s.query, s.depth, s.product, 1, first,
                 [&](A value, int64_t) { own = s.product ? -value : value; });
  for (int64_t from = 0; from < s.queries && !nearer; from += kStep) {
    const auto row = [&](int64_t i) {
      return from + i != q && s.allowed(from + i, r) ? from + i : -1;
    };
    const int64_t count = std::min(kStep, s.queries - from);
    for_each_exact(reference, s.query, s.depth, s.product, count, row, [&](A value, int64_t n) {
      const A other = s.product ? -value : value;
      nearer |= std::isfinite(other) && (other < own || (other == own && n < q));
    });
  }
  return nearer;
}

// Compares a block of queries with all references and writes their results. `best` and `second`:
// the two smallest scores of each reference so far, or null.
template <class A>
void search_block(const Search<A>& s, const Kernels<A>& f, const Packed<A>& q, const Packed<A>& r,
                  const A* offsets, int64_t first_tile, int64_t tiles, A* products,
                  Lists<A>* memory, A* best, A* second) {
  const int64_t size = s.halves ? (s.depth + 1) / 2 : s.depth;
  const int64_t start = first_tile * f.queries;
  const int64_t count = std::min(tiles * f.queries, s.queries - start);
  const bool similar = r.most_norm < 4 * r.mean_norm;
  A largest[kBlock * kMaxTile];  // error with any reference
  ErrorBound<A> errors[kBlock * kMaxTile];
  for (int64_t i = 0; i < count; ++i) {
    memory->lists[i].clear();
    if (std::isnan(q.half[start + i])) memory->lists[i].limit = -kInfinity<A>;
    errors[i] = ErrorBound<A>(s, q.norm[start + i], q.rest[start + i]);
    largest[i] = static_cast<A>(errors[i](r.most_norm, r.most_rest));
  }
  for (int64_t g = 0; g < r.groups; ++g) {
    const A* panel = r.values.get() + g * f.panel * size;
    for (int64_t t = 0; t < tiles; ++t) {
      f.multiply(q.values.get() + (first_tile + t) * f.queries * size, panel, s.depth, products);
      const int64_t rows = std::min(f.queries, count - t * f.queries);
      for (int64_t i = 0; i < rows; ++i) {
        List<A>& list = memory->lists[t * f.queries + i];
        A* scores = products + i * f.panel;
        // First with the largest error of all references, then with each reference's own, unless
        // all are about the same.
        const int64_t n = t * f.queries + i;
        uint64_t passing = f.score(scores, offsets + g * f.panel, list.limit + largest[n]);
        for (; passing; passing &= passing - 1) {
          const int j = __builtin_ctzll(passing);
          const int64_t at = g * f.panel + j;
          const double error = similar ? largest[n] : errors[n](r.norm[at], r.rest[at]);
          if (list.count == list.capacity && !list.full) {
            list.drop_beyond_limit();
            if (list.full && list.sorted) {
              compare_candidates(s, start + n, &memory->neighbours, false, &list);
            }
          }
          list.add(static_cast<A>(scores[j] - error), static_cast<A>(scores[j] + error), at);
        }
        if (best) {
          const A own = q.half[start + t * f.queries + i];  // NaN for a vector that is not finite
          const A half = s.product ? own * 0 : own;
          f.columns(scores, half, best + g * f.panel, second + g * f.panel);
        }
      }
    }
  }
  Direct<A> direct;
  for (int64_t i = 0; i < count; ++i) {
    List<A>& list = memory->lists[i];
    if (list.full) {
      direct.add(s, start + i, &memory->neighbours);
    } else {
      list.lower_limit();
      compare_candidates(s, start + i, &memory->neighbours, true, &list);
    }
  }
  direct.finish(s, &memory->neighbours);
}

// Whether query q is the nearest of its own nearest reference r. The two smallest scores of r
// decide if they differ by more than their errors; otherwise r is compared with all queries.
template <class A>
bool is_mutual(const Search<A>& s, const Packed<A>& queries, const Packed<A>& references, int64_t q,
               const A* best, const A* second) {
  const int64_t r = s.index[q * s.k];
  if (r == kNoNeighbour) return false;
  if (best) {
    // In addition to the scores' errors: those of |q|^2 / 2 and of squaring the distance again.
    const double norm = references.norm[r], largest = queries.most_norm + norm;
    const double error =
        ErrorBound<A>(s, queries.most_norm, queries.most_rest)(norm, references.rest[r]) +
        8 * std::numeric_limits<A>::epsilon() * largest * largest;
    const double own = s.product ? -static_cast<double>(s.distance[q * s.k])
                                 : 0.5 * s.distance[q * s.k] * s.distance[q * s.k];
    if (own - error > best[r] + error) return false;
    if (own + error < second[r] - error) return true;
  }
  return !has_nearer(s, q, r);
}

// Searches one batch item. `direct`: without a first pass, all pairs are compared exactly; used
// with a mask, and where scores could overflow.
template <class A>
void search(const Search<A>& s, std::vector<Lists<A>>* lists) {
  const Kernels<A> f = kernels<A>(s.halves);
  const auto centre = s.product ? std::vector<double>() : centre_of(s);
  const double* shift = s.product ? nullptr : centre.data();
  const auto q = pack(s.query, s.queries, s.depth, f.queries, s.halves, shift);
  const auto r = pack(s.reference, s.references, s.depth, f.panel, s.halves, shift);
  // The scores' offsets: |r|^2 / 2, or 0 for products; NaN for padding and vectors not finite.
  const std::unique_ptr<A[]> offsets(new A[r.groups * f.panel]);
  std::transform(r.half.get(), r.half.get() + r.groups * f.panel, offsets.get(),
                 [&](A half) { return s.product ? half * 0 : half; });
  const double largest = q.most_norm + r.most_norm;  // bound on the distances
  const bool direct = s.mask || !(largest * largest < 1e-2 * std::numeric_limits<A>::max());
  if (!direct && s.queries >= kQueriesToDrop && s.k < s.references) {
    drop_repeated(s, [&](int64_t r) { offsets[r] = std::numeric_limits<A>::quiet_NaN(); });
  }
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t shares = ((q.groups + kBlock - 1) / kBlock + threads - 1) / threads * threads;
  const int64_t tiles_of_block = (q.groups + shares - 1) / shares;  // equal for all threads
  const int64_t blocks = (q.groups + tiles_of_block - 1) / tiles_of_block;
  const int64_t columns = s.mutual && !direct ? r.groups * f.panel : 0;
  Scratch<A> scratch(f.queries * f.panel + 2 * columns);
  std::atomic<size_t> next_lists{0};
  const std::unique_ptr<A[]> lowest(new A[2 * columns]);
  std::fill(lowest.get(), lowest.get() + 2 * columns, kInfinity<A>);
  std::atomic_flag merging = ATOMIC_FLAG_INIT;
  const int64_t work = tiles_of_block * f.queries * s.references * s.depth;
  parallel_rows(blocks, work, [&](int64_t begin, int64_t end) {
    A* products = scratch.take();
    A* best = columns ? products + f.queries * f.panel : nullptr;
    std::fill(best, best + 2 * columns, kInfinity<A>);
    Lists<A>* memory = &(*lists)[next_lists++ % lists->size()];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * tiles_of_block;
      const int64_t tiles = std::min(tiles_of_block, q.groups - first);
      if (direct) {
        const int64_t from = first * f.queries;
        const int64_t to = std::min(from + tiles * f.queries, s.queries);
        Direct<A> all;
        for (int64_t n = from; n < to; ++n) all.add(s, n, &memory->neighbours);
        all.finish(s, &memory->neighbours);
      } else {
        search_block(s, f, q, r, offsets.get(), first, tiles, products, memory, best,
                     best + columns);
      }
    }
    while (columns && merging.test_and_set()) {
    }
    for (int64_t j = 0; j < columns; ++j) {  // minima: independent of the order of threads
      A *low = &lowest[j], *next = &lowest[columns + j];
      *next = std::min(std::max(*low, best[j]), std::min(*next, best[columns + j]));
      *low = std::min(*low, best[j]);
    }
    merging.clear();
  });
  if (!s.mutual) return;
  parallel_rows(s.queries, s.depth, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      s.mutual[n] = is_mutual(s, q, r, n, columns ? lowest.get() : nullptr, lowest.get() + columns);
    }
  });
}

// Writes missing neighbours for the queries [from, to).
template <class A>
void fill_missing(const Search<A>& s, int64_t from, int64_t to) {
  std::fill(s.distance + from * s.k, s.distance + to * s.k,
            s.product ? -kInfinity<A> : kInfinity<A>);
  std::fill(s.index + from * s.k, s.index + to * s.k, kNoNeighbour);
  if (s.mutual) std::fill(s.mutual + from, s.mutual + to, false);
}

}  // namespace flowmatch::cpu
