// Exact nearest neighbours on CUDA cores, for doubles and on GPUs that cannot run nearest_mma.cu. A
// block has 64 queries and walks over the references, 64 at a time. Pairs are ordered by a value:
// the squared distance from differences, or the negative product. One thread keeps a query's list,
// in the output array, and rarely changes it: most values are above its last. For the mutual test
// each tile's smallest value of a reference is combined with the query's index into a 64-bit key
// and merged by atomicMin, so that the result does not depend on the order of the blocks.
#include "lists.cuh"
#include "pairs.cuh"
#include "tensor_cores.cuh"

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
                   Sum<T>* distance, int64_t* index, uint64_t* columns, NearestShape s,
                   bool quads) {
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
              s.depth, product, quads, shared, sum);
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
// Hamming distances. A thread has one query, and a block goes through a part of the references; a
// tile of them is in shared memory, unless a single one is too long for it.

constexpr int kBitThreads = 128;
constexpr int64_t kBitWords = 2048;  // words of references in shared memory
constexpr int32_t kNoCount = 0x7fffffff;

// Adds three bits of equal place: their sum and their carry.
struct Added {
  uint32_t sum, carry;
};
__device__ inline Added add(uint32_t a, uint32_t b, uint32_t c) {
  return {a ^ b ^ c, (a & b) | (a & c) | (b & c)};
}

// The number of bits that differ in 256: added before they are counted, because a multiprocessor
// counts the bits of 16 words in a clock, and adds 64.
__device__ inline int32_t differing(const uint64_t* a, const uint64_t* b) {
  uint32_t x[8];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const uint64_t both = a[w] ^ b[w];
    x[2 * w] = static_cast<uint32_t>(both);
    x[2 * w + 1] = static_cast<uint32_t>(both >> 32);
  }
  const Added p = add(x[0], x[1], x[2]), q = add(x[3], x[4], x[5]), r = add(p.sum, q.sum, x[6]);
  const Added twos = add(p.carry, q.carry, r.carry);
  return __popc(r.sum) + __popc(x[7]) + 2 * __popc(twos.sum) + 4 * __popc(twos.carry);
}

// kWords: words of a vector, a multiple of four, and the query in registers; 0: any number of
// words.
template <int kWords>
__global__ void __launch_bounds__(kBitThreads)
    hamming_kernel(int64_t first_tile, const uint64_t* __restrict__ query,
                   const uint64_t* __restrict__ reference, int32_t* distance, int64_t* index,
                   uint64_t* columns, HammingShape s, int tile_references, int parts) {
  const int64_t tiles = ceil_div(s.queries, kBitThreads), block = first_tile + blockIdx.x;
  const int64_t tile = block / parts, part = block % parts;
  const int64_t b = tile / tiles, q = tile % tiles * kBitThreads + threadIdx.x;
  const int64_t queries = length_of(s.query_lengths, b, s.queries);
  const int64_t references = length_of(s.reference_lengths, b, s.references);
  const int64_t begin = references * part / parts, end = references * (part + 1) / parts;
  const int words = kWords ? kWords : static_cast<int>(s.words);
  const bool valid = q < queries;
  const int64_t list = ((part * s.batch + b) * s.queries + q) * s.k;
  int32_t* values = distance + list;
  int64_t* indices = index + list;
  for (int64_t i = 0; q < s.queries && i < s.k; ++i) {
    values[i] = kNoCount;
    indices[i] = kNoNeighbour;
  }
  int32_t last = valid ? kNoCount : 0;  // no count is less for threads without a query
  uint64_t* shared = shared_memory<uint64_t>();
  const uint64_t* from = query + (b * s.queries + (valid ? q : 0)) * words;
  uint64_t own[kWords ? kWords : 1];
#pragma unroll
  for (int w = 0; w < kWords; ++w) own[w] = from[w];
  const bool* mask = s.mask && valid ? s.mask + (b * s.queries + q) * s.references : nullptr;
  for (int64_t r0 = begin; r0 < end; r0 += tile_references) {
    const int count = static_cast<int>(min(int64_t{tile_references}, end - r0));
    const uint64_t* tile_words = reference + (b * s.references + r0) * words;
    const bool copies = kWords > 0 || words <= kBitWords;
    if (copies) {
      __syncthreads();  // the previous tile has been read
      for (int i = threadIdx.x; i < count * words; i += kBitThreads) shared[i] = tile_words[i];
      __syncthreads();
    }
#pragma unroll 4
    for (int j = 0; j < count; ++j) {
      int32_t bits = 0;
      if constexpr (kWords > 0) {
#pragma unroll
        for (int w = 0; w < kWords; w += 4) bits += differing(own + w, shared + j * kWords + w);
      } else {
        const uint64_t* target = (copies ? shared : tile_words) + int64_t{j} * words;
        for (int w = 0; w < words; ++w) bits += __popcll(from[w] ^ target[w]);
      }
      if (mask && !mask[r0 + j]) bits = kNoCount;
      if (bits < last) {
        insert(values, indices, s.k, bits, r0 + j);
        last = values[s.k - 1];
      }
      if (!columns) continue;
      // The least count of the warp, and the first lane that has it.
      if (!valid) bits = kNoCount;
      int32_t least = bits;
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        least = min(least, __shfl_xor_sync(~0u, least, step));
      }
      const unsigned same = __ballot_sync(~0u, bits == least);
      if (static_cast<int>(threadIdx.x % 32) == __ffs(static_cast<int>(same)) - 1 &&
          least != kNoCount) {
        lower(&columns[b * s.references + r0 + j],
              uint64_t{static_cast<uint32_t>(bits)} << 32 | static_cast<uint32_t>(q));
      }
    }
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
         s, has_quads(query, reference, s.depth));
  if (!mutual) return;
  constexpr int warps = kFlatThreads / 32;
  launch(mutual_kernel<T>, ceil_div(s.batch * s.queries, warps), kFlatThreads, 0, stream, query,
         reference, static_cast<const int64_t*>(index), static_cast<const uint64_t*>(columns),
         mutual, s);
}

void nearest_hamming(const uint64_t* query, const uint64_t* reference, int32_t* distance,
                     int64_t* index, bool* mutual, uint64_t* scratch, const HammingShape& s,
                     void* stream) {
  uint64_t* columns = scratch;
  if (mutual) clear(columns, s.batch * s.references, stream);
  const int64_t count = s.batch * s.queries, parts = hamming_parts(s);
  const PartLists<int32_t> lists(distance, index, scratch + (mutual ? s.batch * s.references : 0),
                                 parts, count, s.k);
  const int64_t words = std::clamp<int64_t>(s.words, 1, kBitWords);
  const int64_t tile = std::min<int64_t>(64, kBitWords / words);
  const auto kernel = s.words == 4   ? hamming_kernel<4>
                      : s.words == 8 ? hamming_kernel<8>
                                     : hamming_kernel<0>;
  launch(kernel, s.batch * ceil_div(s.queries, kBitThreads) * parts, kBitThreads,
         tile * words * sizeof(uint64_t), stream, query, reference, lists.values, lists.indices,
         mutual ? columns : nullptr, s, static_cast<int>(tile), static_cast<int>(parts));
  merge(lists, distance, index, count, s.k, parts, false, stream);
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
