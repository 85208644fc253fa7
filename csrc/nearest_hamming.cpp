// The op nearest_hamming: argument checks, outputs, registration.
#include <tuple>

#include "nearest.h"
#include "nearest_checks.h"
#include "stable.h"

namespace flowmatch {
namespace {

std::tuple<Tensor, Tensor, Tensor> nearest_hamming_cpu(const Tensor& query, const Tensor& reference,
                                                       int64_t k,
                                                       std::optional<Tensor> query_lengths,
                                                       std::optional<Tensor> reference_lengths,
                                                       std::optional<Tensor> mask, bool mutual) {
  check_nearest(query, reference, k, query_lengths, reference_lengths, mask);
  STD_TORCH_CHECK(query.scalar_type() == ScalarType::Byte,
                  "nearest_hamming: query and reference must be uint8");
  check_range(query_lengths, query.size(1));
  check_range(reference_lengths, reference.size(1));
  const int64_t batch = query.size(0), N = query.size(1), M = reference.size(1);
  Tensor distance = torch::stable::new_empty(query, {batch, N, k}, ScalarType::Int);
  Tensor index = torch::stable::new_empty(query, {batch, N, k}, ScalarType::Long);
  Tensor both = torch::stable::new_empty(query, {batch, mutual ? N : 0}, ScalarType::Bool);
  const auto q = packed_words(query), r = packed_words(reference);
  const HammingShape s = {batch,
                          N,
                          M,
                          (query.size(2) + 7) / 8,
                          k,
                          data_or_null<int64_t>(query_lengths),
                          data_or_null<int64_t>(reference_lengths),
                          data_or_null<bool>(mask)};
  cpu::nearest_hamming(q.get(), r.get(), distance.mutable_data_ptr<int32_t>(),
                       index.mutable_data_ptr<int64_t>(),
                       mutual ? both.mutable_data_ptr<bool>() : nullptr, s);
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

// Bytes padded with zeros to whole words, in memory aligned to words.
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
  STD_TORCH_CHECK(query.scalar_type() == ScalarType::Byte,
                  "nearest_hamming: query and reference must be uint8");
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const int64_t batch = query.size(0), N = query.size(1), M = reference.size(1);
  using torch::stable::new_empty;
  Tensor distance = new_empty(query, {batch, N, k}, ScalarType::Int);
  Tensor index = new_empty(query, {batch, N, k}, ScalarType::Long);
  Tensor both = new_empty(query, {batch, mutual ? N : 0}, ScalarType::Bool);
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
  Tensor scratch = new_empty(query, {cuda::hamming_scratch(s, mutual)}, ScalarType::Long);
  cuda::nearest_hamming(reinterpret_cast<const uint64_t*>(a.const_data_ptr<uint8_t>()),
                        reinterpret_cast<const uint64_t*>(b.const_data_ptr<uint8_t>()),
                        distance.mutable_data_ptr<int32_t>(), index.mutable_data_ptr<int64_t>(),
                        mutual ? both.mutable_data_ptr<bool>() : nullptr,
                        reinterpret_cast<uint64_t*>(scratch.mutable_data_ptr<int64_t>()), s,
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
