// The ops correlation and correlation_grad: argument checks, outputs, registration.
#include "correlation.h"

#include "stable.h"

namespace flowmatch {
namespace {

CorrelationShape shape(const Tensor& f1, const Tensor& f2, int64_t radius, int64_t stride) {
  STD_TORCH_CHECK(f1.dim() == 4 && f2.dim() == 4, "correlation: f1 and f2 must be [B, C, H, W]");
  STD_TORCH_CHECK(f1.sizes().equals(f2.sizes()), "correlation: f1 and f2 must have the same shape");
  STD_TORCH_CHECK(f1.scalar_type() == f2.scalar_type() && f1.device() == f2.device(),
                  "correlation: f1 and f2 must have the same type and device");
  FLOWMATCH_CHECK_FLOAT(f1, "correlation");
  STD_TORCH_CHECK(radius >= 0 && radius < (1 << 15) && stride >= 1 && stride < (int64_t{1} << 31),
                  "correlation: radius must be in [0, 2^15) and stride in [1, 2^31)");
  return {f1.size(0), f1.size(1), f1.size(2), f1.size(3), radius, stride};
}

CorrelationShape grad_shape(const Tensor& g, const Tensor& other, int64_t radius, int64_t stride) {
  const auto s = shape(other, other, radius, stride);
  STD_TORCH_CHECK(g.dim() == 4 && g.size(0) == s.batch && g.size(1) == s.displacements() &&
                      g.size(2) == s.height && g.size(3) == s.width,
                  "correlation_grad: g must be [B, (2 * radius + 1)^2, H, W]");
  STD_TORCH_CHECK(g.scalar_type() == other.scalar_type() && g.device() == other.device(),
                  "correlation_grad: g and other must have the same type and device");
  return s;
}

Tensor correlation_cpu(const Tensor& f1, const Tensor& f2, int64_t radius, int64_t stride, bool) {
  const auto s = shape(f1, f2, radius, stride);
  const Tensor a = torch::stable::contiguous(f1), b = torch::stable::contiguous(f2);
  Tensor volume = new_output(f1, {s.batch, s.displacements(), s.height, s.width});
  if (volume.numel() == 0) return volume;
  if (s.channels == 0) return torch::stable::zero_(volume);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation", AT_WRAP([&] {
                    cpu::correlation(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
                                     volume.mutable_data_ptr<scalar_t>(), s);
                  }),
                  FLOWMATCH_FLOATS);
  return volume;
}

Tensor correlation_grad_cpu(const Tensor& g, const Tensor& other, int64_t radius, int64_t stride,
                            bool first, bool) {
  const auto s = grad_shape(g, other, radius, stride);
  const Tensor a = torch::stable::contiguous(g), b = torch::stable::contiguous(other);
  Tensor grad = new_output(other, {s.batch, s.channels, s.height, s.width});
  if (grad.numel() == 0) return grad;
  THO_DISPATCH_V2(g.scalar_type(), "correlation_grad", AT_WRAP([&] {
                    cpu::correlation_grad(a.const_data_ptr<scalar_t>(),
                                          b.const_data_ptr<scalar_t>(),
                                          grad.mutable_data_ptr<scalar_t>(), s, first);
                  }),
                  FLOWMATCH_FLOATS);
  return grad;
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CPU, m) {
  m.impl("correlation", TORCH_BOX(&flowmatch::correlation_cpu));
  m.impl("correlation_grad", TORCH_BOX(&flowmatch::correlation_grad_cpu));
}

#ifdef FLOWMATCH_CUDA
namespace flowmatch {
namespace {

Tensor correlation_cuda(const Tensor& f1, const Tensor& f2, int64_t radius, int64_t stride,
                        bool tf32) {
  const auto s = shape(f1, f2, radius, stride);
  const torch::stable::accelerator::DeviceGuard guard(f1.get_device_index());
  const Tensor a = torch::stable::contiguous(f1), b = torch::stable::contiguous(f2);
  Tensor volume = torch::stable::new_empty(f1, {s.batch, s.displacements(), s.height, s.width});
  if (volume.numel() == 0) return volume;
  if (s.channels == 0) return torch::stable::zero_(volume);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation", AT_WRAP([&] {
                    cuda::correlation(
                        device(a.const_data_ptr<scalar_t>()), device(b.const_data_ptr<scalar_t>()),
                        device(volume.mutable_data_ptr<scalar_t>()), s, tf32, current_stream(f1));
                  }),
                  FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return volume;
}

Tensor correlation_grad_cuda(const Tensor& g, const Tensor& other, int64_t radius, int64_t stride,
                             bool first, bool tf32) {
  const auto s = grad_shape(g, other, radius, stride);
  const torch::stable::accelerator::DeviceGuard guard(g.get_device_index());
  const Tensor a = torch::stable::contiguous(g), b = torch::stable::contiguous(other);
  Tensor grad = torch::stable::new_empty(other, {s.batch, s.channels, s.height, s.width});
  if (grad.numel() == 0) return grad;
  THO_DISPATCH_V2(g.scalar_type(), "correlation_grad", AT_WRAP([&] {
                    cuda::correlation_grad(device(a.const_data_ptr<scalar_t>()),
                                           device(b.const_data_ptr<scalar_t>()),
                                           device(grad.mutable_data_ptr<scalar_t>()), s, first,
                                           tf32, current_stream(g));
                  }),
                  FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad;
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("correlation", TORCH_BOX(&flowmatch::correlation_cuda));
  m.impl("correlation_grad", TORCH_BOX(&flowmatch::correlation_grad_cuda));
}
#endif
