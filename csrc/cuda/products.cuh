// Tiles of products on tensor cores: 128 x 128 vectors, of a half type or of floats rounded to
// bfloat16. Slices of 32 dimensions are copied while the previous slice is multiplied.
#pragma once
#include "async.cuh"
#include "launch.cuh"
#include "mma.cuh"

namespace flowmatch::cuda {

constexpr int kTile = 128;              // vectors of each set
constexpr int kThreads = 256;           // 8 warps: 4 down, 32 rows each; 2 across, 64 columns
constexpr int kSlice = 32;              // dimensions in shared memory at a time
constexpr int kPitch = kSlice + 8;      // elements from one vector to the next
constexpr int kStage = kTile * kPitch;  // elements of one set's slice
constexpr int kDown = 2, kAcross = 8;   // matrix products of a warp

template <typename T>
using Half = std::conditional_t<std::is_same_v<T, __half>, __half, __nv_bfloat16>;

template <typename T>
__device__ Half<T> half(T v) {
  if constexpr (std::is_same_v<T, float>) {
    return __float2bfloat16_rn(v);
  } else {
    return v;
  }
}

// The slices of both sets in shared memory.
template <typename T>
struct alignas(16) Operands {
  Half<T> rows[2][kStage], columns[2][kStage];
};

// Whether dimensions can be copied eight at a time.
template <typename T>
bool is_whole(const T* a, const T* b, int64_t depth) {
  const auto at = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
  return depth % 8 == 0 && at % 16 == 0;
}

// Copies dimensions [start, start + kSlice) of `count` vectors into to[n][c], padded with zeros: in
// the background if T is a half type and is_whole().
template <bool kWhole, typename T>
__device__ void stage(const T* from, int64_t count, int64_t depth, int64_t start, Half<T>* to) {
  constexpr int kEighths = kSlice / 8;  // of a vector
  const int c = threadIdx.x % kEighths * 8;
  const bool in_depth = start + c < depth;
#pragma unroll
  for (int n = threadIdx.x / kEighths; n < kTile; n += kThreads / kEighths) {
    const bool valid = n < count && in_depth;
    const T* at = from + (valid ? n * depth + start + c : 0);
    Half<T>* target = to + n * kPitch + c;
    if constexpr (kWhole && sizeof(T) == 2) {
      copy_async(target, at, valid);
      continue;
    }
    struct alignas(16) {
      Half<T> at[8];
    } eight;
    if constexpr (kWhole) {
      Packed<T> quads[2] = {};
      if (valid) {
        quads[0] = reinterpret_cast<const Packed<T>*>(at)[0];
        quads[1] = reinterpret_cast<const Packed<T>*>(at)[1];
      }
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        eight.at[k] = valid ? half<T>(quads[k / 4].at[k % 4]) : narrow<Half<T>>(0.0f);
      }
    } else {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        eight.at[k] = valid && start + c + k < depth ? half<T>(at[k]) : narrow<Half<T>>(0.0f);
      }
    }
    *reinterpret_cast<decltype(eight)*>(target) = eight;
  }
}

// Computes the products of a tile: sum[m][n] in the layout of mma.cuh, rows 32 (warp % 4) + 16 m,
// columns 64 (warp / 4) + 8 n.
template <bool kWhole, typename T>
__device__ void multiply(const T* left, int64_t rows, const T* right, int64_t columns,
                         int64_t depth, Operands<T>& shared, float (&sum)[kDown][kAcross][4]) {
  const int warp = threadIdx.x / 32, row = warp % 4 * 32, column = warp / 4 * 64;
#pragma unroll
  for (int n = 0; n < kDown * kAcross * 4; ++n) sum[n / 4 / kAcross][n / 4 % kAcross][n % 4] = 0;
  const auto begin = [&](int64_t start, int at) {
    stage<kWhole>(left, rows, depth, start, shared.rows[at]);
    stage<kWhole>(right, columns, depth, start, shared.columns[at]);
    close_copies();
  };
  __syncthreads();  // the previous tile has been used
  begin(0, 0);
  int at = 0;
  for (int64_t start = 0; start < depth; start += kSlice, at ^= 1) {
    if (start + kSlice < depth) {
      begin(start + kSlice, at ^ 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSlice; k += kMmaDepth<Half<T>>) {
      uint32_t a[kDown][4];
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
        load_left(shared.rows[at] + (row + m * kMmaRows) * kPitch + k, kPitch, a[m]);
      }
#pragma unroll
      for (int n = 0; n < kAcross; n += 2) {
        uint32_t b[2][2];
        load_right(shared.columns[at] + (column + n * kMmaColumns) * kPitch + k, kPitch, b);
#pragma unroll
        for (int m = 0; m < kDown * 2; ++m) {
          mma<Half<T>>(a[m / 2], b[m % 2], sum[m / 2][n + m % 2]);
        }
      }
    }
    __syncthreads();  // the slice may be overwritten
  }
}

// The squared length of each vector, summed by a warp.
template <typename T>
__global__ void squares_kernel(int64_t first_tile, const T* vectors, Sum<T>* squares, int64_t count,
                               int64_t depth) {
  const int64_t n = (first_tile + blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (n >= count) return;
  const T* v = vectors + n * depth;
  Sum<T> sum = 0;
  for (int64_t c = threadIdx.x % 32; c < depth; c += 32) sum += widen(v[c]) * widen(v[c]);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) squares[n] = sum;
}

template <typename T>
void squares(const T* vectors, Sum<T>* to, int64_t count, int64_t depth, void* stream) {
  launch(squares_kernel<T>, ceil_div(count, kThreads / 32), kThreads, 0, stream, vectors, to, count,
         depth);
}

}  // namespace flowmatch::cuda
