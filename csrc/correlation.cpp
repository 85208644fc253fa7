// The correlation cost volume on the CPU, and the registration of its CPU and CUDA kernels.
//
// Images are first packed row by row, [H, C, W], padded left and right with zeros, so that the
// inner loops (correlation_tiles.h) neither test for borders nor stride through memory. Forward
// walks over rows of the second image, backward over groups of rows that get a gradient; either
// way each output element is written by one thread, in one order: results repeat bit for bit.
#include "correlation.h"

#include <cstring>

#include "simd.h"
#include "stable.h"

namespace flowmatch {

constexpr int kRows = 3;  // of an image, in one tile
constexpr int kMet = 8;   // rows of the other image at once in the backward pass, at most
constexpr int64_t kEntryBytes = 1 << 15;
constexpr int64_t kInPlace = 64;  // channels

// Displacements that can never meet the other image are left out: `reach` to each side remain.
struct PackedRows {
  PackedRows(const CorrelationShape& s, int64_t lanes)
      : reach(std::min(s.radius, (s.width - 1) / s.stride)),
        margin(reach * s.stride),
        vectors((s.width + lanes - 1) / lanes * lanes),
        padded(vectors + 2 * margin) {}
  int64_t reach, margin;
  int64_t vectors;  // floats in a row: whole vectors
  int64_t padded;   // and in one with a margin of zeros on both sides
};

}  // namespace flowmatch

#define FLOWMATCH_EACH_ISA "correlation_tiles.h"
#include "each_isa.h"

namespace flowmatch {
namespace {

template <class T, class A>
void convert(const T* from, int64_t count, A* to) {
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(to, from, count * sizeof(A));
  } else {
    std::transform(from, from + count, to, [](T v) { return static_cast<A>(v); });
  }
}

// One image [C, H, W] -> [H, C, margin + W + zeros], rows `size` long.
template <class T, class A>
void pack(const T* image, A* rows, const CorrelationShape& s, int64_t size, int64_t margin) {
  parallel_rows(s.height, s.channels * size, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t c = 0; c < s.channels; ++c) {
        const T* from = image + (c * s.height + y) * s.width;
        A* to = rows + (y * s.channels + c) * size;
        std::fill(to, to + margin, A(0));
        convert(from, s.width, to + margin);
        std::fill(to + margin + s.width, to + size, A(0));
      }
    }
  });
}

// Where the pixels of the first image lie, and how far it is from a row or channel to the next.
template <class A>
struct FirstImage {
  const A* rows;
  int64_t row, channel;
};

// One row y2 of the second image against every row of the first that can see it.
template <class T, class A, class Rows>
void forward_row(const FirstImage<A>& first, const A* second, T* volume, const CorrelationShape& s,
                 const PackedRows& p, int64_t y2, Rows* rows) {
  const int64_t skipped = s.radius - p.reach;  // columns of the volume that stay zero
  const auto row_of = [&](int64_t dy) { return y2 - (dy - s.radius) * s.stride; };
  int64_t low = 0, high = s.side();  // dy whose row lies inside
  while (low < high && row_of(low) >= s.height) ++low;
  while (high > low && row_of(high - 1) < 0) --high;
  for (int64_t dy = low; dy < high; dy += kRows) {
    const int count = static_cast<int>(std::min<int64_t>(kRows, high - dy));
    const A* a[kRows];
    T* out[kRows];
    for (int r = 0; r < kRows; ++r) {
      const int64_t own = dy + std::min(r, count - 1), y = row_of(own);
      a[r] = first.rows + y * first.row;
      out[r] = volume + ((own * s.side() + skipped) * s.height + y) * s.width;
    }
    rows(a, first.channel, second + y2 * s.channels * p.padded, out, s, p, count);
  }
}

template <class T>
void zero_unreachable(T* volume, const CorrelationShape& s, const PackedRows& p) {
  parallel_rows(s.displacements(), s.pixels(), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      T* plane = volume + k * s.pixels();
      const int64_t dy = (k / s.side() - s.radius) * s.stride;
      const bool outside = std::abs(k % s.side() - s.radius) > p.reach;
      for (int64_t y = 0; y < s.height; ++y) {
        if (outside || y + dy < 0 || y + dy >= s.height) {
          std::fill(plane + y * s.width, plane + (y + 1) * s.width, T(0));
        }
      }
    }
  });
}

