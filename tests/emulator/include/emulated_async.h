// Asynchronous copies: the bytes are read immediately and arrive when they are waited for. Until
// then the target is NaN, so that a missing wait is detected.
#pragma once
#include <vector>

#include "emulator.h"

namespace emulator {

struct Copy {
  void* to;
  unsigned char bytes[16];
};
using Copies = std::vector<std::vector<Copy>>;  // groups of a thread, the last one open
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

inline void wait_copies(size_t pending) {
  Copies& groups = copies();
  while (groups.size() > pending + 1) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.bytes, 16);
    groups.erase(groups.begin());
  }
}

}  // namespace emulator
