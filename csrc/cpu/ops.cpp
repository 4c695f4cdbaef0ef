// The CPU backend: rows are shared out to PyTorch's threads, and the kernels are those of the
// best instruction set that this processor has. The choice is PyTorch's own, which
// ATEN_CPU_CAPABILITY (default, avx2, avx512) lowers.

#include "../ops.h"
#include "kernels.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace wbcli::cpu {
namespace {

AllKernels choose_kernels() {
#if defined(__x86_64__)
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view limit = variable ? variable : "";
  if (limit == "default") return portable_kernels();
  // Every processor with AVX2 has F16C, which older compilers cannot ask for.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512 && limit != "avx2") return avx512_kernels();
  if (avx2) return avx2_kernels();
#endif
  return portable_kernels();
}

template <typename T>
const Kernels<T>& kernels_of() {
  static const AllKernels all = choose_kernels();
  if constexpr (std::is_same_v<T, double>) return all.float64;
  else if constexpr (std::is_same_v<T, float>) return all.float32;
  else if constexpr (std::is_same_v<T, BFloat16>) return all.bfloat16;
  else return all.float16;
}

constexpr int64_t ELEMENTS_PER_THREAD = 1 << 15;             // fewer are not worth another thread
constexpr int64_t MIN_BLOCK = 1 << 12, MAX_BLOCK = 1 << 19;  // elements
constexpr int64_t BLOCKS_PER_THREAD = 16;
constexpr int CACHE_LINE = 64;

struct alignas(CACHE_LINE) Counter {
  std::atomic<int64_t> next{0};
};

// Every thread has a range of rows, the same as in PyTorch's own kernels, so that it finds them
// in its own caches and memory. A thread that is done takes blocks of the others' ranges: rows
// that are clipped cost more, and often stand together (a head of frequent classes comes first).
template <typename T, typename F>
void for_rows(const Rows<T>& rows, const F& f) {
  const int64_t elements = rows.count * rows.length;
  const int64_t num_ranges = std::min<int64_t>(
      torch::stable::get_num_threads(), (elements + ELEMENTS_PER_THREAD - 1) / ELEMENTS_PER_THREAD);
  const int64_t share = elements / (num_ranges * BLOCKS_PER_THREAD);
  const int64_t block = std::max<int64_t>(1, std::clamp(share, MIN_BLOCK, MAX_BLOCK) / rows.length);
  const int64_t range = (rows.count + num_ranges - 1) / num_ranges;
  std::vector<Counter> counters(num_ranges);
  torch::stable::parallel_for(0, num_ranges, 1, [&](int64_t first, int64_t last) {
    for (int64_t own = first; own < last; ++own) {
      for (int64_t i = 0; i < num_ranges; ++i) {
        const int64_t r = (own + i) % num_ranges;
        const int64_t end = std::min(rows.count, (r + 1) * range);
        for (int64_t row; (row = r * range + block * counters[r].next++) < end;) {
          f(row, std::min(end, row + block));
        }
      }
    }
  });
}

struct Backend {
  struct Guard {
    explicit Guard(const Tensor&) {}
  };

  template <typename T>
  static void norms(Rows<const T> w, accumulation_t<T>* norms) {
    for_rows(w, [&](int64_t begin, int64_t end) { kernels_of<T>().norms(begin, end, w, norms); });
  }

  template <typename T>
  static void scale(Rows<T> w, const Factor<accumulation_t<T>>& factor) {
    for_rows(w, [&](int64_t begin, int64_t end) { kernels_of<T>().scale(begin, end, w, factor); });
  }

  template <typename T>
  static void step(
      Rows<T> w, Rows<const T> grad, Rows<T> buffer, const Step<accumulation_t<T>>& step) {
    for_rows(w, [&](int64_t begin, int64_t end) {
      kernels_of<T>().step(begin, end, w, grad, buffer, step);
    });
  }
};

}  // namespace
}  // namespace wbcli::cpu

WBCLI_REGISTER(CPU, wbcli::cpu::Backend)
