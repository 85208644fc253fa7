// The correlation cost volume on tensor cores, for half types, or for floats as TF32. A warp
// multiplies 16 pixels of a row of f1 by the columns of a row of f2 within their radius, summing
// over channels, and keeps a band of each product. That computes two (FlowNetC) to six times (PWC)
// the products needed, at many times the speed. Products of half types are exact, and the hardware
// sums in float.
#include "correlation_tiles.cuh"
#include "mma.cuh"
#include "tensor_cores.cuh"

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
constexpr int kBandPitch = kBandColumns + 2;                    // even, for stores of two

// 16 bytes of adjacent values.
template <typename T>
struct alignas(16) Pack {
  T at[16 / sizeof(T)];
};

// Copies up to 32 pixels of a row, transposed: to[u][channel], with zeros outside the image. A lane
// has a pixel and walks along half of its channels, which it loads before it stores any; positions
// are computed once for all of them.
template <typename T>
__device__ void stage(const T* image, T* to, int64_t y, int64_t x, int64_t channels,
                      const CorrelationShape& s) {
  constexpr int kPack = 16 / sizeof(T), kHalf = kDepth<T> / 2;
  const int64_t plane = s.height * s.width;
  const bool valid = inside(y, s.height) && inside(x, s.width);
  const int count = static_cast<int>(max(int64_t{0}, min(channels, int64_t{kHalf})));
  const T* from = image + y * s.width + x;
  Pack<T> packs[kHalf / kPack];
  if (valid && count == kHalf) {
#pragma unroll
    for (int c = 0; c < kHalf; ++c, from += plane) packs[c / kPack].at[c % kPack] = *from;
  } else {
#pragma unroll
    for (int c = 0; c < kHalf; ++c, from += plane) {
      packs[c / kPack].at[c % kPack] = valid && c < count ? *from : narrow<T>(0.0f);
    }
  }
  auto* target = reinterpret_cast<Pack<T>*>(to);
#pragma unroll
  for (int n = 0; n < kHalf / kPack; ++n) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) packs[n].at[k] = mma_value(packs[n].at[k]);
    target[n] = packs[n];
  }
}

// A block computes kRowsOfF2 rows of f2 from displacement dy on, kBandColumns columns from `shift`
// on.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps, 2)  // two blocks per multiprocessor: 128 registers
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
  const int64_t x2 = at.x + s.offset_x + (shift - s.radius_x) * s.stride;
  const bool active = y2 < s.height && y2 + (kRowsOfF2 - 1) * s.stride >= 0;
  float sum[kRowsOfF2][kBand][4] = {};
  for (int64_t c = 0; active && c < s.channels; c += kDepth<T>) {
    __syncthreads();  // the previous slice has been used
    // A warp copies half of the channels of a row of f1, or of one of two strips of a row of f2.
    constexpr int kHalf = kDepth<T> / 2;
#pragma unroll 1
    for (int i = warp; i < kTileRows * 2 + kRowsOfF2 * 4; i += kWarps) {
      const bool is_first = i < kTileRows * 2;
      const int n = i - kTileRows * 2, c0 = i % 2 * kHalf;
      const int r = is_first ? i / 2 : n / 4, u = is_first ? lane : n / 2 % 2 * 32 + lane;
      if (u >= kWidth) continue;
      stage((is_first ? f1 : f2) + image + (c + c0) * plane,
            (is_first ? first + (r * kTileColumns + u) * kPitch<T>
                      : second + (r * kWidth + u) * kPitch<T>)+c0,
            (is_first ? at.y : y2) + r * s.stride, (is_first ? at.x : x2) + u * s.stride,
            s.channels - c - c0, s);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth<T>; k += kMmaDepth<T>) {
      uint32_t left[4];
      load_left(first + (row * kTileColumns + column) * kPitch<T> + k, kPitch<T>, left);
#pragma unroll
      for (int v = 0; v < kRowsOfF2; ++v) {
        const T* columns = second + (v * kWidth + column) * kPitch<T> + k;
#pragma unroll
        for (int n = 0; n < kBand / 2; ++n) {
          uint32_t right[2][2];
          load_right(columns + n * 2 * kMmaColumns * kPitch<T>, kPitch<T>, right);
          mma<T>(left, right[0], sum[v][2 * n]);
          mma<T>(left, right[1], sum[v][2 * n + 1]);
        }
        uint32_t right[2];
        load_right(columns + (kBand - 1) * kMmaColumns * kPitch<T>, kPitch<T>, right);
        mma<T>(left, right, sum[v][kBand - 1]);
      }
    }
  }
  __syncthreads();  // from here on shared memory holds results
  // Pixel i and column u have displacement k = u - i from `shift` on: a half warp writes 16 pixels
  // of one displacement.
  float* band = shared_memory<float>() + warp * kMmaRows * kBandPitch;
  const float scale = 1.0f / static_cast<float>(s.channels);
  const int pixel = lane % kMmaRows;
  const int64_t y = at.y + row * s.stride, x = at.x + (column + pixel) * s.stride;
  const int begin = shift ? 1 - kMmaRows : 0;
  const int end = static_cast<int>(min(int64_t{kBandColumns}, t.side_x - shift));
  const bool visible = y < s.height && x < s.width;
