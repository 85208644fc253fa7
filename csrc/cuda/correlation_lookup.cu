// The correlation lookup. A warp computes the window of one pixel of f1, with eight lanes per dot
// product, along contiguous channels. In the backward pass the gradient of f2 is gathered: a block
// owns a tile of f2 and goes through the windows that overlap it, in the order of their pixels.
// Results are bit-identical from run to run, without atomics.
#include "../correlation_lookup.h"
#include "launch.cuh"
#include "scalar.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kMaxTaps = 1024;  // taps of a window in shared memory at a time
constexpr int kSharedBytes = 48 << 10;
constexpr int kLanes = 8;         // lanes per tap
constexpr int kLaneChannels = 8;  // channels of a lane in registers
constexpr int kWarps = 8;
constexpr int kTileY = 4, kTileX = 8;  // tile of f2 in the gather
constexpr int kWarpPixels = 4;         // pixels of the tile per warp
static_assert(kTileY * kTileX == kWarps * kWarpPixels && kTileX % kWarpPixels == 0);

// Reads four channels, with one access if `aligned`.
template <typename T>
__device__ Quad<Sum<T>> four(const T* p, bool aligned) {
  Quad<Sum<T>> wide;
  if (aligned) {
    const auto packed = *reinterpret_cast<const Packed<T>*>(p);
#pragma unroll
    for (int i = 0; i < 4; ++i) wide.at[i] = widen(packed.at[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) wide.at[i] = widen(p[i]);
  }
  return wide;
}

// The dot product of a pixel with the pixel of f2 at tap (i, j) of its window; 0 outside. The eight
// lanes of a tap each sum part of the channels, and all of them return the total. All lanes of the
// warp must call this; `active` is false for lanes without a tap.
template <typename T>
__device__ Sum<T> dot(const T* first, const T* f2, const LookupWindow<Sum<T>>& w,
                      const LookupShape& s, int64_t i, int64_t j, bool active, bool aligned) {
  const int64_t y = w.y + i, x = w.x + j;
  Sum<T> sum = 0;
  if (active && y >= 0 && y < s.height2 && x >= 0 && x < s.width2) {
    const T* second = f2 + (y * s.width2 + x) * s.channels;
    int64_t c = threadIdx.x % kLanes * 4;
    for (; c + 4 <= s.channels; c += 4 * kLanes) {
      const auto a = four(first + c, aligned), b = four(second + c, aligned);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum += a.at[k] * b.at[k];
    }
    for (; c < s.channels && c >= s.channels / 4 * 4; ++c) {
      sum += widen(first[c]) * widen(second[c]);
    }
  }
  for (int bits = 1; bits < kLanes; bits *= 2) sum += __shfl_xor_sync(~0u, sum, bits);
  return sum;
}

// A warp computes one pixel of f1. `rows` rows of taps are in shared memory at a time; the last of
// them is computed again in the next step.
template <typename T>
__global__ void lookup_kernel(int64_t first_tile, const T* __restrict__ f1,
                              const T* __restrict__ f2, const Sum<T>* __restrict__ coords,
                              T* __restrict__ out, LookupShape s, int64_t rows, bool aligned) {
  using A = Sum<T>;
  const int64_t warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const int64_t n = (first_tile + blockIdx.x) * warps + threadIdx.x / 32;  // pixel of the batch
  if (n >= s.batch * s.pixels()) return;
  const int64_t b = n / s.pixels(), pixel = n % s.pixels();
  const A scale = 1 / sqrt(static_cast<A>(s.channels));
  const auto w = window(coords + b * 2 * s.pixels(), s, pixel);
  f1 += n * s.channels;
  f2 += b * s.pixels2() * s.channels;
  out += b * s.displacements() * s.pixels() + pixel;
  A* dots = shared_memory<A>() + threadIdx.x / 32 * rows * s.columns();
  for (int64_t top = 0; top < s.side_y(); top += rows - 1) {
    const int64_t here = min(rows, s.rows() - top);
    __syncwarp();  // the previous rows have been blended
    const int64_t count = here * s.columns();
    for (int64_t base = 0; base < count; base += 32 / kLanes) {
      const int64_t t = base + lane / kLanes;
      const A sum = dot(f1, f2, w, s, top + t / s.columns(), t % s.columns(), t < count, aligned);
      if (t < count && lane % kLanes == 0) dots[t] = scale * sum;
    }
    __syncwarp();
    for (int64_t d = lane; d < (here - 1) * s.side_x(); d += 32) {
      const A* at = dots + d / s.side_x() * s.columns() + d % s.side_x();
      const A* below = at + s.columns();
      const A left = (1 - w.fy) * at[0] + w.fy * below[0];
      const A right = (1 - w.fy) * at[1] + w.fy * below[1];
      out[(top * s.side_x() + d) * s.pixels()] = narrow<T>((1 - w.fx) * left + w.fx * right);
    }
  }
}

// A warp computes the gradients of the taps, the coordinates and the features of one pixel of f1.
template <typename T>
__global__ void lookup_grad_kernel(int64_t first_tile, const T* __restrict__ g,
                                   const T* __restrict__ f1, const T* __restrict__ f2,
                                   const Sum<T>* __restrict__ coords, T* __restrict__ grad1,
                                   Sum<T>* __restrict__ grad_coords, Sum<T>* __restrict__ taps,
                                   LookupShape s, bool aligned) {
  using A = Sum<T>;
  const int64_t warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const int64_t n = (first_tile + blockIdx.x) * warps + threadIdx.x / 32;
  if (n >= s.batch * s.pixels()) return;
  const int64_t b = n / s.pixels(), pixel = n % s.pixels();
  const A scale = 1 / sqrt(static_cast<A>(s.channels));
  const auto w = window(coords + b * 2 * s.pixels(), s, pixel);
  g += b * s.displacements() * s.pixels() + pixel;
  f1 += n * s.channels;
  f2 += b * s.pixels2() * s.channels;
  taps += n * s.taps();
  A along_x = 0, along_y = 0;
  for (int64_t base = 0; base < s.taps(); base += 32 / kLanes) {
    const int64_t t = base + lane / kLanes;
    const int64_t i = t / s.columns(), j = t % s.columns();
    const A product = dot(f1, f2, w, s, i, j, t < s.taps(), aligned);
    if (t >= s.taps() || lane % kLanes != 0) continue;  // one lane of the eight continues
    A entry = 0, over_x = 0, over_y = 0;  // gradients of the dot product and of its weights
    for (int a = 0; a < 2; ++a) {
      for (int k = 0; k < 2; ++k) {
        const int64_t dy = i - a, dx = j - k;
        if (dy < 0 || dy >= s.side_y() || dx < 0 || dx >= s.side_x()) continue;
        const A v = widen(g[(dy * s.side_x() + dx) * s.pixels()]) * scale;
        const A down = a ? w.fy : 1 - w.fy, right = k ? w.fx : 1 - w.fx;
        entry += down * right * v;
        over_x += (k ? down : -down) * v;
        over_y += (a ? right : -right) * v;
      }
    }
    taps[t] = entry;
    along_x += over_x * product;
    along_y += over_y * product;
  }
  for (int bits = 16; bits > 0; bits /= 2) {
    along_x += __shfl_xor_sync(~0u, along_x, bits);
    along_y += __shfl_xor_sync(~0u, along_y, bits);
  }
  if (lane == 0) {
    grad_coords[b * 2 * s.pixels() + pixel] = along_x * static_cast<A>(s.scale_x);
    grad_coords[(b * 2 + 1) * s.pixels() + pixel] = along_y * static_cast<A>(s.scale_y);
  }
  __syncwarp();  // all taps have been written
  for (int64_t c = lane; c < s.channels; c += 32) {
    A sum = 0;
    for (int64_t i = max(int64_t{0}, -w.y); i < min(s.rows(), s.height2 - w.y); ++i) {
      for (int64_t j = max(int64_t{0}, -w.x); j < min(s.columns(), s.width2 - w.x); ++j) {
        const T value = f2[((w.y + i) * s.width2 + w.x + j) * s.channels + c];
        sum += taps[i * s.columns() + j] * widen(value);
      }
    }
    grad1[n * s.channels + c] = narrow<T>(sum);
  }
}

// A block computes a tile of f2, a warp kWarpPixels pixels of one of its rows and up to
// 32 * kLaneChannels of their channels. The whole block selects the windows that overlap its tile,
// 32 * kWarps at a time, because a warp alone would spend most of its time on windows far away.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    lookup_gather_kernel(int64_t first_tile, const T* __restrict__ f1,
                         const Sum<T>* __restrict__ coords, const Sum<T>* __restrict__ taps,
                         T* __restrict__ grad2, LookupShape s) {
  using A = Sum<T>;
  int* overlapping = shared_memory<int>();  // pixels of f1, counted from `base`
  int* counts = overlapping + 32 * kWarps;  // number of them found by each warp
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t across = ceil_div(s.width2, kTileX), down = ceil_div(s.height2, kTileY);
  const int64_t tile = first_tile + blockIdx.x, b = tile / (across * down);
  const int64_t y0 = tile / across % down * kTileY, x0 = tile % across * kTileX;
  const int64_t y = y0 + warp / (kTileX / kWarpPixels),
                first = x0 + warp % (kTileX / kWarpPixels) * kWarpPixels;
  coords += b * 2 * s.pixels();
  f1 += b * s.pixels() * s.channels;
  taps += b * s.pixels() * s.taps();
  grad2 += (b * s.height2 + y) * s.width2 * s.channels;
  for (int64_t start = 0; start < s.channels; start += 32 * kLaneChannels) {
    A sum[kWarpPixels][kLaneChannels] = {};
    for (int64_t base = 0; base < s.pixels(); base += 32 * kWarps) {
      const int64_t pixel = base + threadIdx.x;
      bool overlaps = false;
      if (pixel < s.pixels()) {
        const auto w = window(coords, s, pixel);
        overlaps =
            w.y < y0 + kTileY && w.y + s.rows() > y0 && w.x < x0 + kTileX && w.x + s.columns() > x0;
      }
      const unsigned votes = __ballot_sync(~0u, overlaps);
      if (lane == 0) counts[warp] = __popc(votes);
      __syncthreads();
      int count = 0, before = 0;
      for (int other = 0; other < kWarps; ++other) {
        if (other < warp) before += counts[other];
        count += counts[other];
      }
      if (overlaps) overlapping[before + __popc(votes & ((1u << lane) - 1))] = threadIdx.x;
      __syncthreads();
      for (int from = 0; from < count; ++from) {
        const int64_t window_of = base + overlapping[from];
        const auto w = window(coords, s, window_of);
        const int64_t i = y - w.y;
        if (i < 0 || i >= s.rows()) continue;
        A value[kLaneChannels];
#pragma unroll
        for (int k = 0; k < kLaneChannels; ++k) {
          const int64_t c = start + lane + 32 * k;
          value[k] = c < s.channels ? widen(f1[window_of * s.channels + c]) : A(0);
        }
#pragma unroll
        for (int q = 0; q < kWarpPixels; ++q) {
          const int64_t j = first + q - w.x;
          if (j < 0 || j >= s.columns()) continue;
          const A weight = taps[window_of * s.taps() + i * s.columns() + j];
#pragma unroll
          for (int k = 0; k < kLaneChannels; ++k) sum[q][k] += weight * value[k];
        }
      }
      __syncthreads();  // the list has been read
    }
#pragma unroll
    for (int q = 0; q < kWarpPixels; ++q) {
#pragma unroll
      for (int k = 0; k < kLaneChannels; ++k) {
        const int64_t c = start + lane + 32 * k;
        if (y < s.height2 && first + q < s.width2 && c < s.channels) {
          grad2[(first + q) * s.channels + c] = narrow<T>(sum[q][k]);
        }
      }
    }
  }
}

