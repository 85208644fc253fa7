// Binding of kernels to numpy: inputs are copied to memory between unreadable pages, and results
// back. Each bind_<op>.cpp has one Binding, which adds its functions to the module.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "emulator.h"

namespace py = pybind11;

namespace emulator {

class Binding {
 public:
  explicit Binding(void (*bind)(py::module_&)) : bind_(bind), next_(first()) { first() = this; }
  static void bind_all(py::module_& m) {
    for (const Binding* b = first(); b; b = b->next_) b->bind_(m);
  }

 private:
  static Binding*& first() {
    static Binding* binding = nullptr;
    return binding;
  }
  void (*bind_)(py::module_&);
  Binding* next_;
};

inline void check(const py::array& a, const py::array& like) {
  if (!(a.flags() & py::array::c_style)) throw py::value_error("arrays must be contiguous");
  if (!a.dtype().equal(like.dtype())) throw py::type_error("arrays must have the same type");
}

// An array in the memory of the kernel. Outputs are initialised with NaN; finish() copies them
// back.
class Device {
 public:
  Device(const char* name, const py::array& a) : host_(const_cast<void*>(a.data())) {
    if (settings.guard == Guard::kNone) return;
    memory_ = std::make_unique<emulator::Memory>(name, a.nbytes(), settings.guard);
    std::memcpy(memory_->data(), a.data(), a.nbytes());
    memory_->lock();
  }
  Device(const char* name, py::array& a, bool) : host_(a.mutable_data()), bytes_(a.nbytes()) {
    if (settings.guard == Guard::kNone) return;
    memory_ = std::make_unique<emulator::Memory>(name, bytes_, settings.guard);
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_ ? memory_->data() : host_);
  }
  void finish() {
    if (!memory_) return;
    memory_->check();
    std::memcpy(host_, memory_->data(), bytes_);
  }

 private:
  void* host_;
  size_t bytes_ = 0;
  std::unique_ptr<emulator::Memory> memory_;
};

// Calls f with a value of the array's type. bfloat16, which numpy lacks, is passed as uint16.
template <class F>
void with_type(const py::dtype& type, const F& f) {
  switch (type.char_()) {
    case 'f':
      return f(float{});
    case 'd':
      return f(double{});
    case 'e':
      return f(__half{});
    case 'H':
      return f(__nv_bfloat16{});
    default:
      throw py::type_error("no kernel for this type");
  }
}

}  // namespace emulator
