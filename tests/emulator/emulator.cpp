// Execution of blocks by fibers, with barriers and reports of faults; see emulator.h.
#include "emulator.h"

#include <signal.h>
#include <sys/mman.h>

#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "emulated_async.h"
#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

Settings settings;

namespace {

constexpr size_t kStack = 256 << 10;       // bytes of a fiber's stack, mostly untouched
constexpr size_t kSharedLimit = 48 << 10;  // the limit without opting in to more
constexpr size_t kSharedMost = 99 << 10;   // the limit of the smallest GPUs with tensor cores
constexpr unsigned kThreadLimit = 1024;
std::map<const void*, size_t> shared_limits;  // of kernels that have more than kSharedLimit

// ---------------------------------------------------------------------------------------------
// Switching between fibers. swapcontext() is slower, because it makes a system call for the signal
// mask.

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
asm(R"(
.text
.p2align 4
.type emulator_switch, @function
emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  popq %rcx
  jmpq *%rcx
)");
extern "C" void emulator_switch(void** from, void* to) __attribute__((visibility("hidden")));

struct Context {
  void* stack_pointer = nullptr;
  void start(unsigned char* stack, void (*function)()) {
    auto** top = reinterpret_cast<void**>(stack + kStack) - 1;  // aligned as after a call
    *top = nullptr;
    *--top = reinterpret_cast<void*>(function);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack_pointer = top;
  }
  void switch_to(Context& other) { emulator_switch(&stack_pointer, other.stack_pointer); }
};
#else
struct Context {
  ucontext_t context;
  void start(unsigned char* stack, void (*function)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStack;
    makecontext(&context, function, 0);
  }
  void switch_to(Context& other) { swapcontext(&context, &other.context); }
};
#endif

enum class State { kReady, kAtBarrier, kInWarp, kReturned };

struct Fiber {
  Context context;
  State state;
  dim3 index;
  const char* file;  // position of the barrier or warp operation where it waits
  int line;
  unsigned mask;
  uint64_t value, all[32];
  Copies copies;
};

Context scheduler;
std::vector<Fiber> fibers;
unsigned char* stacks;
size_t current;         // the fiber that runs, or ran last
bool in_fiber = false;  // false: in the scheduler
bool warp_released = false;
int fault_signal = 0;  // 0: no fault
const void* fault_address;
const std::function<void()>* body;
const Memory* shared;

void resume(Fiber& fiber) {
  current = &fiber - fibers.data();
  threadIdx = fiber.index;
  in_fiber = true;
  scheduler.switch_to(fiber.context);
  in_fiber = false;
}

void wait(State state, const char* file, int line) {
  Fiber& self = fibers[current];
  self.state = state;
  self.file = file;
  self.line = line;
  self.context.switch_to(scheduler);
}

void run_fiber() {
  (*body)();
  wait(State::kReturned, "", 0);
}

std::string text(const dim3& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string place(const Fiber& fiber) {
  return "thread " + text(fiber.index) + " of block " + text(blockIdx);
}

std::string describe_fault() {
  if (fault_signal == SIGILL || fault_signal == SIGTRAP) {
    return " has undefined behaviour: an index past its own array, a misaligned vector or a "
           "signed overflow";
  }
  const std::string where = locate(fault_address);
  return " touches " + (where.empty() ? "memory far from all arrays" : where);
}

// ---------------------------------------------------------------------------------------------
// A block

void start_fibers() {
  if (!stacks) {
    stacks =
        static_cast<unsigned char*>(mmap(nullptr, kThreadLimit * kStack, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) throw std::bad_alloc();
    for (size_t i = 0; i < kThreadLimit; ++i) mprotect(stacks + i * kStack, 4096, PROT_NONE);
  }
  for (size_t i = 0; i < fibers.size(); ++i) {
    const auto n = static_cast<unsigned>(i);
    fibers[i].index =
        dim3(n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y));
    fibers[i].state = State::kReady;
    fibers[i].copies.clear();
    fibers[i].context.start(stacks + i * kStack, run_fiber);
  }
}

bool all_at_one_barrier() {
  return std::all_of(fibers.begin(), fibers.end(), [](const Fiber& f) {
    return f.state == State::kAtBarrier && f.line == fibers[0].line && f.file == fibers[0].file;
  });
}

[[noreturn]] void report_stuck() {
  const auto waits = [](const Fiber& f) { return f.state != State::kReturned; };
  const Fiber& first = *std::find_if(fibers.begin(), fibers.end(), waits);
  const auto alike = std::count_if(fibers.begin(), fibers.end(), [&](const Fiber& f) {
    return f.state == first.state && f.line == first.line && f.file == first.file;
  });
  throw Error(place(first) + " waits at " + first.file + ":" + std::to_string(first.line) +
              (first.state == State::kAtBarrier ? " (barrier)" : " (warp operation)") +
              " for threads that never arrive: " + std::to_string(alike) + " of " +
              std::to_string(fibers.size()) + " have arrived, " +
              std::to_string(fibers.size() - std::count_if(fibers.begin(), fibers.end(), waits)) +
              " have returned");
}

// Shuffles the order of threads: all threads, or whole warps, so that a warp gets far ahead.
void shuffle(std::vector<size_t>& order, std::mt19937& random) {
  std::shuffle(order.begin(), order.end(), random);
  if (random() % 2) return;
  std::vector<uint32_t> rank((order.size() + 31) / 32);
  std::generate(rank.begin(), rank.end(), std::ref(random));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rank[a / 32] < rank[b / 32]; });
}

