// Runs one kernel of csrc/cpu, without PyTorch and Python:
//   kernels OP TYPE NUMBERS... < inputs > outputs
// NUMBERS are the fields of the operator's shape, then its other numbers. Inputs and outputs are
// raw arrays, in the order of the kernel's arguments.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "correlation.h"
#include "correlation_lookup.h"
#include "distance_field.h"
#include "nearest.h"
#include "pairwise_distance.h"
#include "splat.h"
#include "stable.h"

// The only functions of PyTorch that the kernels call; here two threads, one after the other.
extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc f,
                                             void* context) {
  const int64_t middle = (begin + end) / 2;
  if (begin < middle) f(begin, middle, context);
  if (middle < end) f(middle, end, context);
  return AOTI_TORCH_SUCCESS;
}
extern "C" AOTITorchError torch_get_num_threads(uint32_t* count) {
  *count = 2;
  return AOTI_TORCH_SUCCESS;
}

namespace flowmatch {
namespace {

// The arguments of the command line, one after the other.
struct Arguments {
  char** next;
  int64_t integer() { return std::strtoll(*next++, nullptr, 10); }
  double number() { return std::strtod(*next++, nullptr); }
};

template <class T>
std::unique_ptr<T[]> input(int64_t count) {
  std::unique_ptr<T[]> values(new T[count]);
  if (std::fread(values.get(), sizeof(T), count, stdin) != static_cast<size_t>(count)) {
    std::fprintf(stderr, "the input is too short\n");
    std::exit(1);
  }
  return values;
}

template <class T>
struct Output {
  explicit Output(int64_t count) : count(count), values(new T[count]) {}
  ~Output() { std::fwrite(values.get(), sizeof(T), count, stdout); }
  operator T*() { return values.get(); }
  int64_t count;
  std::unique_ptr<T[]> values;
};

CorrelationShape correlation_shape(Arguments& a) {
  return {a.integer(), a.integer(), a.integer(), a.integer(), a.integer(),
          a.integer(), a.integer(), a.integer(), a.integer()};
}

template <class T>
void correlation(Arguments& a) {
  const auto s = correlation_shape(a);
  const int64_t size = s.batch * s.channels * s.pixels();
  const auto f1 = input<T>(size), f2 = input<T>(size);
  cpu::correlation<T>(f1.get(), f2.get(), Output<T>(s.batch * s.displacements() * s.pixels()), s);
}

template <class T>
void correlation_grad(Arguments& a) {
  const auto s = correlation_shape(a);
  const bool first = a.integer();
  const int64_t size = s.batch * s.channels * s.pixels();
  const auto g = input<T>(s.batch * s.displacements() * s.pixels()), other = input<T>(size);
  cpu::correlation_grad<T>(g.get(), other.get(), Output<T>(size), s, first);
}

LookupShape lookup_shape(Arguments& a) {
  return {a.integer(), a.integer(), a.integer(), a.integer(), a.integer(),
          a.integer(), a.integer(), a.integer(), a.number(),  a.number()};
}

template <class T>
void correlation_lookup(Arguments& a) {
  const auto s = lookup_shape(a);
  const auto f1 = input<T>(s.batch * s.pixels() * s.channels);
  const auto f2 = input<T>(s.batch * s.pixels2() * s.channels);
  const auto coords = input<Accumulator<T>>(s.batch * 2 * s.pixels());
  cpu::correlation_lookup<T, Accumulator<T>>(
      f1.get(), f2.get(), coords.get(), Output<T>(s.batch * s.displacements() * s.pixels()), s);
}

template <class T>
void correlation_lookup_grad(Arguments& a) {
  const auto s = lookup_shape(a);
  const int64_t size1 = s.batch * s.pixels() * s.channels;
  const int64_t size2 = s.batch * s.pixels2() * s.channels;
  const auto g = input<T>(s.batch * s.displacements() * s.pixels());
  const auto f1 = input<T>(size1), f2 = input<T>(size2);
  const auto coords = input<Accumulator<T>>(s.batch * 2 * s.pixels());
  Output<Accumulator<T>> grad_coords(s.batch * 2 * s.pixels());  // written last
  Output<T> grad2(size2), grad1(size1);
  cpu::correlation_lookup_grad<T, Accumulator<T>>(g.get(), f1.get(), f2.get(), coords.get(), grad1,
                                                  grad2, grad_coords, s);
}

template <class T>
void nearest(Arguments& a) {
  NearestShape s = {a.integer(), a.integer(), a.integer(), a.integer(), a.integer(),
                    {},          nullptr,     nullptr,     nullptr};
  s.metric = static_cast<Metric>(a.integer());
  const auto query = input<T>(s.batch * s.queries * s.depth);
  const auto reference = input<T>(s.batch * s.references * s.depth);
  Output<bool> mutual(s.batch * s.queries);
  Output<int64_t> index(s.batch * s.queries * s.k);
  Output<Accumulator<T>> distance(s.batch * s.queries * s.k);
  cpu::nearest<T, Accumulator<T>>(query.get(), reference.get(), distance, index, mutual, s);
}

void nearest_hamming(Arguments& a) {
  const HammingShape s = {a.integer(), a.integer(), a.integer(), a.integer(),
                          a.integer(), nullptr,     nullptr,     nullptr};
  const auto query = input<uint64_t>(s.batch * s.queries * s.words);
  const auto reference = input<uint64_t>(s.batch * s.references * s.words);
  Output<bool> mutual(s.batch * s.queries);
  Output<int64_t> index(s.batch * s.queries * s.k);
  Output<int32_t> distance(s.batch * s.queries * s.k);
  cpu::nearest_hamming(query.get(), reference.get(), distance, index, mutual, s);
}

template <class T>
void pairwise_distance(Arguments& a) {
  PairwiseShape s = {a.integer(), a.integer(), a.integer(), a.integer(), {}};
  s.metric = static_cast<Metric>(a.integer());
  const auto x = input<T>(s.batch * s.rows * s.depth), y = input<T>(s.batch * s.columns * s.depth);
  cpu::pairwise_distance<T>(x.get(), y.get(), Output<T>(s.batch * s.rows * s.columns), s);
}

template <class T>
void distance_field(Arguments& a) {
  const FieldShape s = {a.integer(), a.integer(),
                        a.integer(), a.number(),
                        a.number(),  {a.number(), a.number(), a.number()},
                        a.number(),  {a.integer(), a.integer(), a.integer()}};
  const auto points = input<T>(3 * s.points);
  const auto keys = input<int64_t>(s.points);
  const auto centres = input<T>(3 * s.centres), frames = input<T>(9 * s.centres);
  cpu::distance_field<T>(points.get(), keys.get(), centres.get(), frames.get(),
                         Output<T>(s.centres * s.voxels()), s);
}

SplatShape splat_shape(Arguments& a) {
  return {a.integer(), a.integer(), a.integer(), a.integer()};
}

template <class T>
void splat(Arguments& a) {
  const auto s = splat_shape(a);
  const int64_t size = s.batch * s.channels * s.pixels();
  const auto image = input<T>(size), flow = input<T>(2 * s.batch * s.pixels());
  cpu::splat<T>(image.get(), flow.get(), Output<T>(size), s);
}

template <class T>
void splat_grad(Arguments& a) {
  const auto s = splat_shape(a);
  const int64_t size = s.batch * s.channels * s.pixels();
  const auto g = input<T>(size), image = input<T>(size), flow = input<T>(2 * s.batch * s.pixels());
  Output<T> grad_flow(2 * s.batch * s.pixels());  // written last
  Output<T> grad_image(size);
  cpu::splat_grad<T>(g.get(), image.get(), flow.get(), grad_image, grad_flow, s);
}

template <class T>
bool run(const std::string& op, Arguments a) {
  if (op == "correlation") return correlation<T>(a), true;
  if (op == "correlation_grad") return correlation_grad<T>(a), true;
  if (op == "correlation_lookup") return correlation_lookup<T>(a), true;
  if (op == "correlation_lookup_grad") return correlation_lookup_grad<T>(a), true;
  if (op == "nearest") return nearest<T>(a), true;
  if (op == "pairwise_distance") return pairwise_distance<T>(a), true;
  if constexpr (std::is_same_v<T, Accumulator<T>>) {
    if (op == "distance_field") return distance_field<T>(a), true;
    if (op == "splat") return splat<T>(a), true;
    if (op == "splat_grad") return splat_grad<T>(a), true;
  }
  return false;
}

}  // namespace
}  // namespace flowmatch

int main(int, char** arguments) {
  using namespace flowmatch;
  const std::string op = arguments[1], type = arguments[2];
  const Arguments numbers = {arguments + 3};
  if (op == "nearest_hamming") {
    Arguments a = numbers;
    return nearest_hamming(a), 0;
  }
  const bool known = type == "float32"    ? run<float>(op, numbers)
                     : type == "float64"  ? run<double>(op, numbers)
                     : type == "float16"  ? run<Half>(op, numbers)
                     : type == "bfloat16" ? run<BFloat16>(op, numbers)
                                          : false;
  return known ? 0 : 1;
}
