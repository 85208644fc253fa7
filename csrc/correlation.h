// The correlation cost volume: its shape and its kernels, without PyTorch.
#pragma once
#include <cstdint>

namespace flowmatch {

// f1, f2: [B, C, H, W]   volume: [B, (2R+1)^2, H, W]   all contiguous.
// volume[b, (dy, dx), y, x] = mean_c f1[b, c, y, x] * f2[b, c, y + dy * stride, x + dx * stride]
// with dy, dx in -R..R, dx fastest. Outside the image f2 is zero.
struct CorrelationShape {
  int64_t batch, channels, height, width;
  int64_t radius, stride;
  constexpr int64_t side() const { return 2 * radius + 1; }
  constexpr int64_t displacements() const { return side() * side(); }
  constexpr int64_t pixels() const { return height * width; }
};

// Both namespaces have the same two functions. The gradient is with respect to f1 (first: true,
// other: f2) or to f2 (first: false, other: f1). Half types accumulate in float.

namespace cpu {

// T: float, double, Half, BFloat16.
template <typename T>
void correlation(const T* f1, const T* f2, T* volume, const CorrelationShape& s);

template <typename T>
void correlation_grad(const T* g, const T* other, T* grad, const CorrelationShape& s, bool first);

}  // namespace cpu

namespace cuda {

// T: float, double, __half, __nv_bfloat16. `tf32` allows tensor cores for float, whose products
// have a mantissa of 10 bits.
template <typename T>
void correlation(const T* f1, const T* f2, T* volume, const CorrelationShape& s, bool tf32,
                 void* stream);

template <typename T>
void correlation_grad(const T* g, const T* other, T* grad, const CorrelationShape& s, bool first,
                      bool tf32, void* stream);

}  // namespace cuda
}  // namespace flowmatch
