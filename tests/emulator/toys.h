// Kernels for test_emulator.py, each with an optional mistake.
#pragma once
#include <cuda_runtime.h>

#include "async.cuh"
#include "launch.cuh"
#include "mma.cuh"

namespace toys {

using flowmatch::cuda::shared_memory;

// Reverses n <= 256 numbers. Mistakes: no barrier between writing and reading; a barrier that one
// thread skips; one that a thread misses because it has returned; two barriers, with each thread at
// one of them.
enum class Reverse { kRight, kNoBarrier, kSkipped, kReturned, kTwo };

__global__ void reverse(int64_t, const float* from, float* to, int n, Reverse mistake) {
  float* shared = shared_memory<float>();
  const int i = threadIdx.x;
  if (mistake == Reverse::kReturned && i == 3) return;
  shared[i] = from[i];
  if (mistake == Reverse::kTwo && i == 3) {
    __syncthreads();
  } else if (mistake != Reverse::kNoBarrier && (mistake != Reverse::kSkipped || i != 3)) {
    __syncthreads();
  }
  to[i] = shared[n - 1 - i];
}

// to[i] = from[i + shift] for i in [begin, n).
__global__ void shift(int64_t, const float* from, float* to, int begin, int n, int by) {
  const int i = begin + static_cast<int>(threadIdx.x);
  if (i < n) to[i] = from[i + by];
}

__global__ void write_input(int64_t, const float* from, float*) {
  const_cast<float*>(from)[threadIdx.x] = 0;
}

// Mistake: reads an element that was not written.
__global__ void unwritten(int64_t, const float* from, float* to) {
  float* shared = shared_memory<float>();
  if (threadIdx.x > 0) shared[threadIdx.x] = from[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = shared[threadIdx.x];
}

// Mistake: uses more shared memory than requested.
__global__ void past_shared(int64_t, const float*, float* to, int by) {
  to[threadIdx.x] = shared_memory<float>()[static_cast<int>(threadIdx.x) + by];
}

// Mistakes: an index outside a thread's local array; a misaligned vector.
__global__ void undefined(int64_t, const float* from, float* to, int index, int offset) {
  struct alignas(16) Quad {
    float at[4];
  };
  float* shared = shared_memory<float>();
  for (int i = threadIdx.x; i < 64; i += blockDim.x) shared[i] = from[0];
  __syncthreads();
  float own[4] = {};
  own[index] = reinterpret_cast<const Quad*>(shared + offset)->at[0];
  to[threadIdx.x] = own[0] + own[1] + own[2] + own[3];
}

// Sum of a warp, with all kinds of shuffles and votes.
__global__ void warp_sum(int64_t, const float* from, float* to, int missing) {
  float v = from[threadIdx.x];
  if (static_cast<int>(threadIdx.x) == missing) return;
  float sum = v;
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(~0u, sum, bits);
  float down = v;
  for (int by = 16; by > 0; by /= 2) down += __shfl_down_sync(~0u, down, by);
  const float broadcast = __shfl_sync(~0u, down, 0);
  const float before = __shfl_up_sync(~0u, v, 1);  // lane 0 keeps its value
  const unsigned votes = __ballot_sync(~0u, v > 0);
  __syncwarp();
  const bool any = __any_sync(~0u, v > 0), all = __all_sync(~0u, v > 0);
  to[5 * threadIdx.x] = sum;
  to[5 * threadIdx.x + 1] = broadcast;
  to[5 * threadIdx.x + 2] = before;
  to[5 * threadIdx.x + 3] = static_cast<float>(votes);
  to[5 * threadIdx.x + 4] = static_cast<float>(any + 2 * all);
}

// A product on tensor cores: the first 16 x 16 values of `from` by the 8 rows of 16 that follow.
// Mistake: a missing lane.
__global__ void multiply(int64_t, const float* from, float* to, int missing) {
  using flowmatch::cuda::narrow;
  __half* halves = shared_memory<__half>();
  for (int i = threadIdx.x; i < 24 * 16; i += 32) {
    halves[i / 16 * 24 + i % 16] = narrow<__half>(from[i]);
  }
  __syncwarp();
  if (static_cast<int>(threadIdx.x) == missing) return;
  uint32_t left[4], right[2];
  float sum[4] = {};
  flowmatch::cuda::load_left(halves, 24, left);
  flowmatch::cuda::load_right(halves + 16 * 24, 24, right);
  flowmatch::cuda::mma<__half>(left, right, sum);
  for (int n = 0; n < 4; ++n) {
    const int row = threadIdx.x / 4 + n / 2 * 8, column = threadIdx.x % 4 * 2 + n % 2;
    to[row * 8 + column] = sum[n];
  }
}

// Copies 4 floats per thread through shared memory, in two groups. Mistake: waits for one group
// only.
__global__ void copy(int64_t, const float* from, float* to, bool all) {
  float* shared = shared_memory<float>();
  const int count = blockDim.x * 4;
  for (int group = 0; group < 2; ++group) {
    const int i = group * count + 4 * threadIdx.x;
    flowmatch::cuda::copy_async(shared + i, from + i, threadIdx.x > 0);
    flowmatch::cuda::close_copies();
  }
  if (all) {
    flowmatch::cuda::wait_copies<0>();
  } else {
    flowmatch::cuda::wait_copies<1>();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * count; i += blockDim.x) to[i] = shared[i];
}

// Mistake: some threads vote at another barrier.
__global__ void vote(int64_t, const float* from, float* to, int elsewhere) {
  int votes;
  if (static_cast<int>(threadIdx.x) < elsewhere) {
    votes = __syncthreads_count(from[threadIdx.x] > 0);
  } else {
    votes = __syncthreads_count(from[threadIdx.x] > 0);
  }
  to[threadIdx.x] = static_cast<float>(votes) + 0.5f * __syncthreads_or(from[threadIdx.x] > 1e6f);
}

__global__ void count(int64_t, const float*, float* to) {
  if (threadIdx.x == 0 && blockIdx.x == 0) to[0] = 0;
  __syncthreads();
  atomicAdd(to, 1.0f);
}

}  // namespace toys
