// The correlation cost volume on the CPU.
//
// Images are first packed row by row, [H, C, W], and padded left and right with zeros, so that the
// inner loops (correlation_loops.inc) neither test for borders nor stride through memory. The
// forward pass walks over rows of the second image, the backward pass over groups of rows of the
// gradient. Each output element is written by one thread, in a fixed order: results are
// bit-identical from run to run.
#include "../correlation.h"

#include <cstring>
#include <utility>

#include "../stable.h"
#include "simd.h"

namespace flowmatch::cpu {

constexpr int kMaxRows = 5;               // rows of an image in one tile, at most
constexpr int kMaxLanes = 16;             // elements of a vector, at most
constexpr int kGradRows = 2;              // rows of the gradient in one tile
constexpr int kGradVectors = 2;           // vectors of channels in one tile, at most
constexpr int kMaxOtherRows = 16;         // rows of the other image per backward step, at most
constexpr int64_t kEntryBytes = 1 << 17;  // cache size for the volume's entries of one step
constexpr int64_t kMaxInPlaceChannels = 64;

// The layout of packed rows. Displacements in x that always fall outside the other image are left
// out: `count` of them remain, from `first` on.
struct PackedRows {
  PackedRows(const CorrelationShape& s, int64_t lanes)
      : vectors((s.width + lanes - 1) / lanes * lanes), padded(vectors) {
    while (first < s.side_x() && s.right(first) <= -s.width) ++first;
    while (first + count < s.side_x() && s.right(first + count) < s.width) ++count;
    if (count == 0) return;
    const int64_t left = s.right(first), right = s.right(first + count - 1);
    margin = std::max<int64_t>(0, -left);
    start = margin + left;
    padded += margin + std::max<int64_t>(0, right);
  }
  int64_t first = 0, count = 0;
  int64_t margin = 0;  // zeros before the image
  int64_t start = 0;   // where the first displacement of the first pixel is in a row
  int64_t vectors;     // elements in a row, rounded up to whole vectors
  int64_t padded;      // elements in a row with the zeros on both sides
};

// The layout of rows in the backward pass: pixels, with a block of channels of all pixels after the
// other, so that the pixels of a tile are close to each other in memory.
struct GradientRows {
  int64_t width, rounded, padded;  // pixels in a row; in whole vectors; with the zeros at both ends
  int64_t start;                   // where the first displacement of the first pixel is
  int64_t count;                   // displacements in x that reach into the image
  int64_t depth, block;            // channels in whole vectors; in a block
  // The number of channels in the block of channel c.
  int64_t channels(int64_t c) const { return std::min(block, depth - c / block * block); }
  // Where channel c of pixel x is, in rows of `size` pixels.
  int64_t place(int64_t size, int64_t x, int64_t c) const {
    return c / block * block * size + x * channels(c) + c % block;
  }
};

// The first image in memory: its first row, and the steps from one row, channel and vector of
// pixels to the next.
template <class A>
struct FirstImage {
  const A* rows;
  int64_t row, channel, vector;
};

}  // namespace flowmatch::cpu

#define FLOWMATCH_EACH_ISA "correlation_loops.inc"
#include "each_isa.h"

namespace flowmatch::cpu {

// The functions of the backward pass for one instruction set.
template <class A>
struct GradKernels {
  int64_t lanes;
  void (*transposed)(const A*, int64_t, A*, int64_t);
  void (*add_rows)(const A*, const A* const*, const int*, int, bool, A*, const CorrelationShape&,
                   const GradientRows&);
};

template <class A>
GradKernels<A> grad_kernels(int64_t channels) {
#if defined(__x86_64__)
  // Few channels would leave most of a longer vector empty.
  if (isa() == Isa::avx512 && channels <= avx2::kLanes<A>) {
    return {avx2::kLanes<A>, avx2::transpose<A>, avx2::backward_rows<A>};
  }
#endif
  return {FLOWMATCH_PICK(kLanes<A>), FLOWMATCH_PICK(transpose<A>),
          FLOWMATCH_PICK(backward_rows<A>)};
}

namespace {

template <class T, class A>
void convert(const T* from, int64_t count, A* to) {
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(to, from, count * sizeof(A));
  } else {
    std::transform(from, from + count, to, [](T v) { return static_cast<A>(v); });
  }
}

// One image [C, H, W] -> [H, C, margin + W + zeros], rows `size` long.
template <class T, class A>
void pack(const T* image, A* rows, const CorrelationShape& s, int64_t size, int64_t margin) {
  parallel_rows(s.height, s.channels * size, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t c = 0; c < s.channels; ++c) {
        const T* from = image + (c * s.height + y) * s.width;
        A* to = rows + (y * s.channels + c) * size;
        std::fill(to, to + margin, A(0));
        convert(from, s.width, to + margin);
        std::fill(to + margin + s.width, to + size, A(0));
      }
    }
  });
}

