// The correlation cost volume of halves on tensor cores. A warp multiplies 16 pixels of a row of f1
// by the columns of a row of f2 that they can see, channels being what is summed over: of each
// product it keeps the band that is wanted. That computes up to twice what is needed, at many times
// the speed; products of halves are exact, and summed in float as everywhere.
#include "correlation_mma.cuh"
#include "correlation_tiles.cuh"
#include "mma.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kDepth = 32;                       // channels in shared memory at a time
constexpr int kPitch = kDepth + 8;               // halves from one pixel to the next
constexpr int kRowsOfF2 = 4;                     // in a block
constexpr int kParts = kTileColumns / kMmaRows;  // warps side by side in a tile
constexpr int kWarps = kTileRows * kParts;
constexpr int kBand = 5;                                 // products of a warp with a row of f2
constexpr int kSeen = kBand * kMmaColumns;               // columns in those
constexpr int kWidth = kSeen + kTileColumns - kMmaRows;  // columns of f2 in a block
constexpr int kBandPitch = kSeen + 1;

// Rows of `width` pixels, transposed: to[row][u][channel], zeros outside the image.
template <typename T>
__device__ void stage(const T* image, T* to, int rows, int width, int64_t y0, int64_t x0,
                      int64_t channels, const CorrelationShape& s) {
  const int64_t plane = s.height * s.width;
  for (int i = threadIdx.x; i < rows * kDepth * width; i += 32 * kWarps) {
    const int u = i % width, c = i / width % kDepth, row = i / width / kDepth;
    const int64_t y = y0 + row * s.stride, x = x0 + u * s.stride;
    const bool seen = c < channels && inside(y, s.height) && inside(x, s.width);
    to[(row * width + u) * kPitch + c] =
        seen ? image[c * plane + y * s.width + x] : narrow<T>(0.0f);
  }
}

// Part of a block: kRowsOfF2 rows of f2 from displacement dy on, kSeen columns from `shift` on.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    correlation_mma_kernel(int64_t first_tile, const T* __restrict__ f1, const T* __restrict__ f2,
                           T* __restrict__ volume, CorrelationShape s, Tiling t, int chunks) {
  const Place at(first_tile + blockIdx.x, s, t);
  const int64_t dy = at.part / chunks * kRowsOfF2 - s.radius;
  const int64_t shift = at.part % chunks * kSeen;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / kParts, column = warp % kParts * kMmaRows;
  T* first = shared_memory<T>();
  T* second = first + kTileRows * kTileColumns * kPitch;
  const int64_t plane = s.height * s.width, image = at.batch * s.channels * plane;
  const int64_t y2 = at.y + dy * s.stride;
  const bool sees = y2 < s.height && y2 + (kRowsOfF2 - 1) * s.stride >= 0;
  float sum[kRowsOfF2][kBand][4] = {};
  for (int64_t c = 0; sees && c < s.channels; c += kDepth) {
    __syncthreads();  // the slice before has been used
    const T* from1 = f1 + image + c * plane;
    const T* from2 = f2 + image + c * plane;
    stage(from1, first, kTileRows, kTileColumns, at.y, at.x, s.channels - c, s);
    stage(from2, second, kRowsOfF2, kWidth, y2, at.x + (shift - s.radius) * s.stride,
          s.channels - c, s);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; k += kMmaDepth) {
      uint32_t left[4];
      load_left(first + (row * kTileColumns + column) * kPitch + k, kPitch, left);
#pragma unroll
      for (int v = 0; v < kRowsOfF2; ++v) {
#pragma unroll
        for (int n = 0; n < kBand; ++n) {
          uint32_t right[2];
          load_right(second + (v * kWidth + column + n * kMmaColumns) * kPitch + k, kPitch, right);
          mma<T>(left, right, sum[v][n]);
        }
      }
    }
  }
  __syncthreads();  // shared memory turns from images into results
  float* band = shared_memory<float>() + warp * kMmaRows * kBandPitch;
  const float scale = 1.0f / static_cast<float>(s.channels);
  const int64_t y = at.y + row * s.stride;
  for (int v = 0; v < kRowsOfF2; ++v) {
    const int64_t j = dy + v - row + s.radius;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < kBand * 4; ++n) {
      const int i = lane / 4 + n % 4 / 2 * 8, u = n / 4 * kMmaColumns + lane % 4 * 2 + n % 2;
      float value = sum[0][n / 4][n % 4];  // of row v, without indexing registers by it
#pragma unroll
      for (int w = 1; w < kRowsOfF2; ++w) value = v == w ? sum[w][n / 4][n % 4] : value;
      band[i * kBandPitch + u] = value * scale;
    }
    __syncwarp();
    if (y >= s.height || !inside(j, t.side)) continue;
    // Pixel i meets column u under displacement shift + u - i: 16 pixels of one displacement.
    const int pixel = lane % kMmaRows;
    const int64_t x = at.x + (column + pixel) * s.stride;
    for (int k = lane / kMmaRows - (kMmaRows - 1); k < kSeen; k += 32 / kMmaRows) {
      const int u = k + pixel;
      const int64_t d = shift + k;
      if (x < s.width && u >= 0 && u < kSeen && inside(d, t.side)) {
        volume[((at.batch * t.side + j) * t.side + d) * plane + y * s.width + x] =
            narrow<T>(band[pixel * kBandPitch + u]);
      }
    }
  }
}

}  // namespace

template <typename T>
void correlation_mma(const T* f1, const T* f2, T* volume, const CorrelationShape& s, void* stream) {
  const auto chunks = static_cast<int>(ceil_div(kMmaRows - 1 + s.side(), kSeen));
  const Tiling t(s, ceil_div(s.side() - 1 + kTileRows, kRowsOfF2) * chunks);
  constexpr size_t images = (kTileRows * kTileColumns + kRowsOfF2 * kWidth) * kPitch * sizeof(T);
  constexpr size_t results = kWarps * kMmaRows * kBandPitch * sizeof(float);
  launch(correlation_mma_kernel<T>, t.tiles(s.batch), 32 * kWarps, std::max(images, results),
         stream, f1, f2, volume, s, t, chunks);
}

template void correlation_mma(const __half*, const __half*, __half*, const CorrelationShape&,
                              void*);
template void correlation_mma(const __nv_bfloat16*, const __nv_bfloat16*, __nv_bfloat16*,
                              const CorrelationShape&, void*);

}  // namespace flowmatch::cuda
