// The correlation lookup. A warp computes the window of one pixel of f1, with eight lanes per dot
// product, along contiguous channels. In the backward pass the gradient of f2 is gathered: a block
// owns a tile of f2 and a part of the pixels of f1, and goes through those of their windows that
// overlap the tile, in the order of their pixels; the parts are added in order. Results are
// bit-identical from run to run, without atomics.
#include "correlation_lookup_dots.cuh"
#include "launch.cuh"
#include "scalar.cuh"
#include "tensor_cores.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kMaxTaps = 1024;  // taps of a window in shared memory at a time
constexpr int kGradTaps = 256;  // the same in the backward pass
constexpr int kSharedBytes = 48 << 10;
constexpr int kLaneChannels = 8;  // channels of a lane in the gather
constexpr int kWarps = 8;
constexpr int kTileY = kLookupTileY, kTileX = kLookupTileX;
constexpr int kWarpPixels = 4;  // pixels of the tile per warp
static_assert(kTileY * kTileX == kWarps * kWarpPixels && kTileX % kWarpPixels == 0);

// What a block needs to know of each of its pixels.
template <typename A>
struct Blend {
  int64_t pixel;  // from the begin of the batch's output; -1 beyond the last
  A fy, fx;
};

// A warp computes one pixel of f1. `rows` rows of taps are in shared memory at a time; the last of
// them is computed again in the next step. The block writes the pixels of its warps side by side.
// `pitch`: elements of the output from one item of the batch to the next.
template <typename T, bool kWhole>
__global__ void lookup_kernel(int64_t first_tile, const T* __restrict__ f1,
                              const T* __restrict__ f2, const Sum<T>* __restrict__ coords,
                              T* __restrict__ out, LookupShape s, int rows, int64_t pitch) {
  using A = Sum<T>;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32;
  const int64_t n = (first_tile + blockIdx.x) * warps + warp;  // pixel of the batch
  const bool active = n < s.batch * s.pixels();
  const int64_t b = active ? n / s.pixels() : 0, pixel = active ? n % s.pixels() : 0;
  const A scale = 1 / sqrt(static_cast<A>(s.channels));
  const auto w = window(coords + b * 2 * s.pixels(), s, pixel);
  f1 += (b * s.pixels() + pixel) * s.channels;
  f2 += b * s.pixels2() * s.channels;
  auto* blends = shared_memory<Blend<A>>();
  A* all = reinterpret_cast<A*>(blends + warps);
  const int columns = static_cast<int>(s.columns()), side = static_cast<int>(s.side_x());
  if (threadIdx.x % 32 == 0) {
    blends[warp] = {active ? b * pitch + pixel : -1, w.fy, w.fx};
  }
  for (int top = 0; top < s.side_y(); top += rows - 1) {
    const int here = min(rows, static_cast<int>(s.rows()) - top);
    __syncthreads();  // the previous rows have been blended
    if (active) {
      window_dots<kWhole>(f1, f2, w, s, top * columns, here * columns, all + warp * rows * columns);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < (here - 1) * side * warps; i += blockDim.x) {
      const Blend<A> own = blends[i % warps];
      if (own.pixel < 0) continue;
      const int d = i / warps;
      const A* at = all + i % warps * rows * columns + d / side * columns + d % side;
      const A left = (1 - own.fy) * at[0] + own.fy * at[columns];
      const A right = (1 - own.fy) * at[1] + own.fy * at[columns + 1];
      out[own.pixel + (top * side + d) * s.pixels()] =
          narrow<T>(scale * ((1 - own.fx) * left + own.fx * right));
    }
  }
}

