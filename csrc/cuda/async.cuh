// Asynchronous copies from global to shared memory (cp.async, sm_80 and later), which run while the
// threads compute. A thread starts copies, closes a group of them, and waits until at most a given
// number of its groups is pending. Copies of other threads are visible after the next barrier.
#pragma once
#include <cuda_runtime.h>
#ifndef __CUDACC__
#include "emulated_async.h"
#endif

namespace flowmatch::cuda {

// Copies 16 bytes, both addresses multiples of 16; writes zeros unless `valid`.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
#ifndef __CUDACC__
  emulator::copy_async(to, valid ? from : nullptr);
#elif __CUDA_ARCH__ >= 800
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(valid ? 16 : 0));
#else
  __trap();
#endif
}

__device__ inline void close_copies() {
#ifndef __CUDACC__
  emulator::close_copies();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;");
#endif
}

template <int kGroups>
__device__ void wait_copies() {
#ifndef __CUDACC__
  emulator::wait_copies(kGroups);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups));
#endif
}

}  // namespace flowmatch::cuda
