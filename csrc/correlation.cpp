// The ops correlation and correlation_grad: argument checks, outputs, registration.
#include "correlation.h"

#include "stable.h"

namespace flowmatch {
namespace {

// The displacements: radius (y, x), stride, offset (y, x).
struct Grid {
  const std::vector<int64_t>& radius;
  int64_t stride;
  const std::vector<int64_t>& offset;
};

CorrelationShape shape(const Tensor& f1, const Tensor& f2, const Grid& grid) {
  STD_TORCH_CHECK(f1.dim() == 4 && f2.dim() == 4, "correlation: f1 and f2 must be [B, C, H, W]");
  STD_TORCH_CHECK(f1.sizes().equals(f2.sizes()), "correlation: f1 and f2 must have the same shape");
  STD_TORCH_CHECK(f1.scalar_type() == f2.scalar_type() && f1.device() == f2.device(),
                  "correlation: f1 and f2 must have the same type and device");
  FLOWMATCH_CHECK_FLOAT(f1, "correlation");
  constexpr int64_t most = int64_t{1} << 31;
  STD_TORCH_CHECK(grid.radius.size() == 2 && grid.offset.size() == 2,
                  "correlation: radius and offset must have two values");
  const int64_t ry = grid.radius[0], rx = grid.radius[1];
  const int64_t oy = grid.offset[0], ox = grid.offset[1];
  STD_TORCH_CHECK(std::min(ry, rx) >= 0 && std::max(ry, rx) < (1 << 15) && grid.stride >= 1 &&
                      grid.stride < most,
                  "correlation: radius must be in [0, 2^15) and stride in [1, 2^31)");
  STD_TORCH_CHECK(std::max({oy, -oy, ox, -ox}) < most,
                  "correlation: offset must be in (-2^31, 2^31)");
  return {f1.size(0), f1.size(1), f1.size(2), f1.size(3), ry, rx, grid.stride, oy, ox};
}

CorrelationShape grad_shape(const Tensor& g, const Tensor& other, const Grid& grid) {
  const auto s = shape(other, other, grid);
  STD_TORCH_CHECK(g.dim() == 4 && g.size(0) == s.batch && g.size(1) == s.displacements() &&
                      g.size(2) == s.height && g.size(3) == s.width,
                  "correlation_grad: g must be [B, displacements, H, W]");
  STD_TORCH_CHECK(g.scalar_type() == other.scalar_type() && g.device() == other.device(),
                  "correlation_grad: g and other must have the same type and device");
  return s;
}

Tensor correlation_cpu(const Tensor& f1, const Tensor& f2, std::vector<int64_t> radius,
                       int64_t stride, bool, std::vector<int64_t> offset) {
  const auto s = shape(f1, f2, {radius, stride, offset});
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

Tensor correlation_grad_cpu(const Tensor& g, const Tensor& other, std::vector<int64_t> radius,
                            int64_t stride, bool first, bool, std::vector<int64_t> offset) {
  const auto s = grad_shape(g, other, {radius, stride, offset});
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

Tensor correlation_cuda(const Tensor& f1, const Tensor& f2, std::vector<int64_t> radius,
                        int64_t stride, bool tf32, std::vector<int64_t> offset) {
  const auto s = shape(f1, f2, {radius, stride, offset});
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

Tensor correlation_grad_cuda(const Tensor& g, const Tensor& other, std::vector<int64_t> radius,
                             int64_t stride, bool first, bool tf32, std::vector<int64_t> offset) {
  const auto s = grad_shape(g, other, {radius, stride, offset});
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