template <class T>
void forward(const T* f1, const T* f2, T* volume, const CorrelationShape& s) {
  using A = Accumulator<T>;
  const PackedRows p(s, FLOWMATCH_PICK(kLanes<A>));
  const auto rows = FLOWMATCH_PICK(forward_rows<T, A>);
  // An image of few channels and whole vectors is read where it is. With many channels, each in
  // pages of its own, packing costs less than the address translation it saves.
  const bool in_place = std::is_same_v<T, A> && p.vectors == s.width && s.channels <= kInPlace;
  const std::unique_ptr<A[]> first(new A[in_place ? 0 : s.height * s.channels * p.vectors]);
  const std::unique_ptr<A[]> second(new A[s.height * s.channels * p.padded]);
  for (int64_t b = 0; b < s.batch; ++b) {
    FirstImage<A> image{first.get(), s.channels * p.vectors, p.vectors};
    const T* from = f1 + b * s.channels * s.pixels();
    if (in_place) {
      image = {reinterpret_cast<const A*>(from), s.width, s.pixels()};
    } else {
      pack(from, first.get(), s, p.vectors, 0);
    }
    pack(f2 + b * s.channels * s.pixels(), second.get(), s, p.padded, p.margin);
    T* out = volume + b * s.displacements() * s.pixels();
    zero_unreachable(out, s, p);
    const int64_t work = s.channels * s.displacements() * s.width;
    parallel_rows(s.height, work, [&](int64_t begin, int64_t end) {
      for (int64_t y2 = begin; y2 < end; ++y2) {
        forward_row(image, second.get(), out, s, p, y2, rows);
      }
    });
  }
}

// The part of the volume's gradient that links image row y to row y2 of the other image, as
// [2 * reach + 1, vectors]: entry (d, x) belongs to other[x + (d - reach) * stride]. Seen from f2
// every displacement is reversed: the entry then lies at the other pixel, under -(dy, dx).
template <class T, class A>
void pack_gradient(const T* g, A* to, const CorrelationShape& s, const PackedRows& p, bool first,
                   int64_t y, int64_t y2) {
  const int64_t dy = (y2 - y) / s.stride;
  const bool seen = y < s.height && std::abs(dy) <= s.radius;
  for (int64_t d = -p.reach; d <= p.reach; ++d, to += p.vectors) {
    const int64_t shift = first ? 0 : d * s.stride;
    const int64_t k = first ? (dy + s.radius) * s.side() + d + s.radius
                            : (s.radius - dy) * s.side() + s.radius - d;
    const int64_t begin = std::max<int64_t>(0, -shift);
    const int64_t end = seen ? std::min(s.width, s.width - shift) : begin;
    std::fill(to, to + begin, A(0));
    if (seen)
      convert(g + (k * s.height + (first ? y : y2)) * s.width + shift + begin, end - begin,
              to + begin);
    std::fill(to + end, to + p.vectors, A(0));
  }
}

