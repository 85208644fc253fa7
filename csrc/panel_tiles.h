// The inner loops of products of many pairs on the CPU; compiled by each_isa.h for every
// instruction set.
// References lie in the lanes of two vectors, queries are broadcast: a panel is kPanel references,
// a tile kQueries queries times a panel.

template <class A>
constexpr int kPanel = 2 * kLanes<A>;
constexpr int kQueries = kTile / 2;

// out[i][j] = sum_c queries[c][i] * panel[c][j]
template <class A>
FLOWMATCH_TARGET void multiply_tile(const void* queries_, const void* panel_, int64_t depth,
                                    A* out) {
  const A *queries = static_cast<const A*>(queries_), *panel = static_cast<const A*>(panel_);
  Vector<A> acc[kQueries][2] = {};
  for (int64_t c = 0; c < depth; ++c, queries += kQueries, panel += kPanel<A>) {
    const Vector<A> left = load(panel), right = load(panel + kLanes<A>);
#pragma GCC unroll 16
    for (int i = 0; i < kQueries; ++i) {
      acc[i][0] += queries[i] * left;
      acc[i][1] += queries[i] * right;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kQueries; ++i) {
    store(out + i * kPanel<A>, acc[i][0]);
    store(out + i * kPanel<A> + kLanes<A>, acc[i][1]);
  }
}

// Which of a panel's scores, offset - product, are at most `limit`: a bit each. The scores
// themselves take the place of the products.
template <class A>
FLOWMATCH_TARGET inline uint64_t score_panel(A* products, const A* offsets, A limit) {
  uint64_t found = 0;
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    A* at = products + half * kLanes<A>;
    const Vector<A> score = load(offsets + half * kLanes<A>) - load(at);
    store(at, score);
    uint64_t bits = 0;
#if defined(__x86_64__)
    if constexpr (kVectorBytes == 64 && sizeof(A) == 4) {
      bits = _mm512_cmp_ps_mask((__m512)score, _mm512_set1_ps(limit), _CMP_LE_OQ);
    } else if constexpr (kVectorBytes == 64) {
      bits = _mm512_cmp_pd_mask((__m512d)score, _mm512_set1_pd(limit), _CMP_LE_OQ);
    } else if constexpr (kVectorBytes == 32 && sizeof(A) == 4) {
      bits = _mm256_movemask_ps((__m256)(score <= limit));
    } else if constexpr (kVectorBytes == 32) {
      bits = _mm256_movemask_pd((__m256d)(score <= limit));
    } else if constexpr (sizeof(A) == 4) {
      bits = _mm_movemask_ps((__m128)(score <= limit));
    } else {
      bits = _mm_movemask_pd((__m128d)(score <= limit));
    }
#else
    for (int j = 0; j < kLanes<A>; ++j) bits |= static_cast<uint64_t>(at[j] <= limit) << j;
#endif
    found |= bits << (half * kLanes<A>);
  }
  return found;
}

// The two smallest of each column, so far: `scores` of one query against a panel, plus `offset`.
template <class A>
FLOWMATCH_TARGET inline void lower_columns(const A* scores, A offset, A* best, A* second) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const int64_t at = half * kLanes<A>;
    const Vector<A> score = load(scores + at) + offset;
    const Vector<A> low = load(best + at), next = load(second + at);
    const Vector<A> loser = score < low ? low : score;  // or NaN, which lowers nothing
    store(best + at, score < low ? score : low);
    store(second + at, loser < next ? loser : next);
  }
}

// A pair's squared distance, or product: the figure that results are ordered by, always computed
// here, whatever found the pair.
template <class A>
FLOWMATCH_TARGET A exact_pair(const A* a, const A* b, int64_t depth, bool product) {
  constexpr int lanes = kLanes<A>;
  Vector<A> acc[4] = {};
  int64_t c = 0;
  for (; c + 4 * lanes <= depth; c += 4 * lanes) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Vector<A> x = load(a + c + k * lanes), y = load(b + c + k * lanes);
      acc[k] += product ? x * y : (x - y) * (x - y);
    }
  }
  A sums[lanes];
  store(sums, (acc[0] + acc[1]) + (acc[2] + acc[3]));
  A total = 0;
  for (; c < depth; ++c) total += product ? a[c] * b[c] : (a[c] - b[c]) * (a[c] - b[c]);
  for (int i = 0; i < lanes; ++i) total += sums[i];
  return total;
}

// Turns the products of a query with `count` references into distances: sqrt(2 (a + b - product)),
// a and b half their squared lengths. Returns whether one of them is so small beside a + b that
// what was lost to cancellation shows, or is not a number.
template <class A>
FLOWMATCH_TARGET bool finish_distances(const A* products, A a, const A* halves, A smallest,
                                       int64_t count, A* to) {
  int doubtful = 0;
  for (int64_t j = 0; j < count; ++j) {
    const A lengths = 2 * (a + halves[j]), square = lengths - 2 * products[j];
    doubtful |= !(square >= smallest * lengths);
    to[j] = std::sqrt(square > 0 ? square : A(0));
  }
  return doubtful;
}
