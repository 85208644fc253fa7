// The module `emulated`: settings, toy kernels, and the functions of each bind_<op>.cpp.
#include "bindings.h"

#include "toys.h"

using emulator::check;
using emulator::Device;
using emulator::Guard;
using emulator::settings;

namespace {

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
  m.def("multiply", [](const py::array& from, py::array to, int missing) {
    toy(toys::multiply, from, to, 32, 24 * 24 * sizeof(__half), missing);
  });
  m.def("copy", [](const py::array& from, py::array to, bool all) {
    toy(toys::copy, from, to, static_cast<int>(from.size()) / 8, from.nbytes(), all);
  });
  m.def("vote", [](const py::array& from, py::array to, int elsewhere) {
    toy(toys::vote, from, to, static_cast<int>(from.size()), 0, elsewhere);
  });
  m.def("count", [](const py::array& from, py::array to, int threads) {
    toy(toys::count, from, to, threads, 0);
  });
}

}  // namespace

PYBIND11_MODULE(emulated, m) {
  m.def(
      "set",
      [](uint64_t seed, const std::string& guard, int64_t skip, int major) {
        settings.seed = seed;
        settings.guard = guard == "none"     ? Guard::kNone
                         : guard == "before" ? Guard::kBefore
                                             : Guard::kAfter;
        settings.skip = skip;
        settings.blocks = 0;
        settings.launches.clear();
        settings.major = major;
      },
      py::arg("seed") = 0, py::arg("guard") = "after", py::arg("skip") = 0, py::arg("major") = 8);
  m.def("blocks", [] { return settings.blocks; });
  m.def("launches", [] {  // (blocks, threads, bytes of shared memory) of each
    py::list all;
    for (const auto& l : settings.launches) {
      all.append(py::make_tuple(l.blocks, l.threads, l.shared_bytes));
    }
    return all;
  });
  emulator::Binding::bind_all(m);
  m.def("half_to_float", [](uint16_t bits) { return __half2float({bits}); });
  m.def("float_to_half", [](float v) { return __float2half_rn(v).bits; });
  bind_toys(m.def_submodule("toys"));
}
