// Exact nearest neighbours of bit strings on the CPU.
//
// References are transposed in blocks of eight, so that the same word of all eight is contiguous
// and one instruction counts the bits of eight pairs. A query's limit is its k-th smallest count so
// far. Few counts are below it, so most of the time goes into counting and comparing.
#include <limits>
#include <vector>

#include "../nearest.h"
#include "../stable.h"
#include "simd.h"

namespace flowmatch::cpu {

constexpr int kBlockQueries = 4;
constexpr int kBlockReferences = 8;

// A reference's nearest query so far as one key, smallest first: the number of differing bits above
// the query's index, which has 32 bits.
constexpr int64_t kMaxColumnQueries = (int64_t{1} << 32) - 1;
constexpr int64_t kNoQuery = std::numeric_limits<int64_t>::max();
inline int64_t column_key(int32_t count, int64_t query) {
  return static_cast<int64_t>(count) << 32 | query;
}

// Up to this k the smallest counts are kept in order, by insertion. For a larger k keys of count
// and reference are collected, and the largest are dropped whenever the memory is full.
constexpr int64_t kMaxSorted = 32;

// The state of the scan of one block of queries over the blocks of references.
struct HammingScan {
  const uint64_t* queries;  // [kBlockQueries, words]
  int64_t words;
  int64_t* columns;                // keys of the references, or null
  int64_t numbers[kBlockQueries];  // indices of the queries; kNoQuery for padding
  int32_t limits[kBlockQueries];
  int32_t counts[kBlockQueries][kBlockReferences];
  uint32_t passing;  // bit mask of the counts below their limits

  void lower_columns(int64_t block) {
    for (int i = 0; i < kBlockQueries; ++i) {
      for (int j = 0; j < kBlockReferences; ++j) {
        int64_t& column = columns[block * kBlockReferences + j];
        column = std::min(column, column_key(counts[i][j], numbers[i]));
      }
    }
  }
};

}  // namespace flowmatch::cpu

#define FLOWMATCH_EACH_ISA "nearest_hamming_loops.inc"
#include "each_isa.h"

namespace flowmatch::cpu {
namespace {

constexpr int32_t kNoCount = std::numeric_limits<int32_t>::max();

#if defined(__x86_64__)
// scan_blocks for CPUs that count the bits of eight words at once. `known`: the number of words at
// compile time, or 0 for any.
template <int known>
__attribute__((target("avx512f,avx512vl,avx512vpopcntdq"))) int64_t
scan_vectors(HammingScan& s, const uint64_t* blocks, int64_t from, int64_t to) {
  const int64_t words = known ? known : s.words;
  constexpr int kept = known == 4 ? known : 0;  // words of a query kept in registers
  __m512i queries[kBlockQueries][kept + 1], limits[kBlockQueries];
  for (int i = 0; i < kBlockQueries; ++i) {
    limits[i] = _mm512_set1_epi64(s.limits[i]);
    for (int w = 0; w < kept; ++w) {
      queries[i][w] = _mm512_set1_epi64(static_cast<int64_t>(s.queries[i * words + w]));
    }
  }
  for (; from < to; ++from) {
    const uint64_t* block = blocks + from * words * kBlockReferences;
    unsigned passing[kBlockQueries];
    __m512i counts[kBlockQueries];
#pragma GCC unroll 4
    for (int i = 0; i < kBlockQueries; ++i) {
      counts[i] = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int64_t w = 0; w < words; ++w) {
        const __m512i query =
            kept ? queries[i][kept ? w : 0]
                 : _mm512_set1_epi64(static_cast<int64_t>(s.queries[i * words + w]));
        const __m512i other = _mm512_loadu_si512(block + w * kBlockReferences);
        counts[i] =
            _mm512_add_epi64(counts[i], _mm512_popcnt_epi64(_mm512_xor_si512(query, other)));
      }
      passing[i] = _mm512_cmplt_epi64_mask(counts[i], limits[i]);
    }
    if (s.columns) {
      __m512i lowest = _mm512_loadu_si512(s.columns + from * kBlockReferences);
      for (int i = 0; i < kBlockQueries; ++i) {
        const __m512i key =
            _mm512_or_si512(_mm512_slli_epi64(counts[i], 32), _mm512_set1_epi64(s.numbers[i]));
        lowest = _mm512_min_epi64(lowest, key);
      }
      _mm512_storeu_si512(s.columns + from * kBlockReferences, lowest);
    }
    if (!(passing[0] | passing[1] | passing[2] | passing[3])) continue;
    s.passing = 0;
    for (int i = 0; i < kBlockQueries; ++i) {
      int64_t wide[kBlockReferences];
      _mm512_storeu_si512(wide, counts[i]);
      std::copy(wide, wide + kBlockReferences, s.counts[i]);
      s.passing |= passing[i] << (i * kBlockReferences);
    }
    return from;
  }
  return to;
}
#endif

using Scan = int64_t (*)(HammingScan&, const uint64_t*, int64_t, int64_t);

Scan scan_for(int64_t words) {
#if defined(__x86_64__)
  if (counts_bits()) {
    return words == 4 ? scan_vectors<4> : words == 8 ? scan_vectors<8> : scan_vectors<0>;
  }
#endif
  return FLOWMATCH_PICK(scan_blocks);
}

// The inputs and outputs of one batch item.
struct HammingSearch {
  const uint64_t *query, *reference;  // [queries, words], [references, words]
  int64_t queries, references, words, k;
  const bool* mask;  // of the pair (q, r) at q * mask_row + r * mask_column, or null
  int64_t mask_row, mask_column;
  int32_t* distance;
  int64_t* index;
  bool* mutual;
  bool allowed(int64_t q, int64_t r) const { return !mask || mask[q * mask_row + r * mask_column]; }
};

// The keys of a query's nearest references so far.
struct HammingList {
  int64_t* keys;  // [2 most]
  int64_t most, count;

