// The correlation cost volume on tensor cores, for half types, or for floats as TF32. A warp
// multiplies 16 pixels of a row of f1 by the columns of a row of f2 within their radius, summing
// over channels, and keeps a band of each product. That computes two (FlowNetC) to six times (PWC)
// the products needed, at many times the speed. Products of half types are exact, and the hardware
// sums in float.
#include "correlation_mma.cuh"
#include "correlation_tiles.cuh"
#include "mma.cuh"

namespace flowmatch::cuda {
namespace {

template <typename T>
constexpr int kDepth = 64 / sizeof(T);  // channels in shared memory at a time
template <typename T>
constexpr int kPad = 16 / sizeof(T);
template <typename T>
constexpr int kPitch = kDepth<T> + kPad<T>;      // elements from one pixel to the next
constexpr int kRowsOfF2 = 4;                     // rows of f2 in a block
constexpr int kParts = kTileColumns / kMmaRows;  // warps side by side in a tile
constexpr int kWarps = kTileRows * kParts;
constexpr int kBand = 5;  // matrix products of a warp with a row of f2
constexpr int kBandColumns = kBand * kMmaColumns;
constexpr int kWidth = kBandColumns + kTileColumns - kMmaRows;  // columns of f2 in a block
constexpr int kBandPitch = kBandColumns + 1;

// Copies rows of `width` pixels, transposed: to[row][u][channel], with zeros outside the image.
template <typename T>
__device__ void stage(const T* image, T* to, int rows, int width, int64_t y0, int64_t x0,
                      int64_t channels, const CorrelationShape& s) {
  const int64_t plane = s.height * s.width;
  for (int i = threadIdx.x; i < rows * kDepth<T> * width; i += 32 * kWarps) {
    const int u = i % width, c = i / width % kDepth<T>, row = i / width / kDepth<T>;
    const int64_t y = y0 + row * s.stride, x = x0 + u * s.stride;
    const bool valid = c < channels && inside(y, s.height) && inside(x, s.width);
    to[(row * width + u) * kPitch<T> + c] =
        valid ? mma_value(image[c * plane + y * s.width + x]) : narrow<T>(0.0f);
  }
}

// A block computes kRowsOfF2 rows of f2 from displacement dy on, kBandColumns columns from `shift`
// on.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    correlation_mma_kernel(int64_t first_tile, const T* __restrict__ f1, const T* __restrict__ f2,
                           T* __restrict__ volume, CorrelationShape s, Tiling t, int chunks) {
  const Place at(first_tile + blockIdx.x, s, t);
  const int64_t dy = at.part / chunks * kRowsOfF2 - s.radius_y;
  const int64_t shift = at.part % chunks * kBandColumns;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / kParts, column = warp % kParts * kMmaRows;
  T* first = shared_memory<T>();
  T* second = first + kTileRows * kTileColumns * kPitch<T>;
  const int64_t plane = s.height * s.width, image = at.batch * s.channels * plane;
  const int64_t y2 = at.y + s.offset_y + dy * s.stride;
  const bool active = y2 < s.height && y2 + (kRowsOfF2 - 1) * s.stride >= 0;
  float sum[kRowsOfF2][kBand][4] = {};
  for (int64_t c = 0; active && c < s.channels; c += kDepth<T>) {
    __syncthreads();  // the previous slice has been used
    const T* from1 = f1 + image + c * plane;
    const T* from2 = f2 + image + c * plane;
    stage(from1, first, kTileRows, kTileColumns, at.y, at.x, s.channels - c, s);
    stage(from2, second, kRowsOfF2, kWidth, y2, at.x + s.offset_x + (shift - s.radius_x) * s.stride,
          s.channels - c, s);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth<T>; k += kMmaDepth<T>) {
      uint32_t left[4];
      load_left(first + (row * kTileColumns + column) * kPitch<T> + k, kPitch<T>, left);
#pragma unroll
      for (int v = 0; v < kRowsOfF2; ++v) {
#pragma unroll
        for (int n = 0; n < kBand; ++n) {
          uint32_t right[2];
          load_right(second + (v * kWidth + column + n * kMmaColumns) * kPitch<T> + k, kPitch<T>,
                     right);
          mma<T>(left, right, sum[v][n]);
        }
      }
    }
  }
  __syncthreads();  // from here on shared memory holds results
  float* band = shared_memory<float>() + warp * kMmaRows * kBandPitch;
  const float scale = 1.0f / static_cast<float>(s.channels);
  const int64_t y = at.y + row * s.stride;
  for (int v = 0; v < kRowsOfF2; ++v) {
    const int64_t j = dy + v - row + s.radius_y;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < kBand * 4; ++n) {
      const int i = lane / 4 + n % 4 / 2 * 8, u = n / 4 * kMmaColumns + lane % 4 * 2 + n % 2;
      float value = sum[0][n / 4][n % 4];  // selects row v without indexing registers by v
#pragma unroll
      for (int w = 1; w < kRowsOfF2; ++w) value = v == w ? sum[w][n / 4][n % 4] : value;
      band[i * kBandPitch + u] = value * scale;
    }
    __syncwarp();
    if (y >= s.height || !inside(j, t.side_y)) continue;
    // Pixel i and column u have displacement shift + u - i: 16 pixels of one displacement.
    const int pixel = lane % kMmaRows;
    const int64_t x = at.x + (column + pixel) * s.stride;
    for (int k = lane / kMmaRows - (kMmaRows - 1); k < kBandColumns; k += 32 / kMmaRows) {
      const int u = k + pixel;
      const int64_t d = shift + k;
      if (x < s.width && u >= 0 && u < kBandColumns && inside(d, t.side_x)) {
        volume[((at.batch * t.side_y + j) * t.side_x + d) * plane + y * s.width + x] =
            narrow<T>(band[pixel * kBandPitch + u]);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Backward: the product of two matrices, 16 pixels x columns of a row of the other image within
// their radius, and columns x channels. The first is the gradient's band, with zeros beside it.

constexpr int kChannels = 64;     // channels of a block
constexpr int kGradColumns = 48;  // columns of a warp at a time
template <typename T>
constexpr int kGradPitch = kGradColumns + kPad<T>;
constexpr int kOtherWidth = kGradColumns + kTileColumns - kMmaRows;  // columns of a block
template <typename T>
constexpr int kOtherPitch = kOtherWidth + kPad<T>;

// Copies a warp's band against row y2, for columns `shift` to shift + kGradColumns:
// to[pixel][column]. For the gradient of f2 every displacement is reversed, and its entry is stored
// at the other pixel.
template <typename T>
__device__ void stage_band(const T* g, T* to, int64_t y, int64_t x0, int64_t y2, int64_t dy,
                           int64_t shift, bool first, const CorrelationShape& s, const Tiling& t) {
  const int i = threadIdx.x % kMmaRows;
  const int64_t plane = s.height * s.width, x = x0 + i * s.stride;
  const int64_t j = s.radius_y + (first ? dy : -dy);
  // Lanes go along pixels of one displacement, whose entries are adjacent in memory.
  for (int k = threadIdx.x % 32 / kMmaRows - (kMmaRows - 1) + i; k < kGradColumns + i;
       k += 32 / kMmaRows) {
    if (k < 0 || k >= kGradColumns) continue;
    const int64_t dx = shift + k - i - s.radius_x, x2 = x + s.offset_x + dx * s.stride;
    const int64_t d = s.radius_x + (first ? dx : -dx);
    const bool valid = y < s.height && x < s.width && inside(x2, s.width) && inside(j, t.side_y) &&
                       inside(d, t.side_x);
    const int64_t pixel = first ? y * s.width + x : y2 * s.width + x2;
    to[i * kGradPitch<T> + k] =
        valid ? mma_value(g[(j * t.side_x + d) * plane + pixel]) : narrow<T>(0.0f);
  }
}

template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    correlation_grad_mma_kernel(int64_t first_tile, const T* __restrict__ g,
                                const T* __restrict__ other, T* __restrict__ grad,
                                CorrelationShape s, Tiling t, bool first) {
  const Place at(first_tile + blockIdx.x, s, t);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / kParts, column = warp % kParts * kMmaRows;
  const int64_t channel = int64_t{at.part} * kChannels, plane = s.height * s.width;
  g += at.batch * t.side_y * t.side_x * plane;
  other += (at.batch * s.channels + channel) * plane;
  grad += (at.batch * s.channels + channel) * plane;
  T* others = shared_memory<T>();
  T* band = others + kChannels * kOtherPitch<T> + warp * kMmaRows * kGradPitch<T>;
  const int64_t y = at.y + row * s.stride, columns = kMmaRows - 1 + t.side_x;  // of a warp
  float sum[kChannels / kMmaColumns][4] = {};
  for (int64_t dy = -s.radius_y; dy < s.radius_y + kTileRows; ++dy) {
    const int64_t y2 = at.y + s.offset_y + dy * s.stride;
    if (!inside(y2, s.height)) continue;
    for (int64_t shift = 0; shift < columns; shift += kGradColumns) {
      __syncthreads();  // the previous columns have been used
      for (int i = threadIdx.x; i < kChannels * kOtherWidth; i += 32 * kWarps) {
        const int u = i % kOtherWidth, c = i / kOtherWidth;
        const int64_t x2 = at.x + s.offset_x + (shift + u - s.radius_x) * s.stride;
        const bool valid = inside(x2, s.width) && channel + c < s.channels;
        others[c * kOtherPitch<T> + u] =
            valid ? mma_value(other[c * plane + y2 * s.width + x2]) : narrow<T>(0.0f);
      }
      stage_band(g, band, y, at.x + column * s.stride, y2, dy - row, shift, first, s, t);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kGradColumns; k += kMmaDepth<T>) {
        uint32_t left[4];
        load_left(band + k, kGradPitch<T>, left);
#pragma unroll
        for (int n = 0; n < kChannels / kMmaColumns; ++n) {
          uint32_t right[2];
          load_right(others + n * kMmaColumns * kOtherPitch<T> + column + k, kOtherPitch<T>, right);
          mma<T>(left, right, sum[n]);
        }
      }
    }
  }
  const float scale = 1.0f / static_cast<float>(s.channels);
#pragma unroll
  for (int n = 0; n < kChannels / kMmaColumns * 4; ++n) {
    const int i = column + lane / 4 + n % 4 / 2 * 8;
    const int64_t c = n / 4 * kMmaColumns + lane % 4 * 2 + n % 2, x = at.x + i * s.stride;
    if (y < s.height && x < s.width && channel + c < s.channels) {
      grad[c * plane + y * s.width + x] = narrow<T>(sum[n / 4][n % 4] * scale);
    }
  }
}

}  // namespace

template <typename T>
bool correlation_mma(const T* f1, const T* f2, T* volume, const CorrelationShape& s, void* stream) {
  if (!can_run_mma(correlation_mma_kernel<T>)) return false;
  const auto chunks = static_cast<int>(ceil_div(kMmaRows - 1 + s.side_x(), kBandColumns));
  const Tiling t(s, ceil_div(s.side_y() - 1 + kTileRows, kRowsOfF2) * chunks);
  constexpr size_t images = (kTileRows * kTileColumns + kRowsOfF2 * kWidth) * kPitch<T> * sizeof(T);
  constexpr size_t results = kWarps * kMmaRows * kBandPitch * sizeof(float);
  launch(correlation_mma_kernel<T>, t.tiles(s.batch), 32 * kWarps, std::max(images, results),
         stream, f1, f2, volume, s, t, chunks);
  return true;
}

template <typename T>
bool correlation_grad_mma(const T* g, const T* other, T* grad, const CorrelationShape& s,
                          bool first, void* stream) {
  if (!can_run_mma(correlation_grad_mma_kernel<T>)) return false;
  const Tiling t(s, ceil_div(s.channels, kChannels));
  constexpr size_t elements = kChannels * kOtherPitch<T> + kWarps * kMmaRows * kGradPitch<T>;
  launch(correlation_grad_mma_kernel<T>, t.tiles(s.batch), 32 * kWarps, elements * sizeof(T),
         stream, g, other, grad, s, t, first);
  return true;
}

#define FLOWMATCH_INSTANTIATE(T)                                                         \
  template bool correlation_mma(const T*, const T*, T*, const CorrelationShape&, void*); \
  template bool correlation_grad_mma(const T*, const T*, T*, const CorrelationShape&, bool, void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
