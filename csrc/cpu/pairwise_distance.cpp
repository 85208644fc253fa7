// All distances between two sets of vectors on the CPU.
//
// A tile of products is turned into distances while it is in the L1 cache, and written once.
// Entries that lost digits to cancellation are computed again, from differences.
#include "../pairwise_distance.h"

#include "panels.h"

namespace flowmatch::cpu {
namespace {

// Distances are computed from |x|^2 + |y|^2 - 2 x.y. Where that is less than this fraction of
// |x|^2 + |y|^2, cancellation has cost several digits: there they come from |x - y|^2.
constexpr double kCancelled = 1.0 / 32;

template <class A>
struct PairwiseKernels {
  void (*multiply)(const void*, const void*, int64_t, A*);
  bool (*finish)(const A*, A, const A*, A, int64_t, A*);
  int64_t rows, panel;
};

// The inputs of one batch item.
template <class A>
struct Pairs {
  const A *x, *y;                // [rows, depth], [columns, depth]
  const A *x_halves, *y_halves;  // |v|^2 / 2 of each vector
  bool may_overflow;             // |x|^2 + |y|^2 of some pair may be no number of type A
};

// The root of a square |x - y|^2, also where the square overflows but the distance does not.
template <class A>
A distance_from(A square, const A* x, const A* y, int64_t depth) {
  if (std::isfinite(square)) return std::sqrt(square);
  A largest = 0;
  for (int64_t c = 0; c < depth; ++c) largest = std::max(largest, std::abs(x[c] - y[c]));
  if (!std::isfinite(largest)) return std::sqrt(square);
  A sum = 0;
  for (int64_t c = 0; c < depth; ++c) {
    const A share = (x[c] - y[c]) / largest;
    sum += share * share;
  }
  return largest * std::sqrt(sum);
}

// Turns the products of row i, columns j to j + count, into results.
template <class T, class A>
void finish_row(const PairwiseKernels<A>& f, const Pairs<A>& p, const PairwiseShape& s, int64_t i,
                int64_t j, int64_t count, const A* products, A* line, T* to) {
  if (s.metric == Metric::dot) {
    std::transform(products, products + count, to, [](A v) { return static_cast<T>(v); });
    return;
  }
  constexpr A smallest = static_cast<A>(kCancelled);
  const A half = p.x_halves[i];
  if (f.finish(products, half, p.y_halves + j, smallest, count, line) || p.may_overflow) {
    const A *x = p.x + i * s.depth, *y = p.y + j * s.depth;
    const auto row = [&](int64_t n) -> int64_t {
      const A lengths = 2 * (half + p.y_halves[j + n]), square = lengths - 2 * products[n];
      return square >= smallest * lengths && std::isfinite(square) ? -1 : n;
    };
    const auto use = [&](A square, int64_t n) {
      line[n] = distance_from(square, x, y + n * s.depth, s.depth);
    };
    for_each_exact(x, y, s.depth, false, count, row, use);
  }
  std::transform(line, line + count, to, [](A v) { return static_cast<T>(v); });
}

template <class T, class A>
void fill_rows(const PairwiseKernels<A>& f, const Pairs<A>& p, const Packed<A>& left,
               const Packed<A>& right, const PairwiseShape& s, int64_t group, A* products, T* out) {
  A* line = products + f.rows * f.panel;
  const int64_t first = group * f.rows, last = std::min(first + f.rows, s.rows);
  for (int64_t j = 0; j < s.columns; j += f.panel) {
    f.multiply(left.values.get() + first * s.depth, right.values.get() + j * s.depth, s.depth,
               products);
    const int64_t count = std::min(f.panel, s.columns - j);
    for (int64_t i = first; i < last; ++i) {
      finish_row(f, p, s, i, j, count, products + (i - first) * f.panel, line,
                 out + i * s.columns + j);
    }
  }
}

}  // namespace

template <class T>
void pairwise_distance(const T* x, const T* y, T* out, const PairwiseShape& s) {
  using A = Accumulator<T>;
  const PairwiseKernels<A> f = {FLOWMATCH_PICK(multiply_tile<A>),
                                FLOWMATCH_PICK(finish_distances<A>), FLOWMATCH_PICK(kQueries),
                                FLOWMATCH_PICK(kPanel<A>)};
  const Widened<T, A> wide_x(x, s.batch * s.rows * s.depth);
  const Widened<T, A> wide_y(y, s.batch * s.columns * s.depth);
  // Memory of a thread that processes a batch item, and scratch of the threads that share the item.
  struct Workspace {
    Packed<A> left, right;
    Scratch<A> scratch;
  };
  std::vector<std::unique_ptr<Workspace>> workspaces;
  for (int64_t i = 0; i < std::min<int64_t>(torch::stable::get_num_threads(), s.batch); ++i) {
    workspaces.emplace_back(new Workspace{allocate_packed<A>(s.rows, s.depth, f.rows, false),
                                          allocate_packed<A>(s.columns, s.depth, f.panel, false),
                                          Scratch<A>(f.rows * f.panel + f.panel)});
  }
  std::atomic<size_t> next_workspace{0};
  const int64_t work = f.rows * s.columns * s.depth;
  // Threads are given batch items, or groups of rows if there is one item only.
  parallel_rows(s.batch, s.rows * s.columns * s.depth, [&](int64_t begin, int64_t end) {
    Workspace& own = *workspaces[next_workspace++ % workspaces.size()];
    for (int64_t b = begin; b < end; ++b) {
      Pairs<A> p = {wide_x.data() + b * s.rows * s.depth, wide_y.data() + b * s.columns * s.depth,
                    own.left.half.get(), own.right.half.get(), false};
      pack_into(p.x, s.rows, s.depth, false, &own.left);
      pack_into(p.y, s.columns, s.depth, false, &own.right);
      const double longest = std::max(own.left.most_norm, own.right.most_norm);
      p.may_overflow = longest * longest > static_cast<double>(std::numeric_limits<A>::max()) / 4;
      T* to = out + b * s.rows * s.columns;
      parallel_rows(own.left.groups, work, [&](int64_t first, int64_t last) {
        A* products = own.scratch.take();
        for (int64_t g = first; g < last; ++g) {
          fill_rows(f, p, own.left, own.right, s, g, products, to);
        }
      });
    }
  });
}

template <class T>
void pairwise_distance_weight(const T* g, const T* distance, T* out, int64_t count) {
  using A = Accumulator<T>;
  parallel_rows(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const A d = static_cast<A>(distance[i]);
      out[i] = static_cast<T>(d == 0 ? A(0) : static_cast<A>(g[i]) / d);
    }
  });
}

#define FLOWMATCH_INSTANTIATE(T)                                                 \
  template void pairwise_distance(const T*, const T*, T*, const PairwiseShape&); \
  template void pairwise_distance_weight(const T*, const T*, T*, int64_t);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(Half)
FLOWMATCH_INSTANTIATE(BFloat16)

}  // namespace flowmatch::cpu
