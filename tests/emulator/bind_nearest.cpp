#include "../../csrc/nearest.h"
#include "bindings.h"

namespace {

using emulator::check;
using emulator::Device;
using emulator::with_type;

template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Optional arrays: None becomes null.
class Optional {
 public:
  Optional(const char* name, const py::object& a) {
    if (!a.is_none()) device_ = std::make_unique<Device>(name, py::array(a));
  }
  template <class T>
  const T* as() const {
    return device_ ? device_->as<const T>() : nullptr;
  }

 private:
  std::unique_ptr<Device> device_;
};

// Outputs of both searches, and their scratch memory; `mutual` may be empty.
struct Results {
  py::array memory;
  Device distance, index, mutual, scratch;
  bool has_mutual;
  Results(py::array& distance, py::array& index, py::array& mutual, int64_t words)
      : memory(py::dtype::of<int64_t>(), words),
        distance("distance", distance, true),
        index("index", index, true),
        mutual("mutual", mutual, true),
        scratch("scratch", memory, true),
        has_mutual(mutual.size() > 0) {}
  bool* mutual_or_null() const { return has_mutual ? mutual.as<bool>() : nullptr; }
  void finish() {
    for (Device* d : {&distance, &index, &mutual, &scratch}) d->finish();
  }
};

void nearest(const py::array& query, const py::array& reference, const py::object& query_lengths,
             const py::object& reference_lengths, const py::object& mask, int metric,
             py::array distance, py::array index, py::array mutual) {
  check(reference, query);
  const Device q("query", query), r("reference", reference);
  const Optional ql("query_lengths", query_lengths), rl("reference_lengths", reference_lengths);
  const Optional m("mask", mask);
  const flowmatch::NearestShape s = {
      query.shape(0),   query.shape(1),   reference.shape(1),
      query.shape(2),   index.shape(2),   static_cast<flowmatch::Metric>(metric),
      ql.as<int64_t>(), rl.as<int64_t>(), m.as<bool>()};
  Results results(distance, index, mutual, flowmatch::cuda::nearest_scratch(s, mutual.size() > 0));
  with_type(query.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::nearest(q.as<const T>(), r.as<const T>(), results.distance.as<Wide<T>>(),
                             results.index.as<int64_t>(), results.mutual_or_null(),
                             results.scratch.as<uint64_t>(), s, nullptr);
  });
  results.finish();
}

void nearest_hamming(const py::array& query, const py::array& reference,
                     const py::object& query_lengths, const py::object& reference_lengths,
                     const py::object& mask, py::array distance, py::array index,
                     py::array mutual) {
  check(reference, query);
  const Device q("query", query), r("reference", reference);
  const Optional ql("query_lengths", query_lengths), rl("reference_lengths", reference_lengths);
  const Optional m("mask", mask);
  const flowmatch::HammingShape s = {query.shape(0),   query.shape(1), reference.shape(1),
                                     query.shape(2),   index.shape(2), ql.as<int64_t>(),
                                     rl.as<int64_t>(), m.as<bool>()};
  Results results(distance, index, mutual, flowmatch::cuda::hamming_scratch(s, mutual.size() > 0));
  flowmatch::cuda::nearest_hamming(q.as<const uint64_t>(), r.as<const uint64_t>(),
                                   results.distance.as<int32_t>(), results.index.as<int64_t>(),
                                   results.mutual_or_null(), results.scratch.as<uint64_t>(), s,
                                   nullptr);
  results.finish();
}

const emulator::Binding binding([](py::module_& m) {
  m.def("nearest", nearest);
  m.def("nearest_hamming", nearest_hamming);
});

}  // namespace
