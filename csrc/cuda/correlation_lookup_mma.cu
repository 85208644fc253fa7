// The correlation lookup on tensor cores, for half types. Neighbouring pixels have windows that
// overlap: a block takes 8 x 16 pixels of f1 and the box around their windows in f2, of which it
// copies one row after another to shared memory, two rows ahead of the one in use. A warp has 4 x 4
// of the pixels, whose features stay in registers. It multiplies them by those columns of the row
// that their windows cover, which computes about 1.6 times the products needed, and each pixel
// picks its own and blends them with those of the row before.
//
// Flow is rarely so steep that a box has no room for all windows. Then the block takes the pixels
// in several passes, each with another box, and what is left after those one at a time.
//
// All levels of a pyramid are one launch, because each alone leaves most of a GPU empty. Pixels
// have 64, 128 or 256 channels, as those of RAFT and its relatives; copies need no bounds along
// them.
#include "async.cuh"
#include "correlation_lookup_dots.cuh"
#include "launch.cuh"
#include "mma.cuh"
#include "tensor_cores.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kRows = 8, kColumns = 16;  // pixels of f1 in a block
constexpr int kPatch = 4;                // a warp has 4 x 4 of them
constexpr int kPixels = kPatch * kPatch;
constexpr int kWarps = kRows * kColumns / kPixels;
static_assert(kPixels == kMmaRows && kColumns / kPatch == 4);
constexpr int kMaxSide = 9;                     // displacements along an axis
constexpr int kHalf = (kMaxSide + 1) / 2;       // a pixel has two lanes, each with half of a row
constexpr int kBoxRows = 40, kBoxColumns = 36;  // pixels of f2 in a pass
constexpr int kWarpColumns = 32;                // the same of a warp
constexpr int kScorePitch = kWarpColumns + 4;   // spreads pixels over banks
constexpr int kZeros = 8;                       // at least kHalf + 1 of them
constexpr int kStages = 3;                      // rows in shared memory
constexpr int kPasses = 3;
constexpr int kMaxLevels = 8;  // in a launch

// Elements from one pixel of f2 to the next in shared memory.
template <typename T, int kChannels>
constexpr int kPitchOf = kChannels + 16 / sizeof(T);

template <typename T>
struct Levels {
  LookupShape shapes[kMaxLevels];
  const T* f2[kMaxLevels];
};

// The first taps of some windows: their range, and one of them. low_y > high_y: no windows.
struct Range {
  int low_y, high_y, low_x, high_x, one_y, one_x;
};

__device__ int warp_min(int v) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __reduce_min_sync(~0u, v);
#else
  return v;  // excluded by can_run_mma()
#endif
}

// The range over the lanes of a warp with `counts`, of their own ranges.
__device__ Range warp_range(bool counts, const Range& own) {
  constexpr int far = 1 << 28;  // beyond all windows
  const int one = max(0, __ffs(__ballot_sync(~0u, counts)) - 1);
  return {warp_min(counts ? own.low_y : far), -warp_min(counts ? -own.high_y : far),
          warp_min(counts ? own.low_x : far), -warp_min(counts ? -own.high_x : far),
          __shfl_sync(~0u, own.one_y, one),   __shfl_sync(~0u, own.one_x, one)};
}

// The begin of a box of at most `most` pixels along an axis, for windows that begin at low to high:
// all of them if there is room, else those around `one`.
__device__ int box_begin(int low, int high, int one, int taps, int most) {
  const int room = most - taps;
  return high - low <= room ? low : max(low, min(one - room / 2, high - room));
}

// The place of the next row in shared memory, in elements.
template <int kPitch>
__device__ int next_row(int at) {
  constexpr int kRow = kBoxColumns * kPitch;
  return at >= (kStages - 1) * kRow ? at - (kStages - 1) * kRow : at + kRow;
}

// Blends the taps of one pixel, of its warp alone, from dot products in shared memory.
template <typename T>
__device__ void blend_all(const float* dots, T* results, float fy, float fx, float scale,
                          const LookupShape& s) {
  const int columns = static_cast<int>(s.columns()), side = columns - 1;
  const int displacements = static_cast<int>(s.displacements());
  for (int d = threadIdx.x % 32; d < displacements; d += 32) {
    const float* at = dots + d / side * columns + d % side;
    const float top = (1 - fx) * at[0] + fx * at[1];
    const float bottom = (1 - fx) * at[columns] + fx * at[columns + 1];
    results[d * kRows * kColumns] = narrow<T>(scale * ((1 - fy) * top + fy * bottom));
  }
}

