// Emulation of tensor cores: the lanes of a warp exchange their fragments, and each computes its
// four sums in float, in order of k. The order of summation in hardware may differ.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

inline float emulated_value(__half h) { return __half2float(h); }
inline float emulated_value(__nv_bfloat16 b) { return __bfloat162float(b); }
inline float emulated_value(float f) {  // TF32 ignores the last 13 bits
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  bits &= ~0x1fffu;
  std::memcpy(&f, &bits, sizeof bits);
  return f;
}

// Rounds to nearest, ties away from zero, as the conversion instruction does.
inline float emulated_tf32(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  if ((bits & 0x7f800000) != 0x7f800000) bits += 0x1000;
  std::memcpy(&f, &bits, sizeof bits);
  return emulated_value(f);
}

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
  constexpr int in_word = 4 / sizeof(T);
  const auto value = [](uint32_t word, int k) {
    T element;
    word >>= 8 * sizeof(T) * (k % in_word) % 32;
    std::memcpy(&element, &word, sizeof element);
    return emulated_value(element);
  };
  for (int n = 0; n < 4; ++n) {
    const int row = emulator::lane() / 4 + n / 2 * 8, column = emulator::lane() % 4 * 2 + n % 2;
    for (int k = 0; k < 8 * in_word; ++k) {
      const int word = k / in_word, t = word % 4;  // the lane of four that holds k
      const uint32_t a = lefts[row % 8 * 4 + t][row / 8 + word / 4 * 2];
      const uint32_t b = rights[column * 4 + t][word / 4];
      sum[n] += value(a, k) * value(b, k);
    }
  }
}

// Lane 8 m + r passes the address of row r of matrix m.
inline void emulated_load_matrices(const void* row, uint32_t* words, int matrices) {
  if (reinterpret_cast<uintptr_t>(row) % 16) {
    throw emulator::Error("a row of a matrix is not aligned to 16 bytes");
  }
  const auto address = reinterpret_cast<uintptr_t>(row);
  const uint64_t* rows = emulator::exchange(~0u, address, __FILE__, __LINE__);
  const int lane = emulator::lane();
  for (int m = 0; m < matrices; ++m) {
    const auto* from = reinterpret_cast<const unsigned char*>(rows[8 * m + lane / 4]);
    std::memcpy(&words[m], from + 4 * (lane % 4), 4);
  }
}
