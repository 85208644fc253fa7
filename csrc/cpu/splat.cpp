// Forward warping on the CPU.
//
// The sources of an image are sorted by the row that they land in (stable: each row's list is in
// the order of the image). A row of the result then sums two lists, that of the row above and its
// own. It belongs to one thread and is summed in that order, so that results are bit-identical from
// run to run, with any number of threads. The backward pass gathers: every source reads its own
// targets.
#include "../splat.h"

#include <algorithm>

#include "../stable.h"

namespace flowmatch::cpu {
namespace {

constexpr int kChannels = 4;  // channels that are summed together

template <class A>
struct Source {
  int64_t pixel, x;
  A fy, fx;
};

// The sources of one image, those that land in row y - 1 at [starts[y], starts[y + 1]).
template <class A>
struct SortedSources {
  std::unique_ptr<Source<A>[]> sources;
  std::vector<int64_t> starts;
};

// Calls f(row it lands in + 1, source) for all sources in a range of rows that land inside.
template <class A, class F>
void each_source(const A* flow, const SplatShape& s, int64_t begin, int64_t end, const F& f) {
  for (int64_t y = begin; y < end; ++y) {
    for (int64_t x = 0; x < s.width; ++x) {
      const auto at = landing(flow, s, y, x);
      if (at.inside) f(at.y + 1, Source<A>{y * s.width + x, at.x, at.fy, at.fx});
    }
  }
}

// A counting sort. Parts of the image are counted and then moved independently of each other; the
// order does not depend on the number of parts.
template <class A>
void sort(const A* flow, const SplatShape& s, SortedSources<A>* sorted) {
  const int64_t rows = s.height + 1;
  const int64_t parts = std::min<int64_t>(torch::stable::get_num_threads(), s.height);
  const auto each_part = [&](const auto& f) {
    parallel_rows(parts, 16 * s.pixels() / parts, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        f(p, p * s.height / parts, (p + 1) * s.height / parts);
      }
    });
  };
  std::vector<int64_t> next(parts * rows);  // first counts, then the place of the next source
  each_part([&](int64_t part, int64_t begin, int64_t end) {
    int64_t* counts = next.data() + part * rows;
    each_source(flow, s, begin, end, [&](int64_t row, const Source<A>&) { ++counts[row]; });
  });
  int64_t place = 0;
  for (int64_t row = 0; row < rows; ++row) {
    sorted->starts[row] = place;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t count = next[part * rows + row];
      next[part * rows + row] = place;
      place += count;
    }
  }
  sorted->starts[rows] = place;
  each_part([&](int64_t part, int64_t begin, int64_t end) {
    int64_t* to = next.data() + part * rows;
    each_source(flow, s, begin, end,
                [&](int64_t row, const Source<A>& source) { sorted->sources[to[row]++] = source; });
  });
}

// Adds sources to a row, sums[x + 1][channel]. `upper`: the row is that of their upper targets.
template <int count, class A>
void add_sources(const Source<A>* begin, const Source<A>* end, bool upper, const A* image,
                 int64_t plane, A* sums) {
  for (const Source<A>* source = begin; source < end; ++source) {
    const A down = upper ? 1 - source->fy : source->fy;
    const A left = down * (1 - source->fx), right = down * source->fx;
    A* to = sums + (source->x + 1) * count;
    A values[count];
    for (int c = 0; c < count; ++c) values[c] = image[c * plane + source->pixel];
    for (int c = 0; c < count; ++c) to[c] += left * values[c];
    for (int c = 0; c < count; ++c) to[count + c] += right * values[c];
  }
}