// Writes the results of a block, [displacement][pixel] in shared memory. `out`: the tile's first
// pixel. kWhole: rows of the image can be written eight pixels at once.
template <bool kWhole, typename T>
__device__ void write_tile(const T* results, T* out, int height, int width, const LookupShape& s) {
  constexpr int kTogether = kWhole ? 8 : 1;
  struct alignas(kTogether * sizeof(T)) Group {
    T at[kTogether];
  };
  constexpr int kGroups = kColumns / kTogether;
  const int x = threadIdx.x % kGroups * kTogether, y = threadIdx.x / kGroups % kRows;
  if (y >= height || x >= width) return;
  const int64_t plane = s.pixels();
  const int displacements = static_cast<int>(s.displacements());
  constexpr int step = 32 * kWarps / (kGroups * kRows);
  int d = threadIdx.x / (kGroups * kRows);
  out += d * plane + y * s.width + x;
  for (; d < displacements; d += step, out += step * plane) {
    *reinterpret_cast<Group*>(out) =
        *reinterpret_cast<const Group*>(results + (d * kRows + y) * kColumns + x);
  }
}

template <typename T, int kChannels>
__global__ void __launch_bounds__(32 * kWarps, 2)
    lookup_mma_kernel(int64_t first_tile, const T* __restrict__ f1,
                      const float* __restrict__ coords, T* __restrict__ out, Levels<T> all,
                      unsigned levels, int all_levels, bool whole) {
  constexpr int kSteps = kChannels / kMmaDepth<T>;  // matrix products along the channels
  constexpr int kPitch = kPitchOf<T, kChannels>;
  const unsigned block = static_cast<unsigned>(first_tile) + blockIdx.x, tile = block / levels;
  const int level = static_cast<int>(block % levels);
  const LookupShape& s = all.shapes[level];
  const auto across = (static_cast<unsigned>(s.width) + kColumns - 1) / kColumns;
  const auto down = (static_cast<unsigned>(s.height) + kRows - 1) / kRows;
  const int tile_y = static_cast<int>(tile / across % down) * kRows;
  const int tile_x = static_cast<int>(tile % across) * kColumns;
  const int64_t b = tile / across / down;
  const int height = static_cast<int>(min(int64_t{kRows}, s.height - tile_y));
  const int width = static_cast<int>(min(int64_t{kColumns}, s.width - tile_x));
  const int rows = static_cast<int>(s.rows()), columns = static_cast<int>(s.columns());
  const int height2 = static_cast<int>(s.height2), width2 = static_cast<int>(s.width2);
  const T* f2 = all.f2[level] + b * s.pixels2() * kChannels;
  f1 += (b * s.pixels() + tile_y * s.width + tile_x) * kChannels;

  T* stages = shared_memory<T>();
  float* scores = reinterpret_cast<float*>(stages + kStages * kBoxColumns * kPitch);
  auto* ranges = reinterpret_cast<Range*>(scores + kWarps * kPixels * kScorePitch);
  float* zeros = reinterpret_cast<float*>(ranges + kWarps);
  T* results = reinterpret_cast<T*>(zeros + kZeros);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  scores += warp * kPixels * kScorePitch;
  const int patch_y = warp / 4 * kPatch, patch_x = warp % 4 * kPatch;

  // Lanes n and n + 16 have pixel n of the patch.
  const int own = lane % kPixels, half = lane / kPixels * kHalf;
  const int my_y = patch_y + own / kPatch, my_x = patch_x + own % kPatch;
  const bool visible = my_y < height && my_x < width;
  const auto w = window(coords + b * 2 * s.pixels(), s,
                        visible ? (tile_y + my_y) * s.width + tile_x + my_x : 0);
  const int first_y = static_cast<int>(w.y), first_x = static_cast<int>(w.x);
  const float scale = 1 / sqrtf(static_cast<float>(kChannels));
  const float top = scale * (1 - w.fy), bottom = scale * w.fy;
  const float left_x = 1 - w.fx;
  const int side = columns - 1;
  const Range own_range = {first_y, first_y, first_x, first_x, first_y, first_x};
  results += my_y * kColumns + my_x;
  bool pending = visible && first_y < height2 && first_y + rows > 0 && first_x < width2 &&
                 first_x + columns > 0;
  if (!pending) {
    for (int d = lane / kPixels; d < s.displacements(); d += 2) {
      results[d * kRows * kColumns] = narrow<T>(0.0f);
    }
  }

  if (threadIdx.x < kZeros) zeros[threadIdx.x] = 0;

  uint32_t left[kSteps][4];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int y = patch_y + (lane / 4 + n * 8) / kPatch, x = patch_x + lane / 4 % kPatch;
    const bool exists = y < height && x < width;
    const auto* from =
        reinterpret_cast<const uint32_t*>(f1 + (exists ? (y * s.width + x) * kChannels : 0)) +
        lane % 4;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      left[k][n] = exists ? from[8 * k] : 0;
      left[k][n + 2] = exists ? from[8 * k + 4] : 0;
    }
  }

