// The op nearest: argument checks, outputs, registration.
#include "nearest.h"

#include <tuple>

#include "nearest_checks.h"
#include "stable.h"

namespace flowmatch {
namespace {

NearestShape shape(const Tensor& query, const Tensor& reference, int64_t k, int64_t metric,
                   const std::optional<Tensor>& query_lengths,
                   const std::optional<Tensor>& reference_lengths,
                   const std::optional<Tensor>& mask) {
  FLOWMATCH_CHECK_FLOAT(query, "nearest");
  STD_TORCH_CHECK(metric == 0 || metric == 1, "nearest: metric must be 0 (l2) or 1 (dot)");
  return {query.size(0),
          query.size(1),
          reference.size(1),
          query.size(2),
          k,
          static_cast<Metric>(metric),
          data_or_null<int64_t>(query_lengths),
          data_or_null<int64_t>(reference_lengths),
          data_or_null<bool>(mask)};
}

std::tuple<Tensor, Tensor, Tensor> nearest_cpu(const Tensor& query, const Tensor& reference,
                                               int64_t k, int64_t metric,
                                               std::optional<Tensor> query_lengths,
                                               std::optional<Tensor> reference_lengths,
                                               std::optional<Tensor> mask, bool mutual) {
  check_nearest(query, reference, k, query_lengths, reference_lengths, mask);
  check_range(query_lengths, query.size(1));
  check_range(reference_lengths, reference.size(1));
  const auto s = shape(query, reference, k, metric, query_lengths, reference_lengths, mask);
  const bool wide = query.scalar_type() == ScalarType::Double;
  Tensor distance = torch::stable::new_empty(query, {s.batch, s.queries, k},
                                             wide ? ScalarType::Double : ScalarType::Float);
  Tensor index = torch::stable::new_empty(query, {s.batch, s.queries, k}, ScalarType::Long);
  Tensor both =
      torch::stable::new_empty(query, {s.batch, mutual ? s.queries : 0}, ScalarType::Bool);
  const Tensor a = torch::stable::contiguous(query), b = torch::stable::contiguous(reference);
  THO_DISPATCH_V2(query.scalar_type(), "nearest", AT_WRAP([&] {
                    cpu::nearest(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
                                 distance.mutable_data_ptr<Accumulator<scalar_t>>(),
                                 index.mutable_data_ptr<int64_t>(),
                                 mutual ? both.mutable_data_ptr<bool>() : nullptr, s);
                  }),
                  FLOWMATCH_FLOATS);
  return {distance, index, both};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CPU, m) {
  m.impl("nearest", TORCH_BOX(&flowmatch::nearest_cpu));
}

#ifdef FLOWMATCH_CUDA
namespace flowmatch {
namespace {

std::tuple<Tensor, Tensor, Tensor> nearest_cuda(const Tensor& query, const Tensor& reference,
                                                int64_t k, int64_t metric,
                                                std::optional<Tensor> query_lengths,
                                                std::optional<Tensor> reference_lengths,
                                                std::optional<Tensor> mask, bool mutual) {
  check_nearest(query, reference, k, query_lengths, reference_lengths, mask);
  const auto s = shape(query, reference, k, metric, query_lengths, reference_lengths, mask);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const bool wide = query.scalar_type() == ScalarType::Double;
  using torch::stable::new_empty;
  Tensor distance =
      new_empty(query, {s.batch, s.queries, k}, wide ? ScalarType::Double : ScalarType::Float);
  Tensor index = new_empty(query, {s.batch, s.queries, k}, ScalarType::Long);
  Tensor both = new_empty(query, {s.batch, mutual ? s.queries : 0}, ScalarType::Bool);
  if (index.numel() == 0) return {distance, index, both};
  Tensor scratch = new_empty(query, {cuda::nearest_scratch(s, mutual)}, ScalarType::Long);
  const Tensor a = torch::stable::contiguous(query), b = torch::stable::contiguous(reference);
  THO_DISPATCH_V2(query.scalar_type(), "nearest", AT_WRAP([&] {
                    cuda::nearest(device(a.const_data_ptr<scalar_t>()),
                                  device(b.const_data_ptr<scalar_t>()),
                                  distance.mutable_data_ptr<Accumulator<scalar_t>>(),
                                  index.mutable_data_ptr<int64_t>(),
                                  mutual ? both.mutable_data_ptr<bool>() : nullptr,
                                  reinterpret_cast<uint64_t*>(scratch.mutable_data_ptr<int64_t>()),
                                  s, current_stream(query));
                  }),
                  FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {distance, index, both};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("nearest", TORCH_BOX(&flowmatch::nearest_cuda));
}
#endif
