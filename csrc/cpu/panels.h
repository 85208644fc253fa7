// Packing of vectors for the products of many pairs, in nearest and pairwise_distance.
#pragma once
#include <cmath>
#include <limits>
#include <utility>

#include "../stable.h"
#include "simd.h"

#define FLOWMATCH_EACH_ISA "panel_loops.inc"
#include "each_isa.h"

namespace flowmatch::cpu {

// Computes exact_block for pairs of vector `own` and rows of `others`, and calls use(value, row)
// for each. row(i) is the row of pair i below `count`, or -1 for none.
template <class A, class Row, class Use>
void for_each_exact(const A* own, const A* others, int64_t depth, bool product, int64_t count,
                    const Row& row, const Use& use) {
  const auto exact = FLOWMATCH_PICK(exact_block<A>);
  const int64_t lanes = FLOWMATCH_PICK(kLanes<A>);
  constexpr int64_t kMaxLanes = 64 / sizeof(A);
  int64_t rows[kMaxLanes], filled = 0;
  const A* vectors[kMaxLanes];
  const auto compute = [&] {
    A values[kMaxLanes];
    std::fill(vectors + filled, vectors + lanes, own);
    exact(own, vectors, depth, product, values);
    for (int64_t i = 0; i < filled; ++i) use(values[i], rows[i]);
    filled = 0;
  };
  for (int64_t i = 0; i < count; ++i) {
    const int64_t chosen = row(i);
    if (chosen < 0) continue;
    rows[filled] = chosen;
    vectors[filled] = others + chosen * depth;
    if (++filled == lanes) compute();
  }
  if (filled) compute();
}

// Vectors in the layout of panel_loops.inc, and the norms that the error bound of nearest needs.
template <class A>
struct Packed {
  Buffer<A> values;  // [groups][depth][width]; with `halves`, pairs of bfloat16 per word
  Buffer<A> half;    // |v|^2 / 2; NaN for padding and for vectors that are not finite
  std::unique_ptr<double[]> norm, rest;  // |v| and |v - bfloat16(v)|
  int64_t groups, width;
  double most_norm = 0, most_rest = 0, mean_norm = 0;
};

template <class A>
BFloat16 to_bfloat16(A v) {
  return static_cast<BFloat16>(static_cast<float>(v));
}

// Packs vectors minus `centre`, or as they are if it is null.
template <class A>
void pack_group(const A* from, int64_t count, int64_t depth, bool halves, const double* centre,
                Packed<A>* p, int64_t group) {
  A* to = p->values.get() + group * p->width * (halves ? (depth + 1) / 2 : depth);
  auto* short_to = reinterpret_cast<BFloat16*>(to);
  constexpr int64_t kMaxWidth = 64;
  double square[kMaxWidth] = {}, rest[kMaxWidth] = {};
  const int64_t first = group * p->width, valid = std::min(p->width, count - first);
  const bool padded = valid < p->width || (halves && depth % 2);
  if (padded) std::fill_n(to, p->width * (halves ? (depth + 1) / 2 : depth), A(0));
  for (int64_t c = 0; c < depth; ++c) {
    const double origin = centre ? centre[c] : 0.0;
    const A* at = from + first * depth + c;
    for (int64_t j = 0; !halves && j < valid; ++j, at += depth) {
      const double exact = *at - origin;
      square[j] += exact * exact;
      to[c * p->width + j] = static_cast<A>(exact);
    }
    BFloat16* pairs = short_to + c / 2 * 2 * p->width + c % 2;
    for (int64_t j = 0; halves && j < valid; ++j, at += depth) {
      const double exact = *at - origin;
      square[j] += exact * exact;
      const A value = static_cast<A>(exact);
      const BFloat16 high = to_bfloat16(value);
      const double low = static_cast<double>(value) - static_cast<float>(high);
      rest[j] += low * low;
      pairs[2 * j] = high;
    }
  }
  for (int64_t j = 0; j < p->width; ++j) {
    const bool finite = j < valid && std::isfinite(square[j]);
    p->half[first + j] =
        finite ? static_cast<A>(square[j] / 2) : std::numeric_limits<A>::quiet_NaN();
    p->norm[first + j] = finite ? std::sqrt(square[j]) : 0;
    p->rest[first + j] = finite ? std::sqrt(rest[j]) : 0;
  }
}

// Allocates memory for `count` vectors.
template <class A>
Packed<A> allocate_packed(int64_t count, int64_t depth, int64_t width, bool halves) {
  Packed<A> p;
  p.width = width;
  p.groups = (count + width - 1) / width;
  p.values = buffer<A>(p.groups * width * (halves ? (depth + 1) / 2 : depth));
  p.half = buffer<A>(p.groups * width);
  p.norm.reset(new double[p.groups * width]);
  p.rest.reset(new double[p.groups * width]);
  return p;
}

template <class A>
void pack_into(const A* from, int64_t count, int64_t depth, bool halves, Packed<A>* p,
               const double* centre = nullptr) {
  parallel_rows(p->groups, 2 * p->width * depth, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) pack_group(from, count, depth, halves, centre, p, g);
  });
  p->most_norm = p->most_rest = p->mean_norm = 0;
  for (int64_t n = 0; n < count; ++n) {
    p->most_norm = std::max(p->most_norm, p->norm[n]);
    p->most_rest = std::max(p->most_rest, p->rest[n]);
    p->mean_norm += p->norm[n] / count;
  }
}

template <class A>
Packed<A> pack(const A* from, int64_t count, int64_t depth, int64_t width, bool halves,
               const double* centre = nullptr) {
  Packed<A> p = allocate_packed<A>(count, depth, width, halves);
  pack_into(from, count, depth, halves, &p, centre);
  return p;
}

}  // namespace flowmatch::cpu