// One image [C, H, W] -> [H, W / lanes, C, lanes], with zeros at the end of a row. A tile's pixels
// of all channels are contiguous.
template <class T, class A>
void pack_vectors(const T* image, A* to, const CorrelationShape& s, int64_t lanes) {
  const int64_t vectors = (s.width + lanes - 1) / lanes;
  parallel_rows(s.height, s.channels * s.width, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t c = 0; c < s.channels; ++c) {
        const T* from = image + (c * s.height + y) * s.width;
        for (int64_t v = 0; v < vectors; ++v) {
          A* vector = to + ((y * vectors + v) * s.channels + c) * lanes;
          const int64_t count = std::min(lanes, s.width - v * lanes);
          convert(from + v * lanes, count, vector);
          std::fill(vector + count, vector + lanes, A(0));
        }
      }
    }
  });
}

// Correlates row y2 of the second image with every row of the first within the radius.
template <class T, class A, class Rows>
void forward_row(const FirstImage<A>& first, const A* second, T* volume, const CorrelationShape& s,
                 const PackedRows& p, int64_t y2, Rows* rows, int tile_rows) {
  const auto row_of = [&](int64_t dy) { return y2 - s.down(dy); };
  int64_t low = 0, high = s.side_y();  // range of dy whose row lies inside the first image
  while (low < high && row_of(low) >= s.height) ++low;
  while (high > low && row_of(high - 1) < 0) --high;
  for (int64_t dy = low; dy < high; dy += tile_rows) {
    const int count = static_cast<int>(std::min<int64_t>(tile_rows, high - dy));
    const A* a[kMaxRows];
    T* out[kMaxRows];
    for (int r = 0; r < tile_rows; ++r) {
      const int64_t own = dy + std::min(r, count - 1), y = row_of(own);
      a[r] = first.rows + y * first.row;
      out[r] = volume + ((own * s.side_x() + p.first) * s.height + y) * s.width;
    }
    rows(a, first, second + y2 * s.channels * p.padded + p.start, out, s, p, count);
  }
}

// Writes zeros where the displaced row or column lies outside for the whole row.
template <class T>
void zero_unreachable(T* volume, const CorrelationShape& s, const PackedRows& p) {
  parallel_rows(s.displacements(), s.pixels(), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      T* plane = volume + k * s.pixels();
      const int64_t dy = s.down(k / s.side_x()), dx = k % s.side_x();
      const bool outside = dx < p.first || dx >= p.first + p.count;
      for (int64_t y = 0; y < s.height; ++y) {
        if (outside || y + dy < 0 || y + dy >= s.height) {
          std::fill(plane + y * s.width, plane + (y + 1) * s.width, T(0));
        }
      }
    }
  });
}

}  // namespace

template <class T>
void correlation(const T* f1, const T* f2, T* volume, const CorrelationShape& s) {
  using A = Accumulator<T>;
  const int64_t lanes = FLOWMATCH_PICK(kLanes<A>);
  const PackedRows p(s, lanes);
  const auto rows = FLOWMATCH_PICK(forward_rows<T, A>);
  const int tile_rows = FLOWMATCH_PICK(kRows);
  // An image with few channels and rows of whole vectors is read in place. With many channels,
  // each on its own memory pages, packing costs less than the page-table lookups (TLB misses) that
  // it saves.
  const bool in_place =
      std::is_same_v<T, A> && p.vectors == s.width && s.channels <= kMaxInPlaceChannels;
  const auto first = buffer<A>(in_place ? 0 : s.height * s.channels * p.vectors);
  const std::unique_ptr<A[]> second(new A[s.height * s.channels * p.padded]);
  for (int64_t b = 0; b < s.batch; ++b) {
    FirstImage<A> image{first.get(), s.channels * p.vectors, lanes, s.channels * lanes};
    const T* from = f1 + b * s.channels * s.pixels();
    if (in_place) {
      image = {reinterpret_cast<const A*>(from), s.width, s.pixels(), lanes};
    } else {
      pack_vectors(from, first.get(), s, lanes);
    }
    pack(f2 + b * s.channels * s.pixels(), second.get(), s, p.padded, p.margin);
    T* out = volume + b * s.displacements() * s.pixels();
    zero_unreachable(out, s, p);
    const int64_t work = s.channels * s.displacements() * s.width;
    parallel_rows(s.height, work, [&](int64_t begin, int64_t end) {
      for (int64_t y2 = begin; y2 < end; ++y2) {
        forward_row(image, second.get(), out, s, p, y2, rows, tile_rows);
      }
    });
  }
}

