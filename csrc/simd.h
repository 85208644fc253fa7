// The instruction sets one binary holds its CPU kernels for, and the choice among them.
#pragma once
#include <cstdlib>
#include <cstring>

namespace flowmatch {

enum class Isa { base, avx2, avx512 };

// The widest set this CPU has, or a narrower one named by FLOWMATCH_CPU=base|avx2|avx512 (for
// tests).
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
    const char* asked = std::getenv("FLOWMATCH_CPU");
    if (asked && !std::strcmp(asked, "base")) return Isa::base;
    if (asked && !std::strcmp(asked, "avx2") && widest == Isa::avx512) return Isa::avx2;
    return widest;
  }();
  return chosen;
}

// What is not part of every AVX-512; FLOWMATCH_CPU=avx512 does without.
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

}  // namespace flowmatch

// FLOWMATCH_PICK(f<T>): the f of the file compiled by each_isa.h that this CPU should run.
#if defined(__x86_64__)
#define FLOWMATCH_PICK(...)                                             \
  (::flowmatch::isa() == ::flowmatch::Isa::avx512 ? avx512::__VA_ARGS__ \
   : ::flowmatch::isa() == ::flowmatch::Isa::avx2 ? avx2::__VA_ARGS__   \
                                                  : base::__VA_ARGS__)
#else
#define FLOWMATCH_PICK(...) base::__VA_ARGS__
#endif
