#include "../../csrc/correlation.h"
#include "bindings.h"

namespace {

using emulator::check;
using emulator::Device;
using emulator::with_type;

using Pair = std::array<int64_t, 2>;  // y, x

flowmatch::CorrelationShape shape(const py::array& image, const Pair& radius, int64_t stride,
                                  const Pair& offset) {
  return {image.shape(0), image.shape(1), image.shape(2), image.shape(3), radius[0],
          radius[1],      stride,         offset[0],      offset[1]};
}

void correlation(const py::array& f1, const py::array& f2, py::array volume, const Pair& radius,
                 int64_t stride, bool tf32, const Pair& offset) {
  for (const auto& a : {f1, f2, volume}) check(a, f1);
  const Device first("f1", f1), second("f2", f2);
  Device out("volume", volume, true);
  with_type(f1.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::correlation(first.as<const T>(), second.as<const T>(), out.as<T>(),
                                 shape(f1, radius, stride, offset), tf32, nullptr);
  });
  out.finish();
}

void correlation_grad(const py::array& g, const py::array& other, py::array grad,
                      const Pair& radius, int64_t stride, bool first, bool tf32,
                      const Pair& offset) {
  for (const auto& a : {g, other, grad}) check(a, g);
  const Device from("g", g), image("other", other);
  Device out("grad", grad, true);
  with_type(g.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::correlation_grad(from.as<const T>(), image.as<const T>(), out.as<T>(),
                                      shape(other, radius, stride, offset), first, tf32, nullptr);
  });
  out.finish();
}

const emulator::Binding binding([](py::module_& m) {
  using py::arg;
  m.def("correlation", correlation, arg("f1"), arg("f2"), arg("volume"), arg("radius"),
        arg("stride"), arg("tf32") = false, arg("offset") = Pair{0, 0});
  m.def("correlation_grad", correlation_grad, arg("g"), arg("other"), arg("grad"), arg("radius"),
        arg("stride"), arg("first"), arg("tf32") = false, arg("offset") = Pair{0, 0});
});

}  // namespace
