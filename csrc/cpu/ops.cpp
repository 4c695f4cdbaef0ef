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
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c");
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

// Elements of a block of rows: enough to be worth a thread, and long enough to be streamed.
constexpr int64_t MIN_BLOCK = 1 << 15, MAX_BLOCK = 1 << 19;
constexpr int64_t BLOCKS_PER_THREAD = 16;

// Threads take the next block of rows when they are done with one: the rows that are clipped
// cost more, and often stand together (a head of frequent classes comes first).
template <typename T, typename F>
void for_rows(const Rows<T>& rows, const F& f) {
  const int64_t num_threads = torch::stable::get_num_threads();
  const int64_t share = rows.count * rows.length / (num_threads * BLOCKS_PER_THREAD);
  const int64_t size = std::max<int64_t>(1, std::clamp(share, MIN_BLOCK, MAX_BLOCK) / rows.length);
  const int64_t num_blocks = (rows.count + size - 1) / size;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min(num_blocks, num_threads), 1, [&](int64_t, int64_t) {
    for (int64_t block; (block = next++) < num_blocks;) {
      f(block * size, std::min(rows.count, (block + 1) * size));
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
