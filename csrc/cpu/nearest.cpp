// Exact nearest neighbours on the CPU, one batch item after the other. nearest_search.h has the
// algorithm.
#include "../nearest.h"

#include "../stable.h"
#include "nearest_search.h"

namespace flowmatch::cpu {

template <class T, class A>
void nearest(const T* query, const T* reference, A* distance, int64_t* index, bool* mutual,
             const NearestShape& s) {
  std::vector<Lists<A>> lists;
  for (int64_t i = 0; i < torch::stable::get_num_threads(); ++i) {
    lists.emplace_back(std::min(kBlock * FLOWMATCH_PICK(kQueries), s.queries), s.references, s.k);
  }
  std::unique_ptr<A[]> wide(new A[std::is_same_v<T, A> ? 0 : (s.queries + s.references) * s.depth]);
  for (int64_t b = 0; b < s.batch; ++b) {
    Search<A> item = {};
    const T* q = query + b * s.queries * s.depth;
    const T* r = reference + b * s.references * s.depth;
    if constexpr (std::is_same_v<T, A>) {
      item.query = q;
      item.reference = r;
    } else {
      const auto widen = [](T v) { return static_cast<A>(v); };
      std::transform(q, q + s.queries * s.depth, wide.get(), widen);
      std::transform(r, r + s.references * s.depth, wide.get() + s.queries * s.depth, widen);
      item.query = wide.get();
      item.reference = wide.get() + s.queries * s.depth;
    }
    item.queries = s.query_lengths ? s.query_lengths[b] : s.queries;
    item.references = s.reference_lengths ? s.reference_lengths[b] : s.references;
    item.depth = s.depth;
    item.k = s.k;
    item.product = s.metric == Metric::dot;
    // With bfloat16 the errors of the scores would be too large for the mutual test.
    item.halves = std::is_same_v<A, float> && multiplies_bfloat16() && !mutual && s.depth >= 16;
    item.mask = s.mask ? s.mask + b * s.queries * s.references : nullptr;
    item.mask_stride = s.references;
    item.distance = distance + b * s.queries * s.k;
    item.index = index + b * s.queries * s.k;
    item.mutual = mutual ? mutual + b * s.queries : nullptr;
    fill_missing(item, item.queries, s.queries);
    if (item.queries == 0) continue;
    if (item.references == 0) {
      fill_missing(item, 0, item.queries);
    } else {
      search(item, &lists);
    }
  }
}

#define FLOWMATCH_INSTANTIATE(T) \
  template void nearest(const T*, const T*, Accumulator<T>*, int64_t*, bool*, const NearestShape&);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(Half)
FLOWMATCH_INSTANTIATE(BFloat16)

}  // namespace flowmatch::cpu
