// The gradients of the cost volume on CUDA cores, in the same way as correlation.cu.
//
// A block computes one tile, all its displacements, 32 channels per pair of warps. It walks over
// the rows of the other image within the radius of the tile, and over chunks of the displacements
// in x:
//   grad[c, y, x] += weight[dy, dx, y, x] * other[c, y + dy, x + dx]
// where weight is g itself (for f1) or, mirrored, g[-dy, -dx, y + dy, x + dx] (for f2,
// with the offset reversed).
// A thread holds 2 rows x 4 pixels x 8 channels, and uses each value of `other` in 4 steps.
#include "correlation_tiles.cuh"
#include "launch.cuh"
#include "scalar.cuh"
#include "tensor_cores.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kChannels = 32;  // of a warp; a thread has 4 from 4 * (lane % 4) on, and 4 from + 16

template <typename A>
constexpr int kMaxGroups = sizeof(A) > 4 ? 2 : 4;  // groups of kChannels in a block
template <typename A>
constexpr int kMaxChunk = sizeof(A) > 4 ? 12 : 24;  // displacements in shared memory at a time

// The channels that one block computes, and the displacements in shared memory at a time.
struct BackwardPart {
  int groups, chunk, pitch;  // pitch: from one pixel of `other` to the next in shared memory
  bool first;
};

// weights[d][row][column] for displacements (dy - row, dx + d), zero outside the other image.
template <typename T, typename A>
__device__ void stage_weights(const T* g, A* weights, const Place& at, int64_t dy, int64_t dx,
                              int count, const CorrelationShape& s, const Tiling& t, bool first) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int64_t x = at.x + lane * s.stride, y2 = at.y + s.offset_y + dy * s.stride,
                plane = s.height * s.width;
#pragma unroll 4
  for (int line = threadIdx.x / 32; line < count * kTileRows; line += warps) {
    const int row = line % kTileRows, d = line / kTileRows;
    const int64_t y = at.y + row * s.stride, x2 = x + s.offset_x + (dx + d) * s.stride;
    const int64_t j = s.radius_y + (first ? dy - row : row - dy);
    const int64_t i = s.radius_x + (first ? dx + d : -dx - d);
    const bool valid = y < s.height && x < s.width && inside(x2, s.width) && inside(j, t.side_y);
    const int64_t pixel = first ? y * s.width + x : y2 * s.width + x2;
    weights[line * kTileColumns + lane] =
        valid ? widen(g[(j * t.side_x + i) * plane + pixel]) : A(0);
  }
}

// others[column][channel], transposed so that a thread's channels are adjacent.
template <typename T, typename A>
__device__ void stage_others(const T* other, A* others, int64_t y, int64_t x0, int width,
                             int channel, const BackwardPart& p, const CorrelationShape& s) {
  const int64_t plane = s.height * s.width;
  for (int c = threadIdx.x / 32 * 4; c < p.groups * kChannels; c += blockDim.x / 32 * 4) {
    const T* from = other + (channel + c) * plane + y * s.width;
    for (int u = threadIdx.x % 32; u < width; u += 32) {
      const int64_t x = x0 + u * s.stride;
      Quad<A> four;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool valid = inside(x, s.width) && channel + c + k < s.channels;
        four.at[k] = valid ? widen(from[k * plane + x]) : A(0);
      }
      quad(others + u * p.pitch + c) = four;
    }
  }
}

