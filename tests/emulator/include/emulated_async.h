// Asynchronous copies: the bytes are read at once and arrive when they are waited for; until then
// the target holds NaN, so that a missing wait shows.
#pragma once
#include <vector>

#include "emulator.h"

namespace emulator {

struct Copy {
  void* to;
  unsigned char bytes[16];
};
using Copies = std::vector<std::vector<Copy>>;  // of a thread: its groups, the last one open
Copies& copies();

inline void copy_async(void* to, const void* from) {
  if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16) {
    throw Error("an asynchronous copy is not aligned to 16 bytes");
  }
  Copy copy = {to, {}};
  if (from) std::memcpy(copy.bytes, from, 16);
  std::memset(to, 0xff, 16);
  Copies& groups = copies();
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back(copy);
}

inline void close_copies() {
  Copies& groups = copies();
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}

inline void wait_copies(size_t under_way) {
  Copies& groups = copies();
  while (groups.size() > under_way + 1) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.bytes, 16);
    groups.erase(groups.begin());
  }
}

}  // namespace emulator
