#include "../../csrc/distance_field.h"
#include "bindings.h"

namespace {

using emulator::check;
using emulator::Device;

template <class A>
void run(const py::array& points, const py::array& keys, const py::array& centres,
         const py::array& frames, py::array& out, const flowmatch::FieldShape& s) {
  const Device p("points", points), k("keys", keys), c("centres", centres), f("frames", frames);
  py::array memory(py::dtype::of<int>(), flowmatch::cuda::field_scratch(s));
  Device to("out", out, true), scratch("scratch", memory, true);
  flowmatch::cuda::distance_field(p.as<const A>(), k.as<const int64_t>(), c.as<const A>(),
                                  f.as<const A>(), to.as<A>(), scratch.as<int>(), s, nullptr);
  to.finish();
  scratch.finish();
}

void distance_field(const py::array& points, const py::array& keys, const py::array& centres,
                    const py::array& frames, py::array out, const std::array<double, 4>& grid,
                    const std::array<int64_t, 3>& counts, double voxel, double truncation) {
  for (const auto& a : {centres, frames, out}) check(a, points);
  const flowmatch::FieldShape s = {points.shape(0), centres.shape(0),
                                   out.shape(1),    voxel,
                                   truncation,      {grid[0], grid[1], grid[2]},
                                   grid[3],         {counts[0], counts[1], counts[2]}};
  const bool wide = points.dtype().char_() == 'd';
  (wide ? run<double> : run<float>)(points, keys, centres, frames, out, s);
}

const emulator::Binding binding([](py::module_& m) { m.def("distance_field", distance_field); });

}  // namespace
