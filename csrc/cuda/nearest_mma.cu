// Exact nearest neighbours by tensor cores. Products of halves (floats are rounded to bfloat16)
// give figures that are off by no more than a proven margin; a pair that might belong into a
// query's list by its figure is compared again by differences, in float, and only that decides.
// After the first tiles hardly any pair does, so the time is that of the products.
//
// A block has 128 queries and walks over the references, 128 at a time; slices of 32 dimensions
// are copied while the slice before is multiplied. Pairs that pass are queued in shared memory; a
// warp compares each, and one thread keeps a query's list, ordered by distance and index, so that
// the order of the queue, which is by chance, does not show.
//
// |figure - distance^2| <= slack * (|q|^2 + |r|^2): rounding to bfloat16 errs by at most
// 2^-8 + 2^-18 of |q||r| in the product, twice that in the figure, and 2 |q||r| <= |q|^2 + |r|^2;
// sums of D terms in float err by at most 2^-21 (D + 32) even where hardware truncates.
#include <utility>

#include "async.cuh"
#include "launch.cuh"
#include "mma.cuh"
#include "nearest_mma.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kTile = 128;              // vectors of each set
constexpr int kThreads = 256;           // 8 warps: 4 down, 32 queries each; 2 across, 64 references
constexpr int kSlice = 32;              // dimensions
constexpr int kPitch = kSlice + 8;      // halves from one vector to the next
constexpr int kStage = kTile * kPitch;  // halves of one set's slice
constexpr int kQueue = 512;             // pairs
constexpr int kDown = 2, kAcross = 8;   // products of a warp

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

// What a block keeps in shared memory.
template <typename T>
struct Room {
  Half<T> queries[2][kStage], references[2][kStage];
  uint32_t pairs[kQueue];  // query << 16 | reference, within the tile
  float figures[kQueue];
  float limits[kTile], query_squares[kTile], reference_squares[kTile];
  int count;
};

// Slice [start, start + kSlice) of `count` vectors, zeros beyond, into to[n][c]. `copies`: the
// vectors are halves, and 8 of them start at a multiple of 16 bytes.
template <typename T>
__device__ void stage(const T* from, int64_t count, int64_t depth, int64_t start, bool copies,
                      Half<T>* to) {
  if (copies) {
    if constexpr (sizeof(T) == sizeof(Half<T>)) {
      for (int i = threadIdx.x; i < kTile * kSlice / 8; i += kThreads) {
        const int n = i / (kSlice / 8), c = i % (kSlice / 8) * 8;
        const bool there = n < count && start + c < depth;
        copy_async(to + n * kPitch + c, from + (there ? n * depth + start + c : 0), there);
      }
    }
    return;
  }
  for (int i = threadIdx.x; i < kTile * kSlice; i += kThreads) {
    const int n = i / kSlice, c = i % kSlice;
    const bool there = n < count && start + c < depth;
    to[n * kPitch + c] = there ? half<T>(from[n * depth + start + c]) : narrow<Half<T>>(0.0f);
  }
}

// Products of a tile: sum[m][n] as mma.cuh says, rows 32 (warp % 4) + 16 m, columns 64 (warp / 4)
// + 8 n.
template <typename T>
__device__ void multiply(const T* query, int64_t queries, const T* reference, int64_t references,
                         int64_t depth, bool copies, Room<T>& room,
                         float (&sum)[kDown][kAcross][4]) {
  const int warp = threadIdx.x / 32, row = warp % 4 * 32, column = warp / 4 * 64;
#pragma unroll
  for (int n = 0; n < kDown * kAcross * 4; ++n) sum[n / 4 / kAcross][n / 4 % kAcross][n % 4] = 0;
  const auto begin = [&](int64_t start, int at) {
    stage(query, queries, depth, start, copies, room.queries[at]);
    stage(reference, references, depth, start, copies, room.references[at]);
    close_copies();
  };
  __syncthreads();  // the tile before has been used
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
      uint32_t left[kDown][4];
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
        load_left(room.queries[at] + (row + m * kMmaRows) * kPitch + k, kPitch, left[m]);
      }
#pragma unroll
      for (int n = 0; n < kAcross; ++n) {
        uint32_t right[2];
        load_right(room.references[at] + (column + n * kMmaColumns) * kPitch + k, kPitch, right);
#pragma unroll
        for (int m = 0; m < kDown; ++m) mma<Half<T>>(left[m], right, sum[m][n]);
      }
    }
    __syncthreads();  // the slice may be overwritten
  }
}

