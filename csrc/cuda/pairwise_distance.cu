// All distances between two sets of vectors, from their products: |x|^2 + |y|^2 - 2 xy. Where that
// cancels, the distance is computed again, by differences. Half types are multiplied on tensor
// cores, exactly; floats and doubles on CUDA cores.
#include "../pairwise_distance.h"
#include "pairs.cuh"
#include "products.cuh"

namespace flowmatch::cuda {
namespace {

// A square below this share of |x|^2 + |y|^2 has lost digits, and is computed again: what remains
// of an error of D 2^-24 is at most 5e-6 of the distance.
constexpr float kCancelled = 1.0f / 32;

// The distance by differences; they are divided by the largest of them if their squares overflow.
template <typename T>
__device__ Sum<T> exact_distance(const T* x, const T* y, int64_t depth) {
  using A = Sum<T>;
  constexpr A most = sizeof(A) > 4 ? A(1.7976931348623157e308) : A(3.40282347e38f);
  A largest = 0, square = 0;
  for (int64_t c = 0; c < depth; ++c) {
    const A apart = widen(x[c]) - widen(y[c]);
    square += apart * apart;
    largest = max(largest, abs(apart));
  }
  if (square <= most || !(largest <= most)) return sqrt(square);
  square = 0;
  for (int64_t c = 0; c < depth; ++c) {
    const A share = (widen(x[c]) - widen(y[c])) / largest;
    square += share * share;
  }
  return largest * sqrt(square);
}

// A distance from a product and the squared lengths, whose sum is `squares`; sets a bit of
// `cancelled` where it has lost digits.
template <typename A>
__device__ A distance_from(A product, A squares, bool is_dot, int bit, uint64_t& cancelled) {
  if (is_dot) return product;
  const A square = squares - 2 * product;
  // Not "<": also what is no number, because squares overflow.
  cancelled |= uint64_t{!(square > squares * A(kCancelled))} << bit;
  return sqrt(square);
}

// squares: those of x, and then those of y.
template <typename T>
__global__ void __launch_bounds__(kPairThreads)
    pairwise_distance_kernel(int64_t first_tile, const T* __restrict__ x, const T* __restrict__ y,
                             const Sum<T>* __restrict__ squares, T* __restrict__ out,
                             PairwiseShape s, bool quads, bool packed) {
  using A = Sum<T>;
  const int64_t across = ceil_div(s.columns, kPairTile), down = ceil_div(s.rows, kPairTile);
  const int64_t tile = first_tile + blockIdx.x;
  const int64_t b = tile / (across * down);
  const int64_t i0 = tile / across % down * kPairTile, j0 = tile % across * kPairTile;
  x += (b * s.rows + i0) * s.depth, y += (b * s.columns + j0) * s.depth;
  A sum[4][4];
  pair_tile(x, s.rows - i0, y, s.columns - j0, s.depth, true, quads, shared_memory<A>(), sum);
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  const A* squares_x = squares + b * s.rows + i0;
  const A* squares_y = squares + s.batch * s.rows + b * s.columns + j0;
  const bool is_dot = s.metric == Metric::dot;
  uint64_t cancelled = 0;
  out += (b * s.rows + i0) * s.columns + j0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i0 + row + i >= s.rows) break;
    T* to = out + (row + i) * s.columns + column;
    Packed<T> four;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (j0 + column + k >= s.columns) continue;
      const A squares = is_dot ? A(0) : squares_x[row + i] + squares_y[column + k];
      four.at[k] = narrow<T>(distance_from(sum[i][k], squares, is_dot, i * 4 + k, cancelled));
      if (!packed) to[k] = four.at[k];
    }
    if (packed && j0 + column < s.columns) *reinterpret_cast<Packed<T>*>(to) = four;
  }
  for (; cancelled; cancelled &= cancelled - 1) {
    const int n = __ffsll(static_cast<long long>(cancelled)) - 1;
    const int i = row + n / 4, j = column + n % 4;
    out[i * s.columns + j] = narrow<T>(exact_distance(x + i * s.depth, y + j * s.depth, s.depth));
  }
}

