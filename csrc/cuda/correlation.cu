// The correlation cost volume on CUDA cores, in float32; half types are summed in float32. On GPUs
// with tensor cores, half types, and floats where TF32 is allowed, are computed there instead
// (correlation_mma.cu).
//
// This kernel and that of the gradient (correlation_grad.cu) are matrix products with a banded
// operand: a thread keeps a small block of results in registers and reads its inputs from shared
// memory, with 5 to 10 multiply-adds per word read. Each result is summed by one thread in a fixed
// order: bit-identical from run to run, without atomics.
//
// A block computes one tile of f1 against `rows` rows of f2, at `groups` * D displacements in x. A
// warp computes the tile against kRows of those rows at D displacements. Each value of f2 is read
// by four of its threads; a thread holds 4 pixels x D displacements x kRows rows.
#include "correlation_tiles.cuh"
#include "launch.cuh"
#include "scalar.cuh"
#include "tensor_cores.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kMaxWarps = 8;
constexpr int kSlice = 8;                      // channels in shared memory at a time
constexpr int kFirstPitch = kTileColumns + 8;  // places 4 rows x 2 quads in 8 groups of banks

template <typename A>
constexpr int kRows = sizeof(A) > 4 ? 1 : 2;  // rows of f2 per warp; doubles take 2 registers

// Columns of f2 that a thread reads, rounded up to whole quads.
template <int D>
constexpr int kWindow = (kPixels + D + 2) / 4 * 4;

// The part of a tile's displacements that one block computes.
struct ForwardPart {
  int groups, warps_y;  // warps of a block along displacements in x, and along rows of f2
  int group_parts;      // blocks along displacements in x
  int rows, width;      // rows and columns of f2 in shared memory
};

// Copies a row of kSlice channels, with zeros outside the image. `image`: the first channel.
template <typename T, typename A>
__device__ void stage_row(const T* image, A* to, int step, int64_t y, int64_t x0, int width,
                          int64_t channels, const CorrelationShape& s) {
  const int64_t plane = s.height * s.width;
  for (int u = threadIdx.x % 32; u < width; u += 32) {
    const int64_t x = x0 + u * s.stride;
    const bool valid = inside(y, s.height) && inside(x, s.width);
    const T* from = image + y * s.width + x;
#pragma unroll
    for (int c = 0; c < kSlice; ++c) {
      to[c * step + u] = valid && c < channels ? widen(from[c * plane]) : A(0);
    }
  }
}

template <int D, typename A>
__device__ void multiply_slice(const A* first, const A* second, const ForwardPart& p,
                               A (&sum)[kRows<A>][D][kPixels]) {
#pragma unroll 1
  for (int c = 0; c < kSlice; ++c) {
    const Quad<A> a = quad(first + c * kTileRows * kFirstPitch);
#pragma unroll
    for (int v = 0; v < kRows<A>; ++v) {
      const A* row = second + (c * p.rows + v) * p.width;
      Quad<A> b[kWindow<D> / 4];
#pragma unroll
      for (int q = 0; q < kWindow<D> / 4; ++q) b[q] = quad(row + 4 * q);
#pragma unroll
      for (int d = 0; d < D; ++d) {
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
          sum[v][d][i] += a.at[i] * b[(d + i) / 4].at[(d + i) % 4];
        }
      }
    }
  }
}