#pragma unroll 1
  for (int pass = 0; pass < kPasses; ++pass) {
    const Range mine = warp_range(pending, own_range);
    if (lane == 0) ranges[warp] = mine;
    __syncthreads();
    const Range& other = ranges[lane % kWarps];
    const Range box = warp_range(other.low_y <= other.high_y, other);
    if (box.low_y > box.high_y) break;
    const int begin_y = box_begin(box.low_y, box.high_y, box.one_y, rows, kBoxRows);
    const int begin_x = box_begin(box.low_x, box.high_x, box.one_x, columns, kBoxColumns);
    const int count_y = min(kBoxRows, box.high_y - begin_y + rows);
    const int count_x = min(kBoxColumns, box.high_x - begin_x + columns);
    bool takes_part = pending && first_y >= begin_y && first_y + rows <= begin_y + count_y &&
                      first_x >= begin_x && first_x + columns <= begin_x + count_x;
    Range part = warp_range(takes_part, own_range);
    if (part.high_x - part.low_x + columns > kWarpColumns) {
      takes_part = takes_part && first_x - part.low_x + columns <= kWarpColumns;
      part = warp_range(takes_part, own_range);
    }
    pending = pending && !takes_part;
    // Of the box: the first column that the warp multiplies, and how many times 16 of them.
    const int pairs = (part.high_x - part.low_x + columns + 15) / 16;
    const bool has_part = part.low_x <= part.high_x;
    const int column = has_part ? min(part.low_x - begin_x, kBoxColumns - 16 * pairs) : 0;

    // Copies those pixels of a row of the box that are in the image.
    constexpr int kChunks = kChannels * sizeof(T) / 16;  // of 16 bytes, of a pixel
    constexpr int kStep = 32 * kWarps / kChunks;  // from one pixel that a thread copies to its next
    const int chunk = threadIdx.x % kChunks * (16 / sizeof(T)), copied = threadIdx.x / kChunks;
    const int copied_begin = max(0, -begin_x);
    const int copied_end = min(count_x, width2 - begin_x);
    const T* source = f2 + (int64_t{begin_y} * width2 + begin_x + copied) * kChannels + chunk;
    T* const target = stages + copied * kPitch + chunk;
    int target_row = 0;
    const auto stage = [&](int row) {
      const int y = begin_y + row;
      if (row < count_y && y >= 0 && y < height2) {
#pragma unroll
        for (int n = 0; n < kBoxColumns; n += kStep) {
          if (copied + n >= copied_begin && copied + n < copied_end) {
            copy_async(target + target_row + n * kPitch, source + n * kChannels, true);
          }
        }
      }
      close_copies();
      source += int64_t{width2} * kChannels, target_row = next_row<kPitch>(target_row);
    };
    for (int row = 0; row < kStages - 1; ++row) stage(row);
    const float* taps =
        scores + own * kScorePitch + half + (takes_part ? first_x - begin_x - column : 0);
    const int begin_i = takes_part ? begin_y - first_y - 1 : 0;  // not far outside the image
    T* to = results + (begin_i * side + half) * kRows * kColumns;
    int source_row = column * kPitch;
    float before[kHalf] = {};  // the pixel's row before, blended along x
#pragma unroll 1
    for (int row = 0; row < count_y; ++row, to += side * kRows * kColumns) {
      wait_copies<kStages - 2>();
      __syncthreads();  // this row has arrived, and the one before is no longer used
      stage(row + kStages - 1);
      const T* from = stages + source_row;
      source_row = next_row<kPitch>(source_row);
      const int y = begin_y + row;
      if (y < part.low_y || y >= part.high_y + rows) continue;
      const bool inside = y >= 0 && y < height2;
      if (inside) {
        for (int pair = 0; pair < pairs; ++pair, from += 16 * kPitch) {
          float sum[2][2][4] = {};  // two sums of each product, which do not wait for each other
#pragma unroll
          for (int k = 0; k < kSteps; ++k) {
            uint32_t right[2][2];
            load_right(from + k * kMmaDepth<T>, kPitch, right);
            mma<T>(left[k], right[0], sum[k % 2][0]);
            mma<T>(left[k], right[1], sum[k % 2][1]);
          }
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            const int c = 16 * pair + n / 2 * 8 + lane % 4 * 2, x = begin_x + column + c;
            struct alignas(8) Two {
              float at[2];
            } two;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
              const int at = n % 2 * 2 + k;
              const float value = sum[0][n / 2][at] + sum[1][n / 2][at];
              two.at[k] = static_cast<unsigned>(x + k) < static_cast<unsigned>(width2) ? value : 0;
            }
            *reinterpret_cast<Two*>(scores + (lane / 4 + n % 2 * 8) * kScorePitch + c) = two;
          }
        }
        __syncwarp();
      }
      const int i = y - first_y;  // row of the pixel's window
      if (takes_part && i >= 0 && i < rows) {
        const float* scores_of_row = inside ? taps : zeros;
        const int stored = i > 0 ? min(kHalf, side - half) : 0;
        float at = scores_of_row[0];
#pragma unroll
        for (int d = 0; d < kHalf; ++d) {  // what is beyond `stored` is not used
          const float next = scores_of_row[d + 1], value = left_x * at + w.fx * next;
          const float result = top * before[d] + bottom * value;
          if (d < stored) to[d * kRows * kColumns] = narrow<T>(result);
          before[d] = value, at = next;
        }
      }
      if (inside) __syncwarp();  // the row's scores have been read
    }
  }

  for (unsigned rest = __ballot_sync(~0u, pending && lane < kPixels); rest; rest &= rest - 1) {
    const int n = __ffs(rest) - 1, y = patch_y + n / kPatch, x = patch_x + n % kPatch;
    const LookupWindow<float> other = {__shfl_sync(~0u, first_y, n), __shfl_sync(~0u, first_x, n),
                                       __shfl_sync(~0u, w.fy, n), __shfl_sync(~0u, w.fx, n)};
    __syncwarp();
    window_dots<true>(f1 + (y * s.width + x) * kChannels, f2, other, s, 0, rows * columns, scores);
    __syncwarp();
    blend_all(scores, results + (y - my_y) * kColumns + x - my_x, other.fy, other.fx, scale, s);
  }
  __syncthreads();
  results -= my_y * kColumns + my_x;
  out += (b * all_levels + level) * s.displacements() * s.pixels() + tile_y * s.width + tile_x;
  if (whole) {
    write_tile<true>(results, out, height, width, s);
  } else {
    write_tile<false>(results, out, height, width, s);
  }
}