namespace {

// Packs the part of the volume's gradient that links image row y to row y2 of the other image, as
// [count, width]: entry (d, x) belongs to other[x + right(p.first + d)]. For the gradient of f2
// every displacement is reversed (`s` as well): its entry is stored at the other pixel, under the
// opposite one.
template <class T, class A>
void pack_gradient(const T* g, A* to, const CorrelationShape& s, const PackedRows& p, bool first,
                   int64_t y, int64_t y2) {
  const int64_t dy = (y2 - y - s.down(0)) / s.stride;
  for (int64_t d = p.first; d < p.first + p.count; ++d, to += s.width) {
    const int64_t shift = first ? 0 : s.right(d), k = dy * s.side_x() + d;
    const int64_t begin = std::max<int64_t>(0, -shift);
    const int64_t end = std::min(s.width, s.width - shift);
    const T* from =
        g + ((first ? k : s.displacements() - 1 - k) * s.height + (first ? y : y2)) * s.width;
    std::fill(to, to + begin, A(0));
    convert(from + shift + begin, end - begin, to + begin);
    std::fill(to + end, to + s.width, A(0));
  }
}

// One image [C, H, W] -> [H, blocks of channels, margin + W + zeros, channels of a block].
template <class T, class A>
void pack_pixels(const T* image, A* rows, const CorrelationShape& s, const GradientRows& p,
                 int64_t margin, const GradKernels<A>& f) {
  const int64_t lanes = f.lanes;
  parallel_rows(s.height, s.channels * p.padded, [&](int64_t begin, int64_t end) {
    alignas(static_cast<size_t>(kCacheLine)) A block[kMaxLanes * kMaxLanes];
    for (int64_t y = begin; y < end; ++y) {
      A* row = rows + y * p.padded * p.depth;
      for (int64_t c = 0; c < s.channels; c += p.block) {
        const int64_t channels = p.channels(c), last = margin + s.width;
        std::fill_n(row + p.place(p.padded, 0, c), margin * channels, A(0));
        std::fill_n(row + p.place(p.padded, last, c), (p.padded - last) * channels, A(0));
      }
      for (int64_t c = 0; c < s.channels; c += lanes) {
        const int64_t count = std::min(lanes, s.channels - c), pitch = p.channels(c);
        std::fill(block + count * lanes, block + lanes * lanes, A(0));
        for (int64_t x = 0; x < s.width; x += lanes) {
          const int64_t pixels = std::min(lanes, s.width - x);
          const T* from = image + (c * s.height + y) * s.width + x;
          A* to = row + p.place(p.padded, margin + x, c);
          if constexpr (std::is_same_v<T, A>) {
            if (count == lanes && pixels == lanes) {
              f.transposed(from, s.pixels(), to, pitch);
              continue;
            }
          }
          for (int64_t i = 0; i < count; ++i, from += s.pixels()) {
            for (int64_t j = 0; j < pixels; ++j) block[i * lanes + j] = static_cast<A>(from[j]);
          }
          if (pixels == lanes) {
            f.transposed(block, lanes, to, pitch);
            continue;
          }
          for (int64_t j = 0; j < pixels; ++j) {
            for (int64_t i = 0; i < lanes; ++i) to[j * pitch + i] = block[i * lanes + j];
          }
        }
      }
    }
  });
}

// Writes a row of the gradient, multiplied by `scale`.
template <class T, class A>
void unpack_row(const A* sums, T* row, const CorrelationShape& s, const GradientRows& p,
                const GradKernels<A>& f) {
  const A scale = A(1) / static_cast<A>(s.channels);
  const int64_t lanes = f.lanes;
  alignas(static_cast<size_t>(kCacheLine)) A block[kMaxLanes * kMaxLanes];
  for (int64_t c = 0; c < s.channels; c += lanes) {
    for (int64_t x = 0; x < s.width; x += lanes) {
      f.transposed(sums + p.place(p.rounded, x, c), p.channels(c), block, lanes);
      const int64_t pixels = std::min(lanes, s.width - x);
      for (int64_t i = 0; i < std::min(lanes, s.channels - c); ++i) {
        std::transform(block + i * lanes, block + i * lanes + pixels,
                       row + (c + i) * s.pixels() + x,
                       [&](A v) { return static_cast<T>(v * scale); });
      }
    }
  }
}

}  // namespace

