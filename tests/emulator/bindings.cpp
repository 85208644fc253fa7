// Binds the kernels to numpy: arrays are copied between unreadable pages, and results back.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../../csrc/correlation.h"
#include "toys.h"

namespace py = pybind11;
using emulator::Guard;
using emulator::settings;

namespace {

void check(const py::array& a, const py::array& like) {
  if (!(a.flags() & py::array::c_style)) throw py::value_error("arrays must be contiguous");
  if (!a.dtype().equal(like.dtype())) throw py::type_error("arrays must have one type");
}

// An array as a kernel sees it. An output starts as NaN and is copied back by finish().
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

// Calls f with a value of the array's type. numpy has no bfloat16: its bits come as uint16.
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

flowmatch::CorrelationShape shape(const py::array& image, int64_t radius, int64_t stride) {
  return {image.shape(0), image.shape(1), image.shape(2), image.shape(3), radius, stride};
}

void correlation(const py::array& f1, const py::array& f2, py::array volume, int64_t radius,
                 int64_t stride) {
  for (const auto& a : {f1, f2, volume}) check(a, f1);
  const Device first("f1", f1), second("f2", f2);
  Device out("volume", volume, true);
  with_type(f1.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::correlation(first.as<const T>(), second.as<const T>(), out.as<T>(),
                                 shape(f1, radius, stride), nullptr);
  });
  out.finish();
}

void correlation_grad(const py::array& g, const py::array& other, py::array grad, int64_t radius,
                      int64_t stride, bool first) {
  for (const auto& a : {g, other, grad}) check(a, g);
  const Device from("g", g), image("other", other);
  Device out("grad", grad, true);
  with_type(g.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::correlation_grad(from.as<const T>(), image.as<const T>(), out.as<T>(),
                                      shape(other, radius, stride), first, nullptr);
  });
  out.finish();
}

// A toy kernel on float arrays, one block.
template <class... Parameters, class... Arguments>
void toy(void (*kernel)(int64_t, const float*, float*, Parameters...), const py::array& from,
         py::array to, int threads, size_t shared_bytes, Arguments... arguments) {
  for (const auto& a : {from, to}) check(a, py::array_t<float>());
  const Device input("from", from);
  Device output("to", to, true);
  flowmatch::cuda::launch(kernel, 1, threads, shared_bytes, nullptr, input.as<const float>(),
                          output.as<float>(), arguments...);
  output.finish();
}

void bind_toys(py::module_ m) {
  py::enum_<toys::Reverse>(m, "Reverse")
      .value("RIGHT", toys::Reverse::kRight)
      .value("NO_BARRIER", toys::Reverse::kNoBarrier)
      .value("SKIPPED", toys::Reverse::kSkipped)
      .value("RETURNED", toys::Reverse::kReturned)
      .value("TWO", toys::Reverse::kTwo);
  m.def("reverse", [](const py::array& from, py::array to, toys::Reverse mistake) {
    const int n = static_cast<int>(from.size());
    toy(toys::reverse, from, to, n, n * sizeof(float), n, mistake);
  });
  m.def("shift", [](const py::array& from, py::array to, int begin, int by) {
    const int n = static_cast<int>(to.size());
    toy(toys::shift, from, to, n + 8, 0, begin, n, by);
  });
  m.def("launch", [](const py::array& from, py::array to, int threads, size_t shared_bytes) {
    toy(toys::write_input, from, to, threads, shared_bytes);
  });
  m.def("unwritten", [](const py::array& from, py::array to) {
    toy(toys::unwritten, from, to, static_cast<int>(to.size()), to.nbytes());
  });
  m.def("past_shared", [](const py::array& from, py::array to, int by) {
    toy(toys::past_shared, from, to, 32, 32 * sizeof(float), by);
  });
  m.def("undefined", [](const py::array& from, py::array to, int index, int offset) {
    toy(toys::undefined, from, to, 32, 64 * sizeof(float), index, offset);
  });
  m.def("warp_sum", [](const py::array& from, py::array to, int missing) {
    toy(toys::warp_sum, from, to, static_cast<int>(from.size()), 0, missing);
  });
  m.def("count", [](const py::array& from, py::array to, int threads) {
    toy(toys::count, from, to, threads, 0);
  });
}

}  // namespace

PYBIND11_MODULE(emulated, m) {
  m.def(
      "set",
      [](uint64_t seed, const std::string& guard, int64_t skip) {
        settings.seed = seed;
        settings.guard = guard == "none"     ? Guard::kNone
                         : guard == "before" ? Guard::kBefore
                                             : Guard::kAfter;
        settings.skip = skip;
        settings.blocks = 0;
      },
      py::arg("seed") = 0, py::arg("guard") = "after", py::arg("skip") = 0);
  m.def("blocks", [] { return settings.blocks; });
  m.def("correlation", correlation);
  m.def("correlation_grad", correlation_grad);
  m.def("half_to_float", [](uint16_t bits) { return __half2float({bits}); });
  m.def("float_to_half", [](float v) { return __float2half_rn(v).bits; });
  bind_toys(m.def_submodule("toys"));
}