  // Adds a key; returns the largest count that later references may not reach.
  int32_t add(int64_t key, int32_t limit) {
    keys[count++] = key;
    return count == 2 * most ? keep_nearest() : limit;
  }
  int32_t keep_nearest() {
    if (count < most) return kNoCount;
    std::nth_element(keys, keys + most - 1, keys + count);
    count = most;
    return static_cast<int32_t>(keys[most - 1] >> 32);
  }
  void finish(int32_t* distance, int64_t* index) {
    keep_nearest();
    std::sort(keys, keys + count);
    for (int64_t i = 0; i < count; ++i) {
      distance[i] = static_cast<int32_t>(keys[i] >> 32);
      index[i] = static_cast<uint32_t>(keys[i]);
    }
  }
};

// Compares a block of queries with all references and writes their results. `keys`: memory for the
// lists, [kBlockQueries, 2 most], or null for results in order.
void search_queries(const HammingSearch& s, Scan scan, const uint64_t* queries,
                    const uint64_t* blocks, int64_t first, int64_t* columns, int64_t* keys) {
  const int64_t most = std::min(s.k, s.references);
  HammingList lists[kBlockQueries];
  for (int i = 0; i < kBlockQueries; ++i) lists[i] = {keys + (keys ? 2 * most * i : 0), most, 0};
  const int64_t count = std::min<int64_t>(kBlockQueries, s.queries - first);
  const int64_t groups = (s.references + kBlockReferences - 1) / kBlockReferences;
  HammingScan state = {queries + first * s.words, s.words, columns, {}, {}, {}, 0};
  for (int i = 0; i < kBlockQueries; ++i) {
    state.limits[i] = i < count ? kNoCount : -1;
    state.numbers[i] = i < count ? first + i : kNoQuery;
  }
  for (int64_t at = 0; (at = scan(state, blocks, at, groups)) < groups; ++at) {
    for (uint32_t passing = state.passing; passing; passing &= passing - 1) {
      const int bit = __builtin_ctz(passing), i = bit / kBlockReferences;
      const int64_t r = at * kBlockReferences + bit % kBlockReferences;
      const int32_t bits = state.counts[i][bit % kBlockReferences];
      if (r >= s.references || bits >= state.limits[i] || !s.allowed(first + i, r)) continue;
      if (keys) {
        state.limits[i] = lists[i].add(static_cast<int64_t>(bits) << 32 | r, state.limits[i]);
        continue;
      }
      int32_t* distance = s.distance + (first + i) * s.k;
      insert(distance, s.index + (first + i) * s.k, s.k, bits, r);
      state.limits[i] = distance[s.k - 1];
    }
  }
  for (int64_t i = 0; keys && i < count; ++i) {
    lists[i].finish(s.distance + (first + i) * s.k, s.index + (first + i) * s.k);
  }
}

void search(const HammingSearch& s) {
  const int64_t groups = (s.references + kBlockReferences - 1) / kBlockReferences;
  const int64_t tiles = (s.queries + kBlockQueries - 1) / kBlockQueries;
  const std::unique_ptr<uint64_t[]> blocks(new uint64_t[groups * kBlockReferences * s.words]());
  const std::unique_ptr<uint64_t[]> queries(new uint64_t[tiles * kBlockQueries * s.words]());
  std::copy(s.query, s.query + s.queries * s.words, queries.get());
  for (int64_t r = 0; r < s.references; ++r) {
    for (int64_t w = 0; w < s.words; ++w) {
      const int64_t at = (r / kBlockReferences * s.words + w) * kBlockReferences;
      blocks[at + r % kBlockReferences] = s.reference[r * s.words + w];
    }
  }
  const Scan scan = scan_for(s.words);
  const bool by_columns = s.mutual && !s.mask && s.queries <= kMaxColumnQueries;
  const int64_t columns = by_columns ? groups * kBlockReferences : 0;
  const bool sorted = s.k <= kMaxSorted || s.references > std::numeric_limits<uint32_t>::max();
  const int64_t keys = sorted ? 0 : kBlockQueries * 2 * std::min(s.k, s.references);
  Scratch<int64_t> scratch(columns + keys);
  const std::unique_ptr<int64_t[]> nearest(new int64_t[columns]);
  std::fill(nearest.get(), nearest.get() + columns, kNoQuery);
  std::atomic_flag merging = ATOMIC_FLAG_INIT;
  const int64_t work = kBlockQueries * s.references * s.words;
  parallel_rows(tiles, work, [&](int64_t begin, int64_t end) {
    int64_t* memory = scratch.take();
    int64_t* own = columns ? memory : nullptr;
    std::fill(own, own + columns, kNoQuery);
    for (int64_t tile = begin; tile < end; ++tile) {
      search_queries(s, scan, queries.get(), blocks.get(), tile * kBlockQueries, own,
                     keys ? memory + columns : nullptr);
    }
    if (!columns) return;
    while (merging.test_and_set()) {
    }
    for (int64_t j = 0; j < columns; ++j) nearest[j] = std::min(nearest[j], own[j]);
    merging.clear();
  });
  if (!s.mutual) return;
  // A masked scan does not know the nearest query of a reference: the same search the other way
  // does.
  std::vector<int32_t> counts(columns ? 0 : s.references, kNoCount);
  std::vector<int64_t> back(columns ? 0 : s.references, kNoNeighbour);
  if (!columns) {
    search({s.reference, s.query, s.references, s.queries, s.words, 1, s.mask, s.mask_column,
            s.mask_row, counts.data(), back.data(), nullptr});
  }
  for (int64_t q = 0; q < s.queries; ++q) {
    const int64_t r = s.index[q * s.k];
    s.mutual[q] = r != kNoNeighbour && (columns ? static_cast<uint32_t>(nearest[r]) : back[r]) == q;
  }
}

}  // namespace

void nearest_hamming(const uint64_t* query, const uint64_t* reference, int32_t* distance,
                     int64_t* index, bool* mutual, const HammingShape& s) {
  const int64_t outputs = s.batch * s.queries * s.k;
  std::fill(distance, distance + outputs, kNoCount);
  std::fill(index, index + outputs, kNoNeighbour);
  if (mutual) std::fill(mutual, mutual + s.batch * s.queries, false);
  for (int64_t b = 0; b < s.batch; ++b) {
    search({query + b * s.queries * s.words, reference + b * s.references * s.words,
            s.query_lengths ? s.query_lengths[b] : s.queries,
            s.reference_lengths ? s.reference_lengths[b] : s.references, s.words, s.k,
            s.mask ? s.mask + b * s.queries * s.references : nullptr, s.references, 1,
            distance + b * s.queries * s.k, index + b * s.queries * s.k,
            mutual ? mutual + b * s.queries : nullptr});
  }
  std::replace(distance, distance + outputs, kNoCount, -1);
}

}  // namespace flowmatch::cpu
