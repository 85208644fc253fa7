// Exact nearest neighbours on tensor cores. Products of half types (floats are rounded to bfloat16)
// give estimates of the squared distances, with a proven bound on their errors. A pair whose
// estimate might put it into a query's list is compared again by differences, in float, and only
// that value decides. After the first tiles few pairs need this, so the products dominate the run
// time.
//
// A block has 128 queries and walks over a part of the references, 128 at a time; the lists of the
// parts are merged. Pairs that pass the first test are queued in shared memory, and teams of lanes
// compare them. One thread keeps a query's list, ordered by distance and index, so that the order
// of the queue, which varies, does not change the result.
//
// |estimate - distance^2| <= slack * (|q|^2 + |r|^2). Rounding to bfloat16 causes an error of at
// most 2^-8 + 2^-18 of |q||r| in the product and twice that in the estimate, where
// 2 |q||r| <= |q|^2 + |r|^2. Sums of D terms in float have an error of at most 2^-21 (D + 32), even
// if the hardware truncates.
#include <utility>

#include "lists.cuh"
#include "products.cuh"
#include "tensor_cores.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kQueue = 512;  // pairs in the queue

// The shared memory of a block.
template <typename T>
struct Shared {
  Operands<T> operands;
  uint32_t pairs[kQueue];  // query << 16 | reference, counted within the tile
  float values[kQueue];
  float limits[kTile], query_squares[kTile], reference_squares[kTile];
  int count;
};

// The lanes that compare a pair, and the adjacent dimensions that each loads at once. Where rows
// can be read 16 bytes at a time, a warp compares four pairs while it waits for memory once.
template <bool kWhole>
constexpr int kTeam = kWhole ? 8 : 32;
template <typename T, bool kWhole>
constexpr int kTogether = kWhole ? 16 / sizeof(T) : 1;

// The exact value of a pair, which decides. Computed by a team of lanes, with the same bits in each
// and independent of the queue.
template <bool kWhole, typename T>
__device__ float compare(const T* query, const T* reference, int64_t depth, bool product) {
  constexpr int kCount = kTogether<T, kWhole>;
  struct alignas(kCount * sizeof(T)) Group {
    T at[kCount];
  };
  float sum = 0;
#pragma unroll(kWhole ? 2 : 4)
  for (int64_t c = threadIdx.x % kTeam<kWhole> * kCount; c < depth; c += kTeam<kWhole> * kCount) {
    const Group left = *reinterpret_cast<const Group*>(query + c);
    const Group right = *reinterpret_cast<const Group*>(reference + c);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const float u = widen(left.at[k]), v = widen(right.at[k]);
      sum += product ? u * v : (u - v) * (u - v);
    }
  }
  for (int step = kTeam<kWhole> / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(~0u, sum, step);
  }
  return product ? -sum : sum;
}

// The inputs of one direction of the search: queries to references, or with the roles exchanged.
struct Roles {
  const float *query_squares, *reference_squares;
  const bool* mask;               // of the first batch item, or null
  int64_t mask_row, mask_column;  // steps in the mask to the next query and the next reference
  float slack;
  int64_t parts;
};

