// Compiles the file named by FLOWMATCH_EACH_ISA once for every instruction set, in the namespaces
// flowmatch::cpu::{base,avx2,avx512}; base is SSE2 on x86-64 and NEON on ARM. The file can use
//   FLOWMATCH_TARGET      an attribute, required on every function in it, lambdas included
//   kVectorBytes, kTile   width of a register; number of registers for accumulators
//   Vector<T>, load, store
// GCC lowers vector types by the attributes of the enclosing function, before inlining: that is why
// each function has the attribute and the file is included several times. This header has no
// include guard, on purpose.

#define FLOWMATCH_VECTORS                                                                       \
  template <class T>                                                                            \
  struct VectorOf {                                                                             \
    typedef T type __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));  \
  };                                                                                            \
  template <class T>                                                                            \
  using Vector = typename VectorOf<T>::type;                                                    \
  template <class T>                                                                            \
  constexpr int kLanes = kVectorBytes / sizeof(T);                                              \
  template <class T>                                                                            \
  FLOWMATCH_TARGET inline __attribute__((always_inline)) Vector<T> load(const T* p) {           \
    return *reinterpret_cast<const Vector<T>*>(p);                                              \
  }                                                                                             \
  template <class T>                                                                            \
  FLOWMATCH_TARGET inline __attribute__((always_inline)) void store(T* p, const Vector<T>& v) { \
    *reinterpret_cast<Vector<T>*>(p) = v;                                                       \
  }

#define FLOWMATCH_TARGET
namespace flowmatch::cpu::base {
#if defined(__aarch64__)
constexpr int kVectorBytes = 16, kTile = 24;  // of 32 registers
#else
constexpr int kVectorBytes = 16, kTile = 12;
#endif
FLOWMATCH_VECTORS
#include FLOWMATCH_EACH_ISA
}  // namespace flowmatch::cpu::base
#undef FLOWMATCH_TARGET

#if defined(__x86_64__)
#define FLOWMATCH_TARGET __attribute__((target("avx2,fma,popcnt")))
namespace flowmatch::cpu::avx2 {
constexpr int kVectorBytes = 32, kTile = 12;
FLOWMATCH_VECTORS
#include FLOWMATCH_EACH_ISA
}  // namespace flowmatch::cpu::avx2
#undef FLOWMATCH_TARGET

#define FLOWMATCH_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma,popcnt")))
namespace flowmatch::cpu::avx512 {
constexpr int kVectorBytes = 64, kTile = 27;
FLOWMATCH_VECTORS
#include FLOWMATCH_EACH_ISA
}  // namespace flowmatch::cpu::avx512
#undef FLOWMATCH_TARGET
#endif

#undef FLOWMATCH_VECTORS
#undef FLOWMATCH_EACH_ISA
