// Forward warping on the GPU, without atomics: every target collects its own sources.
//
// A first kernel computes the box that each block of sources lands in. In the second, a thread
// block computes a tile of the result, a warp one of its rows. The block selects the blocks of
// sources whose boxes overlap its tile; a warp walks through their sources in order, and each of
// its threads notes those that its pixel is a target of. A thread sums its sources in this order:
// bit-identical from run to run.
#include "../splat.h"
#include "launch.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kRows = 8, kColumns = 32;  // of a tile, and of a block of sources
constexpr int kThreads = kRows * kColumns;
constexpr int kNoted = 8;     // sources that a thread notes before it sums them
constexpr int kChannels = 4;  // summed at a time
constexpr int kBox = 4;       // values of a box: first and last y, first and last x

// Blocks of sources, or tiles, of an image.
constexpr int64_t across(const SplatShape& s) { return ceil_div(s.width, kColumns); }
constexpr int64_t blocks_of(const SplatShape& s) { return ceil_div(s.height, kRows) * across(s); }

// Where a source lands; `inside` is false for pixels beyond the border of the image.
template <typename A>
__device__ Landing<A> landing_within(const A* flow, const SplatShape& s, int64_t y, int64_t x) {
  if (y >= s.height || x >= s.width) return {0, 0, 0, 0, false};
  return landing(flow, s, y, x);
}

// A warp computes the box of one block of sources. Boxes of nothing end before they begin.
template <typename A>
__global__ void splat_boxes_kernel(int64_t first_tile, const A* __restrict__ flow,
                                   int64_t* __restrict__ boxes, SplatShape s) {
  const int64_t n = (first_tile + blockIdx.x) * kRows + threadIdx.x / 32;
  if (n >= s.batch * blocks_of(s)) return;
  const int64_t block = n % blocks_of(s), lane = threadIdx.x % 32;
  flow += n / blocks_of(s) * 2 * s.pixels();
  int64_t box[kBox] = {s.height, -2, s.width, -2};
  for (int row = 0; row < kRows; ++row) {
    const auto at = landing_within(flow, s, block / across(s) * kRows + row,
                                   block % across(s) * kColumns + lane);
    if (!at.inside) continue;
    box[0] = min(box[0], at.y), box[1] = max(box[1], at.y);
    box[2] = min(box[2], at.x), box[3] = max(box[3], at.x);
  }
#pragma unroll
  for (int k = 0; k < kBox; ++k) {
    for (int bits = 16; bits > 0; bits /= 2) {
      const int64_t other = __shfl_xor_sync(~0u, box[k], bits);
      box[k] = k % 2 ? max(box[k], other) : min(box[k], other);
    }
    if (lane == 0) boxes[n * kBox + k] = box[k];
  }
}

// The sources of a thread's target that have not been summed yet, in shared memory.
template <typename A>
struct Noted {
  int64_t* pixels;  // [kNoted][kThreads]
  A* weights;       // the same
  int count;
  bool added;  // whether earlier sources were added to the result
};

// Adds the noted sources to the target, for all channels. image, out: the first channel; out: at
// the target.
template <typename A>
__device__ void add_noted(const A* image, A* out, const SplatShape& s, Noted<A>* noted) {
  const int64_t plane = s.pixels();
  for (int64_t start = 0; start < s.channels; start += kChannels) {
    A sum[kChannels];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      sum[c] = noted->added && start + c < s.channels ? out[(start + c) * plane] : A(0);
    }
    for (int k = 0; k < noted->count; ++k) {
      const A weight = noted->weights[k * kThreads + threadIdx.x];
      const A* from = image + start * plane + noted->pixels[k * kThreads + threadIdx.x];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        if (start + c < s.channels) sum[c] += weight * from[c * plane];
      }
    }
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if (start + c < s.channels) out[(start + c) * plane] = sum[c];
    }
  }
  noted->count = 0;
  noted->added = true;
}

// A thread's target. image, flow: those of its image; out: at the target, if it is `inside`.
template <typename A>
struct Target {
  const A *image, *flow;
  A* out;
  int64_t y, x0;  // x0: of the first target of the warp
  bool inside;
};

// Notes the sources of one block that land on the targets of this warp.
template <typename A>
__device__ void note_sources(const Target<A>& target, int64_t block, const SplatShape& s,
                             Noted<A>* noted) {
  const int lane = threadIdx.x % 32;
  for (int row = 0; row < kRows; ++row) {
    const int64_t y = block / across(s) * kRows + row, x = block % across(s) * kColumns;
    const auto at = landing_within(target.flow, s, y, x + lane);
    const bool upper = at.y == target.y, lower = at.y + 1 == target.y;
    const auto column = static_cast<int>(at.x - target.x0);
    const bool lands =
        at.inside && (upper || lower) && at.x + 1 >= target.x0 && at.x < target.x0 + kColumns;
    const A down = upper ? 1 - at.fy : at.fy;
    for (unsigned votes = __ballot_sync(~0u, lands); votes; votes &= votes - 1) {
      const int from = __ffs(static_cast<int>(votes)) - 1;
      const int right = lane - __shfl_sync(~0u, column, from);  // 0: left target, 1: right
      const A fx = __shfl_sync(~0u, at.fx, from), fy = __shfl_sync(~0u, down, from);
      if (target.inside && (right == 0 || right == 1)) {
        const int place = noted->count++ * kThreads + threadIdx.x;
        noted->pixels[place] = y * s.width + x + from;
        noted->weights[place] = fy * (right ? fx : 1 - fx);
      }
      if (noted->count == kNoted) add_noted(target.image, target.out, s, noted);
    }
  }
}

