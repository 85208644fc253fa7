// The inner loops of correlation on the CPU; compiled by each_isa.h for every instruction set.
// A tile is kRows rows that see the same row of the other image, times a few columns
// (displacements forward, channels backward), times one vector of pixels.

constexpr int kColumns = kTile / kRows;

// tile<1, ...> to tile<kColumns, ...>: a count of columns is split into blocks of nearly equal
// size, so that no block is much narrower than a tile.
// clang-format off
#define FLOWMATCH_COLUMN(n) (kColumns < n ? 1 : n)
#define FLOWMATCH_COLUMNS(tile, ...)                                                            \
  {tile<1, __VA_ARGS__>, tile<2, __VA_ARGS__>, tile<3, __VA_ARGS__>, tile<4, __VA_ARGS__>,      \
   tile<FLOWMATCH_COLUMN(5), __VA_ARGS__>, tile<FLOWMATCH_COLUMN(6), __VA_ARGS__>,              \
   tile<FLOWMATCH_COLUMN(7), __VA_ARGS__>, tile<FLOWMATCH_COLUMN(8), __VA_ARGS__>,              \
   tile<FLOWMATCH_COLUMN(9), __VA_ARGS__>}
// clang-format on

// acc[r][d] = sum_c first[r][c, x] * second[c, x + d * stride], into out[r] + d * pixels; `step` is
// from one channel of the first image to the next.
template <int cols, class T, class A>
FLOWMATCH_TARGET void forward_tile(const A* const* first, int64_t step, const A* second,
                                   T* const* out, const CorrelationShape& s, const PackedRows& p,
                                   int rows, int64_t width) {
  Vector<A> acc[kRows][cols] = {};
  for (int64_t c = 0; c < s.channels; ++c) {
    Vector<A> a[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) a[r] = load(first[r] + c * step);
#pragma GCC unroll 16
    for (int d = 0; d < cols; ++d) {
      const Vector<A> b = load(second + c * p.padded + d * s.stride);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) acc[r][d] += a[r] * b;
    }
  }
  const A scale = A(1) / static_cast<A>(s.channels);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    if (r == rows) break;
#pragma GCC unroll 16
    for (int d = 0; d < cols; ++d) {
      A values[kLanes<A>];
      store(values, acc[r][d] * scale);
      T* to = out[r] + d * s.pixels();
      if (width >= kLanes<A>) {
        for (int x = 0; x < kLanes<A>; ++x) to[x] = static_cast<T>(values[x]);
      } else {
        for (int x = 0; x < width; ++x) to[x] = static_cast<T>(values[x]);
      }
    }
  }
}

// All displacements of `rows` rows of the first image against one row of the second.
template <class T, class A>
FLOWMATCH_TARGET void forward_rows(const A* const* first, int64_t step, const A* second,
                                   T* const* out, const CorrelationShape& s, const PackedRows& p,
                                   int rows) {
  using Tile = void (*)(const A* const*, int64_t, const A*, T* const*, const CorrelationShape&,
                        const PackedRows&, int, int64_t);
  static constexpr Tile tiles[] = FLOWMATCH_COLUMNS(forward_tile, T, A);
  const int64_t side = 2 * p.reach + 1, blocks = (side + kColumns - 1) / kColumns;
  for (int64_t x = 0; x < s.width; x += kLanes<A>) {
    const A* a[kRows];
    T* to[kRows];
    for (int r = 0; r < kRows; ++r) a[r] = first[r] + x;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t from = block * side / blocks, cols = (block + 1) * side / blocks - from;
      for (int r = 0; r < kRows; ++r) to[r] = out[r] + from * s.pixels() + x;
      tiles[cols - 1](a, step, second + x + from * s.stride, to, s, p, rows, s.width - x);
    }
  }
}

// grad[r][c, x] += sum_{m, d} g[m][r][d, x] * others[m][c, x + d * stride] for `cols` channels and
// `met` rows of the other image.
template <int cols, class A>
FLOWMATCH_TARGET void backward_tile(const A* g, const A* const* others, int64_t at, int met,
                                    A* grad, const CorrelationShape& s, const PackedRows& p) {
  const int64_t side = 2 * p.reach + 1;
  Vector<A> acc[kRows][cols];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < cols; ++c) {
      acc[r][c] = load(grad + (r * s.channels + c) * p.vectors);
    }
  }
  for (int m = 0; m < met; ++m, g += kRows * side * p.vectors) {
    const A* other = others[m] + at;
    for (int64_t d = 0; d < side; ++d) {
      Vector<A> a[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) a[r] = load(g + (r * side + d) * p.vectors);
#pragma GCC unroll 16
      for (int c = 0; c < cols; ++c) {
        const Vector<A> b = load(other + c * p.padded + d * s.stride);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) acc[r][c] += a[r] * b;
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < cols; ++c) {
      store(grad + (r * s.channels + c) * p.vectors, acc[r][c]);
    }
  }
}

// Adds to the gradient of kRows rows, [kRows, C, vectors], what `met` rows of the other image give.
template <class A>
FLOWMATCH_TARGET void backward_rows(const A* g, const A* const* others, int met, A* grad,
                                    const CorrelationShape& s, const PackedRows& p) {
  using Tile = void (*)(const A*, const A* const*, int64_t, int, A*, const CorrelationShape&,
                        const PackedRows&);
  static constexpr Tile tiles[] = FLOWMATCH_COLUMNS(backward_tile, A);
  const int64_t blocks = (s.channels + kColumns - 1) / kColumns;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t c = block * s.channels / blocks, end = (block + 1) * s.channels / blocks;
    for (int64_t x = 0; x < s.width; x += kLanes<A>) {
      tiles[end - c - 1](g + x, others, c * p.padded + x, met, grad + c * p.vectors + x, s, p);
    }
  }
}
#undef FLOWMATCH_COLUMNS
#undef FLOWMATCH_COLUMN