// Whether each pixel's channels can be read four at once.
template <typename T>
bool is_aligned(const T* f1, const T* f2, const LookupShape& s) {
  const auto at = reinterpret_cast<uintptr_t>(f1) | reinterpret_cast<uintptr_t>(f2);
  return s.channels % 4 == 0 && at % sizeof(Packed<T>) == 0;
}

}  // namespace

template <typename T, typename A>
void correlation_lookup(const T* f1, const T* f2, const A* coords, T* out, const LookupShape& s,
                        void* stream) {
  const int64_t rows = std::min(s.rows(), std::max<int64_t>(2, kMaxTaps / s.columns()));
  const auto bytes = static_cast<int64_t>(rows * s.columns() * sizeof(A));
  const int64_t warps = std::min<int64_t>(kWarps, kSharedBytes / bytes);
  launch(lookup_kernel<T>, ceil_div(s.batch * s.pixels(), warps), static_cast<int>(32 * warps),
         warps * bytes, stream, f1, f2, coords, out, s, rows, is_aligned(f1, f2, s));
}

template <typename T, typename A>
void correlation_lookup_grad(const T* g, const T* f1, const T* f2, const A* coords, T* grad1,
                             T* grad2, A* grad_coords, A* taps, const LookupShape& s,
                             void* stream) {
  launch(lookup_grad_kernel<T>, ceil_div(s.batch * s.pixels(), kWarps), 32 * kWarps, 0, stream, g,
         f1, f2, coords, grad1, grad_coords, taps, s, is_aligned(f1, f2, s));
  const int64_t tiles = s.batch * ceil_div(s.height2, kTileY) * ceil_div(s.width2, kTileX);
  launch(lookup_gather_kernel<T>, tiles, 32 * kWarps, 33 * kWarps * sizeof(int), stream, f1, coords,
         static_cast<const A*>(taps), grad2, s);
}

#define FLOWMATCH_INSTANTIATE(T)                                                              \
  template void correlation_lookup(const T*, const T*, const Sum<T>*, T*, const LookupShape&, \
                                   void*);                                                    \
  template void correlation_lookup_grad(const T*, const T*, const T*, const Sum<T>*, T*, T*,  \
                                        Sum<T>*, Sum<T>*, const LookupShape&, void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
