// The inner loops of the lookup on the CPU; compiled by each_isa.h for every instruction set.

template <class A>
constexpr int kTaps = kLanes<A> < 10 ? kLanes<A> : 10;  // pixels of a row of f2 at once

// {a0 + a1, a2 + a3, ..., b0 + b1, ...}
template <class A>
FLOWMATCH_TARGET inline __attribute__((always_inline)) Vector<A> add_pairs(const Vector<A>& a,
                                                                           const Vector<A>& b) {
  using Index = Vector<std::conditional_t<sizeof(A) == 4, int32_t, int64_t>>;
  Index even, odd;
  for (int i = 0; i < kLanes<A>; ++i) {
    even[i] = 2 * i;
    odd[i] = 2 * i + 1;
  }
  return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}

// dots[t] = sum_c first[c] * second[t, c] for `count` pixels next to each other.
template <int count, class A>
FLOWMATCH_TARGET void dot_tile(const A* first, const A* second, int64_t channels, A* dots) {
  constexpr int lanes = kLanes<A>;
  Vector<A> acc[lanes] = {};
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    const Vector<A> a = load(first + c);
#pragma GCC unroll 16
    for (int t = 0; t < count; ++t) acc[t] += a * load(second + t * channels + c);
  }
#pragma GCC unroll 8
  for (int n = lanes; n > 1; n /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; ++i) acc[i] = add_pairs<A>(acc[2 * i], acc[2 * i + 1]);
  }
  A sums[lanes];
  store(sums, acc[0]);
  for (int t = 0; t < count; ++t) dots[t] = sums[t];
  for (; c < channels; ++c) {
    for (int t = 0; t < count; ++t) dots[t] += first[c] * second[t * channels + c];
  }
}

// The columns [begin, end) of a window that lie inside f2.
template <class A>
FLOWMATCH_TARGET inline void inside(const LookupWindow<A>& w, const LookupShape& s, int64_t* begin,
                                    int64_t* end) {
  *begin = std::clamp<int64_t>(-w.x, 0, s.columns());
  *end = std::clamp<int64_t>(s.width2 - w.x, *begin, s.columns());
}

// A pixel times all of its window, 0 outside f2: [rows(), columns()].
template <class A>
FLOWMATCH_TARGET void window_dots(const A* first, const A* f2, const LookupWindow<A>& w,
                                  const LookupShape& s, A* dots) {
  using Tile = void (*)(const A*, const A*, int64_t, A*);
#define FLOWMATCH_TAPS(n) dot_tile<(kTaps<A> < n ? 1 : n), A>
  static constexpr Tile tiles[] = {FLOWMATCH_TAPS(1), FLOWMATCH_TAPS(2), FLOWMATCH_TAPS(3),
                                   FLOWMATCH_TAPS(4), FLOWMATCH_TAPS(5), FLOWMATCH_TAPS(6),
                                   FLOWMATCH_TAPS(7), FLOWMATCH_TAPS(8), FLOWMATCH_TAPS(9),
                                   FLOWMATCH_TAPS(10)};
#undef FLOWMATCH_TAPS
  int64_t begin, end;
  inside(w, s, &begin, &end);
  std::fill(dots, dots + s.taps(), A(0));
  const int64_t blocks = (end - begin + kTaps<A> - 1) / kTaps<A>;
  for (int64_t i = 0; i < s.rows(); ++i, dots += s.columns()) {
    if (w.y + i < 0 || w.y + i >= s.height2) continue;
    const A* row = f2 + ((w.y + i) * s.width2 + w.x) * s.channels;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t t = begin + block * (end - begin) / blocks;
      const int64_t next = begin + (block + 1) * (end - begin) / blocks;
      tiles[next - t - 1](first, row + t * s.channels, s.channels, dots + t);
    }
  }
}

// Blends the dot products of a window into its results, `step` apart.
template <class A>
FLOWMATCH_TARGET void blend(const A* dots, const LookupWindow<A>& w, const LookupShape& s, A scale,
                            A* out, int64_t step) {
  const A top = (1 - w.fy) * scale, bottom = w.fy * scale;
  for (int64_t i = 0; i < s.side_y(); ++i, dots += s.columns()) {
    const A* below = dots + s.columns();
    for (int64_t j = 0; j < s.side_x(); ++j, out += step) {
      const A left = top * dots[j] + bottom * below[j];
      const A right = top * dots[j + 1] + bottom * below[j + 1];
      *out = (1 - w.fx) * left + w.fx * right;
    }
  }
}

