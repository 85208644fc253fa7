// Memory between unreadable pages.
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "emulator.h"

namespace emulator {
namespace {

constexpr size_t kGuard = 16 << 20;  // address space only; large, to detect wrong strides, too
constexpr int kPoison = 0xff;        // NaN in every float type

std::vector<const Memory*> memories;

}  // namespace

Memory::Memory(std::string name, size_t bytes, Guard guard)
    : name_(std::move(name)), bytes_(bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  room_ = (std::max<size_t>(bytes, 1) + page - 1) / page * page;
  void* all = mmap(nullptr, room_ + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) throw Error("not enough address space for " + name_);
  pages_ = static_cast<unsigned char*>(all) + kGuard;
  mprotect(pages_, room_, PROT_READ | PROT_WRITE);
  data_ = guard == Guard::kBefore ? pages_ : pages_ + room_ - bytes;
  std::memset(pages_, kPoison, room_);
  memories.push_back(this);
}

Memory::~Memory() {
  munmap(pages_ - kGuard, room_ + 2 * kGuard);
  memories.erase(std::find(memories.begin(), memories.end(), this));
}

void Memory::poison() { std::memset(data_, kPoison, bytes_); }

void Memory::lock() { mprotect(pages_, room_, PROT_READ); }

void Memory::check() const {
  const auto clean = [](unsigned char c) { return c == kPoison; };
  const auto* before = std::find_if_not(pages_, data_, clean);
  if (before != data_) throw Error("something was written " + describe(before));
  const auto* after = std::find_if_not(data_ + bytes_, pages_ + room_, clean);
  if (after != pages_ + room_) throw Error("something was written " + describe(after));
}

std::string Memory::describe(const void* address) const {
  const auto* at = static_cast<const unsigned char*>(address);
  if (at < pages_ - kGuard || at >= pages_ + room_ + kGuard) return "";
  if (at < data_) return std::to_string(data_ - at) + " bytes before " + name_;
  if (at < data_ + bytes_) return name_ + ", which is read-only";
  return std::to_string(at - data_ - bytes_) + " bytes past the end of " + name_;
}

std::string locate(const void* address) {
  for (const Memory* m : memories) {
    const std::string where = m->describe(address);
    if (!where.empty()) return where;
  }
  return "";
}

}  // namespace emulator