// The figure that decides, by a whole warp; the same bits in every lane, whatever was queued when.
template <typename T>
__device__ float compare(const T* query, const T* reference, int64_t depth, bool product) {
  float sum = 0;
  for (int64_t c = threadIdx.x % 32; c < depth; c += 32) {
    const float u = widen(query[c]), v = widen(reference[c]);
    sum += product ? u * v : (u - v) * (u - v);
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return product ? -sum : sum;
}

// Inserts by figure and then by number.
__device__ inline void insert_in_order(float* figures, int64_t* index, int64_t k, float figure,
                                       int64_t n) {
  const auto behind = [&](int64_t i) {
    return figure < figures[i] || (figure == figures[i] && (index[i] < 0 || n < index[i]));
  };
  if (!behind(k - 1)) return;
  int64_t at = k - 1;
  for (; at > 0 && behind(at - 1); --at) {
    figures[at] = figures[at - 1];
    index[at] = index[at - 1];
  }
  figures[at] = figure;
  index[at] = n;
}

struct Roles {
  const float *query_squares, *reference_squares;
  const bool* mask;               // of batch 0, or null
  int64_t mask_row, mask_column;  // steps from one query, and one reference, to the next
  float slack;
  bool copies;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 2)  // blocks of a multiprocessor: 128 registers
    nearest_mma_kernel(int64_t first_tile, const T* __restrict__ query,
                       const T* __restrict__ reference, float* distance, int64_t* index,
                       NearestShape s, Roles roles) {
  Room<T>& room = *shared_memory<Room<T>>();
  const int64_t tiles = ceil_div(s.queries, kTile), tile = first_tile + blockIdx.x;
  const int64_t b = tile / tiles, q0 = tile % tiles * kTile;
  const int64_t queries = length_of(s.query_lengths, b, s.queries) - q0;
  const int64_t references = length_of(s.reference_lengths, b, s.references);
  const bool product = s.metric == Metric::dot;
  query += (b * s.queries + q0) * s.depth;
  reference += b * s.references * s.depth;
  const bool* mask = roles.mask ? roles.mask + b * s.queries * s.references : nullptr;
  const int own = threadIdx.x;  // the query whose list this thread keeps
  const bool keeps = own < kTile && q0 + own < s.queries;
  float* figures = distance + (b * s.queries + q0 + own) * s.k;
  int64_t* found = index + (b * s.queries + q0 + own) * s.k;
  for (int64_t i = 0; keeps && i < s.k; ++i) {
    figures[i] = INFINITY;
    found[i] = -1;
  }
  if (own < kTile) {
    room.limits[own] = INFINITY;
    room.query_squares[own] = own < queries ? roles.query_squares[b * s.queries + q0 + own] : 0;
  }
  if (own == 0) room.count = 0;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp % 4 * 32 + lane / 4, column = warp / 4 * 64 + lane % 4 * 2;
  for (int64_t r0 = 0; r0 < references && queries > 0; r0 += kTile) {
    float sum[kDown][kAcross][4];
    if (own < kTile) {  // read by nobody before multiply() has met at a barrier
      const int64_t r = r0 + own;
      room.reference_squares[own] =
          r < references ? roles.reference_squares[b * s.references + r] : 0;
    }
    multiply(query, queries, reference + r0 * s.depth, references - r0, s.depth, roles.copies, room,
             sum);
    uint64_t queued = 0;  // which of this thread's 64 pairs
    while (true) {
      uint64_t passing = 0;
#pragma unroll
      for (int n = 0; n < kDown * kAcross * 4; ++n) {
        const int i = row + n / (kAcross * 4) * kMmaRows + n % 4 / 2 * 8;
        const int j = column + n / 4 % kAcross * kMmaColumns + n % 2;
        const float dot = sum[n / 4 / kAcross][n / 4 % kAcross][n % 4];
        const float squares = room.query_squares[i] + room.reference_squares[j];
        const float figure = product ? -dot : squares - 2 * dot;
        // Not "<=": what is no number passes, and is compared.
        const bool passes = i < queries && r0 + j < references &&
                            !(figure - roles.slack * squares > room.limits[i]);
        passing |= uint64_t{passes} << n;
      }
      passing &= ~queued;
      while (passing) {
        const int n = __ffsll(static_cast<long long>(passing)) - 1;
        const int i = row + n / (kAcross * 4) * kMmaRows + n % 4 / 2 * 8;
        const int j = column + n / 4 % kAcross * kMmaColumns + n % 2;
        if (!mask || mask[(q0 + i) * roles.mask_row + (r0 + j) * roles.mask_column]) {
          const int slot = atomicAdd(&room.count, 1);
          if (slot >= kQueue) break;  // the next round, when limits are lower
          room.pairs[slot] = static_cast<uint32_t>(i) << 16 | static_cast<uint32_t>(j);
        }
        queued |= uint64_t{1} << n;
        passing &= passing - 1;
      }
      const bool more = __syncthreads_or(passing != 0);
      const int count = min(room.count, kQueue);
      if (count == 0) break;
      for (int slot = warp; slot < count; slot += kThreads / 32) {
        const int64_t i = room.pairs[slot] >> 16, j = r0 + (room.pairs[slot] & 0xffff);
        const float figure =
            compare(query + i * s.depth, reference + j * s.depth, s.depth, product);
        if (lane == 0) room.figures[slot] = figure;
      }
      __syncthreads();
      if (own == 0) room.count = 0;
      for (int slot = 0; keeps && slot < count; ++slot) {
        if (static_cast<int>(room.pairs[slot] >> 16) != own || !isfinite(room.figures[slot])) {
          continue;
        }
        insert_in_order(figures, found, s.k, room.figures[slot], r0 + (room.pairs[slot] & 0xffff));
        room.limits[own] = figures[s.k - 1];
      }
      __syncthreads();  // limits are lower, the queue is empty
      if (!more) break;
    }
  }
  for (int64_t i = 0; keeps && i < s.k; ++i) {
    figures[i] = product ? -figures[i] : sqrt(figures[i]);
  }
}

template <typename T>
__global__ void squares_kernel(int64_t first_tile, const T* vectors, float* squares, int64_t count,
                               int64_t depth) {
  const int64_t n = (first_tile + blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (n >= count) return;
  const T* v = vectors + n * depth;
  float sum = 0;
  for (int64_t c = threadIdx.x % 32; c < depth; c += 32) sum += widen(v[c]) * widen(v[c]);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) squares[n] = sum;
}

// Whether the nearest reference's own nearest, found with roles exchanged, is this query.
__global__ void both_ways_kernel(int64_t first_tile, const int64_t* index, const int64_t* back,
                                 bool* mutual, NearestShape s) {
  const int64_t n = (first_tile + blockIdx.x) * kThreads + threadIdx.x;
  if (n >= s.batch * s.queries) return;
  const int64_t r = index[n * s.k];
  mutual[n] = r >= 0 && back[n / s.queries * s.references + r] == n % s.queries;
}

template <typename T>
void run(const T* query, const T* reference, float* distance, int64_t* index, const NearestShape& s,
         const Roles& roles, void* stream) {
  launch(nearest_mma_kernel<T>, s.batch * ceil_div(s.queries, kTile), kThreads, sizeof(Room<T>),
         stream, query, reference, distance, index, s, roles);
}

}  // namespace