#pragma unroll
  for (int v = 0; v < kRowsOfF2; ++v) {
    const int64_t j = dy + v - row + s.radius_y;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < kBand * 2; ++n) {
      const int i = lane / 4 + n % 2 * 8, u = n / 2 * kMmaColumns + lane % 4 * 2;
      struct alignas(8) {
        float at[2];
      } const two = {sum[v][n / 2][n % 2 * 2] * scale, sum[v][n / 2][n % 2 * 2 + 1] * scale};
      *reinterpret_cast<std::remove_const_t<decltype(two)>*>(band + i * kBandPitch + u) = two;
    }
    __syncwarp();
    if (!visible || !inside(j, t.side_y)) continue;
    int k = begin + lane / kMmaRows;
    T* to = volume + ((at.batch * t.side_y + j) * t.side_x + shift + k) * plane + y * s.width + x;
    for (; k < end; k += 32 / kMmaRows, to += 32 / kMmaRows * plane) {
      const int u = k + pixel;
      if (u >= 0 && u < kBandColumns) *to = narrow<T>(band[pixel * kBandPitch + u]);
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

constexpr int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }  // b > 0

// A lane's entries of its warp's band, for the columns from `shift` on: columns [begin, end), in
// which both the displacement and the pixel of the other image exist.
template <typename T>
struct BandColumns {
  int begin, end;
  int64_t at, step;  // in the gradient, without displacement in y: of column 0, and to the next

  // x: the pixel of the lane, i-th of the warp. For the gradient of f2 every displacement is
  // reversed, and its entry is stored at the other pixel.
  __device__ BandColumns(int64_t x, int i, int64_t shift, bool first, const CorrelationShape& s,
                         const Tiling& t) {
    const int64_t x2 = x + s.offset_x, d = shift - i, dx = d - s.radius_x;  // of column 0
    const int64_t low = -floor_div(x2, s.stride), high = floor_div(s.width - 1 - x2, s.stride);
    const int64_t from = max(max(int64_t{0}, -d), low - dx);
    const int64_t to = min(min(int64_t{kGradColumns}, t.side_x - d), high + 1 - dx);
    begin = static_cast<int>(min(from, int64_t{kGradColumns}));
    end = x < s.width ? static_cast<int>(max(to, int64_t{begin})) : begin;
    const int64_t plane = s.height * s.width;
    at = first ? d * plane + x : (t.side_x - 1 - d) * plane + x2 + dx * s.stride;
    step = first ? plane : s.stride - plane;
  }
};

// Copies a warp's band against a row of the other image: to[pixel][column], zeros beside it.
// Lanes go along pixels of one displacement, whose entries are adjacent in memory. `g`: the row of
// the gradient for the displacement in y.
template <typename T>
__device__ void stage_band(const T* g, T* to, const BandColumns<T>& columns) {
  constexpr int kTogether = 8;  // loads of a lane in flight
  const int half = threadIdx.x % 32 / kMmaRows;
  const int begin = columns.begin, end = columns.end;
  const T* from = g + columns.at + half * columns.step;
  to += threadIdx.x % kMmaRows * kGradPitch<T> + half;
#pragma unroll
  for (int k0 = 0; k0 < kGradColumns; k0 += 2 * kTogether) {
    T values[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k, from += 2 * columns.step) {
      const int column = k0 + 2 * k + half;
      values[k] = column >= begin && column < end ? *from : narrow<T>(0.0f);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) to[k0 + 2 * k] = mma_value(values[k]);
  }
}

