// The ops correlation_lookup and correlation_lookup_grad: argument checks, outputs, registration.
#include "correlation_lookup.h"

#include <tuple>

#include "stable.h"

namespace flowmatch {
namespace {

LookupShape shape(const Tensor& f1, const Tensor& f2, const Tensor& coords, double scale_y,
                  double scale_x, int64_t radius_y, int64_t radius_x) {
  STD_TORCH_CHECK(f1.dim() == 4 && f2.dim() == 4 && f1.size(0) == f2.size(0) &&
                      f1.size(3) == f2.size(3) && f1.scalar_type() == f2.scalar_type(),
                  "correlation_lookup: f1 and f2 must be [B, H, W, C] of the same type");
  FLOWMATCH_CHECK_FLOAT(f1, "correlation_lookup");
  const bool wide = f1.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(coords.dim() == 4 && coords.size(0) == f1.size(0) && coords.size(1) == 2 &&
                      coords.size(2) == f1.size(1) && coords.size(3) == f1.size(2) &&
                      coords.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
                  "correlation_lookup: coords must be [B, 2, H, W], float32, or float64 if f1 is");
  STD_TORCH_CHECK(f1.device() == f2.device() && f1.device() == coords.device(),
                  "correlation_lookup: all tensors must be on the same device");
  STD_TORCH_CHECK(radius_y >= 0 && radius_x >= 0 && radius_y < 1024 && radius_x < 1024,
                  "correlation_lookup: radii must be in [0, 2^10)");
  return {f1.size(0), f1.size(3), f1.size(1), f1.size(2), f2.size(1),
          f2.size(2), radius_y,   radius_x,   scale_y,    scale_x};
}

void check_grad(const Tensor& g, const Tensor& f1, const LookupShape& s) {
  STD_TORCH_CHECK(g.dim() == 4 && g.size(0) == s.batch && g.size(1) == s.displacements() &&
                      g.size(2) == s.height && g.size(3) == s.width &&
                      g.scalar_type() == f1.scalar_type() && g.device() == f1.device(),
                  "correlation_lookup_grad: g must be [B, D, H, W] of the type of f1");
}

bool is_empty(const LookupShape& s) { return s.batch * s.channels * s.pixels() * s.pixels2() == 0; }

using torch::stable::contiguous;

Tensor correlation_lookup_cpu(const Tensor& f1, const Tensor& f2, const Tensor& coords,
                              double scale_y, double scale_x, int64_t radius_y, int64_t radius_x) {
  const auto s = shape(f1, f2, coords, scale_y, scale_x, radius_y, radius_x);
  Tensor out = new_output(f1, {s.batch, s.displacements(), s.height, s.width});
  if (is_empty(s)) return torch::stable::zero_(out);
  const Tensor a = contiguous(f1), b = contiguous(f2), c = contiguous(coords);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation_lookup", AT_WRAP([&] {
                    cpu::correlation_lookup(a.const_data_ptr<scalar_t>(),
                                            b.const_data_ptr<scalar_t>(),
                                            c.const_data_ptr<Accumulator<scalar_t>>(),
                                            out.mutable_data_ptr<scalar_t>(), s);
                  }),
                  FLOWMATCH_FLOATS);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> correlation_lookup_grad_cpu(const Tensor& g, const Tensor& f1,
                                                               const Tensor& f2,
                                                               const Tensor& coords, double scale_y,
                                                               double scale_x, int64_t radius_y,
                                                               int64_t radius_x) {
  const auto s = shape(f1, f2, coords, scale_y, scale_x, radius_y, radius_x);
  check_grad(g, f1, s);
  Tensor grad1 = new_output(f1, {s.batch, s.height, s.width, s.channels});
  Tensor grad2 = new_output(f2, {s.batch, s.height2, s.width2, s.channels});
  Tensor along = new_output(coords, {s.batch, 2, s.height, s.width});
  if (is_empty(s)) {
    for (Tensor* t : {&grad1, &grad2, &along}) torch::stable::zero_(*t);
    return {grad1, grad2, along};
  }
  const Tensor d = contiguous(g), a = contiguous(f1), b = contiguous(f2), c = contiguous(coords);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation_lookup_grad", AT_WRAP([&] {
                    cpu::correlation_lookup_grad(
                        d.const_data_ptr<scalar_t>(), a.const_data_ptr<scalar_t>(),
                        b.const_data_ptr<scalar_t>(), c.const_data_ptr<Accumulator<scalar_t>>(),
                        grad1.mutable_data_ptr<scalar_t>(), grad2.mutable_data_ptr<scalar_t>(),
                        along.mutable_data_ptr<Accumulator<scalar_t>>(), s);
                  }),
                  FLOWMATCH_FLOATS);
  return {grad1, grad2, along};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CPU, m) {
  m.impl("correlation_lookup", TORCH_BOX(&flowmatch::correlation_lookup_cpu));
  m.impl("correlation_lookup_grad", TORCH_BOX(&flowmatch::correlation_lookup_grad_cpu));
}