// Computes row y of `count` channels. image, out: the first of them. sums: scratch memory for the
// row, and one pixel more on each side.
template <int count, class A>
void splat_row(const A* image, const SortedSources<A>& sorted, A* out, const SplatShape& s,
               int64_t y, A* sums) {
  std::fill(sums, sums + (s.width + 2) * count, A(0));
  const auto list = [&](int64_t row) { return sorted.sources.get() + sorted.starts[row]; };
  add_sources<count>(list(y), list(y + 1), false, image, s.pixels(), sums);
  add_sources<count>(list(y + 1), list(y + 2), true, image, s.pixels(), sums);
  for (int c = 0; c < count; ++c) {
    A* row = out + c * s.pixels() + y * s.width;
    for (int64_t x = 0; x < s.width; ++x) row[x] = sums[(x + 1) * count + c];
  }
}

}  // namespace

template <class A>
void splat(const A* image, const A* flow, A* out, const SplatShape& s) {
  SortedSources<A> sorted;
  sorted.sources.reset(new Source<A>[s.pixels()]);
  sorted.starts.resize(s.height + 2);
  Scratch<A> scratch((s.width + 2) * kChannels);
  const int64_t groups = (s.channels + kChannels - 1) / kChannels;
  for (int64_t b = 0; b < s.batch; ++b) {
    sort(flow + b * 2 * s.pixels(), s, &sorted);
    parallel_rows(groups * s.height, 16 * kChannels * s.width, [&](int64_t begin, int64_t end) {
      A* sums = scratch.take();
      for (int64_t n = begin; n < end; ++n) {
        const int64_t c = n / s.height * kChannels, y = n % s.height;
        const int64_t plane = (b * s.channels + c) * s.pixels();
        switch (std::min<int64_t>(kChannels, s.channels - c)) {
          case 1:
            splat_row<1>(image + plane, sorted, out + plane, s, y, sums);
            break;
          case 2:
            splat_row<2>(image + plane, sorted, out + plane, s, y, sums);
            break;
          case 3:
            splat_row<3>(image + plane, sorted, out + plane, s, y, sums);
            break;
          default:
            splat_row<kChannels>(image + plane, sorted, out + plane, s, y, sums);
        }
      }
    });
  }
}

namespace {

// The gradients of the sources of a row, for one channel. image, grad: its row; along: that of the
// gradients of the flow along x and y, to which the channel is added.
template <class A>
void gather_row(const A* g, const A* image, const Landing<A>* landings, A* grad, A* along_x,
                A* along_y, const SplatShape& s) {
  for (int64_t x = 0; x < s.width; ++x) {
    if (!landings[x].inside) {
      grad[x] = 0;
      continue;
    }
    const auto at = sample(g, s, landings[x]);
    grad[x] = at.value;
    along_x[x] += image[x] * at.over_x;
    along_y[x] += image[x] * at.over_y;
  }
}

}  // namespace

template <class A>
void splat_grad(const A* g, const A* image, const A* flow, A* grad_image, A* grad_flow,
                const SplatShape& s) {
  Scratch<Landing<A>> scratch(s.width);
  const int64_t work = 16 * (s.channels + 1) * s.width;
  parallel_rows(s.batch * s.height, work, [&](int64_t begin, int64_t end) {
    Landing<A>* landings = scratch.take();
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / s.height, y = row % s.height;
      for (int64_t x = 0; x < s.width; ++x) {
        landings[x] = landing(flow + b * 2 * s.pixels(), s, y, x);
      }
      A* along = grad_flow + b * 2 * s.pixels() + y * s.width;
      for (A* to : {along, along + s.pixels()}) std::fill(to, to + s.width, A(0));
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t plane = (b * s.channels + c) * s.pixels(), first = plane + y * s.width;
        gather_row(g + plane, image + first, landings, grad_image + first, along,
                   along + s.pixels(), s);
      }
    }
  });
}

#define FLOWMATCH_INSTANTIATE(A)                                  \
  template void splat(const A*, const A*, A*, const SplatShape&); \
  template void splat_grad(const A*, const A*, const A*, A*, A*, const SplatShape&);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)

}  // namespace flowmatch::cpu
