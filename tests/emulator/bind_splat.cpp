#include "../../csrc/splat.h"
#include "bindings.h"

namespace {

using emulator::check;
using emulator::Device;

flowmatch::SplatShape shape(const py::array& image) {
  return {image.shape(0), image.shape(1), image.shape(2), image.shape(3)};
}

template <class A>
void run(const py::array& image, const py::array& flow, py::array& boxes, py::array& out) {
  const Device from("image", image), motion("flow", flow);
  Device scratch("boxes", boxes, true), to("out", out, true);
  flowmatch::cuda::splat(from.as<const A>(), motion.as<const A>(), scratch.as<int64_t>(),
                         to.as<A>(), shape(image), nullptr);
  for (Device* d : {&scratch, &to}) d->finish();
}

template <class A>
void run_grad(const py::array& g, const py::array& image, const py::array& flow,
              py::array& grad_image, py::array& grad_flow) {
  const Device from("g", g), values("image", image), motion("flow", flow);
  Device to("grad_image", grad_image, true), along("grad_flow", grad_flow, true);
  flowmatch::cuda::splat_grad(from.as<const A>(), values.as<const A>(), motion.as<const A>(),
                              to.as<A>(), along.as<A>(), shape(image), nullptr);
  for (Device* d : {&to, &along}) d->finish();
}

void splat(const py::array& image, const py::array& flow, py::array boxes, py::array out) {
  for (const auto& a : {image, flow, out}) check(a, image);
  check(boxes, py::array_t<int64_t>(0));
  if (boxes.size() != flowmatch::cuda::splat_boxes(shape(image))) {
    throw py::value_error("boxes: 4 values for each 8 x 32 pixels are needed");
  }
  (image.dtype().char_() == 'd' ? run<double> : run<float>)(image, flow, boxes, out);
}

void splat_grad(const py::array& g, const py::array& image, const py::array& flow,
                py::array grad_image, py::array grad_flow) {
  for (const auto& a : {g, image, flow, grad_image, grad_flow}) check(a, image);
  const bool wide = image.dtype().char_() == 'd';
  (wide ? run_grad<double> : run_grad<float>)(g, image, flow, grad_image, grad_flow);
}

const emulator::Binding binding([](py::module_& m) {
  m.def("splat", splat);
  m.def("splat_grad", splat_grad);
});

}  // namespace
