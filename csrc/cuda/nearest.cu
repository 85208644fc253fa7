// Exact nearest neighbours on CUDA cores, for doubles and on GPUs that cannot run nearest_mma.cu. A
// block has 64 queries and walks over the references, 64 at a time. Pairs are ordered by a value:
// the squared distance from differences, or the negative product. One thread keeps a query's list,
// in the output array, and rarely changes it: most values are above its last. For the mutual test
// each tile's smallest value of a reference is combined with the query's index into a 64-bit key
// and merged by atomicMin, so that the result does not depend on the order of the blocks.
#include "../nearest.h"
#include "nearest_mma.cuh"
#include "pairs.cuh"

namespace flowmatch::cuda {
namespace {

constexpr int kValuePitch = kPairTile + 1;
constexpr uint64_t kNoQuery = ~uint64_t{0};

template <typename A>
__device__ A infinity() {
  return static_cast<A>(INFINITY);
}

// A key for atomicMin: bits that order as integers like the floats they come from, then the query's
// index.
__device__ inline uint64_t column_key(float value, int64_t query) {
  value += 0.0f;  // turns -0 into 0
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits ^= bits >> 31 ? ~0u : 0x80000000u;
  return uint64_t{bits} << 32 | static_cast<uint32_t>(query);
}

__device__ inline void lower(uint64_t* column, uint64_t key) {
  atomicMin(reinterpret_cast<unsigned long long*>(column), static_cast<unsigned long long>(key));
}

__device__ inline bool allowed(const bool* mask, int64_t at) { return !mask || mask[at]; }

template <typename T>
__global__ void __launch_bounds__(kPairThreads)
    nearest_kernel(int64_t first_tile, const T* __restrict__ query, const T* __restrict__ reference,
                   Sum<T>* distance, int64_t* index, uint64_t* columns, NearestShape s) {
  using A = Sum<T>;
  const int64_t tiles = ceil_div(s.queries, kPairTile), tile = first_tile + blockIdx.x;
  const int64_t b = tile / tiles, q0 = tile % tiles * kPairTile;
  const int64_t queries = length_of(s.query_lengths, b, s.queries);
  const int64_t references = length_of(s.reference_lengths, b, s.references);
  const bool product = s.metric == Metric::dot;
  const int64_t mine = q0 + threadIdx.x;  // the query whose list this thread keeps
  const bool keeps = threadIdx.x < kPairTile && mine < s.queries;
  A* values = distance + (b * s.queries + mine) * s.k;
  int64_t* indices = index + (b * s.queries + mine) * s.k;
  for (int64_t i = 0; keeps && i < s.k; ++i) {
    values[i] = infinity<A>();
    indices[i] = kNoNeighbour;
  }
  A last = infinity<A>();
  A* shared = shared_memory<A>();
  query += b * s.queries * s.depth;
  reference += b * s.references * s.depth;
  const bool* mask = s.mask ? s.mask + b * s.queries * s.references : nullptr;
  for (int64_t r0 = 0; r0 < references && q0 < queries; r0 += kPairTile) {
    A sum[4][4];
    pair_tile(query + q0 * s.depth, queries - q0, reference + r0 * s.depth, references - r0,
              s.depth, product, shared, sum);
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      const int i = row + n / 4, j = column + n % 4;
      const A value = product ? -sum[n / 4][n % 4] : sum[n / 4][n % 4];
      const bool valid = q0 + i < queries && r0 + j < references && isfinite(value) &&
                         allowed(mask, (q0 + i) * s.references + r0 + j);
      shared[i * kValuePitch + j] = valid ? value : infinity<A>();
    }
    __syncthreads();
    if (keeps) {
      for (int j = 0; j < kPairTile; ++j) {
        const A value = shared[threadIdx.x * kValuePitch + j];
        if (!(value < last)) continue;
        insert(values, indices, s.k, value, r0 + j);
        last = values[s.k - 1];
      }
    } else if (columns && threadIdx.x >= kPairTile && threadIdx.x < 2 * kPairTile) {
      if constexpr (sizeof(A) == 4) {
        const int j = threadIdx.x - kPairTile;
        uint64_t best = kNoQuery;
        for (int i = 0; i < kPairTile; ++i) {
          const A value = shared[i * kValuePitch + j];
          if (isfinite(value)) best = min(best, column_key(value, q0 + i));
        }
        if (best != kNoQuery) lower(&columns[b * s.references + r0 + j], best);
      }
    }
    __syncthreads();  // the values have been read
  }
  for (int64_t i = 0; keeps && i < s.k; ++i) {
    values[i] = product ? -values[i] : sqrt(values[i]);
  }
}

// The mutual test for doubles, which do not fit into a key with an index: a warp compares reference
// r with all queries.
template <typename T>
__device__ bool has_nearer(const T* query, const T* reference, int64_t b, int64_t n, int64_t r,
                           const NearestShape& s) {
  using A = Sum<T>;
  const bool product = s.metric == Metric::dot;
  const T* target = reference + (b * s.references + r) * s.depth;
  const auto pair_value = [&](int64_t q) {
    const T* from = query + (b * s.queries + q) * s.depth;
    A sum = 0;
    for (int64_t c = 0; c < s.depth; ++c) {
      const A u = widen(from[c]), v = widen(target[c]);
      sum += product ? -(u * v) : (u - v) * (u - v);
    }
    return sum;
  };
  const A own = pair_value(n);
  bool nearer = false;
  for (int64_t q = threadIdx.x % 32; q < length_of(s.query_lengths, b, s.queries); q += 32) {
    if (q == n || (s.mask && !s.mask[(b * s.queries + q) * s.references + r])) continue;
    const A other = pair_value(q);
    nearer |= isfinite(other) && (other < own || (other == own && q < n));
  }
  return __any_sync(~0u, nearer);
}

template <typename T>
__global__ void mutual_kernel(int64_t first_tile, const T* query, const T* reference,
                              const int64_t* index, const uint64_t* columns, bool* mutual,
                              NearestShape s) {
  const int64_t n = (first_tile + blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (n >= s.batch * s.queries) return;
  const int64_t b = n / s.queries, q = n % s.queries, r = index[n * s.k];
  bool both = r >= 0;
  if constexpr (sizeof(Sum<T>) == 4) {
    both = both && static_cast<uint32_t>(columns[b * s.references + r]) == static_cast<uint32_t>(q);
  } else {
    both = both && !has_nearer(query, reference, b, q, r, s);
  }
  if (threadIdx.x % 32 == 0) mutual[n] = both;
}

__global__ void clear_kernel(int64_t first_tile, uint64_t* columns, int64_t count) {
  const int64_t i = (first_tile + blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) columns[i] = kNoQuery;
}

// ---------------------------------------------------------------------------------------------
// Hamming distances. A thread has one query; a tile of references is in shared memory, unless a
// single reference is too long for it.

constexpr int kBitThreads = 128;
constexpr int64_t kBitWords = 2048;  // words of references in shared memory

__global__ void __launch_bounds__(kBitThreads)
    hamming_kernel(int64_t first_tile, const uint64_t* __restrict__ query,
                   const uint64_t* __restrict__ reference, int32_t* distance, int64_t* index,
                   uint64_t* columns, HammingShape s, int64_t tile_references) {
  const int64_t tiles = ceil_div(s.queries, kBitThreads), tile = first_tile + blockIdx.x;
  const int64_t b = tile / tiles, q = tile % tiles * kBitThreads + threadIdx.x;
  const int64_t queries = length_of(s.query_lengths, b, s.queries);
  const int64_t references = length_of(s.reference_lengths, b, s.references);
  const bool valid = q < queries;
  int32_t* values = distance + (b * s.queries + q) * s.k;
  int64_t* indices = index + (b * s.queries + q) * s.k;
  const int32_t no_count = 0x7fffffff;
  for (int64_t i = 0; q < s.queries && i < s.k; ++i) {
    values[i] = no_count;
    indices[i] = kNoNeighbour;
  }
  int32_t last = no_count;
  uint64_t* shared = shared_memory<uint64_t>();
  const uint64_t* own = query + (b * s.queries + (valid ? q : 0)) * s.words;
  const bool* mask = s.mask ? s.mask + (b * s.queries + q) * s.references : nullptr;
  for (int64_t r0 = 0; r0 < references; r0 += tile_references) {
    const int64_t count = min(tile_references, references - r0);
    const uint64_t* tile_words = reference + (b * s.references + r0) * s.words;
    if (s.words <= kBitWords) {
      __syncthreads();  // the previous tile has been read
      for (int64_t i = threadIdx.x; i < count * s.words; i += kBitThreads)
        shared[i] = tile_words[i];
      __syncthreads();
      tile_words = shared;
    }
    for (int64_t j = 0; j < count; ++j) {
      int32_t bits = 0;
      for (int64_t w = 0; valid && w < s.words; ++w) {
        bits += __popcll(own[w] ^ tile_words[j * s.words + w]);
      }
      const bool is_pair = valid && (!mask || mask[r0 + j]);
      if (is_pair && bits < last) {
        insert(values, indices, s.k, bits, r0 + j);
        last = values[s.k - 1];
      }
      if (!columns) continue;
      uint64_t key = is_pair
                         ? uint64_t{static_cast<uint32_t>(bits)} << 32 | static_cast<uint32_t>(q)
                         : kNoQuery;
      for (int step = 16; step > 0; step /= 2) key = min(key, __shfl_xor_sync(~0u, key, step));
      if (threadIdx.x % 32 == 0 && key != kNoQuery) {
        lower(&columns[b * s.references + r0 + j], key);
      }
    }
  }
  for (int64_t i = 0; q < s.queries && i < s.k; ++i) {
    if (indices[i] < 0) values[i] = -1;
  }
}

__global__ void hamming_mutual_kernel(int64_t first_tile, const int64_t* index,
                                      const uint64_t* columns, bool* mutual, HammingShape s) {
  const int64_t n = (first_tile + blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= s.batch * s.queries) return;
  const int64_t r = index[n * s.k];
  mutual[n] = r >= 0 && static_cast<uint32_t>(columns[n / s.queries * s.references + r]) ==
                            static_cast<uint32_t>(n % s.queries);
}

constexpr int kFlatThreads = 256;

void clear(uint64_t* columns, int64_t count, void* stream) {
  launch(clear_kernel, ceil_div(count, kFlatThreads), kFlatThreads, 0, stream, columns, count);
}

}  // namespace

template <typename T, typename A>
void nearest(const T* query, const T* reference, A* distance, int64_t* index, bool* mutual,
             uint64_t* scratch, const NearestShape& s, void* stream) {
  if constexpr (sizeof(A) == 4) {
    if (nearest_mma(query, reference, distance, index, mutual, scratch, s, stream)) return;
  }
  uint64_t* columns = scratch;
  if (mutual) clear(columns, s.batch * s.references, stream);
  constexpr int words = std::max(kPairWords, kPairTile * kValuePitch);
  launch(nearest_kernel<T>, s.batch * ceil_div(s.queries, kPairTile), kPairThreads,
         words * sizeof(A), stream, query, reference, distance, index, mutual ? columns : nullptr,
         s);
  if (!mutual) return;
  constexpr int warps = kFlatThreads / 32;
  launch(mutual_kernel<T>, ceil_div(s.batch * s.queries, warps), kFlatThreads, 0, stream, query,
         reference, static_cast<const int64_t*>(index), static_cast<const uint64_t*>(columns),
         mutual, s);
}

void nearest_hamming(const uint64_t* query, const uint64_t* reference, int32_t* distance,
                     int64_t* index, bool* mutual, uint64_t* columns, const HammingShape& s,
                     void* stream) {
  if (mutual) clear(columns, s.batch * s.references, stream);
  const int64_t words = std::clamp<int64_t>(s.words, 1, kBitWords);
  const int64_t tile = std::min<int64_t>(64, kBitWords / words);
  launch(hamming_kernel, s.batch * ceil_div(s.queries, kBitThreads), kBitThreads,
         tile * words * sizeof(uint64_t), stream, query, reference, distance, index,
         mutual ? columns : nullptr, s, tile);
  if (!mutual) return;
  launch(hamming_mutual_kernel, ceil_div(s.batch * s.queries, kFlatThreads), kFlatThreads, 0,
         stream, static_cast<const int64_t*>(index), static_cast<const uint64_t*>(columns), mutual,
         s);
}

#define FLOWMATCH_INSTANTIATE(T)                                                 \
  template void nearest(const T*, const T*, Sum<T>*, int64_t*, bool*, uint64_t*, \
                        const NearestShape&, void*);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(__half)
FLOWMATCH_INSTANTIATE(__nv_bfloat16)

}  // namespace flowmatch::cuda