// Writes the results through shared memory (`swap`, one per warp), so that a warp writes along rows
// of the image. dy: displacement of the tile's first row in sum[0]. dx: displacement in
// sum[...][0].
template <int D, typename T, typename A>
__device__ void write_volume(const A (&sum)[kRows<A>][D][kPixels], A* swap, T* volume,
                             const Place& at, int64_t dy, int64_t dx, const CorrelationShape& s,
                             const Tiling& t) {
  const int lane = threadIdx.x % 32;
  const int64_t x = at.x + lane * s.stride, plane = s.height * s.width;
  const A scale = A(1) / static_cast<A>(s.channels);
#pragma unroll
  for (int v = 0; v < kRows<A>; ++v) {
#pragma unroll
    for (int d = 0; d < D; ++d) {
      __syncwarp();
      Quad<A> mine;
#pragma unroll
      for (int i = 0; i < kPixels; ++i) mine.at[i] = sum[v][d][i] * scale;
      quad(swap + lane % 4 * kTileColumns + lane / 4 * kPixels) = mine;
      __syncwarp();
#pragma unroll
      for (int r = 0; r < kTileRows; ++r) {
        const int64_t y = at.y + r * s.stride, j = dy + v - r + s.radius_y, i = dx + d + s.radius_x;
        if (y < s.height && x < s.width && inside(j, t.side_y) && inside(i, t.side_x)) {
          volume[((at.batch * t.side_y + j) * t.side_x + i) * plane + y * s.width + x] =
              narrow<T>(swap[r * kTileColumns + lane]);
        }
      }
    }
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(32 * kMaxWarps, 2)
    correlation_kernel(int64_t first_tile, const T* __restrict__ f1, const T* __restrict__ f2,
                       T* __restrict__ volume, CorrelationShape s, Tiling t, ForwardPart p) {
  using A = Sum<T>;
  const Place at(first_tile + blockIdx.x, s, t);
  const int64_t dy = at.part / p.group_parts * p.rows - s.radius_y;  // the first row of f2
  const int64_t dx = at.part % p.group_parts * p.groups * D - s.radius_x;
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const int row = warp / p.groups * kRows<A>, column = warp % p.groups * D;

  A* first = shared_memory<A>();
  A* second = first + kSlice * kTileRows * kFirstPitch;
  const A* a = first + lane % 4 * kFirstPitch + lane / 4 * kPixels;
  const A* b = second + row * p.width + column + lane / 4 * kPixels;

  A sum[kRows<A>][D][kPixels] = {};
  const int64_t y2 = at.y + s.offset_y + dy * s.stride, my_y2 = y2 + row * s.stride;
  const bool block_active = y2 < s.height && y2 + (p.rows - 1) * s.stride >= 0;
  const bool warp_active = my_y2 < s.height && my_y2 + (kRows<A> - 1) * s.stride >= 0;
  const int64_t plane = s.height * s.width, image = at.batch * s.channels * plane;
  f1 += image, f2 += image;
  for (int64_t c = 0; block_active && c < s.channels; c += kSlice) {
    __syncthreads();  // the previous slice has been used
    for (int r = warp; r < kTileRows + p.rows; r += warps) {
      if (r < kTileRows) {
        stage_row(f1 + c * plane, first + r * kFirstPitch, kTileRows * kFirstPitch,
                  at.y + r * s.stride, at.x, kTileColumns, s.channels - c, s);
      } else {
        const int v = r - kTileRows;
        stage_row(f2 + c * plane, second + v * p.width, p.rows * p.width, y2 + v * s.stride,
                  at.x + s.offset_x + dx * s.stride, p.width, s.channels - c, s);
      }
    }
    __syncthreads();
    if (warp_active) multiply_slice<D>(a, b, p, sum);
  }
  __syncthreads();  // from here on shared memory holds results
  write_volume<D>(sum, first + warp * kTileRows * kTileColumns, volume, at, dy + row, dx + column,
                  s, t);
}

template <int D, typename T>
void forward(const T* f1, const T* f2, T* volume, const CorrelationShape& s, void* stream) {
  using A = Sum<T>;
  const int64_t groups = ceil_div(s.side_x(), D);
  const int64_t row_groups = ceil_div(s.side_y() - 1 + kTileRows, kRows<A>);
  ForwardPart p;
  p.groups = even_part(groups, kMaxWarps / 2);
  p.warps_y = even_part(row_groups, kMaxWarps / p.groups);
  p.group_parts = static_cast<int>(ceil_div(groups, p.groups));
  p.rows = p.warps_y * kRows<A>;
  p.width = kTileColumns - kPixels + (p.groups - 1) * D + kWindow<D>;
  const Tiling t(s, ceil_div(row_groups, p.warps_y) * p.group_parts);
  const int words = kSlice * (kTileRows * kFirstPitch + p.rows * p.width);
  launch(correlation_kernel<T, D>, t.tiles(s.batch), 32 * p.groups * p.warps_y, words * sizeof(A),
         stream, f1, f2, volume, s, t, p);
}

// Whether TF32 on tensor cores is faster than float32 on CUDA cores, by benchmarks/model.py: not
// for few channels, whose products cost less than what surrounds them.
bool gains_from_tf32(const CorrelationShape& s) {
  return s.channels >= (s.side_x() <= 9 ? 64 : 16);
}

}  // namespace

template <typename T>
void correlation(const T* f1, const T* f2, T* volume, const CorrelationShape& s, bool tf32,
                 void* stream) {
  if constexpr (sizeof(T) <= 4) {
    const bool wanted = sizeof(T) == 2 || (tf32 && gains_from_tf32(s));
    if (wanted && correlation_mma(f1, f2, volume, s, stream)) return;
  }
  if (s.side_x() <= 9) {  // exact for radius 4, the usual one
    forward<9>(f1, f2, volume, s, stream);
  } else {
    forward<12>(f1, f2, volume, s, stream);
  }
}

#define FLOWMATCH_INSTANTIATE(T) \
  template void correlation(const T*, const T*, T*, const CorrelationShape&, bool, void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