template <class T>
void backward(const T* g, const T* other, T* grad, const CorrelationShape& s, bool first) {
  using A = Accumulator<T>;
  const PackedRows p(s, FLOWMATCH_PICK(kLanes<A>));
  const auto rows = FLOWMATCH_PICK(backward_rows<A>);
  const int64_t side = 2 * p.reach + 1, tile = kRows * side * p.vectors;
  // Rows of the other image that are met at once, for sums to stay in registers: as many as keep
  // the gradient's entries in the first-level cache.
  const int most = static_cast<int>(std::clamp<int64_t>(kEntryBytes / (tile * sizeof(A)), 1, kMet));
  const int64_t sum_size = kRows * s.channels * p.vectors;
  const std::unique_ptr<A[]> packed(new A[s.height * s.channels * p.padded]);
  // A group is kRows rows `stride` apart: they meet the same rows of the other image.
  const int64_t classes = std::min(s.stride, s.height);
  const int64_t groups = ((s.height + classes - 1) / classes + kRows - 1) / kRows;
  const A scale = A(1) / static_cast<A>(s.channels);
  for (int64_t b = 0; b < s.batch; ++b) {
    pack(other + b * s.channels * s.pixels(), packed.get(), s, p.padded, p.margin);
    const T* from = g + b * s.displacements() * s.pixels();
    T* to = grad + b * s.channels * s.pixels();
    Scratch<A> scratch(most * tile + sum_size);
    const int64_t work = kRows * s.channels * s.displacements() * s.width;
    parallel_rows(classes * groups, work, [&](int64_t begin, int64_t end) {
      A* entries = scratch.take();
      A* sums = entries + most * tile;
      for (int64_t group = begin; group < end; ++group) {
        const int64_t top = group % classes + group / classes * kRows * s.stride;
        std::fill(sums, sums + sum_size, A(0));
        const A* others[kMet];
        int met = 0;
        for (int64_t step = -s.radius; step < s.radius + kRows; ++step) {
          const int64_t y2 = top + step * s.stride;
          if (y2 < 0 || y2 >= s.height) continue;
          for (int64_t r = 0; r < kRows; ++r) {
            A* to = entries + met * tile + r * side * p.vectors;
            pack_gradient(from, to, s, p, first, top + r * s.stride, y2);
          }
          others[met++] = packed.get() + y2 * s.channels * p.padded;
          if (met == most) {
            rows(entries, others, met, sums, s, p);
            met = 0;
          }
        }
        rows(entries, others, met, sums, s, p);
        for (int64_t r = 0; r < kRows && top + r * s.stride < s.height; ++r) {
          for (int64_t c = 0; c < s.channels; ++c) {
            const A* sum = sums + (r * s.channels + c) * p.vectors;
            T* row = to + (c * s.height + top + r * s.stride) * s.width;
            std::transform(sum, sum + s.width, row, [&](A v) { return static_cast<T>(v * scale); });
          }
        }
      }
    });
  }
}

CorrelationShape shape(const Tensor& f1, const Tensor& f2, int64_t radius, int64_t stride) {
  STD_TORCH_CHECK(f1.dim() == 4 && f2.dim() == 4, "correlation: f1 and f2 must be [B, C, H, W]");
  STD_TORCH_CHECK(f1.sizes().equals(f2.sizes()), "correlation: f1 and f2 must have one shape");
  STD_TORCH_CHECK(f1.scalar_type() == f2.scalar_type() && f1.device() == f2.device(),
                  "correlation: f1 and f2 must have one type and device");
  STD_TORCH_CHECK(radius >= 0 && radius < (1 << 15) && stride >= 1 && stride < (int64_t{1} << 31),
                  "correlation: 0 <= radius < 2^15 and 1 <= stride < 2^31 needed");
  return {f1.size(0), f1.size(1), f1.size(2), f1.size(3), radius, stride};
}

CorrelationShape grad_shape(const Tensor& g, const Tensor& other, int64_t radius, int64_t stride) {
  const auto s = shape(other, other, radius, stride);
  STD_TORCH_CHECK(g.dim() == 4 && g.size(0) == s.batch && g.size(1) == s.displacements() &&
                      g.size(2) == s.height && g.size(3) == s.width,
                  "correlation_grad: g must be [B, (2 * radius + 1)^2, H, W]");
  STD_TORCH_CHECK(g.scalar_type() == other.scalar_type() && g.device() == other.device(),
                  "correlation_grad: g and other must have one type and device");
  return s;
}

Tensor correlation_cpu(const Tensor& f1, const Tensor& f2, int64_t radius, int64_t stride, bool) {
  const auto s = shape(f1, f2, radius, stride);
  const Tensor a = torch::stable::contiguous(f1), b = torch::stable::contiguous(f2);
  Tensor volume = new_output(f1, {s.batch, s.displacements(), s.height, s.width});
  if (volume.numel() == 0) return volume;
  if (s.channels == 0) return torch::stable::zero_(volume);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation", AT_WRAP([&] {
                    forward(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
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
                    backward(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
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
