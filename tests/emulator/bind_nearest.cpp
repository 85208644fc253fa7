#include "../../csrc/nearest.h"
#include "../../csrc/pairwise_distance.h"
#include "bindings.h"

namespace {

using emulator::check;
using emulator::Device;
using emulator::with_type;

template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Arrays as they may be left out: None is null.
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

// Outputs of both searches; `mutual` and the columns it needs may be empty.
struct Found {
  Device distance, index, mutual, columns;
  bool wants_mutual;
  Found(py::array& distance, py::array& index, py::array& mutual, py::array& columns)
      : distance("distance", distance, true),
        index("index", index, true),
        mutual("mutual", mutual, true),
        columns("columns", columns, true),
        wants_mutual(mutual.size() > 0) {}
  bool* mutual_or_null() const { return wants_mutual ? mutual.as<bool>() : nullptr; }
  void finish() {
    for (Device* d : {&distance, &index, &mutual, &columns}) d->finish();
  }
};

void nearest(const py::array& query, const py::array& reference, const py::object& query_lengths,
             const py::object& reference_lengths, const py::object& mask, int metric,
             py::array distance, py::array index, py::array mutual, py::array columns) {
  check(reference, query);
  const Device q("query", query), r("reference", reference);
  const Optional ql("query_lengths", query_lengths), rl("reference_lengths", reference_lengths);
  const Optional m("mask", mask);
  Found found(distance, index, mutual, columns);
  const flowmatch::NearestShape s = {
      query.shape(0),   query.shape(1),   reference.shape(1),
      query.shape(2),   index.shape(2),   static_cast<flowmatch::Metric>(metric),
      ql.as<int64_t>(), rl.as<int64_t>(), m.as<bool>()};
  with_type(query.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::nearest(q.as<const T>(), r.as<const T>(), found.distance.as<Wide<T>>(),
                             found.index.as<int64_t>(), found.mutual_or_null(),
                             found.columns.as<uint64_t>(), s, nullptr);
  });
  found.finish();
}

void nearest_hamming(const py::array& query, const py::array& reference,
                     const py::object& query_lengths, const py::object& reference_lengths,
                     const py::object& mask, py::array distance, py::array index, py::array mutual,
                     py::array columns) {
  check(reference, query);
  const Device q("query", query), r("reference", reference);
  const Optional ql("query_lengths", query_lengths), rl("reference_lengths", reference_lengths);
  const Optional m("mask", mask);
  Found found(distance, index, mutual, columns);
  const flowmatch::HammingShape s = {query.shape(0),   query.shape(1), reference.shape(1),
                                     query.shape(2),   index.shape(2), ql.as<int64_t>(),
                                     rl.as<int64_t>(), m.as<bool>()};
  flowmatch::cuda::nearest_hamming(
      q.as<const uint64_t>(), r.as<const uint64_t>(), found.distance.as<int32_t>(),
      found.index.as<int64_t>(), found.mutual_or_null(), found.columns.as<uint64_t>(), s, nullptr);
  found.finish();
}

void pairwise_distance(const py::array& x, const py::array& y, py::array out, int metric) {
  for (const auto& a : {x, y, out}) check(a, x);
  const Device first("x", x), second("y", y);
  Device to("out", out, true);
  with_type(x.dtype(), [&](auto t) {
    using T = decltype(t);
    flowmatch::cuda::pairwise_distance(
        first.as<const T>(), second.as<const T>(), to.as<T>(),
        {x.shape(0), x.shape(1), y.shape(1), x.shape(2), static_cast<flowmatch::Metric>(metric)},
        nullptr);
  });
  to.finish();
}

int64_t nearest_scratch(int64_t batch, int64_t queries, int64_t references, bool mutual) {
  flowmatch::NearestShape s = {};
  s.batch = batch, s.queries = queries, s.references = references;
  return flowmatch::cuda::nearest_scratch(s, mutual);
}

const emulator::Binding binding([](py::module_& m) {
  m.def("nearest_scratch", nearest_scratch);
  m.def("nearest", nearest);
  m.def("nearest_hamming", nearest_hamming);
  m.def("pairwise_distance", pairwise_distance);
});

}  // namespace
