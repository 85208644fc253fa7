// Exact nearest neighbours on the CPU, item by item of the batch. nearest_search.h has the
// algorithm.
#include "../nearest.h"

#include <atomic>
#include <exception>

#include "../stable.h"
#include "nearest_search.h"

namespace flowmatch::cpu {

namespace {

// Memory of the lists of `threads` threads.
template <class A>
std::vector<Lists<A>> make_lists(const NearestShape& s, int64_t threads) {
  std::vector<Lists<A>> lists;
  for (int64_t i = 0; i < threads; ++i) {
    lists.emplace_back(std::min(kBlock * FLOWMATCH_PICK(kQueries), s.queries), s.references, s.k);
  }
  return lists;
}

// Memory of an item's vectors in type A.
template <class T, class A>
std::unique_ptr<A[]> make_wide(const NearestShape& s) {
  return std::unique_ptr<A[]>(
      new A[std::is_same_v<T, A> ? 0 : (s.queries + s.references) * s.depth]);
}

}  // namespace

template <class T, class A>
void nearest(const T* query, const T* reference, A* distance, int64_t* index, bool* mutual,
             const NearestShape& s) {
  const auto search_item = [&](int64_t b, std::vector<Lists<A>>* lists, A* wide) {
    Search<A> item = {};
    const T* q = query + b * s.queries * s.depth;
    const T* r = reference + b * s.references * s.depth;
    if constexpr (std::is_same_v<T, A>) {
      item.query = q;
      item.reference = r;
    } else {
      const auto widen = [](T v) { return static_cast<A>(v); };
      std::transform(q, q + s.queries * s.depth, wide, widen);
      std::transform(r, r + s.references * s.depth, wide + s.queries * s.depth, widen);
      item.query = wide;
      item.reference = wide + s.queries * s.depth;
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
    if (item.queries == 0) return;
    if (item.references == 0) {
      fill_missing(item, 0, item.queries);
    } else {
      search(item, lists);
    }
  };
  const int64_t threads = torch::stable::get_num_threads();
  if (threads == 1 || s.batch < threads) {
    auto lists = make_lists<A>(s, threads);
    const auto wide = make_wide<T, A>(s);
    for (int64_t b = 0; b < s.batch; ++b) search_item(b, &lists, wide.get());
    return;
  }
  // Many items: each thread takes whole ones, without a barrier inside; the loops of `search` do
  // not divide their work again. What is thrown may not leave a thread.
  std::exception_ptr failure;
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  torch::stable::parallel_for(0, s.batch, 1, [&](int64_t begin, int64_t end) {
    try {
      auto lists = make_lists<A>(s, 1);
      const auto wide = make_wide<T, A>(s);
      for (int64_t b = begin; b < end; ++b) search_item(b, &lists, wide.get());
    } catch (...) {
      if (!failed.test_and_set()) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

#define FLOWMATCH_INSTANTIATE(T) \
  template void nearest(const T*, const T*, Accumulator<T>*, int64_t*, bool*, const NearestShape&);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(Half)
FLOWMATCH_INSTANTIATE(BFloat16)

}  // namespace flowmatch::cpu