// The same on tensor cores, for half types.
template <typename T, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2)
    pairwise_mma_kernel(int64_t first_tile, const T* __restrict__ x, const T* __restrict__ y,
                        const float* __restrict__ squares, T* __restrict__ out, PairwiseShape s) {
  const int64_t across = ceil_div(s.columns, kTile), down = ceil_div(s.rows, kTile);
  const int64_t tile = first_tile + blockIdx.x;
  const int64_t b = tile / (across * down);
  const int64_t i0 = tile / across % down * kTile, j0 = tile % across * kTile;
  x += (b * s.rows + i0) * s.depth, y += (b * s.columns + j0) * s.depth;
  float sum[kDown][kAcross][4];
  multiply<kWhole>(x, s.rows - i0, y, s.columns - j0, s.depth, *shared_memory<Operands<T>>(), sum);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp % 4 * 32 + lane / 4, column = warp / 4 * 64 + lane % 4 * 2;
  const float* squares_x = squares + b * s.rows + i0;
  const float* squares_y = squares + s.batch * s.rows + b * s.columns + j0;
  const bool is_dot = s.metric == Metric::dot;
  uint64_t cancelled = 0;
  out += (b * s.rows + i0) * s.columns + j0;
#pragma unroll
  for (int m = 0; m < kDown * 2; ++m) {
    const int i = row + m / 2 * kMmaRows + m % 2 * 8;
    if (i0 + i >= s.rows) continue;
    const float square_x = is_dot ? 0.0f : squares_x[i];
    T* to = out + i * s.columns;
#pragma unroll
    for (int n = 0; n < kAcross * 2; ++n) {
      const int j = column + n / 2 * kMmaColumns + n % 2;
      if (j0 + j >= s.columns) continue;
      const float squares = is_dot ? 0.0f : square_x + squares_y[j];
      to[j] = narrow<T>(distance_from(sum[m / 2][n / 2][m % 2 * 2 + n % 2], squares, is_dot,
                                      m * kAcross * 2 + n, cancelled));
    }
  }
  for (; cancelled; cancelled &= cancelled - 1) {
    const int bit = __ffsll(static_cast<long long>(cancelled)) - 1;
    const int m = bit / (kAcross * 2), n = bit % (kAcross * 2);
    const int i = row + m / 2 * kMmaRows + m % 2 * 8;
    const int j = column + n / 2 * kMmaColumns + n % 2;
    out[i * s.columns + j] = narrow<T>(exact_distance(x + i * s.depth, y + j * s.depth, s.depth));
  }
}

}  // namespace

template <typename T, typename A>
void pairwise_distance(const T* x, const T* y, T* out, A* scratch, const PairwiseShape& s,
                       void* stream) {
  if (s.metric == Metric::l2) {
    squares(x, scratch, s.batch * s.rows, s.depth, stream);
    squares(y, scratch + s.batch * s.rows, s.batch * s.columns, s.depth, stream);
  }
  const auto tiles = [&](int64_t side) {
    return s.batch * ceil_div(s.rows, side) * ceil_div(s.columns, side);
  };
  const A* lengths = scratch;
  if constexpr (sizeof(T) == 2) {
    if (s.depth > 0 && can_run_mma(pairwise_mma_kernel<T, true>)) {
      const auto kernel =
          is_whole(x, y, s.depth) ? pairwise_mma_kernel<T, true> : pairwise_mma_kernel<T, false>;
      launch(kernel, tiles(kTile), kThreads, sizeof(Operands<T>), stream, x, y, lengths, out, s);
      return;
    }
  }
  launch(pairwise_distance_kernel<T>, tiles(kPairTile), kPairThreads, kPairWords * sizeof(A),
         stream, x, y, lengths, out, s, has_quads(x, y, s.depth), has_quads(out, out, s.columns));
}

#define FLOWMATCH_INSTANTIATE(T) \
  template void pairwise_distance(const T*, const T*, T*, Sum<T>*, const PairwiseShape&, void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