// What `blend` makes of the results' gradient g: that of the dot products, and of (fx, fy).
template <class A>
FLOWMATCH_TARGET void blend_grad(const A* g, const A* dots, const LookupWindow<A>& w,
                                 const LookupShape& s, A scale, A* taps, A* along) {
  std::fill(taps, taps + s.taps(), A(0));
  A along_x = 0, along_y = 0;
  for (int64_t i = 0; i < s.side_y(); ++i) {
    const A* row = dots + i * s.columns();
    A* to = taps + i * s.columns();
    for (int64_t j = 0; j < s.side_x(); ++j) {
      const A entry = g[i * s.side_x() + j] * scale;
      const int64_t below = j + s.columns();
      to[j] += (1 - w.fy) * (1 - w.fx) * entry;
      to[j + 1] += (1 - w.fy) * w.fx * entry;
      to[below] += w.fy * (1 - w.fx) * entry;
      to[below + 1] += w.fy * w.fx * entry;
      along_x +=
          entry * ((1 - w.fy) * (row[j + 1] - row[j]) + w.fy * (row[below + 1] - row[below]));
      along_y +=
          entry * ((1 - w.fx) * (row[below] - row[j]) + w.fx * (row[below + 1] - row[j + 1]));
    }
  }
  along[0] = along_x;
  along[1] = along_y;
}

// to[c] = sum of a window's pixels, each times its entry of `taps`.
template <class A>
FLOWMATCH_TARGET void gather_window(const A* taps, const A* f2, const LookupWindow<A>& w,
                                    const LookupShape& s, A* to) {
  constexpr int lanes = kLanes<A>, most = 8;
  int64_t begin, end;
  inside(w, s, &begin, &end);
  const auto walk = [&](const auto& visit) FLOWMATCH_TARGET {
    for (int64_t i = 0; i < s.rows(); ++i) {
      if (w.y + i < 0 || w.y + i >= s.height2) continue;
      const A* row = f2 + ((w.y + i) * s.width2 + w.x) * s.channels;
      for (int64_t j = begin; j < end; ++j) visit(taps[i * s.columns() + j], row + j * s.channels);
    }
  };
  int64_t c = 0;
  for (; c + most * lanes <= s.channels; c += most * lanes) {
    Vector<A> acc[most] = {};
    walk([&](A tap, const A* pixel) FLOWMATCH_TARGET {
#pragma GCC unroll 8
      for (int k = 0; k < most; ++k) acc[k] += tap * load(pixel + c + k * lanes);
    });
#pragma GCC unroll 8
    for (int k = 0; k < most; ++k) store(to + c + k * lanes, acc[k]);
  }
  std::fill(to + c, to + s.channels, A(0));
  walk([&](A tap, const A* pixel) FLOWMATCH_TARGET {
    for (int64_t k = c; k < s.channels; ++k) to[k] += tap * pixel[k];
  });
}

// sums[window, c] += taps * first[c] for `count` channels; the pixels of `sums` are `pitch` apart.
template <class A>
FLOWMATCH_TARGET void scatter_window(const A* taps, const A* first, const LookupWindow<A>& w,
                                     const LookupShape& s, int64_t count, int64_t pitch, A* sums) {
  constexpr int lanes = kLanes<A>, most = 4;
  int64_t begin, end;
  inside(w, s, &begin, &end);
  const auto walk = [&](const auto& visit) FLOWMATCH_TARGET {
    for (int64_t i = 0; i < s.rows(); ++i) {
      if (w.y + i < 0 || w.y + i >= s.height2) continue;
      A* row = sums + ((w.y + i) * s.width2 + w.x) * pitch;
      for (int64_t j = begin; j < end; ++j) visit(taps[i * s.columns() + j], row + j * pitch);
    }
  };
  int64_t c = 0;
  for (; c + most * lanes <= count; c += most * lanes) {
    Vector<A> own[most];
#pragma GCC unroll 4
    for (int k = 0; k < most; ++k) own[k] = load(first + c + k * lanes);
    walk([&](A tap, A* pixel) FLOWMATCH_TARGET {
#pragma GCC unroll 4
      for (int k = 0; k < most; ++k) {
        A* at = pixel + c + k * lanes;
        store(at, load(at) + tap * own[k]);
      }
    });
  }
  if (c == count) return;
  walk([&](A tap, A* pixel) FLOWMATCH_TARGET {
    for (int64_t k = c; k < count; ++k) pixel[k] += tap * first[k];
  });
}