#ifdef FLOWMATCH_CUDA
namespace flowmatch {
namespace {

// All levels; their shapes differ in the size of f2 and the scale.
Tensor lookup(const Tensor& f1, const std::vector<Tensor>& f2, const Tensor& coords,
              const std::vector<LookupShape>& shapes) {
  const auto& s = shapes.front();
  const auto levels = static_cast<int64_t>(shapes.size());
  const torch::stable::accelerator::DeviceGuard guard(f1.get_device_index());
  Tensor out =
      torch::stable::new_empty(f1, {s.batch, levels * s.displacements(), s.height, s.width});
  if (s.batch * s.channels * s.pixels() == 0) return torch::stable::zero_(out);
  const Tensor a = contiguous(f1), c = contiguous(coords);
  std::vector<Tensor> b;
  for (const Tensor& level : f2) b.push_back(contiguous(level));
  THO_DISPATCH_V2(
      f1.scalar_type(), "correlation_lookup", AT_WRAP([&] {
        using T = std::remove_pointer_t<decltype(device(static_cast<const scalar_t*>(nullptr)))>;
        std::vector<T*> pointers;
        for (const Tensor& level : b) {
          pointers.push_back(device(level.const_data_ptr<scalar_t>()));
        }
        cuda::correlation_lookup(device(a.const_data_ptr<scalar_t>()), pointers.data(),
                                 c.const_data_ptr<Accumulator<scalar_t>>(),
                                 device(out.mutable_data_ptr<scalar_t>()), shapes.data(),
                                 static_cast<int>(levels), current_stream(f1));
      }),
      FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

Tensor correlation_lookup_cuda(const Tensor& f1, const Tensor& f2, const Tensor& coords,
                               double scale_y, double scale_x, int64_t radius_y, int64_t radius_x) {
  return lookup(f1, {f2}, coords, {shape(f1, f2, coords, scale_y, scale_x, radius_y, radius_x)});
}

Tensor correlation_lookup_pyramid_cuda(const Tensor& f1, std::vector<Tensor> f2,
                                       const Tensor& coords, bool halve_rows, int64_t radius_y,
                                       int64_t radius_x) {
  STD_TORCH_CHECK(!f2.empty(), "correlation_lookup_pyramid: a level is needed");
  std::vector<LookupShape> shapes;
  double scale = 1;
  for (const Tensor& level : f2) {
    shapes.push_back(shape(f1, level, coords, halve_rows ? scale : 1, scale, radius_y, radius_x));
    scale /= 2;
  }
  return lookup(f1, f2, coords, shapes);
}

std::tuple<Tensor, Tensor, Tensor> correlation_lookup_grad_cuda(
    const Tensor& g, const Tensor& f1, const Tensor& f2, const Tensor& coords, double scale_y,
    double scale_x, int64_t radius_y, int64_t radius_x) {
  const auto s = shape(f1, f2, coords, scale_y, scale_x, radius_y, radius_x);
  check_grad(g, f1, s);
  const torch::stable::accelerator::DeviceGuard guard(f1.get_device_index());
  using torch::stable::new_empty;
  Tensor grad1 = new_empty(f1, {s.batch, s.height, s.width, s.channels});
  Tensor grad2 = new_empty(f2, {s.batch, s.height2, s.width2, s.channels});
  Tensor along = new_empty(coords, {s.batch, 2, s.height, s.width});
  if (is_empty(s)) {
    for (Tensor* t : {&grad1, &grad2, &along}) torch::stable::zero_(*t);
    return {grad1, grad2, along};
  }
  Tensor scratch = new_empty(coords, {cuda::lookup_scratch(s)});
  const Tensor d = contiguous(g), a = contiguous(f1), b = contiguous(f2), c = contiguous(coords);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation_lookup_grad", AT_WRAP([&] {
                    using A = Accumulator<scalar_t>;
                    cuda::correlation_lookup_grad(
                        device(d.const_data_ptr<scalar_t>()), device(a.const_data_ptr<scalar_t>()),
                        device(b.const_data_ptr<scalar_t>()), c.const_data_ptr<A>(),
                        device(grad1.mutable_data_ptr<scalar_t>()),
                        device(grad2.mutable_data_ptr<scalar_t>()), along.mutable_data_ptr<A>(),
                        scratch.mutable_data_ptr<A>(), s, current_stream(f1));
                  }),
                  FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad1, grad2, along};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("correlation_lookup", TORCH_BOX(&flowmatch::correlation_lookup_cuda));
  m.impl("correlation_lookup_pyramid", TORCH_BOX(&flowmatch::correlation_lookup_pyramid_cuda));
  m.impl("correlation_lookup_grad", TORCH_BOX(&flowmatch::correlation_lookup_grad_cuda));
}
#endif
