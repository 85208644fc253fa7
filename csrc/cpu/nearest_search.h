// The search for the nearest neighbours of one batch item on the CPU.
//
// A first pass computes a score for all pairs from products, in float32, or in bfloat16 if the CPU
// can multiply it: score = |r|^2 / 2 - q.r, which orders a query's references as their distances
// do. The scores' errors are bounded: |error| <= E (error_bound). All references whose score is
// within 2 E of the k-th smallest are kept as candidates, and only for these the distances are
// computed as |q - r|^2, without cancellation. The results are therefore those of float32 distances
// throughout, bit-identical whatever the precision of the first pass. A query with too many
// candidates is compared with all references. For distances, the scores are those of vectors minus
// a centre of the references: the shorter the vectors, the smaller the errors.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
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

constexpr int64_t kBlock = 16;  // tiles of queries that share a panel while it is cached

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
  A (*exact)(const A*, const A*, int64_t, bool);
  int64_t queries, panel;
};

template <class A>
Kernels<A> kernels(bool halves) {
  Kernels<A> chosen = {FLOWMATCH_PICK(multiply_tile<A>), FLOWMATCH_PICK(score_panel<A>),
                       FLOWMATCH_PICK(lower_columns<A>), FLOWMATCH_PICK(exact_pair<A>),
                       FLOWMATCH_PICK(kQueries),         FLOWMATCH_PICK(kPanel<A>)};
#if defined(__x86_64__)
  if constexpr (std::is_same_v<A, float>) {
    if (halves) chosen.multiply = multiply_tile_bf16;
  }
#endif
  return chosen;
}

// Bound on the difference between a score and the value that decides, for a query with this norm,
// of which `rest` is lost by rounding to bfloat16. Sums of `depth` terms, each rounded in turn,
// have an error of at most (depth + 2) u times the sum of magnitudes. That holds for the products
// as well as for the exact values that decide in the end. |r|^2 / 2, the difference, and the
// differences to the centre are rounded once. In bfloat16 the rounding of the inputs is added.
// Finally, no relative bound holds below the smallest normal number: bfloat16 products flush
// subnormal inputs and outputs to zero.
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

// The exact value that pairs are ordered by, smallest first: squared distance or negative product.
template <class A>
A exact_value(const Search<A>& s, const Kernels<A>& f, int64_t q, int64_t r) {
  const A exact = f.exact(s.query + q * s.depth, s.reference + r * s.depth, s.depth, s.product);
  return s.product ? -exact : exact;
}

// Writes a query's results, from its candidates or, if `list` is null, from all references.
template <class A>
void finish_query(const Search<A>& s, const Kernels<A>& f, int64_t q, const List<A>* list,
                  const Neighbours<A>* memory) {
  Best<A> best(s.distance + q * s.k, s.index + q * s.k, s.k, memory, s.references);
  if (list) {
    for (int64_t i = 0; i < list->count; ++i) {
      if (list->candidates[i] <= list->limit) {
        best.add(exact_value(s, f, q, list->index[i]), list->index[i]);
      }
    }
  } else {
    for (int64_t r = 0; r < s.references; ++r) {
      if (s.allowed(q, r)) best.add(exact_value(s, f, q, r), r);
    }
  }
  best.finish();
  for (int64_t i = 0; i < s.k; ++i) {
    best.values[i] = s.product ? -best.values[i] : std::sqrt(best.values[i]);
  }
}

// Whether another query is nearer to reference r than q is.
template <class A>
bool has_nearer(const Search<A>& s, const Kernels<A>& f, int64_t q, int64_t r) {
  const A own = exact_value(s, f, q, r);
  for (int64_t n = 0; n < s.queries; ++n) {
    if (n == q || !s.allowed(n, r)) continue;
    const A other = exact_value(s, f, n, r);
    if (std::isfinite(other) && (other < own || (other == own && n < q))) return true;
  }
  return false;
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
  for (int64_t i = 0; i < count; ++i) {
    const bool valid = !std::isnan(q.half[start + i]);
    const double error = error_bound(s, q.norm[start + i], q.rest[start + i], r);
    memory->lists[i].clear(static_cast<A>(2 * error));
    if (!valid) memory->lists[i].limit = -kInfinity<A>;
  }
  for (int64_t g = 0; g < r.groups; ++g) {
    const A* panel = r.values.get() + g * f.panel * size;
    for (int64_t t = 0; t < tiles; ++t) {
      f.multiply(q.values.get() + (first_tile + t) * f.queries * size, panel, s.depth, products);
      const int64_t rows = std::min(f.queries, count - t * f.queries);
      for (int64_t i = 0; i < rows; ++i) {
        List<A>& list = memory->lists[t * f.queries + i];
        A* scores = products + i * f.panel;
        uint64_t passing = f.score(scores, offsets + g * f.panel, list.limit);
        for (; passing; passing &= passing - 1) {
          const int j = __builtin_ctzll(passing);
          list.add(scores[j], g * f.panel + j);
        }
        if (best) {
          const A own = q.half[start + t * f.queries + i];  // NaN for a vector that is not finite
          const A half = s.product ? own * 0 : own;
          f.columns(scores, half, best + g * f.panel, second + g * f.panel);
        }
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    List<A>& list = memory->lists[i];
    list.lower_limit();
    finish_query(s, f, start + i, list.full ? nullptr : &list, &memory->neighbours);
  }
}

// Whether query q is the nearest of its own nearest reference r. The two smallest scores of r
// decide if they differ by more than their errors; otherwise r is compared with all queries.
template <class A>
bool is_mutual(const Search<A>& s, const Kernels<A>& f, int64_t q, double error, const A* best,
               const A* second) {
  const int64_t r = s.index[q * s.k];
  if (r == kNoNeighbour) return false;
  if (best) {
    const double own = s.product ? -static_cast<double>(s.distance[q * s.k])
                                 : 0.5 * s.distance[q * s.k] * s.distance[q * s.k];
    if (own - error > best[r] + error) return false;
    if (own + error < second[r] - error) return true;
  }
  return !has_nearer(s, f, q, r);
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
        for (int64_t n = from; n < to; ++n) {
          finish_query<A>(s, f, n, nullptr, &memory->neighbours);
        }
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
  // In addition to the scores' errors: those of |q|^2 / 2 and of squaring the distance again.
  const double error = error_bound(s, q.most_norm, q.most_rest, r) +
                       8 * std::numeric_limits<A>::epsilon() * largest * largest;
  parallel_rows(s.queries, s.depth, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      s.mutual[n] =
          is_mutual(s, f, n, error, columns ? lowest.get() : nullptr, lowest.get() + columns);
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
