// Dot products of one pixel of f1 with the pixels of f2 of its window, on CUDA cores.
#pragma once
#include "../correlation_lookup.h"
#include "scalar.cuh"

namespace flowmatch::cuda {

constexpr int kLanes = 8;  // lanes per tap
constexpr int kQuads = 8;  // quads of channels of a lane in registers: 256 channels of the pixel

// Channels c to c + 3 of a pixel. kWhole: they exist, and are read with one access.
template <bool kWhole, typename T>
__device__ Quad<Sum<T>> four(const T* pixel, int c, int channels) {
  Quad<Sum<T>> wide;
  if constexpr (kWhole) {
    const auto packed = *reinterpret_cast<const Packed<T>*>(pixel + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) wide.at[k] = widen(packed.at[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) wide.at[k] = c + k < channels ? widen(pixel[c + k]) : Sum<T>(0);
  }
  return wide;
}

// dots[i] is the dot product of a pixel with the pixel of f2 at tap begin + i of its window; 0
// outside. Computed by a warp: the eight lanes of a tap each sum part of the channels.
template <bool kWhole, typename T>
__device__ void window_dots(const T* first, const T* f2, const LookupWindow<Sum<T>>& w,
                            const LookupShape& s, int begin, int count, Sum<T>* dots) {
  using A = Sum<T>;
  constexpr int step = 4 * kLanes;  // channels of a quad of each lane
  const int channels = static_cast<int>(s.channels), columns = static_cast<int>(s.columns());
  const int lane = threadIdx.x % 32, own = lane % kLanes * 4, tap = lane / kLanes;
  for (int start = 0; start < channels; start += step * kQuads) {
    const int quads = min(kQuads, (channels - start + step - 1) / step);
    Quad<A> a[kQuads];
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      if (q < quads) a[q] = four<kWhole>(first, start + q * step + own, channels);
    }
    int i = (begin + tap) / columns, j = (begin + tap) % columns;
    for (int base = 0; base < count; base += 32 / kLanes) {
      const int64_t y = w.y + i, x = w.x + j;
      const bool inside = y >= 0 && y < s.height2 && x >= 0 && x < s.width2;
      const T* second = f2 + (inside ? (y * s.width2 + x) * channels : 0);  // readable always
      Quad<A> b[kQuads];
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        if (q < quads) b[q] = four<kWhole>(second, start + q * step + own, channels);
      }
      A sum = 0;
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        if (q >= quads) break;
#pragma unroll
        for (int k = 0; k < 4; ++k) sum += a[q].at[k] * b[q].at[k];
      }
#pragma unroll
      for (int bits = 1; bits < kLanes; bits *= 2) sum += __shfl_xor_sync(~0u, sum, bits);
      const int t = base + tap;
      if (lane % kLanes == 0 && t < count) {
        const A value = inside ? sum : A(0);
        dots[t] = start ? dots[t] + value : value;
      }
      for (j += 32 / kLanes; j >= columns; j -= columns) ++i;
    }
  }
}

}  // namespace flowmatch::cuda
