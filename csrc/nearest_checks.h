// Argument checks and conversions of nearest and nearest_hamming.
#pragma once
#include <cstring>
#include <optional>

#include "stable.h"

namespace flowmatch {

inline void check_lengths(const std::optional<Tensor>& lengths, const Tensor& vectors,
                          const char* name) {
  if (!lengths) return;
  STD_TORCH_CHECK(lengths->dim() == 1 && lengths->size(0) == vectors.size(0) &&
                      lengths->scalar_type() == ScalarType::Long &&
                      lengths->device() == vectors.device() && lengths->is_contiguous(),
                  "nearest: ", name, " must be contiguous int64 [B]");
}

inline void check_nearest(const Tensor& query, const Tensor& reference, int64_t k,
                          const std::optional<Tensor>& query_lengths,
                          const std::optional<Tensor>& reference_lengths,
                          const std::optional<Tensor>& mask) {
  STD_TORCH_CHECK(query.dim() == 3 && reference.dim() == 3 && query.size(0) == reference.size(0) &&
                      query.size(2) == reference.size(2),
                  "nearest: query and reference must be [B, N, D] and [B, M, D]");
  STD_TORCH_CHECK(
      query.scalar_type() == reference.scalar_type() && query.device() == reference.device(),
      "nearest: query and reference must have the same type and device");
  STD_TORCH_CHECK(k >= 1, "nearest: k must be positive");
  check_lengths(query_lengths, query, "query_lengths");
  check_lengths(reference_lengths, reference, "reference_lengths");
  STD_TORCH_CHECK(!mask || (mask->dim() == 3 && mask->size(0) == query.size(0) &&
                            mask->size(1) == query.size(1) && mask->size(2) == reference.size(1) &&
                            mask->scalar_type() == ScalarType::Bool && mask->is_contiguous() &&
                            mask->device() == query.device()),
                  "nearest: mask must be contiguous bool [B, N, M]");
}

// On the CPU the values of lengths can be checked: they must not exceed the arrays.
inline void check_range(const std::optional<Tensor>& lengths, int64_t most) {
  if (!lengths) return;
  const int64_t* values = lengths->const_data_ptr<int64_t>();
  for (int64_t b = 0; b < lengths->size(0); ++b) {
    STD_TORCH_CHECK(values[b] >= 0 && values[b] <= most, "nearest: lengths must be in [0, ", most,
                    "], got ", values[b]);
  }
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& t) {
  return t ? t->const_data_ptr<T>() : nullptr;
}

// Bytes [B, N, D] packed into words [B, N, ceil(D / 8)], padded with zeros.
inline std::unique_ptr<uint64_t[]> packed_words(const Tensor& bytes) {
  const Tensor from = torch::stable::contiguous(bytes);
  const int64_t depth = bytes.size(2), words = (depth + 7) / 8;
  const int64_t count = bytes.size(0) * bytes.size(1);
  std::unique_ptr<uint64_t[]> to(new uint64_t[count * words]());
  const uint8_t* data = from.const_data_ptr<uint8_t>();
  for (int64_t n = 0; n < count; ++n) std::memcpy(to.get() + n * words, data + n * depth, depth);
  return to;
}

}  // namespace flowmatch