template <typename A>
__global__ void __launch_bounds__(kThreads)
    splat_kernel(int64_t first_tile, const A* __restrict__ image, const A* __restrict__ flow,
                 const int64_t* __restrict__ boxes, A* __restrict__ out, SplatShape s) {
  int64_t* overlapping = shared_memory<int64_t>();  // blocks of sources, counted from `base`
  Noted<A> noted = {overlapping + kThreads, nullptr, 0, false};
  noted.weights = reinterpret_cast<A*>(noted.pixels + kNoted * kThreads);
  int* counts = reinterpret_cast<int*>(noted.weights + kNoted * kThreads);  // found by each warp
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t tile = first_tile + blockIdx.x, count = blocks_of(s), b = tile / count;
  const int64_t y0 = tile % count / across(s) * kRows, x0 = tile % across(s) * kColumns;
  const int64_t y = y0 + warp, x = x0 + lane, first = b * s.channels * s.pixels();
  const Target<A> target = {image + first,
                            flow + b * 2 * s.pixels(),
                            out + first + y * s.width + x,
                            y,
                            x0,
                            y < s.height && x < s.width};
  boxes += b * count * kBox;
  for (int64_t base = 0; base < count; base += kThreads) {
    bool overlaps = false;
    if (base + threadIdx.x < count) {
      const int64_t* box = boxes + (base + threadIdx.x) * kBox;
      overlaps =
          box[0] < y0 + kRows && box[1] + 1 >= y0 && box[2] < x0 + kColumns && box[3] + 1 >= x0;
    }
    const unsigned votes = __ballot_sync(~0u, overlaps);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    int found = 0, before = 0;
    for (int other = 0; other < kRows; ++other) {
      if (other < warp) before += counts[other];
      found += counts[other];
    }
    if (overlaps) overlapping[before + __popc(votes & ((1u << lane) - 1))] = base + threadIdx.x;
    __syncthreads();
    for (int n = 0; n < found; ++n) note_sources(target, overlapping[n], s, &noted);
    __syncthreads();  // the list has been read
  }
  if (target.inside) add_noted(target.image, target.out, s, &noted);
}

// A thread computes the gradients of one source.
template <typename A>
__global__ void splat_grad_kernel(int64_t first_tile, const A* __restrict__ g,
                                  const A* __restrict__ image, const A* __restrict__ flow,
                                  A* __restrict__ grad_image, A* __restrict__ grad_flow,
                                  SplatShape s) {
  const int64_t n = (first_tile + blockIdx.x) * kThreads + threadIdx.x;
  if (n >= s.batch * s.pixels()) return;
  const int64_t b = n / s.pixels(), pixel = n % s.pixels();
  const auto at = landing(flow + b * 2 * s.pixels(), s, pixel / s.width, pixel % s.width);
  A along_x = 0, along_y = 0;
  for (int64_t c = 0; c < s.channels; ++c) {
    const int64_t plane = (b * s.channels + c) * s.pixels();
    Sample<A> read = {0, 0, 0};
    if (at.inside) read = sample(g + plane, s, at);
    grad_image[plane + pixel] = read.value;
    if (!at.inside) continue;  // an infinite value times 0 would be NaN
    const A value = image[plane + pixel];
    along_x += value * read.over_x;
    along_y += value * read.over_y;
  }
  grad_flow[b * 2 * s.pixels() + pixel] = along_x;
  grad_flow[(b * 2 + 1) * s.pixels() + pixel] = along_y;
}

}  // namespace

int64_t splat_boxes(const SplatShape& s) { return s.batch * blocks_of(s) * kBox; }

template <typename A>
void splat(const A* image, const A* flow, int64_t* boxes, A* out, const SplatShape& s,
           void* stream) {
  const int64_t blocks = s.batch * blocks_of(s);
  launch(splat_boxes_kernel<A>, ceil_div(blocks, kRows), kThreads, 0, stream, flow, boxes, s);
  constexpr size_t noted = kNoted * kThreads * (sizeof(int64_t) + sizeof(A));
  constexpr size_t lists = kThreads * sizeof(int64_t) + kRows * sizeof(int);
  launch(splat_kernel<A>, blocks, kThreads, noted + lists, stream, image, flow,
         static_cast<const int64_t*>(boxes), out, s);
}

template <typename A>
void splat_grad(const A* g, const A* image, const A* flow, A* grad_image, A* grad_flow,
                const SplatShape& s, void* stream) {
  launch(splat_grad_kernel<A>, ceil_div(s.batch * s.pixels(), kThreads), kThreads, 0, stream, g,
         image, flow, grad_image, grad_flow, s);
}

#define FLOWMATCH_INSTANTIATE(A)                                                   \
  template void splat(const A*, const A*, int64_t*, A*, const SplatShape&, void*); \
  template void splat_grad(const A*, const A*, const A*, A*, A*, const SplatShape&, void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)

}  // namespace flowmatch::cuda
