// The instruction sets that the CPU kernels are compiled for, their intrinsics, and the choice at
// run time.
#pragma once
#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace flowmatch::cpu {

enum class Isa { base, avx2, avx512 };

// The widest instruction set of this CPU, or a narrower one that FLOWMATCH_CPU=base|avx2|avx512
// names (for tests).
inline Isa isa() {
  static const Isa chosen = [] {
    Isa widest = Isa::base;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("popcnt"))
      widest = Isa::avx2;
    if (widest == Isa::avx2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      widest = Isa::avx512;
    }
#endif
    const char* requested = std::getenv("FLOWMATCH_CPU");
    if (requested && !std::strcmp(requested, "base")) return Isa::base;
    if (requested && !std::strcmp(requested, "avx2") && widest == Isa::avx512) return Isa::avx2;
    return widest;
  }();
  return chosen;
}

// Extensions that not every CPU with AVX-512 has; FLOWMATCH_CPU=avx512 switches them off.
inline bool multiplies_bfloat16() {
#if defined(__x86_64__)
  static const bool has =
      isa() == Isa::avx512 && !std::getenv("FLOWMATCH_CPU") && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

inline bool counts_bits() {
#if defined(__x86_64__)
  static const bool has = isa() == Isa::avx512 && !std::getenv("FLOWMATCH_CPU") &&
                          __builtin_cpu_supports("avx512vpopcntdq");
  return has;
#else
  return false;
#endif
}

}  // namespace flowmatch::cpu

// FLOWMATCH_PICK(f<T>): f of a file compiled by each_isa.h, for this CPU's instruction set.
#if defined(__x86_64__)
#define FLOWMATCH_PICK(...)                                                       \
  (::flowmatch::cpu::isa() == ::flowmatch::cpu::Isa::avx512 ? avx512::__VA_ARGS__ \
   : ::flowmatch::cpu::isa() == ::flowmatch::cpu::Isa::avx2 ? avx2::__VA_ARGS__   \
                                                            : base::__VA_ARGS__)
#else
#define FLOWMATCH_PICK(...) base::__VA_ARGS__
#endif
