// Exact nearest neighbours of bit strings on the CPU, and the registration of its kernels.
//
// References are transposed in blocks of eight, a word of each next to those of the others, so that
// one instruction counts the bits of eight pairs. A query's k-th smallest count so far is its
// limit: almost no count lies below it, so almost nothing is done with counts but comparing them.
#include <limits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "nearest.h"
#include "nearest_checks.h"
#include "simd.h"
#include "stable.h"

namespace flowmatch {

constexpr int kBlockQueries = 4;
constexpr int kBlockReferences = 8;

// A reference's nearest query so far, as a number that is the smaller the nearer: differing bits,
// then the query, which must fit into what is left.
constexpr int64_t kMostColumnQueries = (int64_t{1} << 32) - 1;
constexpr int64_t kNobody = std::numeric_limits<int64_t>::max();
inline int64_t column_key(int32_t count, int64_t query) {
  return static_cast<int64_t>(count) << 32 | query;
}

struct HammingScan {
  const uint64_t* queries;  // [kBlockQueries, words]
  int64_t words;
  int64_t* columns;                // or null
  int64_t numbers[kBlockQueries];  // of the queries; kNobody where there is none
  int32_t limits[kBlockQueries];
  int32_t counts[kBlockQueries][kBlockReferences];
  uint32_t found;  // a bit for each of `counts` that lies below its limit

  void lower_columns(int64_t block) {
    for (int i = 0; i < kBlockQueries; ++i) {
      for (int j = 0; j < kBlockReferences; ++j) {
        int64_t& column = columns[block * kBlockReferences + j];
        column = std::min(column, column_key(counts[i][j], numbers[i]));
      }
    }
  }
};

}  // namespace flowmatch

#define FLOWMATCH_EACH_ISA "hamming_tiles.h"
#include "each_isa.h"

