// The metrics of nearest and pairwise_distance.
#pragma once

namespace flowmatch {

enum class Metric { l2, dot };  // Euclidean distance, inner product

}  // namespace flowmatch
