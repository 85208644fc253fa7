#include "../../csrc/cuda/scalar.cuh"
#include "../../csrc/pairwise_distance.h"
#include "bindings.h"

namespace {

using emulator::check;
using emulator::Device;
using emulator::with_type;

void pairwise_distance(const py::array& x, const py::array& y, py::array out, int metric) {
  for (const auto& a : {x, y, out}) check(a, x);
  const Device first("x", x), second("y", y);
  Device to("out", out, true);
  const flowmatch::PairwiseShape s = {x.shape(0), x.shape(1), y.shape(1), x.shape(2),
                                      static_cast<flowmatch::Metric>(metric)};
  const bool wide = x.dtype().char_() == 'd';
  py::array memory(wide ? py::dtype::of<double>() : py::dtype::of<float>(),
                   flowmatch::cuda::pairwise_scratch(s));
  Device scratch("scratch", memory, true);
  with_type(x.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::pairwise_distance(first.as<const T>(), second.as<const T>(), to.as<T>(),
                                       scratch.as<flowmatch::cuda::Sum<T>>(), s, nullptr);
  });
  to.finish();
}

const emulator::Binding binding([](py::module_& m) {
  m.def("pairwise_distance", pairwise_distance);
});

}  // namespace
