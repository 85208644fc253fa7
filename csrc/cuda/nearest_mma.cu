// Exact nearest neighbours on tensor cores. Products of half types (floats are rounded to bfloat16)
// give estimates of the squared distances, with a proven bound on their errors. A pair whose
// estimate might put it into a query's list is compared again by differences, in float, and only
// that value decides. After the first tiles few pairs need this, so the products dominate the run
// time.
//
// A block has 128 queries and walks over the references, 128 at a time. Slices of 32 dimensions are
// copied while the previous slice is multiplied. Pairs that pass the first test are queued in
// shared memory, and a warp compares each. One thread keeps a query's list, ordered by distance and
// index, so that the order of the queue, which varies, does not change the result.
//
// |estimate - distance^2| <= slack * (|q|^2 + |r|^2). Rounding to bfloat16 causes an error of at
// most 2^-8 + 2^-18 of |q||r| in the product and twice that in the estimate, where
// 2 |q||r| <= |q|^2 + |r|^2. Sums of D terms in float have an error of at most 2^-21 (D + 32), even
// if the hardware truncates.
#include <utility>

#include "async.cuh"
#include "launch.cuh"
#include "mma.cuh"
#include "nearest_mma.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kTile = 128;              // vectors of each set
constexpr int kThreads = 256;           // 8 warps: 4 down, 32 queries each; 2 across, 64 references
constexpr int kSlice = 32;              // dimensions in shared memory at a time
constexpr int kPitch = kSlice + 8;      // elements from one vector to the next
constexpr int kStage = kTile * kPitch;  // elements of one set's slice
constexpr int kQueue = 512;             // pairs in the queue
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

// The shared memory of a block.
template <typename T>
struct Shared {
  Half<T> queries[2][kStage], references[2][kStage];
  uint32_t pairs[kQueue];  // query << 16 | reference, counted within the tile
  float values[kQueue];
  float limits[kTile], query_squares[kTile], reference_squares[kTile];
  int count;
};

// Copies dimensions [start, start + kSlice) of `count` vectors into to[n][c], padded with zeros.
// `copies`: asynchronous copies are possible, because the vectors have a half type and every eighth
// element is at a multiple of 16 bytes.
template <typename T>
__device__ void stage(const T* from, int64_t count, int64_t depth, int64_t start, bool copies,
                      Half<T>* to) {
  if (copies) {
    if constexpr (sizeof(T) == sizeof(Half<T>)) {
      for (int i = threadIdx.x; i < kTile * kSlice / 8; i += kThreads) {
        const int n = i / (kSlice / 8), c = i % (kSlice / 8) * 8;
        const bool valid = n < count && start + c < depth;
        copy_async(to + n * kPitch + c, from + (valid ? n * depth + start + c : 0), valid);
      }
    }
    return;
  }
  for (int i = threadIdx.x; i < kTile * kSlice; i += kThreads) {
    const int n = i / kSlice, c = i % kSlice;
    const bool valid = n < count && start + c < depth;
    to[n * kPitch + c] = valid ? half<T>(from[n * depth + start + c]) : narrow<Half<T>>(0.0f);
  }
}

// Computes the products of a tile: sum[m][n] in the layout of mma.cuh, rows 32 (warp % 4) + 16 m,
// columns 64 (warp / 4) + 8 n.
template <typename T>
__device__ void multiply(const T* query, int64_t queries, const T* reference, int64_t references,
                         int64_t depth, bool copies, Shared<T>& shared,
                         float (&sum)[kDown][kAcross][4]) {
  const int warp = threadIdx.x / 32, row = warp % 4 * 32, column = warp / 4 * 64;
#pragma unroll
  for (int n = 0; n < kDown * kAcross * 4; ++n) sum[n / 4 / kAcross][n / 4 % kAcross][n % 4] = 0;
  const auto begin = [&](int64_t start, int at) {
    stage(query, queries, depth, start, copies, shared.queries[at]);
    stage(reference, references, depth, start, copies, shared.references[at]);
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
      uint32_t left[kDown][4];
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
        load_left(shared.queries[at] + (row + m * kMmaRows) * kPitch + k, kPitch, left[m]);
      }
#pragma unroll
      for (int n = 0; n < kAcross; ++n) {
        uint32_t right[2];
        load_right(shared.references[at] + (column + n * kMmaColumns) * kPitch + k, kPitch, right);
#pragma unroll
        for (int m = 0; m < kDown; ++m) mma<Half<T>>(left[m], right, sum[m][n]);
      }
    }
    __syncthreads();  // the slice may be overwritten
  }
}

// The exact value of a pair, which decides. Computed by a whole warp, with the same bits in every
// lane and independent of the queue.
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

// Inserts in order of value and then of index.
__device__ inline void insert_in_order(float* values, int64_t* index, int64_t k, float value,
                                       int64_t n) {
  const auto precedes = [&](int64_t i) {
    return value < values[i] || (value == values[i] && (index[i] < 0 || n < index[i]));
  };
  if (!precedes(k - 1)) return;
  int64_t at = k - 1;
  for (; at > 0 && precedes(at - 1); --at) {
    values[at] = values[at - 1];
    index[at] = index[at - 1];
  }
  values[at] = value;
  index[at] = n;
}