// A warp computes the gradients of the taps, the coordinates and the features of one pixel of f1.
template <typename T, bool kWhole>
__global__ void lookup_grad_kernel(int64_t first_tile, const T* __restrict__ g,
                                   const T* __restrict__ f1, const T* __restrict__ f2,
                                   const Sum<T>* __restrict__ coords, T* __restrict__ grad1,
                                   Sum<T>* __restrict__ grad_coords, Sum<T>* __restrict__ taps,
                                   LookupShape s) {
  using A = Sum<T>;
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const int64_t n = (first_tile + blockIdx.x) * warps + threadIdx.x / 32;
  if (n >= s.batch * s.pixels()) return;
  const int64_t b = n / s.pixels(), pixel = n % s.pixels(), plane = s.pixels();
  const A scale = 1 / sqrt(static_cast<A>(s.channels));
  const auto w = window(coords + b * 2 * plane, s, pixel);
  const int columns = static_cast<int>(s.columns()), count = static_cast<int>(s.taps());
  const int side_y = static_cast<int>(s.side_y()), side_x = static_cast<int>(s.side_x());
  g += b * s.displacements() * plane + pixel;
  f1 += n * s.channels;
  f2 += b * s.pixels2() * s.channels;
  taps += n * count;
  A* dots = shared_memory<A>() + threadIdx.x / 32 * kGradTaps;
  A along_x = 0, along_y = 0;
  for (int begin = 0; begin < count; begin += kGradTaps) {
    const int here = min(kGradTaps, count - begin);
    __syncwarp();  // the previous dot products have been used
    window_dots<kWhole>(f1, f2, w, s, begin, here, dots);
    __syncwarp();
    for (int t = lane; t < here; t += 32) {
      const int i = (begin + t) / columns, j = (begin + t) % columns;
      A entry = 0, over_x = 0, over_y = 0;  // gradients of the dot product and of its weights
#pragma unroll
      for (int n4 = 0; n4 < 4; ++n4) {
        const int a = n4 / 2, k = n4 % 2, dy = i - a, dx = j - k;
        if (dy < 0 || dy >= side_y || dx < 0 || dx >= side_x) continue;
        const A v = widen(g[(dy * side_x + dx) * plane]) * scale;
        const A down = a ? w.fy : 1 - w.fy, right = k ? w.fx : 1 - w.fx;
        entry += down * right * v;
        over_x += (k ? down : -down) * v;
        over_y += (a ? right : -right) * v;
      }
      taps[begin + t] = entry;
      along_x += over_x * dots[t];
      along_y += over_y * dots[t];
    }
  }
  for (int bits = 16; bits > 0; bits /= 2) {
    along_x += __shfl_xor_sync(~0u, along_x, bits);
    along_y += __shfl_xor_sync(~0u, along_y, bits);
  }
  if (lane == 0) {
    grad_coords[b * 2 * plane + pixel] = along_x * static_cast<A>(s.scale_x);
    grad_coords[(b * 2 + 1) * plane + pixel] = along_y * static_cast<A>(s.scale_y);
  }
  __syncwarp();  // all taps have been written
  constexpr int step = 4 * 32, quads = 2;
  const int channels = static_cast<int>(s.channels);
  const auto clamped = [](int64_t v, int most) {
    return static_cast<int>(max(int64_t{0}, min(v, int64_t{most})));
  };
  const int i0 = clamped(-w.y, side_y + 1), i1 = clamped(s.height2 - w.y, side_y + 1);
  const int j0 = clamped(-w.x, columns), j1 = clamped(s.width2 - w.x, columns);
  for (int start = lane * 4; start < channels; start += step * quads) {
    Quad<A> sum[quads] = {};
    for (int i = i0; i < i1; ++i) {
      const T* second = f2 + ((w.y + i) * s.width2 + w.x + j0) * channels;
      for (int j = j0; j < j1; ++j, second += channels) {
        const A weight = taps[i * columns + j];
#pragma unroll
        for (int q = 0; q < quads; ++q) {
          if (start + q * step >= channels) continue;
          const Quad<A> v = four<kWhole>(second, start + q * step, channels);
#pragma unroll
          for (int k = 0; k < 4; ++k) sum[q].at[k] += weight * v.at[k];
        }
      }
    }
#pragma unroll
    for (int k = 0; k < quads * 4; ++k) {
      const int c = start + k / 4 * step + k % 4;
      if (c < channels) grad1[n * channels + c] = narrow<T>(sum[k / 4].at[k % 4]);
    }
  }
}

// A window that overlaps a block's tile: its pixel, and its first tap counted from the tile's.
struct Overlap {
  int64_t pixel;
  int y, x;
};