template <typename A>
__device__ void multiply_chunk(const A* weights, const A* others, int count, int pitch,
                               A (&sum)[2][kPixels][2][4]) {
  Quad<A> window[kPixels][2];  // `others` at the thread's pixels: a ring buffer along d
#pragma unroll
  for (int i = 0; i < kPixels - 1; ++i) {
    window[i][0] = quad(others + i * pitch);
    window[i][1] = quad(others + i * pitch + 16);
  }
  for (int d0 = 0; d0 < count; d0 += kPixels) {
#pragma unroll
    for (int k = 0; k < kPixels; ++k) {
      const int d = d0 + k;
      if (d >= count) break;
      const A* next = others + (d + kPixels - 1) * pitch;
      window[(k + 3) % 4][0] = quad(next);
      window[(k + 3) % 4][1] = quad(next + 16);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const Quad<A> w = quad(weights + (d * kTileRows + r) * kTileColumns);
#pragma unroll
        for (int n = 0; n < kPixels * 8; ++n) {
          const int i = n / 8, half = n / 4 % 2, c = n % 4;
          sum[r][i][half][c] += w.at[i] * window[(k + i) % 4][half].at[c];
        }
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(64 * kMaxGroups<Sum<T>>, 2)
    correlation_grad_kernel(int64_t first_tile, const T* __restrict__ g,
                            const T* __restrict__ other, T* __restrict__ grad, CorrelationShape s,
                            Tiling t, BackwardPart p) {
  using A = Sum<T>;
  const Place at(first_tile + blockIdx.x, s, t);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp % 2 * 2, column = lane / 4 * kPixels;
  const int block_channel = at.part * p.groups * kChannels;
  const int my_channel = warp / 2 * kChannels + lane % 4 * 4;
  const int64_t plane = s.height * s.width;
  g += at.batch * t.side_y * t.side_x * plane;
  other += at.batch * s.channels * plane;
  grad += at.batch * s.channels * plane;

  A* weights = shared_memory<A>();
  A* others = weights + p.chunk * kTileRows * kTileColumns;
  A sum[2][kPixels][2][4] = {};
  for (int64_t dy = -s.radius_y; dy < s.radius_y + kTileRows; ++dy) {
    const int64_t y2 = at.y + s.offset_y + dy * s.stride;
    if (!inside(y2, s.height)) continue;
    const bool warp_active =
        inside(dy - row + s.radius_y, t.side_y) || inside(dy - row - 1 + s.radius_y, t.side_y);
    for (int64_t dx = -s.radius_x; dx <= s.radius_x; dx += p.chunk) {
      const int count = static_cast<int>(min(int64_t{p.chunk}, s.radius_x + 1 - dx));
      __syncthreads();  // the previous chunk has been used
      stage_weights(g, weights, at, dy, dx, count, s, t, p.first);
      stage_others(other, others, y2, at.x + s.offset_x + dx * s.stride, kTileColumns + count - 1,
                   block_channel, p, s);
      __syncthreads();
      if (warp_active) {
        multiply_chunk(weights + row * kTileColumns + column,
                       others + column * p.pitch + my_channel, count, p.pitch, sum);
      }
    }
  }

  const A scale = A(1) / static_cast<A>(s.channels);
#pragma unroll
  for (int n = 0; n < 2 * kPixels * 8; ++n) {
    const int r = n / 32, i = n / 8 % 4, half = n / 4 % 2, k = n % 4;
    const int64_t y = at.y + (row + r) * s.stride, x = at.x + (column + i) * s.stride;
    const int64_t c = block_channel + my_channel + half * 16 + k;
    if (y < s.height && x < s.width && c < s.channels) {
      grad[c * plane + y * s.width + x] = narrow<T>(sum[r][i][half][k] * scale);
    }
  }
}

}  // namespace

template <typename T>
void correlation_grad(const T* g, const T* other, T* grad, const CorrelationShape& shape,
                      bool first, bool tf32, void* stream) {
  using A = Sum<T>;
  const CorrelationShape s = first ? shape : reversed(shape);
  if constexpr (sizeof(T) <= 4) {
    if ((sizeof(T) == 2 || tf32) && correlation_grad_mma(g, other, grad, s, first, stream)) return;
  }
  const int64_t groups = ceil_div(s.channels, kChannels);
  BackwardPart p;
  p.first = first;
  p.groups = even_part(groups, kMaxGroups<A>);
  p.chunk = even_part(s.side_x(), kMaxChunk<A>);
  p.pitch = p.groups * kChannels + 4;
  const Tiling t(s, ceil_div(groups, p.groups));
  const int words = p.chunk * kTileRows * kTileColumns + (kTileColumns + p.chunk - 1) * p.pitch;
  launch(correlation_grad_kernel<T>, t.tiles(s.batch), 64 * p.groups, words * sizeof(A), stream, g,
         other, grad, s, t, p);
}

#define FLOWMATCH_INSTANTIATE(T)                                                              \
  template void correlation_grad(const T*, const T*, T*, const CorrelationShape&, bool, bool, \
                                 void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
