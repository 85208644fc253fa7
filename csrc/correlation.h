// The correlation cost volume: geometry and CUDA kernels, with no knowledge of PyTorch.
#pragma once
#include <cstdint>

namespace flowmatch {

// f1, f2: [B, C, H, W]   volume: [B, (2R+1)^2, H, W]   all contiguous.
// volume[b, (dy, dx), y, x] = mean_c f1[b, c, y, x] * f2[b, c, y + dy * stride, x + dx * stride]
// with dy, dx in -R..R, dx fastest, and f2 zero outside.
struct CorrelationShape {
  int64_t batch, channels, height, width;
  int64_t radius, stride;
  constexpr int64_t side() const { return 2 * radius + 1; }
  constexpr int64_t displacements() const { return side() * side(); }
  constexpr int64_t pixels() const { return height * width; }
};

namespace cuda {

// T: float, double, __half, __nv_bfloat16; halves accumulate in float. `tf32` lets products of
// floats be those of tensor cores, with 10 bits behind the point.
template <typename T>
void correlation(const T* f1, const T* f2, T* volume, const CorrelationShape& s, bool tf32,
                 void* stream);

// The gradient with respect to f1 (first; other = f2) or to f2 (other = f1), gathered per pixel.
template <typename T>
void correlation_grad(const T* g, const T* other, T* grad, const CorrelationShape& s, bool first,
                      bool tf32, void* stream);

}  // namespace cuda
}  // namespace flowmatch