template <typename T, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2)  // two blocks per multiprocessor: 128 registers
    nearest_mma_kernel(int64_t first_tile, const T* __restrict__ query,
                       const T* __restrict__ reference, float* distance, int64_t* index,
                       NearestShape s, Roles roles) {
  Shared<T>& shared = *shared_memory<Shared<T>>();
  const int64_t tiles = ceil_div(s.queries, kTile), block = first_tile + blockIdx.x;
  const int64_t tile = block / roles.parts, part = block % roles.parts;
  const int64_t b = tile / tiles, q0 = tile % tiles * kTile;
  const int64_t queries = length_of(s.query_lengths, b, s.queries) - q0;
  const int64_t all = length_of(s.reference_lengths, b, s.references), steps = ceil_div(all, kTile);
  const int64_t begin = part * steps / roles.parts * kTile;
  const int64_t references = min(all, (part + 1) * steps / roles.parts * kTile);  // end of the part
  const bool product = s.metric == Metric::dot;
  query += (b * s.queries + q0) * s.depth;
  reference += b * s.references * s.depth;
  const bool* mask = roles.mask ? roles.mask + b * s.queries * s.references : nullptr;
  const int own = threadIdx.x;  // the query whose list this thread keeps
  const bool keeps = own < kTile && q0 + own < s.queries;
  const int64_t list = ((part * s.batch + b) * s.queries + q0 + own) * s.k;
  float* values = distance + list;
  int64_t* indices = index + list;
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
  for (int64_t r0 = begin; r0 < references && queries > 0; r0 += kTile) {
    float sum[kDown][kAcross][4];
    if (own < kTile) {  // not read before the barriers in multiply()
      const int64_t r = r0 + own;
      shared.reference_squares[own] =
          r < references ? roles.reference_squares[b * s.references + r] : 0;
    }
    multiply<kWhole>(query, queries, reference + r0 * s.depth, references - r0, s.depth,
                     shared.operands, sum);
    // estimate - slack * squares > limit, with what depends on the row or the column alone put
    // aside: factor * dot + columns[j] > limits[i] - rows[i].
    const float factor = product ? -1.0f : -2.0f;
    const float share = product ? -roles.slack : 1 - roles.slack;
    float columns[kAcross * 2];
#pragma unroll
    for (int n = 0; n < kAcross * 2; ++n) {
      columns[n] = share * shared.reference_squares[column + n / 2 * kMmaColumns + n % 2];
    }
    uint64_t queued = 0;  // bit mask of this thread's 64 pairs: those that exist no more, or never
    if (references - r0 < kTile || queries < kTile) {
#pragma unroll 1  // rare
      for (int n = 0; n < kDown * kAcross * 4; ++n) {
        const int i = row + n / (kAcross * 4) * kMmaRows + n % 4 / 2 * 8;
        const int j = column + n / 4 % kAcross * kMmaColumns + n % 2;
        queued |= uint64_t{i >= queries || r0 + j >= references} << n;
      }
    }
    while (true) {
      const auto estimate_of = [&](int m, int n) {
        return factor * sum[m / 2][n / 2][m % 2 * 2 + n % 2] + columns[n];
      };
      float limits[kDown * 2];
      bool any = false;  // of the pairs; after the first tiles there rarely is one
#pragma unroll
      for (int m = 0; m < kDown * 2; ++m) {
        const int i = row + m / 2 * kMmaRows + m % 2 * 8;
        limits[m] = shared.limits[i] - share * shared.query_squares[i];
        // Written with "!(>)" so that NaN passes, and is compared exactly.
#pragma unroll
        for (int n = 0; n < kAcross * 2; ++n) any |= !(estimate_of(m, n) > limits[m]);
      }
      uint64_t passing = 0;
      if (any) {
#pragma unroll
        for (int m = 0; m < kDown * 2; ++m) {
#pragma unroll
          for (int n = 0; n < kAcross * 2; ++n) {
            const int bit = (m / 2 * kAcross + n / 2) * 4 + m % 2 * 2 + n % 2;
            passing |= uint64_t{!(estimate_of(m, n) > limits[m])} << bit;
          }
        }
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
      constexpr int kLanes = kTeam<kWhole>;
      for (int first = warp * (32 / kLanes); first < count; first += kThreads / kLanes) {
        const int slot = min(first + lane / kLanes, count - 1);  // the last one more than once
        const int64_t i = shared.pairs[slot] >> 16, j = r0 + (shared.pairs[slot] & 0xffff);
        const float value =
            compare<kWhole>(query + i * s.depth, reference + j * s.depth, s.depth, product);
        if (lane % kLanes == 0) shared.values[slot] = value;
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
void run(const T* query, const T* reference, float* distance, int64_t* index, uint64_t* scratch,
         const NearestShape& s, Roles roles, void* stream) {
  const int64_t count = s.batch * s.queries;
  roles.parts = nearest_parts(s);
  const PartLists<float> lists(distance, index, scratch, roles.parts, count, s.k);
  const auto kernel = is_whole(query, reference, s.depth) ? nearest_mma_kernel<T, true>
                                                          : nearest_mma_kernel<T, false>;
  launch(kernel, s.batch * ceil_div(s.queries, kTile) * roles.parts, kThreads, sizeof(Shared<T>),
         stream, query, reference, lists.values, lists.indices, s, roles);
  merge(lists, distance, index, count, s.k, roles.parts, s.metric == Metric::dot, stream);
}

}  // namespace

template <typename T>
bool nearest_mma(const T* query, const T* reference, float* distance, int64_t* index, bool* mutual,
                 uint64_t* scratch, const NearestShape& s, void* stream) {
  static_assert(sizeof(Shared<T>) <= 48 << 10);  // the limit without opting in to more
  if (s.depth == 0 || !can_run_mma(nearest_mma_kernel<T, true>)) return false;
  const int64_t queries = s.batch * s.queries, references = s.batch * s.references;
  int64_t* back = reinterpret_cast<int64_t*>(scratch);
  float* back_distance = reinterpret_cast<float*>(scratch + (mutual ? references : 0));
  float* query_squares = back_distance + (mutual ? references : 0);
  float* reference_squares = query_squares + queries;
  uint64_t* lists = scratch + nearest_scratch(s, mutual) - nearest_lists(s, mutual);
  squares(query, query_squares, queries, s.depth, stream);
  squares(reference, reference_squares, references, s.depth, stream);
  const float rounding = std::is_same_v<T, float> ? 0.00391f : 0.0f;  // more than 2^-8 + 2^-18
  const Roles forward = {query_squares,
                         reference_squares,
                         s.mask,
                         s.references,
                         1,
                         rounding + 4.8e-7f * static_cast<float>(s.depth + 32),
                         1};
  run(query, reference, distance, index, lists, s, forward, stream);
  if (!mutual) return true;
  const NearestShape swapped = exchanged(s);
  Roles backward = forward;
  std::swap(backward.query_squares, backward.reference_squares);
  std::swap(backward.mask_row, backward.mask_column);
  run(reference, query, back_distance, back, lists, swapped, backward, stream);
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
