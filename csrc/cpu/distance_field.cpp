// Truncated distance fields on the CPU, by one of two methods.
//
// With few points around a keypoint, each point lowers the distances of the voxels around it. With
// many, points are sorted into cells of one voxel, and an integer distance transform gives each
// cell's distance to the nearest occupied cell. That leaves a thin shell of cells to search for
// each voxel: a point in a cell at distance d is at a distance of d - h to d + h, where h is half a
// cell's diagonal.
#include "../distance_field.h"

#include <cmath>
#include <cstring>
#include <tuple>

#include "../stable.h"

namespace flowmatch::cpu {
namespace {

// A cell relative to the cell of a voxel.
struct Offset {
  int32_t square;  // squared distance between the cells
  float least;     // smallest squared distance of a point in the cell
  int64_t step;    // difference of their indices
};

// Half a cell's diagonal in voxels, rounded up.
constexpr double kHalfDiagonal = 0.8661;

// The number of rows of voxels that points may lower; with more, sorting into cells is faster.
constexpr double kMaxRows = 1e6;

// The grid of cells around a keypoint and the offsets in order of distance, the same for all
// keypoints.
struct FieldGrid {
  explicit FieldGrid(const FieldShape& s)
      : margin(static_cast<int64_t>(std::ceil(s.truncation)) + 1),
        side(s.size + 2 * margin),
        cells(side * side * side),
        most(static_cast<int32_t>((margin + 1) * (margin + 1))),
        starts(most + 2, 0) {
    const auto r = static_cast<int32_t>(margin);
    for (int32_t z = -r; z <= r; ++z) {
      for (int32_t y = -r; y <= r; ++y) {
        for (int32_t x = -r; x <= r; ++x) {
          const int32_t square = z * z + y * y + x * x;
          const double gap = std::max(0.0, std::sqrt(square) - kHalfDiagonal);
          if (square > most) continue;
          offsets.push_back({square, static_cast<float>(gap * gap), (z * side + y) * side + x});
        }
      }
    }
    std::sort(offsets.begin(), offsets.end(), [](const Offset& a, const Offset& b) {
      return std::tie(a.square, a.step) < std::tie(b.square, b.step);
    });
    for (int32_t square = 0; square <= most + 1; ++square) {
      starts[square] = std::lower_bound(offsets.begin(), offsets.end(), square,
                                        [](const Offset& o, int32_t s) { return o.square < s; }) -
                       offsets.begin();
    }
  }
  int64_t margin, side, cells;
  int32_t most;                 // largest squared distance between cells that matters
  std::vector<int64_t> starts;  // start of each squared distance in `offsets`
  std::vector<Offset> offsets;
};

// One keypoint's points and cells; allocated once per thread.
template <class A>
struct Neighbourhood {
  std::vector<A> local, sorted;         // points [n, 3] in voxels, voxel (0, 0, 0) at 0
  std::vector<int32_t> cell, start;     // cell of each point; start of each cell in `sorted`
  std::vector<int32_t> next;            // position of a cell's next point in `sorted`
  std::vector<int16_t> square, before;  // squared distance of a cell to an occupied one
  std::vector<uint64_t> occupied;       // one bit per cell, so that all fit into the L1 cache
};

template <class A>
struct FieldInput {
  const A* points;
  const int64_t* keys;
  const A *centres, *frames;
};

// Collects the points within the truncation of a keypoint's grid, in the grid's coordinates.
template <class A>
void collect(const FieldInput<A>& in, const FieldShape& s, const FieldGrid& grid, int64_t k,
             Neighbourhood<A>* n) {
  const A* centre = in.centres + 3 * k;
  const A* frame = in.frames + 9 * k;
  const double half = (static_cast<double>(s.size) - 1) / 2;
  const double reach = (half + s.truncation) * s.voxel;
  CellRange range[3];
  for (int axis = 0; axis < 3; ++axis) {
    double extent = 0;  // half the extent of the rotated cube
    for (int row = 0; row < 3; ++row) extent += std::abs(frame[3 * row + axis]) * reach;
    range[axis] = cells_near(s, axis, centre[axis], extent);
  }
  n->local.clear();
  n->cell.clear();
  const A scale = static_cast<A>(1 / s.voxel), shift = static_cast<A>(half);
  const A low = static_cast<A>(-s.truncation);
  const A high = static_cast<A>(static_cast<double>(s.size) - 1 + s.truncation);
  for (int64_t z = range[2].begin; z < range[2].end; ++z) {
    for (int64_t y = range[1].begin; y < range[1].end; ++y) {
      const int64_t row = (z * s.counts[1] + y) * s.counts[0];
      int64_t p = first_of(in.keys, s.points, row + range[0].begin);
      for (; p < s.points && in.keys[p] < row + range[0].end; ++p) {
        A at[3];
        bool near = true;
        for (int axis = 0; axis < 3; ++axis) {
          at[axis] = shift;
          for (int i = 0; i < 3; ++i) {
            at[axis] += frame[3 * axis + i] * ((in.points[3 * p + i] - centre[i]) * scale);
          }
          near &= at[axis] >= low && at[axis] <= high;
        }
        if (!near) continue;
        int64_t cell = 0;
        for (int axis = 2; axis >= 0; --axis) {
          cell =
              cell * grid.side + grid.margin + static_cast<int64_t>(std::floor(at[axis] + A(0.5)));
          n->local.push_back(at[2 - axis]);
        }
        n->cell.push_back(static_cast<int32_t>(cell));
      }
    }
  }
}

template <class A>
void sort_by_cell(const FieldGrid& grid, Neighbourhood<A>* n) {
  n->start.assign(grid.cells + 1, 0);
  for (const int32_t cell : n->cell) ++n->start[cell + 1];
  for (int64_t c = 0; c < grid.cells; ++c) n->start[c + 1] += n->start[c];
  n->sorted.resize(n->local.size());
  n->next.assign(n->start.begin(), n->start.end() - 1);
  for (size_t p = 0; p < n->cell.size(); ++p) {
    std::memcpy(&n->sorted[3 * n->next[n->cell[p]]++], &n->local[3 * p], 3 * sizeof(A));
  }
}

// to[i] = min(to[i], from[i] + added). In 16 bits, because every x86-64 has a vector minimum of
// those: eight at a time.
inline void lower(const int16_t* from, int16_t added, int64_t count, int16_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    const auto other = static_cast<int16_t>(from[i] + added);
    to[i] = other < to[i] ? other : to[i];
  }
}

// Distance transform, axis by axis: square[c] = squared distance of cell c to the nearest occupied
// cell, at most `most` + 1.
template <class A>
void measure_cells(const FieldGrid& grid, Neighbourhood<A>* n) {
  const int64_t side = grid.side, most = grid.margin + 1;
  const auto far = static_cast<int16_t>(grid.most + 1);
  n->square.assign(grid.cells, far);
  n->occupied.assign(grid.cells / 64 + 1, 0);
  for (const int32_t c : n->cell) {
    n->square[c] = 0;
    n->occupied[c / 64] |= uint64_t{1} << (c % 64);
  }
  for (const int64_t step : {int64_t{1}, side, side * side}) {
    n->before = n->square;
    for (int64_t first = 0; first < grid.cells; first += step * side) {
      for (int64_t d = 1; d <= std::min(most, side - 1); ++d) {
        const auto added = static_cast<int16_t>(d * d);
        const int64_t count = (side - d) * step;
        lower(&n->before[first + d * step], added, count, &n->square[first]);
        lower(&n->before[first], added, count, &n->square[first + d * step]);
      }
    }
  }
}

// Squared distance of voxel (z, y, x) to the nearest point, at most the truncation's square.
template <class A>
A nearest_square(const FieldShape& s, const FieldGrid& grid, const Neighbourhood<A>& n, int64_t z,
                 int64_t y, int64_t x) {
  A best = static_cast<A>(s.truncation * s.truncation);
  const int64_t cell =
      ((z + grid.margin) * grid.side + y + grid.margin) * grid.side + x + grid.margin;
  const int32_t closest = n.square[cell];
  for (auto o = grid.offsets.begin() + grid.starts[closest]; o != grid.offsets.end(); ++o) {
    if (o->least >= best) break;
    const auto at = static_cast<uint64_t>(cell + o->step);
    if ((n.occupied[at / 64] >> (at % 64) & 1) == 0) continue;
    for (int32_t p = n.start[at]; p < n.start[at + 1]; ++p) {
      const A* point = &n.sorted[3 * p];
      const A dx = point[0] - static_cast<A>(x), dy = point[1] - static_cast<A>(y);
      const A dz = point[2] - static_cast<A>(z);
      best = std::min(best, dx * dx + dy * dy + dz * dz);
    }
  }
  return best;
}

// Lets each point lower the squared distance of the voxels in the cube around it. The cost is
// proportional to the number of points. Rows are padded, so that all updates have the same length
// and need no remainder loop.
template <class A>
void spread(const FieldShape& s, const Neighbourhood<A>& n, std::vector<A>* squares,
            std::vector<A>* across, A* to) {
  constexpr int64_t kLanes = 4;
  const A reach = static_cast<A>(s.truncation), square = reach * reach;
  const int64_t width = (static_cast<int64_t>(2 * s.truncation) + 1 + kLanes) / kLanes * kLanes;
  const int64_t stride = s.size + width;
  squares->assign(s.size * s.size * stride, square);
  across->resize(width);
  for (size_t p = 0; p < n.local.size(); p += 3) {
    int64_t low[3], high[3];
    for (int axis = 0; axis < 3; ++axis) {
      const A at = n.local[p + axis];
      low[axis] = std::max<int64_t>(0, static_cast<int64_t>(std::ceil(at - reach)));
      high[axis] = std::min<int64_t>(s.size - 1, static_cast<int64_t>(std::floor(at + reach)));
    }
    if (low[0] > high[0]) continue;
    for (int64_t i = 0; i < width; ++i) {
      const A dx = n.local[p] - static_cast<A>(low[0] + i);
      (*across)[i] = dx * dx;
    }
    for (int64_t z = low[2]; z <= high[2]; ++z) {
      const A dz = n.local[p + 2] - static_cast<A>(z);
      for (int64_t y = low[1]; y <= high[1]; ++y) {
        const A dy = n.local[p + 1] - static_cast<A>(y);
        if (dy * dy + dz * dz >= square) continue;
        A* row = squares->data() + (z * s.size + y) * stride + low[0];
        const A* dx = across->data();
        for (int64_t i = 0; i < width; i += kLanes) {
          for (int64_t lane = i; lane < i + kLanes; ++lane) {
            const A d = dx[lane] + dy * dy + dz * dz;
            row[lane] = d < row[lane] ? d : row[lane];
          }
        }
      }
    }
  }
  for (int64_t row = 0; row < s.size * s.size; ++row) {
    const A* from = squares->data() + row * stride;
    for (int64_t x = 0; x < s.size; ++x) *to++ = 1 - std::sqrt(from[x]) / reach;
  }
}

}  // namespace

