// The emulated machine behind the replacements of CUDA's headers: blocks, threads, barriers,
// memory.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the running thread

namespace emulator {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The end of an array that is next to unreadable pages.
enum class Guard { kNone, kBefore, kAfter };

struct Settings {
  uint64_t seed = 0;  // random seed for the order of threads and blocks
  Guard guard = Guard::kAfter;
  int64_t skip = 0;    // number of first blocks that do not run, over all launches
  int64_t blocks = 0;  // number of blocks launched since `skip` was set
  int major = 8;       // major version of the compute capability
  struct Launch {
    const void* kernel;
    int64_t blocks, threads, shared_bytes;
  };
  std::vector<Launch> launches;  // since `skip` was set; those of a kernel in a row are one
};
extern Settings settings;

// Bytes between unreadable pages, filled with NaN.
class Memory {
 public:
  Memory(std::string name, size_t bytes, Guard guard);
  ~Memory();
  Memory(const Memory&) = delete;
  void* data() const { return data_; }
  void poison();       // fills the bytes with NaN
  void lock();         // makes the bytes read-only
  void check() const;  // throws if something was written outside the bytes
  // Describes an address relative to the bytes; empty if far away.
  std::string describe(const void* address) const;

 private:
  std::string name_;
  size_t bytes_, room_;  // room_: size in whole pages
  unsigned char *pages_, *data_;
};

// Describes an address relative to the Memory near it; empty if there is none.
std::string locate(const void* address);

// Runs `body` as every thread of every block. Throws Error if a thread makes a detectable mistake.
void launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
            const std::function<void()>& body);

// Lets a kernel have more than 48 KB of shared memory for a block; false if no GPU has that much.
bool allow_shared(const void* kernel, size_t bytes);

void* shared_memory();                     // the block's shared memory
int lane();                                // the thread's lane in its warp
void barrier(const char* file, int line);  // waits for all threads of the block
// Waits for the lanes of `mask` and returns the values of all 32 lanes, in a copy for each thread.
const uint64_t* exchange(unsigned mask, uint64_t value, const char* file, int line);

}  // namespace emulator
