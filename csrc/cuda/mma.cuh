// Tensor cores: a warp multiplies 16 x 16 by 16 x 8 values of a half type, or 16 x 8 by 8 x 8
// floats with a mantissa of 10 bits (TF32), and adds the product to 16 x 8 floats. Only this file
// depends on the layout of the matrices in registers (PTX ISA, mma.m16n8k16 and m16n8k8), with
// g = lane / 4 and t = lane % 4. A word is one float, or two half values adjacent along k. In words
// the layout is the same for both:
//   left[0..3]   rows g, g + 8, g, g + 8     words t, t, t + 4, t + 4
//   right[0..1]  column g                    words t, t + 4
//   sum[0..3]    rows g, g, g + 8, g + 8     columns 2 t, 2 t + 1, 2 t, 2 t + 1
#pragma once
#include <cuda_runtime.h>

#include "scalar.cuh"
#ifndef __CUDACC__
#include "emulated_mma.h"
#endif

namespace flowmatch::cuda {

constexpr int kMmaRows = 16, kMmaColumns = 8;
template <typename T>
constexpr int kMmaDepth = 32 / sizeof(T);

// Whether a kernel that calls mma() can run on this device: it must have been compiled for sm_80 or
// later. The device's own version is not enough, because it may run PTX of an older version.
template <typename... Parameters>
bool can_run_mma(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes = {};
  const auto* function = reinterpret_cast<const void*>(kernel);
  return cudaFuncGetAttributes(&attributes, function) == cudaSuccess && attributes.ptxVersion >= 80;
}

template <typename T>  // __half, __nv_bfloat16, or float
__device__ void mma(const uint32_t (&left)[4], const uint32_t (&right)[2], float (&sum)[4]) {
#ifndef __CUDACC__
  emulated_mma<T>(left, right, sum);
#elif __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
  } else if constexpr (std::is_same_v<T, float>) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
  }
#else
  __trap();  // excluded by can_run_mma()
#endif
}

// The value that tensor cores compute with: floats are rounded to TF32.
template <typename T>
__device__ T mma_value(T v) {
  if constexpr (std::is_same_v<T, float>) {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 800
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
    memcpy(&v, &bits, sizeof v);
#endif
#else
    v = emulated_tf32(v);
#endif
  }
  return v;
}

// Loads kMatrices (2 or 4) matrices of 8 rows of 16 bytes from shared memory. Lane 8 m + r passes
// the address of row r of matrix m, a multiple of 16; lane l gets word l % 4 of row l / 4 of each.
template <int kMatrices>
__device__ void load_matrices(const void* row, uint32_t* words) {
#ifndef __CUDACC__
  emulated_load_matrices(row, words, kMatrices);
#else
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (kMatrices == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(address)
                 : "memory");
  }
#endif
}

// Loads fragments from shared memory, rows (or columns) along k, `pitch` elements apart, each at a
// multiple of 16 bytes. With a pitch of 16 bytes more than a multiple of 32 the lanes of a warp
// access different banks.
template <typename T>
__device__ void load_left(const T* rows, int pitch, uint32_t (&left)[4]) {
  const int lane = threadIdx.x % 32;
  load_matrices<4>(rows + lane % 16 * pitch + lane / 16 * (16 / sizeof(T)), left);
}

template <typename T>
__device__ void load_right(const T* columns, int pitch, uint32_t (&right)[2]) {
  const int lane = threadIdx.x % 16;
  load_matrices<2>(columns + lane % 8 * pitch + lane / 8 * (16 / sizeof(T)), right);
}

// The same for 16 columns: two fragments.
template <typename T>
__device__ void load_right(const T* columns, int pitch, uint32_t (&right)[2][2]) {
  const int lane = threadIdx.x % 32, column = lane / 16 * 8 + lane % 8;
  load_matrices<4>(columns + column * pitch + lane / 8 % 2 * (16 / sizeof(T)), right[0]);
}

}  // namespace flowmatch::cuda
