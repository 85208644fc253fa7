// The lookup of windows on demand on the CPU, and the registration of its CPU and CUDA kernels.
//
// A pixel's channels lie together, so a window's row is one stretch of memory, and a dot product
// runs along it. Backward, the gradient of f2 is gathered by slices of channels: each is one
// thread's, and the pixels of f1 add to it in their order, so that results repeat bit for bit.
#include "lookup.h"

#include <cmath>

#include "simd.h"
#include "stable.h"

#define FLOWMATCH_EACH_ISA "lookup_tiles.h"
#include "each_isa.h"

namespace flowmatch {
namespace {

constexpr int64_t kRun = 16;    // pixels whose results are written together
constexpr int64_t kSlice = 64;  // channels of f2's gradient that belong to one thread

template <class T>
void forward(const T* f1, const T* f2, const Accumulator<T>* coords, T* out, const LookupShape& s) {
  using A = Accumulator<T>;
  const auto dots_of = FLOWMATCH_PICK(window_dots<A>);
  const auto blend_into = FLOWMATCH_PICK(blend<A>);
  const A scale = 1 / std::sqrt(static_cast<A>(s.channels));
  const Widened<T, A> first(f1, s.batch * s.pixels() * s.channels);
  const Widened<T, A> second(f2, s.batch * s.pixels2() * s.channels);
  Scratch<A> scratch(s.taps() + s.displacements() * kRun);
  const int64_t runs = (s.width + kRun - 1) / kRun;
  const int64_t work = kRun * s.taps() * s.channels;
  parallel_rows(s.batch * s.height * runs, work, [&](int64_t begin, int64_t end) {
    A* dots = scratch.take();
    A* results = dots + s.taps();
    for (int64_t run = begin; run < end; ++run) {
      const int64_t b = run / (runs * s.height), x = run % runs * kRun;
      const int64_t start = run / runs % s.height * s.width + x;
      const int64_t count = std::min(kRun, s.width - x);
      for (int64_t n = 0; n < count; ++n) {
        const auto w = window(coords + b * 2 * s.pixels(), s, start + n);
        dots_of(first.data() + (b * s.pixels() + start + n) * s.channels,
                second.data() + b * s.pixels2() * s.channels, w, s, dots);
        blend_into(dots, w, s, scale, results + n, kRun);
      }
      T* to = out + b * s.displacements() * s.pixels() + start;
      for (int64_t d = 0; d < s.displacements(); ++d, to += s.pixels()) {
        std::transform(results + d * kRun, results + d * kRun + count, to,
                       [](A v) { return static_cast<T>(v); });
      }
    }
  });
}

// One pixel: the gradients of its features, of its coordinates, and of its dot products (`taps`).
template <class T, class A>
struct PixelGrads {
  const T* g;
  const A *first, *second, *coords;
  T* grad1;
  A *grad_coords, *taps;
};

template <class T, class A>
void backward_pixels(const PixelGrads<T, A>& p, const LookupShape& s) {
  const auto dots_of = FLOWMATCH_PICK(window_dots<A>);
  const auto blended = FLOWMATCH_PICK(blend_grad<A>);
  const auto gather = FLOWMATCH_PICK(gather_window<A>);
  const A scale = 1 / std::sqrt(static_cast<A>(s.channels));
  Scratch<A> scratch(s.taps() + s.displacements() + s.channels);
  parallel_rows(s.pixels(), 2 * s.taps() * s.channels, [&](int64_t begin, int64_t end) {
    A* dots = scratch.take();
    A* entries = dots + s.taps();
    A* sums = entries + s.displacements();
    for (int64_t n = begin; n < end; ++n) {
      const auto w = window(p.coords, s, n);
      for (int64_t d = 0; d < s.displacements(); ++d) {
        entries[d] = static_cast<A>(p.g[d * s.pixels() + n]);
      }
      A along[2];
      dots_of(p.first + n * s.channels, p.second, w, s, dots);
      blended(entries, dots, w, s, scale, p.taps + n * s.taps(), along);
      p.grad_coords[n] = along[0] * static_cast<A>(s.scale_x);
      p.grad_coords[s.pixels() + n] = along[1] * static_cast<A>(s.scale_y);
      gather(p.taps + n * s.taps(), p.second, w, s, sums);
      std::transform(sums, sums + s.channels, p.grad1 + n * s.channels,
                     [](A v) { return static_cast<T>(v); });
    }
  });
}

template <class T>
void backward(const T* g, const T* f1, const T* f2, const Accumulator<T>* coords, T* grad1,
              T* grad2, Accumulator<T>* grad_coords, const LookupShape& s) {
  using A = Accumulator<T>;
  const auto scatter = FLOWMATCH_PICK(scatter_window<A>);
  const Widened<T, A> first(f1, s.batch * s.pixels() * s.channels);
  const Widened<T, A> second(f2, s.batch * s.pixels2() * s.channels);
  const std::unique_ptr<A[]> taps(new A[s.pixels() * s.taps()]);
  const int64_t size2 = s.pixels2() * s.channels, slices = (s.channels + kSlice - 1) / kSlice;
  // A slice of its own: in the image, its pixels would lie a power of two apart, and fall into
  // the same few sets of the cache.
  Scratch<A> scratch(s.pixels2() * kSlice);
  for (int64_t b = 0; b < s.batch; ++b) {
    const A* features = first.data() + b * s.pixels() * s.channels;
    const A* at = coords + b * 2 * s.pixels();
    backward_pixels(
        PixelGrads<T, A>{g + b * s.displacements() * s.pixels(), features,
                         second.data() + b * size2, at, grad1 + b * s.pixels() * s.channels,
                         grad_coords + b * 2 * s.pixels(), taps.get()},
        s);
    parallel_rows(slices, s.pixels() * s.taps() * kSlice, [&](int64_t begin, int64_t end) {
      A* sums = scratch.take();
      for (int64_t slice = begin; slice < end; ++slice) {
        const int64_t from = slice * kSlice, count = std::min(kSlice, s.channels - from);
        std::fill(sums, sums + s.pixels2() * kSlice, A(0));
        for (int64_t n = 0; n < s.pixels(); ++n) {
          scatter(taps.get() + n * s.taps(), features + n * s.channels + from, window(at, s, n), s,
                  count, kSlice, sums);
        }
        for (int64_t n = 0; n < s.pixels2(); ++n) {
          std::transform(sums + n * kSlice, sums + n * kSlice + count,
                         grad2 + b * size2 + n * s.channels + from,
                         [](A v) { return static_cast<T>(v); });
        }
      }
    });
  }
}

LookupShape shape(const Tensor& f1, const Tensor& f2, const Tensor& coords, double scale_y,
                  double scale_x, int64_t radius_y, int64_t radius_x) {
  STD_TORCH_CHECK(f1.dim() == 4 && f2.dim() == 4 && f1.size(0) == f2.size(0) &&
                      f1.size(3) == f2.size(3) && f1.scalar_type() == f2.scalar_type(),
                  "correlation_lookup: f1 and f2 must be [B, H, W, C] of one type");
  const bool wide = f1.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(coords.dim() == 4 && coords.size(0) == f1.size(0) && coords.size(1) == 2 &&
                      coords.size(2) == f1.size(1) && coords.size(3) == f1.size(2) &&
                      coords.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
                  "correlation_lookup: coords must be float32 [B, 2, H, W], or float64 as f1 is");
  STD_TORCH_CHECK(f1.device() == f2.device() && f1.device() == coords.device(),
                  "correlation_lookup: all must be on one device");
  STD_TORCH_CHECK(radius_y >= 0 && radius_x >= 0 && radius_y < 1024 && radius_x < 1024,
                  "correlation_lookup: 0 <= radius < 2^10 needed");
  return {f1.size(0), f1.size(3), f1.size(1), f1.size(2), f2.size(1),
          f2.size(2), radius_y,   radius_x,   scale_y,    scale_x};
}

void check_grad(const Tensor& g, const Tensor& f1, const LookupShape& s) {
  STD_TORCH_CHECK(g.dim() == 4 && g.size(0) == s.batch && g.size(1) == s.displacements() &&
                      g.size(2) == s.height && g.size(3) == s.width &&
                      g.scalar_type() == f1.scalar_type() && g.device() == f1.device(),
                  "correlation_lookup_grad: g must be [B, D, H, W], of the type of f1");
}

bool nothing(const LookupShape& s) { return s.batch * s.channels * s.pixels() * s.pixels2() == 0; }

using torch::stable::contiguous;

Tensor correlation_lookup_cpu(const Tensor& f1, const Tensor& f2, const Tensor& coords,
                              double scale_y, double scale_x, int64_t radius_y, int64_t radius_x) {
  const auto s = shape(f1, f2, coords, scale_y, scale_x, radius_y, radius_x);
  Tensor out = new_output(f1, {s.batch, s.displacements(), s.height, s.width});
  if (nothing(s)) return torch::stable::zero_(out);
  const Tensor a = contiguous(f1), b = contiguous(f2), c = contiguous(coords);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation_lookup", AT_WRAP([&] {
                    forward(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
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
  if (nothing(s)) {
    for (Tensor* t : {&grad1, &grad2, &along}) torch::stable::zero_(*t);
    return {grad1, grad2, along};
  }
  const Tensor d = contiguous(g), a = contiguous(f1), b = contiguous(f2), c = contiguous(coords);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation_lookup_grad", AT_WRAP([&] {
                    backward(d.const_data_ptr<scalar_t>(), a.const_data_ptr<scalar_t>(),
                             b.const_data_ptr<scalar_t>(),
                             c.const_data_ptr<Accumulator<scalar_t>>(),
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

Tensor correlation_lookup_cuda(const Tensor& f1, const Tensor& f2, const Tensor& coords,
                               double scale_y, double scale_x, int64_t radius_y, int64_t radius_x) {
  const auto s = shape(f1, f2, coords, scale_y, scale_x, radius_y, radius_x);
  const torch::stable::accelerator::DeviceGuard guard(f1.get_device_index());
  Tensor out = torch::stable::new_empty(f1, {s.batch, s.displacements(), s.height, s.width});
  if (nothing(s)) return torch::stable::zero_(out);
  const Tensor a = contiguous(f1), b = contiguous(f2), c = contiguous(coords);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation_lookup", AT_WRAP([&] {
                    cuda::correlation_lookup(
                        device(a.const_data_ptr<scalar_t>()), device(b.const_data_ptr<scalar_t>()),
                        c.const_data_ptr<Accumulator<scalar_t>>(),
                        device(out.mutable_data_ptr<scalar_t>()), s, current_stream(f1));
                  }),
                  FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
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
  if (nothing(s)) {
    for (Tensor* t : {&grad1, &grad2, &along}) torch::stable::zero_(*t);
    return {grad1, grad2, along};
  }
  Tensor taps = new_empty(coords, {s.batch, s.pixels(), s.taps()});
  const Tensor d = contiguous(g), a = contiguous(f1), b = contiguous(f2), c = contiguous(coords);
  THO_DISPATCH_V2(f1.scalar_type(), "correlation_lookup_grad", AT_WRAP([&] {
                    using A = Accumulator<scalar_t>;
                    cuda::correlation_lookup_grad(
                        device(d.const_data_ptr<scalar_t>()), device(a.const_data_ptr<scalar_t>()),
                        device(b.const_data_ptr<scalar_t>()), c.const_data_ptr<A>(),
                        device(grad1.mutable_data_ptr<scalar_t>()),
                        device(grad2.mutable_data_ptr<scalar_t>()), along.mutable_data_ptr<A>(),
                        taps.mutable_data_ptr<A>(), s, current_stream(f1));
                  }),
                  FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad1, grad2, along};
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("correlation_lookup", TORCH_BOX(&flowmatch::correlation_lookup_cuda));
  m.impl("correlation_lookup_grad", TORCH_BOX(&flowmatch::correlation_lookup_grad_cuda));
}
#endif
