// The ops splat and splat_grad: argument checks, outputs, registration.
#include "splat.h"

#include <tuple>

#include "stable.h"

namespace flowmatch {
namespace {

SplatShape shape(const Tensor& image, const Tensor& flow) {
  STD_TORCH_CHECK(image.dim() == 4 && flow.dim() == 4 && flow.size(0) == image.size(0) &&
                      flow.size(1) == 2 && flow.size(2) == image.size(2) &&
                      flow.size(3) == image.size(3),
                  "splat: image and flow must be [B, C, H, W] and [B, 2, H, W]");
  STD_TORCH_CHECK(image.scalar_type() == flow.scalar_type() && image.device() == flow.device(),
                  "splat: image and flow must have the same type and device");
  STD_TORCH_CHECK(
      image.scalar_type() == ScalarType::Float || image.scalar_type() == ScalarType::Double,
      "splat: float32 or float64 is needed");
  return {image.size(0), image.size(1), image.size(2), image.size(3)};
}

void check_grad(const Tensor& g, const Tensor& image) {
  STD_TORCH_CHECK(g.sizes().equals(image.sizes()) && g.scalar_type() == image.scalar_type() &&
                      g.device() == image.device(),
                  "splat_grad: g must have the shape, type and device of image");
}

std::vector<int64_t> sizes(const SplatShape& s, int64_t channels) {
  return {s.batch, channels, s.height, s.width};
}

using torch::stable::contiguous;

Tensor splat_cpu(const Tensor& image, const Tensor& flow) {
  const auto s = shape(image, flow);
  Tensor out = new_output(image, sizes(s, s.channels));
  if (out.numel() == 0) return out;
  const Tensor a = contiguous(image), b = contiguous(flow);
  THO_DISPATCH_V2(image.scalar_type(), "splat", AT_WRAP([&] {
                    cpu::splat(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
                               out.mutable_data_ptr<scalar_t>(), s);
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

std::tuple<Tensor, Tensor> splat_grad_cpu(const Tensor& g, const Tensor& image,
                                          const Tensor& flow) {
  const auto s = shape(image, flow);
  check_grad(g, image);
  Tensor grad_image = new_output(image, sizes(s, s.channels));
  Tensor grad_flow = new_output(flow, sizes(s, 2));
  if (grad_flow.numel() == 0) return {grad_image, grad_flow};
  const Tensor a = contiguous(g), b = contiguous(image), c = contiguous(flow);
  THO_DISPATCH_V2(image.scalar_type(), "splat_grad", AT_WRAP([&] {
                    cpu::splat_grad(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
                                    c.const_data_ptr<scalar_t>(),
                                    grad_image.mutable_data_ptr<scalar_t>(),
                                    grad_flow.mutable_data_ptr<scalar_t>(), s);
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return {grad_image, grad_flow};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CPU, m) {
  m.impl("splat", TORCH_BOX(&flowmatch::splat_cpu));
  m.impl("splat_grad", TORCH_BOX(&flowmatch::splat_grad_cpu));
}

#ifdef FLOWMATCH_CUDA
namespace flowmatch {
namespace {

Tensor splat_cuda(const Tensor& image, const Tensor& flow) {
  const auto s = shape(image, flow);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  Tensor out = torch::stable::new_empty(image, sizes(s, s.channels));
  if (out.numel() == 0) return out;
  Tensor boxes = torch::stable::new_empty(image, {cuda::splat_boxes(s)}, ScalarType::Long);
  const Tensor a = contiguous(image), b = contiguous(flow);
  THO_DISPATCH_V2(image.scalar_type(), "splat", AT_WRAP([&] {
                    cuda::splat(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
                                boxes.mutable_data_ptr<int64_t>(), out.mutable_data_ptr<scalar_t>(),
                                s, current_stream(image));
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

std::tuple<Tensor, Tensor> splat_grad_cuda(const Tensor& g, const Tensor& image,
                                           const Tensor& flow) {
  const auto s = shape(image, flow);
  check_grad(g, image);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  Tensor grad_image = torch::stable::new_empty(image, sizes(s, s.channels));
  Tensor grad_flow = torch::stable::new_empty(flow, sizes(s, 2));
  if (grad_flow.numel() == 0) return {grad_image, grad_flow};
  const Tensor a = contiguous(g), b = contiguous(image), c = contiguous(flow);
  THO_DISPATCH_V2(image.scalar_type(), "splat_grad", AT_WRAP([&] {
                    cuda::splat_grad(
                        a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
                        c.const_data_ptr<scalar_t>(), grad_image.mutable_data_ptr<scalar_t>(),
                        grad_flow.mutable_data_ptr<scalar_t>(), s, current_stream(image));
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_image, grad_flow};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("splat", TORCH_BOX(&flowmatch::splat_cuda));
  m.impl("splat_grad", TORCH_BOX(&flowmatch::splat_grad_cuda));
}
#endif
