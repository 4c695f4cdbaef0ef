// The CPU kernels, compiled once for each instruction set (WBCLI_ISA, see vec.h).
//
// A row is read from memory once: its norm is taken on the way, and the factor is then put on
// a row that is still in the first-level cache, if it is not 1. Sums run over four vectors of
// partial sums that are added up in a fixed order: a norm depends on its row and on the
// instruction set, not on the number of threads. Products and sums are rounded where
// torch.optim.SGD rounds them, fused multiply-adds included.

#include "kernels.h"

#include <type_traits>

#if WBCLI_ISA
#include <immintrin.h>
#if defined(__clang__)
#if WBCLI_ISA == 512
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,f16c"))), apply_to = function)
#else
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#endif
#elif WBCLI_ISA == 512
#pragma GCC target("avx512f,avx2,fma,f16c")
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#endif

namespace wbcli::cpu {
namespace {

#include "vec.h"

// A vector of one, for the last few elements of a row.
template <typename A>
struct One {
  static constexpr int64_t W = 1;
  A v;

  static One all(A x) { return {x}; }
  template <typename T>
  static One load(const T* p) {
    return {static_cast<A>(*p)};
  }
  template <typename T>
  void store(T* p) const {
    *p = static_cast<T>(v);
  }
  One operator+(One other) const { return {v + other.v}; }
  One operator*(One other) const { return {v * other.v}; }
#if WBCLI_ISA
  static One fma(One a, One b, One c) { return {std::fma(a.v, b.v, c.v)}; }
#else
  static One fma(One a, One b, One c) { return a * b + c; }
#endif
};

template <typename A>
class SumOfSquares {
 public:
  // Written out: GCC's target pragma does not reach the functions that a compiler makes itself,
  // and one that is built without AVX-512 passes vectors in another way.
  SumOfSquares() {
    for (Vec<A>& part : parts_) part = Vec<A>::all(0);
  }

  void add(Vec<A> x, int part) { parts_[part] = Vec<A>::fma(x, x, parts_[part]); }
  void add(One<A> x, int) { rest_ = One<A>::fma(x, x, rest_); }

  A norm() const {
    A lanes[Vec<A>::W];
    ((parts_[0] + parts_[1]) + (parts_[2] + parts_[3])).store(lanes);
    A sum = rest_.v;
    for (A lane : lanes) sum += lane;
    return std::sqrt(sum);
  }

 private:
  Vec<A> parts_[4];
  One<A> rest_ = One<A>::all(0);
};

// body(a vector type, first element, partial sum) over all elements of a row.
template <typename A, typename Body>
inline void for_each_vector(int64_t length, const Body& body) {
  constexpr int64_t W = Vec<A>::W;
  int64_t i = 0;
  for (; i + 4 * W <= length; i += 4 * W) {
    body(Vec<A>{}, i, 0);
    body(Vec<A>{}, i + W, 1);
    body(Vec<A>{}, i + 2 * W, 2);
    body(Vec<A>{}, i + 3 * W, 3);
  }
  for (; i + W <= length; i += W) body(Vec<A>{}, i, 0);
  for (; i < length; ++i) body(One<A>{}, i, 0);
}

template <typename T, typename A = accumulation_t<T>>
A row_norm(const T* w, int64_t length) {
  SumOfSquares<A> sum;
  for_each_vector<A>(length, [&](auto vector, int64_t i, int part) {
    sum.add(decltype(vector)::load(w + i), part);
  });
  return sum.norm();
}

template <typename T, typename A = accumulation_t<T>>
void scale_row(T* w, int64_t length, A factor) {
  if (factor == A(1)) return;
  for_each_vector<A>(length, [&](auto vector, int64_t i, int) {
    using V = decltype(vector);
    (V::load(w + i) * V::all(factor)).store(w + i);
  });
}

// Which parts a step has, known to the compiler.
template <bool MOMENTUM, bool NESTEROV, bool DECAYS, bool PROJECTS>
struct Parts {};

template <bool MOMENTUM, bool NESTEROV, bool DECAYS, bool PROJECTS, typename T, typename A>
void step_row(
    Parts<MOMENTUM, NESTEROV, DECAYS, PROJECTS>,
    T* w,
    const T* grad,
    T* buffer,
    int64_t length,
    int64_t row,
    const Step<A>& step) {
  const A lr = -step.lr(row), decay = step.weight_decay(row);
  const A sign = step.maximize ? A(-1) : A(1);
  const A momentum = step.momentum, share = step.gradient_share;
  SumOfSquares<A> sum;
  for_each_vector<A>(length, [&](auto vector, int64_t i, int part) {
    using V = decltype(vector);
    const V x = V::load(w + i);
    V g = V::load(grad + i) * V::all(sign);
    if constexpr (DECAYS) g = V::fma(x, V::all(decay), g);
    if constexpr (MOMENTUM) {
      const V m = V::fma(g, V::all(share), V::load(buffer + i) * V::all(momentum));
      m.store(buffer + i);
      g = NESTEROV ? V::fma(m, V::all(momentum), g) : m;
    }
    const V stepped = V::fma(g, V::all(lr), x);
    stepped.store(w + i);
    if constexpr (PROJECTS && std::is_same_v<T, A>) sum.add(stepped, part);
    else if constexpr (PROJECTS) sum.add(V::load(w + i), part);  // as it was rounded
  });
  if constexpr (PROJECTS) scale_row(w, length, step.factor(sum.norm(), step.factor.radius(row)));
}

// f(std::true_type) or f(std::false_type).
template <typename F>
void with_constant(bool value, const F& f) {
  if (value) f(std::true_type{});
  else f(std::false_type{});
}

template <typename T, typename A = accumulation_t<T>>
void norms(int64_t begin, int64_t end, Rows<const T> w, A* norms) {
  for (int64_t k = begin; k < end; ++k) norms[k] = row_norm(w[k], w.length);
}

template <typename T, typename A = accumulation_t<T>>
void scale(int64_t begin, int64_t end, Rows<T> w, const Factor<A>& factor) {
  for (int64_t k = begin; k < end; ++k) {
    scale_row(w[k], w.length, factor(row_norm(w[k], w.length), factor.radius(k)));
  }
}

template <typename T, typename A = accumulation_t<T>>
void step(
    int64_t begin,
    int64_t end,
    Rows<T> w,
    Rows<const T> grad,
    Rows<T> buffer,
    const Step<A>& step) {
  const auto step_rows = [&](auto parts) {
    for (int64_t k = begin; k < end; ++k) {
      step_row(parts, w[k], grad[k], buffer.data ? buffer[k] : nullptr, w.length, k, step);
    }
  };
  with_constant(step.decays, [&](auto decays) {
    with_constant(step.projects, [&](auto projects) {
      if (!buffer.data) step_rows(Parts<false, false, decays, projects>{});
      else if (step.nesterov) step_rows(Parts<true, true, decays, projects>{});
      else step_rows(Parts<true, false, decays, projects>{});
    });
  });
}

template <typename T>
Kernels<T> kernels() {
  return {&norms<T>, &scale<T>, &step<T>};
}

}  // namespace

AllKernels WBCLI_KERNELS() {
  return {kernels<double>(), kernels<float>(), kernels<BFloat16>(), kernels<Half>()};
}

}  // namespace wbcli::cpu

#if WBCLI_ISA && defined(__clang__)
#pragma clang attribute pop
#endif