namespace flowmatch {
namespace {

constexpr int64_t kNone = -1;
constexpr int32_t kFar = std::numeric_limits<int32_t>::max();

#if defined(__x86_64__)
// scan_blocks, where the CPU counts the bits of eight words at once. `known`: the number of words,
// or 0 for any.
template <int known>
__attribute__((target("avx512f,avx512vl,avx512vpopcntdq"))) int64_t
scan_vectors(HammingScan& s, const uint64_t* blocks, int64_t from, int64_t to) {
  const int64_t words = known ? known : s.words;
  constexpr int kept = known == 4 ? known : 0;  // of a query's words, in registers throughout
  __m512i queries[kBlockQueries][kept + 1], limits[kBlockQueries];
  for (int i = 0; i < kBlockQueries; ++i) {
    limits[i] = _mm512_set1_epi64(s.limits[i]);
    for (int w = 0; w < kept; ++w) {
      queries[i][w] = _mm512_set1_epi64(static_cast<int64_t>(s.queries[i * words + w]));
    }
  }
  for (; from < to; ++from) {
    const uint64_t* block = blocks + from * words * kBlockReferences;
    unsigned found[kBlockQueries];
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
      found[i] = _mm512_cmplt_epi64_mask(counts[i], limits[i]);
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
    if (!(found[0] | found[1] | found[2] | found[3])) continue;
    s.found = 0;
    for (int i = 0; i < kBlockQueries; ++i) {
      int64_t wide[kBlockReferences];
      _mm512_storeu_si512(wide, counts[i]);
      std::copy(wide, wide + kBlockReferences, s.counts[i]);
      s.found |= found[i] << (i * kBlockReferences);
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

// What one batch item is searched with and for.
struct HammingSearch {
  const uint64_t *query, *reference;  // [queries, words], [references, words]
  int64_t queries, references, words, k;
  const bool* mask;  // [queries, stride]
  int64_t mask_stride;
  int32_t* distance;
  int64_t* index;
  bool* mutual;
  bool allowed(int64_t q, int64_t r) const { return !mask || mask[q * mask_stride + r]; }
  int32_t count(int64_t q, int64_t r) const {
    int32_t sum = 0;
    for (int64_t w = 0; w < words; ++w) {
      sum += __builtin_popcountll(query[q * words + w] ^ reference[r * words + w]);
    }
    return sum;
  }
};

void search_queries(const HammingSearch& s, Scan scan, const uint64_t* queries,
                    const uint64_t* blocks, int64_t first, int64_t* columns) {
  const int64_t count = std::min<int64_t>(kBlockQueries, s.queries - first);
  const int64_t groups = (s.references + kBlockReferences - 1) / kBlockReferences;
  HammingScan state = {queries + first * s.words, s.words, columns, {}, {}, {}, 0};
  for (int i = 0; i < kBlockQueries; ++i) {
    state.limits[i] = i < count ? kFar : -1;
    state.numbers[i] = i < count ? first + i : kNobody;
  }
  for (int64_t at = 0; (at = scan(state, blocks, at, groups)) < groups; ++at) {
    for (uint32_t found = state.found; found; found &= found - 1) {
      const int bit = __builtin_ctz(found), i = bit / kBlockReferences;
      const int64_t r = at * kBlockReferences + bit % kBlockReferences;
      const int32_t bits = state.counts[i][bit % kBlockReferences];
      if (r >= s.references || bits >= state.limits[i] || !s.allowed(first + i, r)) continue;
      int32_t* distance = s.distance + (first + i) * s.k;
      insert(distance, s.index + (first + i) * s.k, s.k, bits, r);
      state.limits[i] = distance[s.k - 1];
    }
  }
}

bool has_nearer(const HammingSearch& s, int64_t q, int64_t r) {
  const int32_t own = s.count(q, r);
  for (int64_t n = 0; n < s.queries; ++n) {
    if (n == q || !s.allowed(n, r)) continue;
    const int32_t other = s.count(n, r);
    if (other < own || (other == own && n < q)) return true;
  }
  return false;
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
  const bool by_columns = s.mutual && !s.mask && s.queries <= kMostColumnQueries;
  const int64_t columns = by_columns ? groups * kBlockReferences : 0;
  Scratch<int64_t> scratch(columns);
  const std::unique_ptr<int64_t[]> nearest(new int64_t[columns]);
  std::fill(nearest.get(), nearest.get() + columns, kNobody);
  std::atomic_flag merging = ATOMIC_FLAG_INIT;
  const int64_t work = kBlockQueries * s.references * s.words;
  parallel_rows(tiles, work, [&](int64_t begin, int64_t end) {
    int64_t* own = columns ? scratch.take() : nullptr;
    std::fill(own, own + columns, kNobody);
    for (int64_t tile = begin; tile < end; ++tile) {
      search_queries(s, scan, queries.get(), blocks.get(), tile * kBlockQueries, own);
    }
    if (!columns) return;
    while (merging.test_and_set()) {
    }
    for (int64_t j = 0; j < columns; ++j) nearest[j] = std::min(nearest[j], own[j]);
    merging.clear();
  });
  for (int64_t q = 0; s.mutual && q < s.queries; ++q) {
    const int64_t r = s.index[q * s.k];
    s.mutual[q] =
        r != kNone && (columns ? static_cast<uint32_t>(nearest[r]) == q : !has_nearer(s, q, r));
  }
}

std::tuple<Tensor, Tensor, Tensor> nearest_hamming_cpu(const Tensor& query, const Tensor& reference,
                                                       int64_t k,
                                                       std::optional<Tensor> query_lengths,
                                                       std::optional<Tensor> reference_lengths,
                                                       std::optional<Tensor> mask, bool mutual) {
  check_nearest(query, reference, k, query_lengths, reference_lengths, mask);
  STD_TORCH_CHECK(query.scalar_type() == ScalarType::Byte, "nearest_hamming: uint8 needed");
  check_range(query_lengths, query.size(1));
  check_range(reference_lengths, reference.size(1));
  const int64_t batch = query.size(0), N = query.size(1), M = reference.size(1);
  Tensor distance = torch::stable::new_empty(query, {batch, N, k}, ScalarType::Int);
  Tensor index = torch::stable::new_empty(query, {batch, N, k}, ScalarType::Long);
  Tensor both = torch::stable::new_empty(query, {batch, mutual ? N : 0}, ScalarType::Bool);
  const auto q = packed_words(query), r = packed_words(reference);
  const int64_t words = (query.size(2) + 7) / 8;
  int32_t* counts = distance.mutable_data_ptr<int32_t>();
  std::fill(counts, counts + distance.numel(), kFar);
  std::fill_n(index.mutable_data_ptr<int64_t>(), index.numel(), kNone);
  std::fill_n(both.mutable_data_ptr<bool>(), both.numel(), false);
  for (int64_t b = 0; b < batch; ++b) {
    search({q.get() + b * N * words, r.get() + b * M * words,
            query_lengths ? query_lengths->const_data_ptr<int64_t>()[b] : N,
            reference_lengths ? reference_lengths->const_data_ptr<int64_t>()[b] : M, words, k,
            mask ? mask->const_data_ptr<bool>() + b * N * M : nullptr, M, counts + b * N * k,
            index.mutable_data_ptr<int64_t>() + b * N * k,
            mutual ? both.mutable_data_ptr<bool>() + b * N : nullptr});
  }
  std::replace(counts, counts + distance.numel(), kFar, -1);
  return {distance, index, both};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CPU, m) {
  m.impl("nearest_hamming", TORCH_BOX(&flowmatch::nearest_hamming_cpu));
}

#ifdef FLOWMATCH_CUDA
namespace flowmatch {
namespace {

// Bytes padded with zeros to whole words, in memory that starts at one.
Tensor whole_words(const Tensor& bytes) {
  const Tensor padded = torch::stable::pad(bytes, {0, (8 - bytes.size(2) % 8) % 8});
  const Tensor packed = torch::stable::contiguous(padded);
  const auto address = reinterpret_cast<uintptr_t>(packed.const_data_ptr());
  return address % sizeof(uint64_t) ? torch::stable::clone(packed) : packed;
}

std::tuple<Tensor, Tensor, Tensor> nearest_hamming_cuda(const Tensor& query,
                                                        const Tensor& reference, int64_t k,
                                                        std::optional<Tensor> query_lengths,
                                                        std::optional<Tensor> reference_lengths,
                                                        std::optional<Tensor> mask, bool mutual) {
  check_nearest(query, reference, k, query_lengths, reference_lengths, mask);
  STD_TORCH_CHECK(query.scalar_type() == ScalarType::Byte, "nearest_hamming: uint8 needed");
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const int64_t batch = query.size(0), N = query.size(1), M = reference.size(1);
  using torch::stable::new_empty;
  Tensor distance = new_empty(query, {batch, N, k}, ScalarType::Int);
  Tensor index = new_empty(query, {batch, N, k}, ScalarType::Long);
  Tensor both = new_empty(query, {batch, mutual ? N : 0}, ScalarType::Bool);
  Tensor columns = new_empty(query, {batch, mutual ? M : 0}, ScalarType::Long);
  if (index.numel() == 0) return {distance, index, both};
  const Tensor a = whole_words(query), b = whole_words(reference);
  const HammingShape s = {batch,
                          N,
                          M,
                          a.size(2) / 8,
                          k,
                          data_or_null<int64_t>(query_lengths),
                          data_or_null<int64_t>(reference_lengths),
                          data_or_null<bool>(mask)};
  cuda::nearest_hamming(reinterpret_cast<const uint64_t*>(a.const_data_ptr<uint8_t>()),
                        reinterpret_cast<const uint64_t*>(b.const_data_ptr<uint8_t>()),
                        distance.mutable_data_ptr<int32_t>(), index.mutable_data_ptr<int64_t>(),
                        mutual ? both.mutable_data_ptr<bool>() : nullptr,
                        reinterpret_cast<uint64_t*>(columns.mutable_data_ptr<int64_t>()), s,
                        current_stream(query));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {distance, index, both};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("nearest_hamming", TORCH_BOX(&flowmatch::nearest_hamming_cuda));
}
#endif
