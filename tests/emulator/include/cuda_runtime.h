// Replacement for the part of the CUDA runtime that csrc/cuda uses, based on emulator.h.
#pragma once
#include <math.h>  // unlike <cmath>, has the overloads for float in the global namespace, as CUDA

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::max;
using std::min;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };

struct cudaFuncAttributes {
  int ptxVersion;
};

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->ptxVersion = 10 * emulator::settings.major;
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  return emulator::allow_shared(kernel, bytes) ? cudaSuccess : cudaErrorInvalidValue;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  emulator::launch(reinterpret_cast<const void*>(kernel), config->gridDim, config->blockDim,
                   config->dynamicSmemBytes, [&] { kernel(arguments...); });
  return cudaSuccess;  // errors are thrown
}

// The caller's position: all threads must reach a barrier at the same line.
#define FLOWMATCH_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FLOWMATCH_HERE) { emulator::barrier(file, line); }

// A barrier that returns the number of threads whose predicate is true.
inline int __syncthreads_count(int predicate, FLOWMATCH_HERE) {
  static int votes = 0;  // one block runs at a time
  emulator::barrier(file, line);
  votes = 0;
  emulator::barrier(file, line);
  votes += predicate != 0;
  emulator::barrier(file, line);
  return votes;
}

inline int __syncthreads_or(int predicate, FLOWMATCH_HERE) {
  return __syncthreads_count(predicate, file, line) != 0;
}

inline void __syncwarp(unsigned mask = ~0u, FLOWMATCH_HERE) {
  emulator::exchange(mask, 0, file, line);
}

// The value of lane `source`, or the thread's own if that is out of range.
template <typename T>
T emulated_shuffle(unsigned mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* all = emulator::exchange(mask, bits, file, line);
  if (source >= 0 && source < 32) std::memcpy(&value, &all[source], sizeof(T));
  return value;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, FLOWMATCH_HERE) {
  const int lane = emulator::lane();
  return emulated_shuffle(mask, value, lane / width * width + source % width, file, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, FLOWMATCH_HERE) {
  const int lane = emulator::lane(), source = lane ^ bits;
  const bool above = source / width > lane / width;  // as in CUDA, not from a later segment
  return emulated_shuffle(mask, value, above ? lane : source, file, line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, FLOWMATCH_HERE) {
  const int lane = emulator::lane();
  return emulated_shuffle(mask, value, lane % width + by < width ? lane + by : lane, file, line);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, FLOWMATCH_HERE) {
  const int lane = emulator::lane();
  return emulated_shuffle(mask, value, lane % width >= by ? lane - by : lane, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, FLOWMATCH_HERE) {
  const uint64_t* all = emulator::exchange(mask, predicate != 0, file, line);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= (mask >> i & 1 && all[i]) ? 1u << i : 0u;
  return votes;
}

inline int __any_sync(unsigned mask, int predicate, FLOWMATCH_HERE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, FLOWMATCH_HERE) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}

inline int __reduce_min_sync(unsigned mask, int v, FLOWMATCH_HERE) {
  const uint64_t* all = emulator::exchange(mask, static_cast<unsigned>(v), file, line);
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1) v = std::min(v, static_cast<int>(all[i]));
  }
  return v;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }

// Atomic, because only one thread runs at a time.
template <typename T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <typename T>
T atomicMax(T* p, T value) {
  const T old = *p;
  *p = std::max(old, value);
  return old;
}
template <typename T>
T atomicMin(T* p, T value) {
  const T old = *p;
  *p = std::min(old, value);
  return old;
}
template <typename T>
T atomicCAS(T* p, T expected, T value) {
  const T old = *p;
  if (old == expected) *p = value;
  return old;
}
