// All distances between two sets of vectors on the CPU, and the registration of their kernels.
//
// A tile of products is turned into distances while it is in the first-level cache, and written
// once. Entries that lost digits to cancellation are computed again, from differences.
#include "pairwise.h"

#include "panels.h"

namespace flowmatch {
namespace {

template <class A>
struct PairwiseKernels {
  void (*multiply)(const void*, const void*, int64_t, A*);
  bool (*finish)(const A*, A, const A*, A, int64_t, A*);
  A (*exact)(const A*, const A*, int64_t, bool);
  int64_t rows, panel;
};

// What one batch item is computed from.
template <class A>
struct Pairs {
  const A *x, *y;                // [rows, depth], [columns, depth]
  const A *x_halves, *y_halves;  // of squared lengths
};

// `count` entries of row i from column j on.
template <class T, class A>
void finish_row(const PairwiseKernels<A>& f, const Pairs<A>& p, const PairwiseShape& s, int64_t i,
                int64_t j, int64_t count, const A* products, A* line, T* to) {
  if (s.metric == Metric::dot) {
    std::transform(products, products + count, to, [](A v) { return static_cast<T>(v); });
    return;
  }
  constexpr A smallest = static_cast<A>(kCancelled);
  const A half = p.x_halves[i];
  if (f.finish(products, half, p.y_halves + j, smallest, count, line)) {
    for (int64_t n = 0; n < count; ++n) {
      const A lengths = 2 * (half + p.y_halves[j + n]);
      if (!(lengths - 2 * products[n] >= smallest * lengths)) {
        line[n] = std::sqrt(f.exact(p.x + i * s.depth, p.y + (j + n) * s.depth, s.depth, false));
      }
    }
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

template <class T>
void forward(const T* x, const T* y, T* out, const PairwiseShape& s) {
  using A = Accumulator<T>;
  const PairwiseKernels<A> f = {FLOWMATCH_PICK(multiply_tile<A>),
                                FLOWMATCH_PICK(finish_distances<A>), FLOWMATCH_PICK(exact_pair<A>),
                                FLOWMATCH_PICK(kQueries), FLOWMATCH_PICK(kPanel<A>)};
  const Widened<T, A> wide_x(x, s.batch * s.rows * s.depth);
  const Widened<T, A> wide_y(y, s.batch * s.columns * s.depth);
  // For each thread that takes a batch item; its scratch, for those that share one item.
  struct Room {
    Packed<A> left, right;
    Scratch<A> scratch;
  };
  std::vector<std::unique_ptr<Room>> rooms;
  for (int64_t i = 0; i < std::min<int64_t>(torch::stable::get_num_threads(), s.batch); ++i) {
    rooms.emplace_back(new Room{unpacked<A>(s.rows, s.depth, f.rows, false),
                                unpacked<A>(s.columns, s.depth, f.panel, false),
                                Scratch<A>(f.rows * f.panel + f.panel)});
  }
  std::atomic<size_t> next_room{0};
  const int64_t work = f.rows * s.columns * s.depth;
  // Threads take items, or, where there is only one item, groups of its rows.
  parallel_rows(s.batch, s.rows * s.columns * s.depth, [&](int64_t begin, int64_t end) {
    Room& room = *rooms[next_room++ % rooms.size()];
    for (int64_t b = begin; b < end; ++b) {
      const Pairs<A> p = {wide_x.data() + b * s.rows * s.depth,
                          wide_y.data() + b * s.columns * s.depth, room.left.half.get(),
                          room.right.half.get()};
      pack_into(p.x, s.rows, s.depth, false, &room.left);
      pack_into(p.y, s.columns, s.depth, false, &room.right);
      T* to = out + b * s.rows * s.columns;
      parallel_rows(room.left.groups, work, [&](int64_t first, int64_t last) {
        A* products = room.scratch.take();
        for (int64_t g = first; g < last; ++g) {
          fill_rows(f, p, room.left, room.right, s, g, products, to);
        }
      });
    }
  });
}

PairwiseShape shape(const Tensor& x, const Tensor& y, int64_t metric) {
  STD_TORCH_CHECK(x.dim() == 3 && y.dim() == 3 && x.size(0) == y.size(0) &&
                      x.size(2) == y.size(2) && x.scalar_type() == y.scalar_type() &&
                      x.device() == y.device(),
                  "pairwise: x and y must be [B, N, D] and [B, M, D] of one type and device");
  STD_TORCH_CHECK(metric == 0 || metric == 1, "pairwise: metric must be 0 (l2) or 1 (dot)");
  return {x.size(0), x.size(1), y.size(1), x.size(2), static_cast<Metric>(metric)};
}

Tensor pairwise_cpu(const Tensor& x, const Tensor& y, int64_t metric) {
  const auto s = shape(x, y, metric);
  Tensor out = new_output(x, {s.batch, s.rows, s.columns});
  if (out.numel() == 0) return out;
  const Tensor a = torch::stable::contiguous(x), b = torch::stable::contiguous(y);
  THO_DISPATCH_V2(x.scalar_type(), "pairwise", AT_WRAP([&] {
                    forward(a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(),
                            out.mutable_data_ptr<scalar_t>(), s);
                  }),
                  FLOWMATCH_FLOATS);
  return out;
}

// Elementwise and of any type, but tens of megabytes: what takes time is fresh memory.
Tensor pairwise_weight_cpu(const Tensor& g, const Tensor& distance) {
  STD_TORCH_CHECK(g.sizes().equals(distance.sizes()) && g.device() == distance.device() &&
                      g.scalar_type() == distance.scalar_type(),
                  "pairwise_weight: g and distance must be alike");
  const Tensor a = torch::stable::contiguous(g), b = torch::stable::contiguous(distance);
  Tensor out = new_output(g, std::vector<int64_t>(g.sizes().begin(), g.sizes().end()));
  THO_DISPATCH_V2(g.scalar_type(), "pairwise_weight", AT_WRAP([&] {
                    const auto* from = a.const_data_ptr<scalar_t>();
                    const auto* over = b.const_data_ptr<scalar_t>();
                    auto* to = out.mutable_data_ptr<scalar_t>();
                    parallel_rows(g.numel(), 1, [&](int64_t begin, int64_t end) {
                      using A = Accumulator<scalar_t>;
                      for (int64_t i = begin; i < end; ++i) {
                        const A d = static_cast<A>(over[i]);
                        const A v = static_cast<A>(from[i]);
                        to[i] = static_cast<scalar_t>(d == 0 ? A(0) : v / d);
                      }
                    });
                  }),
                  FLOWMATCH_FLOATS);
  return out;
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CPU, m) {
  m.impl("pairwise", TORCH_BOX(&flowmatch::pairwise_cpu));
  m.impl("pairwise_weight", TORCH_BOX(&flowmatch::pairwise_weight_cpu));
}

#ifdef FLOWMATCH_CUDA
namespace flowmatch {
namespace {

Tensor pairwise_cuda(const Tensor& x, const Tensor& y, int64_t metric) {
  const auto s = shape(x, y, metric);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor out = torch::stable::new_empty(x, {s.batch, s.rows, s.columns});
  if (out.numel() == 0) return out;
  const Tensor a = torch::stable::contiguous(x), b = torch::stable::contiguous(y);
  THO_DISPATCH_V2(x.scalar_type(), "pairwise", AT_WRAP([&] {
                    cuda::pairwise(device(a.const_data_ptr<scalar_t>()),
                                   device(b.const_data_ptr<scalar_t>()),
                                   device(out.mutable_data_ptr<scalar_t>()), s, current_stream(x));
                  }),
                  FLOWMATCH_FLOATS);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace flowmatch

STABLE_TORCH_LIBRARY_IMPL(flowmatch, CUDA, m) {
  m.impl("pairwise", TORCH_BOX(&flowmatch::pairwise_cuda));
}
#endif