// A block computes a tile of f2 from a part of the pixels of f1 (lookup_parts()), a warp
// kWarpPixels pixels of one of its rows and up to 32 * kLaneChannels of their channels. The whole
// block selects the windows that overlap its tile, 32 * kWarps at a time, because a warp alone
// would spend most of its time on windows far away. The parts take turns, 32 pixels at a time: the
// windows near a tile belong to neighbouring pixels, and so to all parts.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    lookup_gather_kernel(int64_t first_tile, const T* __restrict__ f1,
                         const Sum<T>* __restrict__ coords, const Sum<T>* __restrict__ taps,
                         Sum<T>* __restrict__ sums, LookupShape s, int parts) {
  using A = Sum<T>;
  auto* overlapping = shared_memory<Overlap>();
  int* counts = reinterpret_cast<int*>(overlapping + 32 * kWarps);  // found by each warp
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t across = ceil_div(s.width2, kTileX), down = ceil_div(s.height2, kTileY);
  const int64_t block = first_tile + blockIdx.x, tile = block / parts, b = tile / (across * down);
  const int part = static_cast<int>(block % parts);
  const int64_t y0 = tile / across % down * kTileY, x0 = tile % across * kTileX;
  const int my_y = warp / (kTileX / kWarpPixels),
            my_x = warp % (kTileX / kWarpPixels) * kWarpPixels;
  const int rows = static_cast<int>(s.rows()), columns = static_cast<int>(s.columns());
  const int channels = static_cast<int>(s.channels);
  coords += b * 2 * s.pixels();
  f1 += b * s.pixels() * channels;
  taps += b * s.pixels() * s.taps();
  sums += ((part * s.batch + b) * s.pixels2() + (y0 + my_y) * s.width2 + x0 + my_x) * channels;
  for (int start = 0; start < channels; start += 32 * kLaneChannels) {
    A sum[kWarpPixels][kLaneChannels] = {};
    for (int64_t base = 0; base < s.pixels(); base += int64_t{32} * kWarps * parts) {
      const int64_t pixel = base + (int64_t{warp} * parts + part) * 32 + lane;
      bool overlaps = false;
      Overlap mine = {pixel, 0, 0};
      if (pixel < s.pixels()) {
        const auto w = window(coords, s, pixel);
        mine.y = static_cast<int>(w.y - y0), mine.x = static_cast<int>(w.x - x0);
        overlaps = mine.y < kTileY && mine.y + rows > 0 && mine.x < kTileX && mine.x + columns > 0;
      }
      const unsigned votes = __ballot_sync(~0u, overlaps);
      if (lane == 0) counts[warp] = __popc(votes);
      __syncthreads();
      int count = 0, before = 0;
      for (int other = 0; other < kWarps; ++other) {
        if (other < warp) before += counts[other];
        count += counts[other];
      }
      if (overlaps) overlapping[before + __popc(votes & ((1u << lane) - 1))] = mine;
      __syncthreads();
#pragma unroll 2
      for (int from = 0; from < count; ++from) {
        const Overlap at = overlapping[from];
        const int i = my_y - at.y, j = my_x - at.x;
        if (i < 0 || i >= rows || j <= -kWarpPixels || j >= columns) continue;
        const T* source = f1 + at.pixel * channels + start + lane;
        const A* weights = taps + at.pixel * s.taps() + i * columns + j;
        A value[kLaneChannels];
#pragma unroll
        for (int k = 0; k < kLaneChannels; ++k) {
          value[k] = start + lane + 32 * k < channels ? widen(source[32 * k]) : A(0);
        }
#pragma unroll
        for (int q = 0; q < kWarpPixels; ++q) {
          const A weight = j + q >= 0 && j + q < columns ? weights[q] : A(0);
#pragma unroll
          for (int k = 0; k < kLaneChannels; ++k) sum[q][k] += weight * value[k];
        }
      }
      __syncthreads();  // the list has been read
    }
#pragma unroll
    for (int q = 0; q < kWarpPixels; ++q) {
      if (y0 + my_y >= s.height2 || x0 + my_x + q >= s.width2) continue;
#pragma unroll
      for (int k = 0; k < kLaneChannels; ++k) {
        const int c = start + lane + 32 * k;
        if (c < channels) sums[q * channels + c] = sum[q][k];
      }
    }
  }
}

