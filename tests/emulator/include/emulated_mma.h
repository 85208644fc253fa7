// Stands in for the tensor cores: the lanes of a warp show each other their fragments, and each
// computes its four sums, in float, in order of k. Hardware adds in an order of its own.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

inline float emulated_value(__half h) { return __half2float(h); }
inline float emulated_value(__nv_bfloat16 b) { return __bfloat162float(b); }

template <typename T>
void emulated_mma(const uint32_t (&left)[4], const uint32_t (&right)[2], float (&sum)[4]) {
  uint32_t lefts[32][4], rights[32][2];
  for (int i = 0; i < 4; i += 2) {
    const uint64_t* all = emulator::exchange(~0u, uint64_t{left[i]} | uint64_t{left[i + 1]} << 32,
                                             __FILE__, __LINE__);
    for (int lane = 0; lane < 32; ++lane) std::memcpy(&lefts[lane][i], &all[lane], 8);
  }
  const uint64_t* all =
      emulator::exchange(~0u, uint64_t{right[0]} | uint64_t{right[1]} << 32, __FILE__, __LINE__);
  for (int lane = 0; lane < 32; ++lane) std::memcpy(rights[lane], &all[lane], 8);
  const auto value = [](uint32_t word, int k) {
    T half;
    const auto bits = static_cast<uint16_t>(word >> 16 * (k % 2));
    std::memcpy(&half, &bits, sizeof half);
    return emulated_value(half);
  };
  for (int n = 0; n < 4; ++n) {
    const int row = emulator::lane() / 4 + n / 2 * 8, column = emulator::lane() % 4 * 2 + n % 2;
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2;  // the lane of four that holds k
      const uint32_t a = lefts[row % 8 * 4 + t][row / 8 + k / 8 * 2];
      const uint32_t b = rights[column * 4 + t][k / 8];
      sum[n] += value(a, k) * value(b, k);
    }
  }
}
