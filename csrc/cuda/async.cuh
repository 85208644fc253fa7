// Copies from global to shared memory that go on while the threads compute (cp.async, sm_80 and
// later): a thread starts copies, closes a group of them, and waits until at most so many of its
// groups are under way. What others copied is there after the barrier that follows.
#pragma once
#include <cuda_runtime.h>
#ifndef __CUDACC__
#include "emulated_async.h"
#endif

namespace flowmatch::cuda {

// 16 bytes, both addresses multiples of 16; zeros if there is nothing to copy.
__device__ inline void copy_async(void* to, const void* from, bool there) {
#ifndef __CUDACC__
  emulator::copy_async(to, there ? from : nullptr);
#elif __CUDA_ARCH__ >= 800
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(there ? 16 : 0));
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
