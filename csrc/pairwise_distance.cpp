// The ops pairwise_distance and pairwise_distance_weight: argument checks, outputs, registration.
#include "pairwise_distance.h"

#include "stable.h"

namespace flowmatch {
namespace {

PairwiseShape shape(const Tensor& x, const Tensor& y, int64_t metric) {
  STD_TORCH_CHECK(
      x.dim() == 3 && y.dim() == 3 && x.size(0) == y.size(0) && x.size(2) == y.size(2) &&
          x.scalar_type() == y.scalar_type() && x.device() == y.device(),
      "pairwise_distance: x and y must be [B, N, D] and [B, M, D] of the same type and device");
  FLOWMATCH_CHECK_FLOAT(x, "pairwise_distance");
  STD_TORCH_CHECK(metric == 0 || metric == 1,
                  "pairwise_distance: metric must be 0 (l2) or 1 (dot)");
  return {x.size(0), x.size(1), y.size(1), x.size(2), static_cast<Metric>(metric)};
}

Tensor pairwise_distance_cpu(const Tensor& x, const Tensor& y, int64_t metric) {
  const auto s = shape(x, y, metric);
  Tensor out = new_output(x, {s.batch, s.rows, s.columns});
  if (out.numel() == 0) return out;
  const Tensor a = torch::stable::contiguous(x), b = torch::stable::contiguous(y);
  THO_DISPATCH_V2(x.scalar_type(), "pairwise_distance", AT_WRAP([&] {
                    cpu::pairwise_distance(a.const_data_ptr<scalar_t>(),
                                           b.const_data_ptr<scalar_t>(),
                                           out.mutable_data_ptr<scalar_t>(), s);
                  }),
                  FLOWMATCH_FLOATS);
  return out;
}

// An op of its own although it is elementwise: for tens of megabytes most of the time goes into
// fresh memory, and new_output() allocates that faster than PyTorch.
Tensor pairwise_distance_weight_cpu(const Tensor& g, const Tensor& distance) {
  STD_TORCH_CHECK(
      g.sizes().equals(distance.sizes()) && g.device() == distance.device() &&
          g.scalar_type() == distance.scalar_type(),
      "pairwise_distance_weight: g and distance must have the same shape, type and device");
  FLOWMATCH_CHECK_FLOAT(g, "pairwise_distance_weight");
  const Tensor a = torch::stable::contiguous(g), b = torch::stable::contiguous(distance);
  Tensor out = new_output(g, std::vector<int64_t>(g.sizes().begin(), g.sizes().end()));
  THO_DISPATCH_V2(g.scalar_type(), "pairwise_distance_weight", AT_WRAP([&] {
                    cpu::pairwise_distance_weight(a.const_data_ptr<scalar_t>(),
                                                  b.const_data_ptr<scalar_t>(),
                                                  out.mutable_data_ptr<scalar_t>(), g.numel());
                  }),
                  FLOWMATCH_FLOATS);
  return out;
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CPU, m) {
  m.impl("pairwise_distance", TORCH_BOX(&flowmatch::pairwise_distance_cpu));
  m.impl("pairwise_distance_weight", TORCH_BOX(&flowmatch::pairwise_distance_weight_cpu));
}

#ifdef FLOWMATCH_CUDA
namespace flowmatch {
namespace {

Tensor pairwise_distance_cuda(const Tensor& x, const Tensor& y, int64_t metric) {
  const auto s = shape(x, y, metric);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor out = torch::stable::new_empty(x, {s.batch, s.rows, s.columns});
  if (out.numel() == 0) return out;
  const Tensor a = torch::stable::contiguous(x), b = torch::stable::contiguous(y);
  const bool wide = x.scalar_type() == ScalarType::Double;
  Tensor scratch = torch::stable::new_empty(x, {cuda::pairwise_scratch(s)},
                                            wide ? ScalarType::Double : ScalarType::Float);
  THO_DISPATCH_V2(x.scalar_type(), "pairwise_distance", AT_WRAP([&] {
                    cuda::pairwise_distance(
                        device(a.const_data_ptr<scalar_t>()), device(b.const_data_ptr<scalar_t>()),
                        device(out.mutable_data_ptr<scalar_t>()),
                        scratch.mutable_data_ptr<Accumulator<scalar_t>>(), s, current_stream(x));
                  }),
                  FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("pairwise_distance", TORCH_BOX(&flowmatch::pairwise_distance_cuda));
}
#endif
