// All pairs of two tiles of vectors on CUDA cores: sums of products or of (a - b)^2, which lose no
// digits to cancellation. A thread keeps 4 x 4 pairs in registers.
#pragma once
#include "launch.cuh"
#include "scalar.cuh"

namespace flowmatch::cuda {

constexpr int kPairTile = 64;      // vectors in a tile of each set
constexpr int kPairThreads = 256;  // 16 x 16, each 4 x 4 pairs
constexpr int kPairSlice = 16;     // dimensions in shared memory at a time
constexpr int kPairPitch = kPairTile + 4;

// Words of shared memory that pair_tile needs.
constexpr int kPairWords = 2 * kPairSlice * kPairPitch;

// Whether a vector's dimensions can be read four at once.
template <typename T>
bool has_quads(const T* a, const T* b, int64_t depth) {
  const auto at = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
  return depth % 4 == 0 && at % sizeof(Packed<T>) == 0;
}

// Copies dimensions [start, start + kPairSlice) of `count` vectors: to[c][n], padded with zeros. A
// thread copies four dimensions of a vector.
template <typename T>
__device__ void stage_vectors(const T* from, int64_t count, int64_t depth, int64_t start,
                              bool quads, Sum<T>* to) {
  static_assert(kPairTile * kPairSlice == 4 * kPairThreads);
  const int n = threadIdx.x / (kPairSlice / 4), c = threadIdx.x % (kPairSlice / 4) * 4;
  const int left = n < count ? static_cast<int>(min(depth - start - c, int64_t{4})) : 0;
  const T* at = from + n * depth + start + c;
  Packed<T> four;
  if (quads && left == 4) {
    four = *reinterpret_cast<const Packed<T>*>(at);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) four.at[k] = k < left ? at[k] : narrow<T>(Sum<T>(0));
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) to[(c + k) * kPairPitch + n] = widen(four.at[k]);
}

// sum[i][j] is the sum for vector 4 * (thread / 16) + i of a and 4 * (thread % 16) + j of b.
template <typename T>
__device__ void pair_tile(const T* a, int64_t a_count, const T* b, int64_t b_count, int64_t depth,
                          bool product, bool quads, Sum<T>* shared, Sum<T> (&sum)[4][4]) {
  using A = Sum<T>;
  A* left = shared;
  A* right = shared + kPairSlice * kPairPitch;
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
  for (int n = 0; n < 16; ++n) sum[n / 4][n % 4] = 0;
  for (int64_t start = 0; start < depth; start += kPairSlice) {
    __syncthreads();  // the previous slice has been used
    stage_vectors(a, a_count, depth, start, quads, left);
    stage_vectors(b, b_count, depth, start, quads, right);
    __syncthreads();
#pragma unroll 4
    for (int c = 0; c < kPairSlice; ++c) {
      const Quad<A> x = quad(left + c * kPairPitch + row);
      const Quad<A> y = quad(right + c * kPairPitch + column);
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        const A u = x.at[n / 4], v = y.at[n % 4];
        sum[n / 4][n % 4] += product ? u * v : (u - v) * (u - v);
      }
    }
  }
  __syncthreads();  // shared memory may be reused
}

}  // namespace flowmatch::cuda