// Runs a block. Each fiber runs until it must wait, and continues as soon as it can, before those
// that follow it in the order. The order changes after each barrier.
void run_block(std::mt19937& random) {
  std::vector<size_t> order(fibers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  start_fibers();
  for (;;) {
    shuffle(order, random);
    for (size_t i = 0; i < order.size();) {
      Fiber& fiber = fibers[order[i++]];
      if (fiber.state != State::kReady) continue;
      resume(fiber);
      if (fault_signal) throw Error(place(fiber) + describe_fault());
      if (warp_released) i = 0;
      warp_released = false;
    }
    const auto returned = [](const Fiber& f) { return f.state == State::kReturned; };
    if (std::all_of(fibers.begin(), fibers.end(), returned)) return;
    if (!all_at_one_barrier()) report_stuck();
    for (Fiber& f : fibers) f.state = State::kReady;
  }
}

// ---------------------------------------------------------------------------------------------
// Faults: a thread's signal ends the launch with an Error.

void on_fault(int number, siginfo_t* info, void*) {
  if (!in_fiber) {  // not caused by a kernel: raise it again without this handler
    signal(number, SIG_DFL);
    return;
  }
  fault_signal = number;
  fault_address = info->si_addr;
  fibers[current].context.switch_to(scheduler);  // does not return
}

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP};

class FaultHandlers {  // with their own stack, because a fiber's stack may have overflowed
 public:
  FaultHandlers() : stack_(new unsigned char[kStack]) {
    fault_signal = 0;
    stack_t mine = {};
    mine.ss_sp = stack_.get();
    mine.ss_size = kStack;
    sigaltstack(&mine, &old_stack_);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 4; ++i) sigaction(kSignals[i], &action, &old_[i]);
  }
  ~FaultHandlers() {
    for (int i = 0; i < 4; ++i) sigaction(kSignals[i], &old_[i], nullptr);
    sigaltstack(&old_stack_, nullptr);
  }

 private:
  std::unique_ptr<unsigned char[]> stack_;
  stack_t old_stack_;
  struct sigaction old_[4];
};

}  // namespace

bool allow_shared(const void* function, size_t bytes) {
  if (bytes > kSharedMost) return false;
  shared_limits[function] = std::max(bytes, kSharedLimit);
  return true;
}

void launch(const void* function, dim3 grid, dim3 block, size_t shared_bytes,
            const std::function<void()>& kernel) {
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > kThreadLimit) {
    throw Error("a launch with " + std::to_string(threads) + " threads per block");
  }
  const auto allowed = shared_limits.find(function);
  if (shared_bytes > (allowed == shared_limits.end() ? kSharedLimit : allowed->second)) {
    throw Error("a launch with " + std::to_string(shared_bytes) + " bytes of shared memory");
  }
  gridDim = grid;
  blockDim = block;
  body = &kernel;
  const int64_t blocks = int64_t{grid.x} * grid.y * grid.z;
  const int64_t skipped = std::clamp<int64_t>(settings.skip - settings.blocks, 0, blocks);
  settings.blocks += blocks;
  auto& launches = settings.launches;
  if (launches.empty() || launches.back().kernel != function) {
    launches.push_back({function, 0, static_cast<int64_t>(threads), 0});
  }
  launches.back().blocks += blocks;
  launches.back().shared_bytes = static_cast<int64_t>(shared_bytes);
  std::vector<int64_t> order(blocks - skipped);
  std::iota(order.begin(), order.end(), skipped);
  if (order.empty()) return;
  std::mt19937 random(static_cast<unsigned>(settings.seed));
  std::shuffle(order.begin(), order.end(), random);

  // Rounded up to the widest access, 16 bytes: accesses beyond that are detected.
  Memory watched("shared memory", (shared_bytes + 15) / 16 * 16,
                 settings.guard == Guard::kBefore ? Guard::kBefore : Guard::kAfter);
  shared = &watched;
  fibers.resize(threads);
  const FaultHandlers handlers;
  for (const int64_t i : order) {
    blockIdx = dim3(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                    static_cast<unsigned>(i / grid.x / grid.y));
    watched.poison();
    run_block(random);
    watched.check();
  }
}

void* shared_memory() { return shared->data(); }

Copies& copies() { return fibers[current].copies; }

int lane() { return static_cast<int>(current % 32); }

void barrier(const char* file, int line) { wait(State::kAtBarrier, file, line); }

const uint64_t* exchange(unsigned mask, uint64_t value, const char* file, int line) {
  const size_t begin = current / 32 * 32, end = std::min(begin + 32, fibers.size());
  if (end - begin < 32) mask &= (1u << (end - begin)) - 1;
  Fiber& self = fibers[current];
  self.value = value;
  self.mask = mask;
  self.state = State::kInWarp;
  self.file = file;
  self.line = line;
  const auto members = [&](const auto& f) {
    for (size_t i = begin; i < end; ++i) {
      if (mask >> (i - begin) & 1) f(fibers[i]);
    }
  };
  bool complete = true;
  members([&](const Fiber& f) {
    complete &= f.state == State::kInWarp && f.mask == mask && f.line == line && f.file == file;
  });
  if (complete) {
    members([&](Fiber& f) {
      for (size_t i = begin; i < end; ++i) f.all[i - begin] = fibers[i].value;
      f.state = State::kReady;
    });
    warp_released = true;
  }
  self.context.switch_to(scheduler);
  return self.all;
}

}  // namespace emulator
