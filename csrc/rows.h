// What the kernels are told: where the rows of a weight lie, settings per row, and the formulas.
//
// A row is w[k] read flattened: a class of a classifier [K, D], or a filter of a convolution
// [K, C, h, w]. Norms do not depend on the order of a row's elements, so a row may be any
// permutation of one block of memory (a channels_last filter, for example).
#pragma once

#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>

namespace wbcli {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <typename T>
struct Rows {
  T* data;
  int64_t count;   // K
  int64_t length;  // D
  int64_t stride;  // elements from one row to the next

  C10_HOST_DEVICE T* operator[](int64_t row) const { return data + row * stride; }
};

// fp32 for everything but fp64.
template <typename T>
struct AccumulationType {
  using type = float;
};
template <>
struct AccumulationType<double> {
  using type = double;
};
template <typename T>
using accumulation_t = typename AccumulationType<T>::type;

// A setting that is one number, one value in device memory, or one value per row there.
template <typename A>
struct PerRow {
  const A* data;   // null: `number` holds
  int64_t stride;  // 0 for one value
  A number;

  C10_HOST_DEVICE A operator()(int64_t row) const { return data ? data[row * stride] : number; }
};

// The factor that a norm puts on its row: min(1, δ/‖w‖), or ‖w‖^−τ with 1 for a zero row.
// NaN compares false, so that NaN rows, and all rows under a NaN radius, keep factor 1.
template <typename A>
struct Factor {
  PerRow<A> radius;
  bool is_power;
  A tau;

  C10_HOST_DEVICE A operator()(A norm, A delta) const {
    if (!is_power) return norm > delta ? delta / norm : A(1);
    if (!(norm > 0)) return A(1);
    return tau == A(1) ? A(1) / norm : std::pow(norm, -tau);
  }
};

// One SGD step of a row, as torch.optim.SGD does it, and the factor that follows.
template <typename A>
struct Step {
  PerRow<A> lr;
  PerRow<A> weight_decay;
  A momentum;
  A gradient_share;  // 1 − dampening
  bool nesterov;
  bool maximize;
  bool decays;    // false: the number 0, and w is not looked at (0 · inf is NaN)
  bool projects;  // false: no norm is taken
  Factor<A> factor;
};

}  // namespace wbcli
