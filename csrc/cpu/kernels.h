// What one thread does with the rows [begin, end), for each element type.
#pragma once

#include "../rows.h"

namespace wbcli::cpu {

template <typename T>
struct Kernels {
  using A = accumulation_t<T>;
  void (*norms)(int64_t begin, int64_t end, Rows<const T> w, A* norms);
  void (*scale)(int64_t begin, int64_t end, Rows<T> w, const Factor<A>&);
  void (*step)(
      int64_t begin, int64_t end, Rows<T> w, Rows<const T> grad, Rows<T> buffer, const Step<A>&);
};

struct AllKernels {
  Kernels<double> float64;
  Kernels<float> float32;
  Kernels<BFloat16> bfloat16;
  Kernels<Half> float16;
};

AllKernels portable_kernels();
#if defined(__x86_64__)
AllKernels avx2_kernels();
AllKernels avx512_kernels();
#endif

}  // namespace wbcli::cpu