// The inputs of one direction of the search: queries to references, or with the roles exchanged.
struct Roles {
  const float *query_squares, *reference_squares;
  const bool* mask;               // of the first batch item, or null
  int64_t mask_row, mask_column;  // steps in the mask to the next query and the next reference
  float slack;
  bool copies;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 2)  // two blocks per multiprocessor: 128 registers
    nearest_mma_kernel(int64_t first_tile, const T* __restrict__ query,
                       const T* __restrict__ reference, float* distance, int64_t* index,
                       NearestShape s, Roles roles) {
  Shared<T>& shared = *shared_memory<Shared<T>>();
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
  float* values = distance + (b * s.queries + q0 + own) * s.k;
  int64_t* indices = index + (b * s.queries + q0 + own) * s.k;
  for (int64_t i = 0; keeps && i < s.k; ++i) {
    values[i] = INFINITY;
    indices[i] = kNoNeighbour;
  }
  if (own < kTile) {
    shared.limits[own] = INFINITY;
    shared.query_squares[own] = own < queries ? roles.query_squares[b * s.queries + q0 + own] : 0;
  }
  if (own == 0) shared.count = 0;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp % 4 * 32 + lane / 4, column = warp / 4 * 64 + lane % 4 * 2;
  for (int64_t r0 = 0; r0 < references && queries > 0; r0 += kTile) {
    float sum[kDown][kAcross][4];
    if (own < kTile) {  // not read before the barriers in multiply()
      const int64_t r = r0 + own;
      shared.reference_squares[own] =
          r < references ? roles.reference_squares[b * s.references + r] : 0;
    }
    multiply(query, queries, reference + r0 * s.depth, references - r0, s.depth, roles.copies,
             shared, sum);
    uint64_t queued = 0;  // bit mask of this thread's 64 pairs
    while (true) {
      uint64_t passing = 0;
#pragma unroll
      for (int n = 0; n < kDown * kAcross * 4; ++n) {
        const int i = row + n / (kAcross * 4) * kMmaRows + n % 4 / 2 * 8;
        const int j = column + n / 4 % kAcross * kMmaColumns + n % 2;
        const float dot = sum[n / 4 / kAcross][n / 4 % kAcross][n % 4];
        const float squares = shared.query_squares[i] + shared.reference_squares[j];
        const float estimate = product ? -dot : squares - 2 * dot;
        // Written with "!(>)" so that NaN passes, and is compared exactly.
        const bool passes = i < queries && r0 + j < references &&
                            !(estimate - roles.slack * squares > shared.limits[i]);
        passing |= uint64_t{passes} << n;
      }
      passing &= ~queued;
      while (passing) {
        const int n = __ffsll(static_cast<long long>(passing)) - 1;
        const int i = row + n / (kAcross * 4) * kMmaRows + n % 4 / 2 * 8;
        const int j = column + n / 4 % kAcross * kMmaColumns + n % 2;
        if (!mask || mask[(q0 + i) * roles.mask_row + (r0 + j) * roles.mask_column]) {
          const int slot = atomicAdd(&shared.count, 1);
          if (slot >= kQueue) break;  // queue full: retried in the next round, with lower limits
          shared.pairs[slot] = static_cast<uint32_t>(i) << 16 | static_cast<uint32_t>(j);
        }
        queued |= uint64_t{1} << n;
        passing &= passing - 1;
      }
      const bool pending = __syncthreads_or(passing != 0);
      const int count = min(shared.count, kQueue);
      if (count == 0) break;
      for (int slot = warp; slot < count; slot += kThreads / 32) {
        const int64_t i = shared.pairs[slot] >> 16, j = r0 + (shared.pairs[slot] & 0xffff);
        const float value = compare(query + i * s.depth, reference + j * s.depth, s.depth, product);
        if (lane == 0) shared.values[slot] = value;
      }
      __syncthreads();
      if (own == 0) shared.count = 0;
      for (int slot = 0; keeps && slot < count; ++slot) {
        if (static_cast<int>(shared.pairs[slot] >> 16) != own || !isfinite(shared.values[slot])) {
          continue;
        }
        insert_in_order(values, indices, s.k, shared.values[slot],
                        r0 + (shared.pairs[slot] & 0xffff));
        shared.limits[own] = values[s.k - 1];
      }
      __syncthreads();  // the limits have been updated and the queue is empty
      if (!pending) break;
    }
  }
  for (int64_t i = 0; keeps && i < s.k; ++i) {
    values[i] = product ? -values[i] : sqrt(values[i]);
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

// Compares the results of both directions: whether a query is the nearest of its nearest reference.
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
  launch(nearest_mma_kernel<T>, s.batch * ceil_div(s.queries, kTile), kThreads, sizeof(Shared<T>),
         stream, query, reference, distance, index, s, roles);
}

}  // namespace

template <typename T>
bool nearest_mma(const T* query, const T* reference, float* distance, int64_t* index, bool* mutual,
                 uint64_t* scratch, const NearestShape& s, void* stream) {
  static_assert(sizeof(Shared<T>) <= 48 << 10);  // the limit without opting in to more
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
  const float rounding = std::is_same_v<T, float> ? 0.00391f : 0.0f;  // more than 2^-8 + 2^-18
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const Roles forward = {
      query_squares,
      reference_squares,
      s.mask,
      s.references,
      1,
      rounding + 4.8e-7f * static_cast<float>(s.depth + 32),
      sizeof(T) == 2 && s.depth % 8 == 0 && aligned(query) && aligned(reference)};
  run(query, reference, distance, index, s, forward, stream);
  if (!mutual) return true;
  const NearestShape swapped = {s.batch,  s.references,        s.queries,       s.depth, 1,
                                s.metric, s.reference_lengths, s.query_lengths, s.mask};
  Roles exchanged = forward;
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
