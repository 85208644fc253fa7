// The machine that the stand-ins for CUDA's headers run on: blocks, threads, barriers, memory.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the thread that runs at the moment

namespace emulator {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Guard {
  kNone,
  kBefore,
  kAfter
};  // which end of an array is watched by unreadable pages

struct Settings {
  uint64_t seed = 0;  // of the order of threads and blocks
  Guard guard = Guard::kAfter;
  int64_t skip = 0;    // blocks that do not run, counted over all launches since the settings
  int64_t blocks = 0;  // seen since then
  int major = 8;       // of the compute capability
};
extern Settings settings;

// Bytes between unreadable pages, filled with NaN.
class Memory {
 public:
  Memory(std::string name, size_t bytes, Guard guard);
  ~Memory();
  Memory(const Memory&) = delete;
  void* data() const { return data_; }
  void poison();       // the bytes become NaN
  void lock();         // and from here on read-only
  void check() const;  // throws if something was written beside the bytes
  std::string describe(const void* address) const;  // relative to the bytes; empty if far away

 private:
  std::string name_;
  size_t bytes_, room_;  // room: whole pages
  unsigned char *pages_, *data_;
};

std::string locate(const void* address);  // relative to the Memory that is near, if one is

// Runs `body` as every thread of every block. Throws Error if a thread does what it must not.
void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

void* shared_memory();                     // of the block
int lane();                                // of the thread in its warp
void barrier(const char* file, int line);  // waits for all threads of the block
// Waits for the lanes of `mask` and returns what each brought: 32 values, the thread's own copy.
const uint64_t* exchange(unsigned mask, uint64_t value, const char* file, int line);

}  // namespace emulator
