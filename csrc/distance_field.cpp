// The op distance_field: argument checks, outputs, registration.
#include "distance_field.h"

#include "stable.h"

namespace flowmatch {
namespace {

FieldShape shape(const Tensor& points, const Tensor& keys, const Tensor& centres,
                 const Tensor& frames, const std::vector<int64_t>& counts,
                 const std::vector<double>& grid, int64_t size, double voxel, double truncation) {
  STD_TORCH_CHECK(points.dim() == 2 && points.size(1) == 3 && keys.dim() == 1 &&
                      keys.size(0) == points.size(0) && keys.scalar_type() == ScalarType::Long,
                  "distance_field: points and keys must be [P, 3] and int64 [P]");
  STD_TORCH_CHECK(centres.dim() == 2 && centres.size(1) == 3 && frames.dim() == 3 &&
                      frames.size(0) == centres.size(0) && frames.size(1) == 3 &&
                      frames.size(2) == 3,
                  "distance_field: centres and frames must be [K, 3] and [K, 3, 3]");
  for (const Tensor* t : {&points, &centres, &frames}) {
    STD_TORCH_CHECK(t->scalar_type() == points.scalar_type() && t->device() == keys.device(),
                    "distance_field: all tensors must have the same type and device");
  }
  STD_TORCH_CHECK(
      points.scalar_type() == ScalarType::Float || points.scalar_type() == ScalarType::Double,
      "distance_field: float32 or float64 is needed");
  STD_TORCH_CHECK(counts.size() == 3 && grid.size() == 4 && grid[3] > 0 && size >= 1 &&
                      size <= 256 && voxel > 0 && truncation > 0 && truncation <= 64,
                  "distance_field: counts, grid, size, voxel or truncation is out of range");
  return {points.size(0), centres.size(0),
          size,           voxel,
          truncation,     {grid[0], grid[1], grid[2]},
          grid[3],        {counts[0], counts[1], counts[2]}};
}

Tensor distance_field_cpu(const Tensor& points, const Tensor& keys, const Tensor& centres,
                          const Tensor& frames, std::vector<int64_t> counts,
                          std::vector<double> grid, int64_t size, double voxel, double truncation) {
  const auto s = shape(points, keys, centres, frames, counts, grid, size, voxel, truncation);
  Tensor out = new_output(points, {s.centres, size, size, size});
  if (out.numel() == 0) return out;
  using torch::stable::contiguous;
  const Tensor a = contiguous(points), b = contiguous(keys), c = contiguous(centres);
  const Tensor d = contiguous(frames);
  THO_DISPATCH_V2(points.scalar_type(), "distance_field", AT_WRAP([&] {
                    cpu::distance_field(a.const_data_ptr<scalar_t>(), b.const_data_ptr<int64_t>(),
                                        c.const_data_ptr<scalar_t>(), d.const_data_ptr<scalar_t>(),
                                        out.mutable_data_ptr<scalar_t>(), s);
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CPU, m) {
  m.impl("distance_field", TORCH_BOX(&flowmatch::distance_field_cpu));
}

#ifdef FLOWMATCH_CUDA
namespace flowmatch {
namespace {

Tensor distance_field_cuda(const Tensor& points, const Tensor& keys, const Tensor& centres,
                           const Tensor& frames, std::vector<int64_t> counts,
                           std::vector<double> grid, int64_t size, double voxel,
                           double truncation) {
  const auto s = shape(points, keys, centres, frames, counts, grid, size, voxel, truncation);
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  Tensor out = torch::stable::new_empty(points, {s.centres, size, size, size});
  if (out.numel() == 0) return out;
  using torch::stable::contiguous;
  const Tensor a = contiguous(points), b = contiguous(keys), c = contiguous(centres);
  const Tensor d = contiguous(frames);
  Tensor starts = torch::stable::new_empty(keys, {cuda::field_scratch(s)}, ScalarType::Int);
  THO_DISPATCH_V2(points.scalar_type(), "distance_field", AT_WRAP([&] {
                    cuda::distance_field(a.const_data_ptr<scalar_t>(), b.const_data_ptr<int64_t>(),
                                         c.const_data_ptr<scalar_t>(), d.const_data_ptr<scalar_t>(),
                                         out.mutable_data_ptr<scalar_t>(),
                                         starts.mutable_data_ptr<int32_t>(), s,
                                         current_stream(points));
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("distance_field", TORCH_BOX(&flowmatch::distance_field_cuda));
}
#endif
