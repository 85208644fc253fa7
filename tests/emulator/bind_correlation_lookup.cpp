#include "../../csrc/correlation_lookup.h"
#include "bindings.h"

namespace {

using emulator::check;
using emulator::Device;
using emulator::with_type;

template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

flowmatch::LookupShape shape(const py::array& f1, const py::array& f2, double scale,
                             int64_t radius_y, int64_t radius_x) {
  return {f1.shape(0), f1.shape(3), f1.shape(1), f1.shape(2), f2.shape(1),
          f2.shape(2), radius_y,    radius_x,    scale,       scale};
}

void correlation_lookup(const py::array& f1, const std::vector<py::array>& f2,
                        const py::array& coords, py::array out, const std::vector<double>& scales,
                        int64_t radius_y, int64_t radius_x) {
  check(out, f1);
  const Device first("f1", f1), positions("coords", coords);
  std::vector<Device> seconds;
  std::vector<flowmatch::LookupShape> shapes;
  for (size_t level = 0; level < f2.size(); ++level) {
    check(f2[level], f1);
    seconds.emplace_back("f2", f2[level]);
    shapes.push_back(shape(f1, f2[level], scales[level], radius_y, radius_x));
  }
  Device to("out", out, true);
  with_type(f1.dtype(), [&](auto t) {
    using T = decltype(t);
    std::vector<const T*> levels;
    for (const Device& second : seconds) levels.push_back(second.as<const T>());
    flowmatch::cuda::correlation_lookup(first.as<const T>(), levels.data(),
                                        positions.as<const Wide<T>>(), to.as<T>(), shapes.data(),
                                        static_cast<int>(levels.size()), nullptr);
  });
  to.finish();
}

void correlation_lookup_grad(const py::array& g, const py::array& f1, const py::array& f2,
                             const py::array& coords, py::array grad1, py::array grad2,
                             py::array grad_coords, double scale, int64_t radius_y,
                             int64_t radius_x) {
  for (const auto& a : {g, f1, f2, grad1, grad2}) check(a, f1);
  check(grad_coords, coords);
  const Device from("g", g), first("f1", f1), second("f2", f2), positions("coords", coords);
  Device to1("grad1", grad1, true), to2("grad2", grad2, true);
  Device along("grad_coords", grad_coords, true);
  const auto sizes = shape(f1, f2, scale, radius_y, radius_x);
  py::array memory(coords.dtype(), flowmatch::cuda::lookup_scratch(sizes));
  Device scratch("scratch", memory, true);
  with_type(f1.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::correlation_lookup_grad(from.as<const T>(), first.as<const T>(),
                                             second.as<const T>(), positions.as<const Wide<T>>(),
                                             to1.as<T>(), to2.as<T>(), along.as<Wide<T>>(),
                                             scratch.as<Wide<T>>(), sizes, nullptr);
  });
  for (Device* d : {&to1, &to2, &along, &scratch}) d->finish();
}

const emulator::Binding binding([](py::module_& m) {
  m.def("correlation_lookup", correlation_lookup);
  m.def("correlation_lookup_grad", correlation_lookup_grad);
});

}  // namespace