template <class A>
void distance_field(const A* points, const int64_t* keys, const A* centres, const A* frames, A* out,
                    const FieldShape& s) {
  const FieldInput<A> in = {points, keys, centres, frames};
  const FieldGrid grid(s);
  const A reach = static_cast<A>(s.truncation);
  parallel_rows(s.centres, int64_t{1} << 20, [&](int64_t begin, int64_t end) {
    Neighbourhood<A> n;
    std::vector<A> squares, across;
    for (int64_t k = begin; k < end; ++k) {
      A* to = out + k * s.voxels();
      collect(in, s, grid, k, &n);
      if (n.cell.empty()) {
        std::fill(to, to + s.voxels(), A(0));
        continue;
      }
      const double rows = 4 * s.truncation * s.truncation;
      if (rows * static_cast<double>(n.cell.size()) < kMaxRows) {
        spread(s, n, &squares, &across, to);
        continue;
      }
      sort_by_cell(grid, &n);
      measure_cells(grid, &n);
      for (int64_t z = 0; z < s.size; ++z) {
        for (int64_t y = 0; y < s.size; ++y) {
          for (int64_t x = 0; x < s.size; ++x) {
            *to++ = 1 - std::sqrt(nearest_square(s, grid, n, z, y, x)) / reach;
          }
        }
      }
    }
  });
}

template void distance_field(const float*, const int64_t*, const float*, const float*, float*,
                             const FieldShape&);
template void distance_field(const double*, const int64_t*, const double*, const double*, double*,
                             const FieldShape&);

}  // namespace flowmatch::cpu
