// Element types and the types they are summed in: half types and float in float, double in double.
// Conversions are explicit, because PyTorch's compiler flags switch the implicit ones off.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

namespace flowmatch::cuda {

template <typename T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }
__device__ inline float widen(__half v) { return __half2float(v); }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T>
__device__ T narrow(Sum<T> v) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(v);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(v);
  } else {
    return v;
  }
}

// Four adjacent values in shared memory, read and written at once.
template <typename A>
struct alignas(16) Quad {
  A at[4];
};

// The same for values of any type.
template <typename T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Packed {
  T at[4];
};

template <typename A>
__device__ const Quad<A>& quad(const A* p) {
  return *reinterpret_cast<const Quad<A>*>(p);
}

template <typename A>
__device__ Quad<A>& quad(A* p) {
  return *reinterpret_cast<Quad<A>*>(p);
}

}  // namespace flowmatch::cuda
