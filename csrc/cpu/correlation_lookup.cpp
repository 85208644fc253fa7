// The correlation lookup on the CPU.
//
// A pixel's channels are contiguous, so a window's row is one stretch of memory and dot products
// run along it. In the backward pass the gradient of f2 is gathered in slices of channels: each
// slice belongs to one thread, and the pixels of f1 are added in order, so that results are
// bit-identical from run to run.
#include "../correlation_lookup.h"

#include <cmath>
#include <utility>

#include "../stable.h"
#include "simd.h"

#define FLOWMATCH_EACH_ISA "correlation_lookup_loops.inc"
#include "each_isa.h"

namespace flowmatch::cpu {

constexpr int64_t kPixelsPerRun = 16;  // pixels whose results are written together
constexpr int64_t kSlice = 64;         // channels of f2's gradient that belong to one thread

template <class T, class A>
void correlation_lookup(const T* f1, const T* f2, const A* coords, T* out, const LookupShape& s) {
  const auto dots_of = FLOWMATCH_PICK(window_dots<A>);
  const auto dots_of_pair = FLOWMATCH_PICK(window_dots_of_pair<A>);
  const auto blend_into = FLOWMATCH_PICK(blend<A>);
  const A scale = 1 / std::sqrt(static_cast<A>(s.channels));
  const Widened<T, A> first(f1, s.batch * s.pixels() * s.channels);
  const Widened<T, A> second(f2, s.batch * s.pixels2() * s.channels);
  Scratch<A> scratch(2 * s.taps() + s.displacements() * kPixelsPerRun);
  const int64_t runs = (s.width + kPixelsPerRun - 1) / kPixelsPerRun;
  const int64_t work = kPixelsPerRun * s.taps() * s.channels;
  parallel_rows(s.batch * s.height * runs, work, [&](int64_t begin, int64_t end) {
    A* dots = scratch.take();
    A* results = dots + 2 * s.taps();
    for (int64_t run = begin; run < end; ++run) {
      const int64_t b = run / (runs * s.height), x = run / s.height % runs * kPixelsPerRun;
      const int64_t start = run % s.height * s.width + x;
      const int64_t count = std::min(kPixelsPerRun, s.width - x);
      const A* at = coords + b * 2 * s.pixels();
      const A* own = first.data() + (b * s.pixels() + start) * s.channels;
      const A* other = second.data() + b * s.pixels2() * s.channels;
      for (int64_t n = 0; n < count; ++n, own += s.channels) {
        const auto w = window(at, s, start + n);
        if (n + 1 < count) {
          const auto next = window(at, s, start + n + 1);
          if (dots_of_pair(own, other, w, next, s, dots)) {
            blend_into(dots, w, s, scale, results + n, kPixelsPerRun);
            blend_into(dots + s.taps(), next, s, scale, results + n + 1, kPixelsPerRun);
            ++n, own += s.channels;
            continue;
          }
        }
        dots_of(own, other, w, s, dots);
        blend_into(dots, w, s, scale, results + n, kPixelsPerRun);
      }
      T* to = out + b * s.displacements() * s.pixels() + start;
      for (int64_t d = 0; d < s.displacements(); ++d, to += s.pixels()) {
        std::transform(results + d * kPixelsPerRun, results + d * kPixelsPerRun + count, to,
                       [](A v) { return static_cast<T>(v); });
      }
    }
  });
}

namespace {

// The arrays of one image for backward_pixels. Outputs: the gradients of the features of f1, of the
// coordinates and of the dot products (`taps`).
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

}  // namespace

template <class T, class A>
void correlation_lookup_grad(const T* g, const T* f1, const T* f2, const A* coords, T* grad1,
                             T* grad2, A* grad_coords, const LookupShape& s) {
  const auto scatter = FLOWMATCH_PICK(scatter_window<A>);
  const Widened<T, A> first(f1, s.batch * s.pixels() * s.channels);
  const Widened<T, A> second(f2, s.batch * s.pixels2() * s.channels);
  const std::unique_ptr<A[]> taps(new A[s.pixels() * s.taps()]);
  const int64_t size2 = s.pixels2() * s.channels, slices = (s.channels + kSlice - 1) / kSlice;
  // Slices are summed in scratch memory: in the image their pixels would often be a power of two
  // apart and map to the same few sets of the cache.
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

#define FLOWMATCH_INSTANTIATE(T)                                                                 \
  template void correlation_lookup(const T*, const T*, const Accumulator<T>*, T*,                \
                                   const LookupShape&);                                          \
  template void correlation_lookup_grad(const T*, const T*, const T*, const Accumulator<T>*, T*, \
                                        T*, Accumulator<T>*, const LookupShape&);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(Half)
FLOWMATCH_INSTANTIATE(BFloat16)

}  // namespace flowmatch::cpu
