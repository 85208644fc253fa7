// The only header of csrc that includes PyTorch: the stable ABI, and what every op needs around a
// kernel (dispatch, threads, scratch memory, outputs, streams).
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch_v2.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif
#ifdef FLOWMATCH_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#endif

namespace flowmatch {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The types for THO_DISPATCH_V2, and the type that each is summed in.
#define FLOWMATCH_FLOATS AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16

inline bool is_float(const Tensor& t) {
  const auto type = t.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}
#define FLOWMATCH_CHECK_FLOAT(t, op) \
  STD_TORCH_CHECK(is_float(t), op, ": float16, bfloat16, float32 or float64 is needed")

template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls f(begin, end) on parts of [0, rows), in parallel. Waking a thread costs about as much as
// 32k multiply-adds, so each part has at least that much work. f must not throw.
template <class F>
void parallel_rows(int64_t rows, int64_t work_per_row, const F& f) {
  const int64_t grain =
      std::max<int64_t>(1, (int64_t{1} << 15) / std::max<int64_t>(1, work_per_row));
  torch::stable::parallel_for(0, rows, grain, f);
}

// Memory that begins with a cache line, so that vectors in it do not straddle two.
constexpr std::align_val_t kCacheLine{64};
struct FreeBuffer {
  void operator()(void* p) const { ::operator delete[](p, kCacheLine); }
};
template <class T>
using Buffer = std::unique_ptr<T[], FreeBuffer>;

// `count` elements, not initialised.
template <class T>
Buffer<T> buffer(int64_t count) {
  static_assert(std::is_trivial_v<T>);
  return Buffer<T>(static_cast<T*>(::operator new[](count * sizeof(T), kCacheLine)));
}

// An array converted to type A; not copied if it has that type.
template <class T, class A>
class Widened {
 public:
  Widened(const T* from, int64_t count) {
    if constexpr (std::is_same_v<T, A>) {
      data_ = from;
    } else {
      own_ = buffer<A>(count);
      parallel_rows(count, 1, [&](int64_t begin, int64_t end) {
        std::transform(from + begin, from + end, own_.get() + begin,
                       [](T v) { return static_cast<A>(v); });
      });
      data_ = own_.get();
    }
  }
  const A* data() const { return data_; }

 private:
  const A* data_;
  Buffer<A> own_;
};

// One scratch buffer per thread, allocated up front because nothing may throw inside parallel_rows.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t size)
      : size_((size + kLine - 1) / kLine * kLine),
        slots_(torch::stable::get_num_threads()),
        memory_(buffer<T>(size_ * slots_)) {}
  // The buffer of this call of f; to be called once in each.
  T* take() { return memory_.get() + size_ * (next_++ % slots_); }

 private:
  static constexpr int64_t kLine = static_cast<int64_t>(kCacheLine) / sizeof(T);
  int64_t size_, slots_;  // whole cache lines, which threads do not share
  std::atomic<int64_t> next_{0};
  Buffer<T> memory_;
};

// An uninitialised tensor on the CPU. The system provides fresh memory page by page, which for tens
// of megabytes takes as long as filling them; with huge pages (2 MiB) it is much faster. Only
// memory that is returned to the system when it is freed is advised: the allocator of glibc keeps
// smaller pieces, up to 32 MiB, and would later use them, with the advice, for something else.
inline Tensor new_output(const Tensor& like, std::vector<int64_t> sizes) {
  Tensor t = torch::stable::new_empty(like, sizes);
#ifdef __linux__
  const int64_t bytes = t.numel() * t.element_size();
  if (bytes > int64_t{32} << 20) {
    const auto begin = reinterpret_cast<uintptr_t>(t.data_ptr());
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t first = (begin + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_HUGEPAGE);  // may fail
  }
#endif
  return t;
}

#ifdef FLOWMATCH_CUDA
template <class T>
struct DeviceType {
  using type = T;
};
template <>
struct DeviceType<Half> {
  using type = __half;
};
template <>
struct DeviceType<BFloat16> {
  using type = __nv_bfloat16;
};

template <class T>
auto* device(T* p) {  // torch's and CUDA's half types have the same representation
  using Plain = typename DeviceType<std::remove_const_t<T>>::type;
  return reinterpret_cast<std::conditional_t<std::is_const_v<T>, const Plain, Plain>*>(p);
}

inline void* current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return stream;
}
#endif

}  // namespace flowmatch