template <class T>
void correlation_grad(const T* g, const T* other, T* grad, const CorrelationShape& shape,
                      bool first) {
  using A = Accumulator<T>;
  const CorrelationShape s = first ? shape : reversed(shape);
  const GradKernels<A> f = grad_kernels<A>(s.channels);
  const int64_t lanes = f.lanes;
  const PackedRows p(s, lanes);
  const GradientRows rows = {s.width,
                             p.vectors,
                             s.width + p.padded - p.vectors,
                             p.start,
                             p.count,
                             (s.channels + lanes - 1) / lanes * lanes,
                             kGradVectors * lanes};
  const int64_t size = rows.rounded * rows.depth;         // of the sums of a row
  const int64_t tile = kGradRows * rows.count * s.width;  // entries of a row of the other image
  const int64_t fitting = kEntryBytes / (std::max<int64_t>(1, tile) * sizeof(A));
  const int64_t rows_per_step = std::clamp<int64_t>(fitting, 1, kMaxOtherRows);
  const auto packed = buffer<A>(s.height * rows.padded * rows.depth);
  // A group is the rows of a tile, `stride` apart, which are linked to the same rows of the other
  // image.
  const int64_t classes = std::min(s.stride, s.height);
  const int64_t groups = ((s.height + classes - 1) / classes + kGradRows - 1) / kGradRows;
  for (int64_t b = 0; b < s.batch; ++b) {
    pack_pixels(other + b * s.channels * s.pixels(), packed.get(), s, rows, p.margin, f);
    const T* from = g + b * s.displacements() * s.pixels();
    T* to = grad + b * s.channels * s.pixels();
    Scratch<A> scratch(kGradRows * size + rows_per_step * tile);
    const int64_t work = kGradRows * s.channels * s.displacements() * s.width;
    parallel_rows(classes * groups, work, [&](int64_t begin, int64_t end) {
      A* sums = scratch.take();
      A* entries = sums + kGradRows * size;
      for (int64_t group = begin; group < end; ++group) {
        const int64_t top = group % classes + group / classes * kGradRows * s.stride;
        const A* others[kMaxOtherRows];
        int links[kMaxOtherRows], count = 0;
        bool fresh = true;
        for (int64_t step = 0; step < s.side_y() - 1 + kGradRows; ++step) {
          const int64_t y2 = top + s.down(step);
          if (y2 < 0 || y2 >= s.height) continue;
          links[count] = 0;
          for (int64_t r = 0; r < kGradRows; ++r) {
            const int64_t y = top + r * s.stride, dy = step - r;
            if (y >= s.height || dy < 0 || dy >= s.side_y()) continue;
            links[count] |= 1 << r;
            pack_gradient(from, entries + (count * kGradRows + r) * rows.count * s.width, s, p,
                          first, y, y2);
          }
          if (links[count] == 0) continue;
          others[count++] = packed.get() + y2 * rows.padded * rows.depth;
          if (count < rows_per_step) continue;
          f.add_rows(entries, others, links, count, fresh, sums, s, rows);
          count = 0, fresh = false;
        }
        if (fresh || count) f.add_rows(entries, others, links, count, fresh, sums, s, rows);
        for (int64_t r = 0; r < kGradRows && top + r * s.stride < s.height; ++r) {
          unpack_row(sums + r * size, to + (top + r * s.stride) * s.width, s, rows, f);
        }
      }
    });
  }
}

#define FLOWMATCH_INSTANTIATE(T)                                              \
  template void correlation(const T*, const T*, T*, const CorrelationShape&); \
  template void correlation_grad(const T*, const T*, T*, const CorrelationShape&, bool);
FLOWMATCH_INSTANTIATE(float)
FLOWMATCH_INSTANTIATE(double)
FLOWMATCH_INSTANTIATE(Half)
FLOWMATCH_INSTANTIATE(BFloat16)

}  // namespace flowmatch::cpu