template <typename T, int kChannels>
bool run(const T* f1, const T* const* f2, const float* coords, T* out, const LookupShape* shapes,
         int levels, void* stream) {
  const auto kernel = lookup_mma_kernel<T, kChannels>;
  const LookupShape& s = *shapes;
  const size_t bytes = kStages * kBoxColumns * kPitchOf<T, kChannels> * sizeof(T) +
                       (kWarps * kPixels * kScorePitch + kZeros) * sizeof(float) +
                       kWarps * sizeof(Range) + s.displacements() * kRows * kColumns * sizeof(T);
  if (!can_run_mma(kernel) || !allow_shared(kernel, bytes)) return false;
  const bool whole = s.width % 8 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
  const int64_t tiles = s.batch * ceil_div(s.height, kRows) * ceil_div(s.width, kColumns);
  for (int begin = 0; begin < levels; begin += kMaxLevels) {
    const int count = std::min(kMaxLevels, levels - begin);
    Levels<T> all = {};
    for (int n = 0; n < count; ++n) all.shapes[n] = shapes[begin + n], all.f2[n] = f2[begin + n];
    launch(kernel, tiles * count, 32 * kWarps, bytes, stream, f1, coords,
           out + begin * s.displacements() * s.pixels(), all, static_cast<unsigned>(count), levels,
           whole);
  }
  return true;
}

}  // namespace

template <typename T>
bool correlation_lookup_mma(const T* f1, const T* const* f2, const float* coords, T* out,
                            const LookupShape* shapes, int levels, void* stream) {
  const LookupShape& s = *shapes;
  uintptr_t at = reinterpret_cast<uintptr_t>(f1);
  bool fits = levels * s.batch * s.pixels() < int64_t{1} << 31 && s.side_y() <= kMaxSide &&
              s.side_x() <= kMaxSide && s.pixels() * s.channels < int64_t{1} << 31;
  for (int n = 0; n < levels; ++n) {
    at |= reinterpret_cast<uintptr_t>(f2[n]);
    fits = fits && shapes[n].pixels2() * s.channels < int64_t{1} << 31;
  }
  if (!fits || at % 16) return false;
  switch (s.channels) {
    case 256:
      return run<T, 256>(f1, f2, coords, out, shapes, levels, stream);
    case 128:
      return run<T, 128>(f1, f2, coords, out, shapes, levels, stream);
    case 64:
      return run<T, 64>(f1, f2, coords, out, shapes, levels, stream);
    default:
      return false;
  }
}

#define FLOWMATCH_INSTANTIATE(T)                                                    \
  template bool correlation_lookup_mma(const T*, const T* const*, const float*, T*, \
                                       const LookupShape*, int, void*);
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