// Adds the parts of the gradient of f2.
template <typename T>
__global__ void lookup_sum_kernel(int64_t first_tile, const Sum<T>* __restrict__ sums,
                                  T* __restrict__ grad2, int64_t count, int parts) {
  const int64_t n = (first_tile + blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= count) return;
  Sum<T> sum = 0;
#pragma unroll 8
  for (int part = 0; part < parts; ++part) sum += sums[part * count + n];
  grad2[n] = narrow<T>(sum);
}

// Whether every lane's channels can be read four at once.
template <typename T>
bool is_whole(const T* f1, const T* f2, const LookupShape& s) {
  const auto at = reinterpret_cast<uintptr_t>(f1) | reinterpret_cast<uintptr_t>(f2);
  return s.channels % (4 * kLanes) == 0 && at % sizeof(Packed<T>) == 0;
}

}  // namespace

template <typename T, typename A>
void correlation_lookup(const T* f1, const T* const* f2, const A* coords, T* out,
                        const LookupShape* shapes, int levels, void* stream) {
  if constexpr (sizeof(T) == 2) {
    if (correlation_lookup_mma(f1, f2, coords, out, shapes, levels, stream)) return;
  }
  const int64_t size = shapes->displacements() * shapes->pixels();
  for (int level = 0; level < levels; ++level, out += size) {
    const LookupShape& s = shapes[level];
    const int64_t rows = std::min(s.rows(), std::max<int64_t>(2, kMaxTaps / s.columns()));
    const auto bytes = static_cast<int64_t>(rows * s.columns() * sizeof(A) + sizeof(Blend<A>));
    const int64_t warps = std::min<int64_t>(kWarps, kSharedBytes / bytes);
    const auto kernel =
        is_whole(f1, f2[level], s) ? lookup_kernel<T, true> : lookup_kernel<T, false>;
    launch(kernel, ceil_div(s.batch * s.pixels(), warps), static_cast<int>(32 * warps),
           warps * bytes, stream, f1, f2[level], coords, out, s, static_cast<int>(rows),
           levels * size);
  }
}

template <typename T, typename A>
void correlation_lookup_grad(const T* g, const T* f1, const T* f2, const A* coords, T* grad1,
                             T* grad2, A* grad_coords, A* scratch, const LookupShape& s,
                             void* stream) {
  A* taps = scratch;
  A* sums = scratch + s.batch * s.pixels() * s.taps();
  const auto kernel =
      is_whole(f1, f2, s) ? lookup_grad_kernel<T, true> : lookup_grad_kernel<T, false>;
  launch(kernel, ceil_div(s.batch * s.pixels(), kWarps), 32 * kWarps,
         kWarps * kGradTaps * sizeof(A), stream, g, f1, f2, coords, grad1, grad_coords, taps, s);
  const auto parts = static_cast<int>(lookup_parts(s));
  constexpr size_t list = 32 * kWarps * sizeof(Overlap) + kWarps * sizeof(int);
  launch(lookup_gather_kernel<T>, lookup_tiles(s) * parts, 32 * kWarps, list, stream, f1, coords,
         static_cast<const A*>(taps), sums, s, parts);
  const int64_t count = s.batch * s.pixels2() * s.channels;
  launch(lookup_sum_kernel<T>, ceil_div(count, 32 * kWarps), 32 * kWarps, 0, stream,
         static_cast<const A*>(sums), grad2, count, parts);
}

#define FLOWMATCH_INSTANTIATE(T)                                                             \
  template void correlation_lookup(const T*, const T* const*, const Sum<T>*, T*,             \
                                   const LookupShape*, int, void*);                          \
  template void correlation_lookup_grad(const T*, const T*, const T*, const Sum<T>*, T*, T*, \
                                        Sum<T>*, Sum<T>*, const LookupShape&, void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