template <typename T>
bool nearest_mma(const T* query, const T* reference, float* distance, int64_t* index, bool* mutual,
                 uint64_t* scratch, const NearestShape& s, void* stream) {
  static_assert(sizeof(Room<T>) <= 48 << 10);  // what a kernel gets without asking for more
  if (s.depth == 0 || !can_run_mma(nearest_mma_kernel<T>)) return false;
  const int64_t queries = s.batch * s.queries, references = s.batch * s.references;
  int64_t* back = reinterpret_cast<int64_t*>(scratch);
  float* back_distance = reinterpret_cast<float*>(scratch + (mutual ? references : 0));
  float* query_squares = back_distance + (mutual ? references : 0);
  float* reference_squares = query_squares + queries;
  constexpr int warps = kThreads / 32;
  launch(squares_kernel<T>, ceil_div(queries, warps), kThreads, 0, stream, query, query_squares,
         queries, s.depth);
  launch(squares_kernel<T>, ceil_div(references, warps), kThreads, 0, stream, reference,
         reference_squares, references, s.depth);
  const float rounding = std::is_same_v<T, float> ? 0.00391f : 0.0f;  // above 2^-8 + 2^-18
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const Roles there = {query_squares,
                       reference_squares,
                       s.mask,
                       s.references,
                       1,
                       rounding + 4.8e-7f * static_cast<float>(s.depth + 32),
                       sizeof(T) == 2 && s.depth % 8 == 0 && aligned(query) && aligned(reference)};
  run(query, reference, distance, index, s, there, stream);
  if (!mutual) return true;
  const NearestShape swapped = {s.batch,  s.references,        s.queries,       s.depth, 1,
                                s.metric, s.reference_lengths, s.query_lengths, s.mask};
  Roles exchanged = there;
  std::swap(exchanged.query_squares, exchanged.reference_squares);
  std::swap(exchanged.mask_row, exchanged.mask_column);
  run(reference, query, back_distance, back, swapped, exchanged, stream);
  launch(both_ways_kernel, ceil_div(queries, kThreads), kThreads, 0, stream,
         static_cast<const int64_t*>(index), static_cast<const int64_t*>(back), mutual, s);
  return true;
}

#define FLOWMATCH_INSTANTIATE(T)                                                    \
  template bool nearest_mma(const T*, const T*, float*, int64_t*, bool*, uint64_t*, \
                            const NearestShape&, void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