// Copies columns of kChannels channels of a row: to[channel][column], zeros outside the image. A
// warp has eight channels, which it loads before it stores any.
template <typename T>
__device__ void stage_others(const T* row, T* to, int64_t x0, int64_t channels,
                             const CorrelationShape& s) {
  constexpr int kOwn = kChannels / kWarps;
  const int64_t plane = s.height * s.width;
  const int c0 = threadIdx.x / 32 * kOwn, lane = threadIdx.x % 32;
#pragma unroll
  for (int u = 0; u < kOtherWidth; u += 32) {
    const int64_t x = x0 + (u + lane) * s.stride;
    const bool valid = inside(x, s.width);
    const T* from = row + c0 * plane + x;
    T values[kOwn];
    if (valid && c0 + kOwn <= channels) {
#pragma unroll
      for (int c = 0; c < kOwn; ++c, from += plane) values[c] = *from;
    } else {
#pragma unroll
      for (int c = 0; c < kOwn; ++c, from += plane) {
        values[c] = valid && c0 + c < channels ? *from : narrow<T>(0.0f);
      }
    }
#pragma unroll
    for (int c = 0; c < kOwn; ++c) to[(c0 + c) * kOtherPitch<T> + u + lane] = mma_value(values[c]);
  }
}

template <typename T>
__global__ void __launch_bounds__(32 * kWarps, 2)
    correlation_grad_mma_kernel(int64_t first_tile, const T* __restrict__ g,
                                const T* __restrict__ other, T* __restrict__ grad,
                                CorrelationShape s, Tiling t, bool first) {
  static_assert(kOtherWidth % 32 == 0 && kChannels % kWarps == 0);
  const Place at(first_tile + blockIdx.x, s, t);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / kParts, column = warp % kParts * kMmaRows;
  const int64_t channel = int64_t{at.part} * kChannels, plane = s.height * s.width;
  const int64_t channels = min(s.channels - channel, int64_t{kChannels});
  g += at.batch * t.side_y * t.side_x * plane;
  other += (at.batch * s.channels + channel) * plane;
  grad += (at.batch * s.channels + channel) * plane;
  T* others = shared_memory<T>();
  T* band = others + kChannels * kOtherPitch<T> + warp * kMmaRows * kGradPitch<T>;
  const int64_t y = at.y + row * s.stride, columns = kMmaRows - 1 + t.side_x;  // of a warp
  const int64_t x = at.x + column * s.stride;
  float sum[kChannels / kMmaColumns][4] = {};
  for (int64_t shift = 0; shift < columns; shift += kGradColumns) {
    const int i = lane % kMmaRows;
    const BandColumns<T> own(x + i * s.stride, i, shift, first, s, t);
    for (int64_t dy = -s.radius_y; dy < s.radius_y + kTileRows; ++dy) {
      const int64_t y2 = at.y + s.offset_y + dy * s.stride;
      if (!inside(y2, s.height)) continue;
      const int64_t j = s.radius_y + (first ? dy - row : row - dy);
      const bool exists = y < s.height && inside(j, t.side_y);
      __syncthreads();  // the previous columns have been used
      stage_others(other + y2 * s.width, others,
                   at.x + s.offset_x + (shift - s.radius_x) * s.stride, channels, s);
      if (exists) {
        stage_band(g + j * t.side_x * plane + (first ? y : y2) * s.width, band, own);
      }
      __syncthreads();
      if (!exists) continue;
#pragma unroll
      for (int k = 0; k < kGradColumns; k += kMmaDepth<T>) {
        uint32_t left[4];
        load_left(band + k, kGradPitch<T>, left);
#pragma unroll
        for (int n = 0; n < kChannels / kMmaColumns; n += 2) {
          if (n * kMmaColumns >= channels) break;
          uint32_t right[2][2];
          load_right(others + n * kMmaColumns * kOtherPitch<T> + column + k, kOtherPitch<T>, right);
          mma<T>(left, right[0], sum[n]);
          mma<T>(left, right[1], sum[n + 1]);
        }
      }
    }
  }
  if (y >= s.height) return;
  const float scale = 1.0f / static_cast<float>(s.channels);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t to_x = x + (lane / 4 + half * 8) * s.stride;
    if (to_x >= s.width) continue;
    T* to = grad + lane % 4 * 2 * plane + y * s.width + to_x;
#pragma unroll
    for (int n = 0; n < kChannels / kMmaColumns; ++n, to += kMmaColumns * plane) {
      const int c = n * kMmaColumns + lane % 4 * 2;
      if (c < channels) *to = narrow<T>(sum[n][half * 2] * scale);
      if (c + 1 < channels) to[plane] = narrow<T>(sum[n][half * 2 + 1] * scale);
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
