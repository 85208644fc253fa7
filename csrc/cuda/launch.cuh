// Launch and shared memory of the CUDA kernels. tests/emulator compiles the same sources with a C++
// compiler, which cannot parse <<<>>>: kernels start through launch() and get their shared memory
// from shared_memory().
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#ifndef FLOWMATCH_MAX_BLOCKS  // lower in the emulator, to test tiles that need several launches
#define FLOWMATCH_MAX_BLOCKS 2147483647
#endif

namespace flowmatch::cuda {

// Runs kernel(first, arguments...) on `tiles` blocks; a block's tile is first + blockIdx.x. After a
// failed launch cudaGetLastError(), which the caller checks, returns the error.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t tiles, int threads, size_t shared_bytes,
            void* stream, Arguments... arguments) {
  constexpr int64_t most = FLOWMATCH_MAX_BLOCKS;
  for (int64_t first = 0; first < tiles; first += most) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(std::min(most, tiles - first)));
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    if (cudaLaunchKernelEx(&config, kernel, first, arguments...) != cudaSuccess) return;
  }
}

// Whether a kernel can have that much shared memory for a block; more than 48 KB is asked for.
template <typename... Parameters>
bool allow_shared(void (*kernel)(Parameters...), size_t bytes) {
  if (cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(bytes)) == cudaSuccess) {
    return true;
  }
  cudaGetLastError();  // answered, and no error of the next launch
  return false;
}

// The block's shared memory, of the size passed to launch().
template <typename A>
__device__ A* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<A*>(bytes);
#else
  return static_cast<A*>(emulator::shared_memory());
#endif
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace flowmatch::cuda
