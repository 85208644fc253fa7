// The correlation cost volume: its shape and its kernels, without PyTorch.
#pragma once
#include <cstdint>

namespace flowmatch {

// f1, f2: [B, C, H, W]   volume: [B, (2Ry+1) (2Rx+1), H, W]   all contiguous.
// volume[b, (dy, dx), y, x] = mean_c f1[b, c, y, x] * f2[b, c, y + down(dy), x + right(dx)]
// with dy in 0..2Ry and dx in 0..2Rx, dx fastest. Outside the image f2 is zero.
struct CorrelationShape {
  int64_t batch, channels, height, width;
  int64_t radius_y, radius_x, stride;
  int64_t offset_y, offset_x;
  constexpr int64_t side_y() const { return 2 * radius_y + 1; }
  constexpr int64_t side_x() const { return 2 * radius_x + 1; }
  constexpr int64_t displacements() const { return side_y() * side_x(); }
  constexpr int64_t pixels() const { return height * width; }
  constexpr int64_t down(int64_t dy) const { return offset_y + (dy - radius_y) * stride; }
  constexpr int64_t right(int64_t dx) const { return offset_x + (dx - radius_x) * stride; }
};

// The displacements from f2 to f1, in reverse order.
constexpr CorrelationShape reversed(CorrelationShape s) {
  s.offset_y = -s.offset_y, s.offset_x = -s.offset_x;
  return s;
}

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
