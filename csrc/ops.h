// The ops of wbcli, once for every kind of device: check, copy if need be, return if empty,
// dispatch, launch. A backend brings the guard of its device and three launchers:
//
//   Backend::norms<T>(Rows<const T> w, A* norms)                            ‖w_k‖
//   Backend::scale<T>(Rows<T> w, Factor<A>)                                 w_k ← factor(‖w_k‖)·w_k
//   Backend::step<T>(Rows<T> w, Rows<const T> grad, Rows<T> buffer, Step<A>)
//
// Schemas, twins and fake kernels are in wbcli/extension.py and wbcli/reference.py.
#pragma once

#include "rows.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace wbcli {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline ScalarType accumulation_dtype(const Tensor& w) {
  return w.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_rows(const Tensor& w) {
  STD_TORCH_CHECK(w.dim() >= 2, "expected rows [K, ...], got ", w.dim(), " dimension(s)");
}

inline void check_written(const Tensor& t, const char* name) {
  for (int64_t i = 0; i < t.dim(); ++i) {
    STD_TORCH_CHECK(
        t.stride(i) != 0 || t.size(i) <= 1,
        name,
        " is expanded: several of its elements share one place in memory, clone it first");
  }
}

inline void check_alike(const Tensor& w, const Tensor& other, const char* name) {
  const auto expected = w.sizes(), got = other.sizes();
  const bool same = std::equal(expected.begin(), expected.end(), got.begin(), got.end());
  STD_TORCH_CHECK(
      same && w.scalar_type() == other.scalar_type() && w.device() == other.device(),
      name,
      " must have the shape, dtype and device of w");
}

template <typename A>
PerRow<A> per_row(
    const Tensor& w, double number, const std::optional<Tensor>& values, const char* name) {
  if (!values) return {nullptr, 0, static_cast<A>(number)};
  STD_TORCH_CHECK(
      values->dim() == 0 || (values->dim() == 1 && values->size(0) == w.size(0)),
      name,
      " must be one value or one per row");
  STD_TORCH_CHECK(
      values->scalar_type() == accumulation_dtype(w) && values->device() == w.device(),
      name,
      " must be on the device of w, in its accumulation dtype");
  return {
      static_cast<const A*>(values->const_data_ptr()), values->dim() ? values->stride(0) : 0, A(0)};
}

// Whether every row is one block of memory, in any order of its dimensions.
inline bool has_dense_rows(const Tensor& w) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // (stride, size) of w[0]
  for (int64_t i = 1; i < w.dim(); ++i) {
    if (w.size(i) != 1) dims.emplace_back(w.stride(i), w.size(i));
  }
  std::sort(dims.begin(), dims.end());
  int64_t length = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != length) return false;
    length *= size;
  }
  return true;
}

inline bool has_same_order(const Tensor& a, const Tensor& b) {
  for (int64_t i = 1; i < a.dim(); ++i) {
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

template <typename T>
Rows<const T> rows_to_read(const Tensor& w) {
  const T* data = static_cast<const T*>(w.const_data_ptr());
  return {data, w.size(0), w.numel() / w.size(0), w.stride(0)};
}

template <typename T>
Rows<T> rows_to_write(const Tensor& w) {
  T* data = static_cast<T*>(w.mutable_data_ptr());
  return {data, w.size(0), w.numel() / w.size(0), w.stride(0)};
}

// What is copied here is nobody's history, and may be a leaf that requires grad.
struct NoGrad {
  const bool before = aoti_torch_grad_mode_is_enabled();
  NoGrad() { aoti_torch_grad_mode_set_enabled(false); }
  ~NoGrad() { aoti_torch_grad_mode_set_enabled(before); }
};

// Tensors whose rows a kernel can walk together: those given or, where their rows are not
// blocks of memory in one and the same order, contiguous copies (a transposed weight).
class Operands {
 public:
  explicit Operands(std::vector<Tensor> given) : given_(given), rows_(std::move(given)) {
    const Tensor& first = given_.front();
    const bool walkable = std::all_of(given_.begin(), given_.end(), [&](const Tensor& t) {
      return has_dense_rows(t) && has_same_order(t, first);
    });
    if (walkable) return;
    const NoGrad no_grad;
    for (Tensor& t : rows_) t = torch::stable::contiguous(t);
  }

  const Tensor& operator[](size_t i) const { return rows_[i]; }

  // Bring what a kernel has written into a copy back to where it belongs.
  void write_back(size_t i) {
    if (rows_[i].data_ptr() == given_[i].data_ptr()) return;
    const NoGrad no_grad;
    torch::stable::copy_(given_[i], rows_[i]);
  }

 private:
  std::vector<Tensor> given_, rows_;
};

// Call `f` with a value of the C++ type of `dtype`.
template <typename F>
void dispatch(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double: return f(double{});
    case ScalarType::Float: return f(float{});
    case ScalarType::Half: return f(Half{});
    case ScalarType::BFloat16: return f(BFloat16{});
    default: STD_TORCH_CHECK(false, "expected float64, float32, bfloat16 or float16");
  }
}

template <typename Backend>
Tensor row_norms(const Tensor& w) {
  check_rows(w);
  const typename Backend::Guard guard(w);
  Tensor norms = torch::stable::new_empty(w, {w.size(0)}, accumulation_dtype(w));
  if (w.numel() == 0) return torch::stable::zero_(norms);
  Operands rows({w});
  dispatch(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Backend::template norms<T>(
        rows_to_read<T>(rows[0]), static_cast<accumulation_t<T>*>(norms.mutable_data_ptr()));
  });
  return norms;
}

// w_k ← factor(‖w_k‖)·w_k for the rule that `factor` makes for the accumulation type.
template <typename Backend, typename MakeFactor>
void scale_rows_(const Tensor& w, const MakeFactor& factor) {
  check_rows(w);
  check_written(w, "w");
  if (w.numel() == 0) return;
  const typename Backend::Guard guard(w);
  Operands rows({w});
  dispatch(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Backend::template scale<T>(rows_to_write<T>(rows[0]), factor(accumulation_t<T>(0)));
  });
  rows.write_back(0);
}

template <typename Backend>
void max_norm_(Tensor w, double radius, std::optional<Tensor> radii) {
  scale_rows_<Backend>(w, [&](auto zero) {
    using A = decltype(zero);
    return Factor<A>{per_row<A>(w, radius, radii, "radius"), false, A(0)};
  });
}

template <typename Backend>
void tau_norm_(Tensor w, double tau) {
  scale_rows_<Backend>(w, [&](auto zero) {
    using A = decltype(zero);
    return Factor<A>{{nullptr, 0, A(0)}, true, static_cast<A>(tau)};
  });
}

template <typename Backend>
void sgd_max_norm_(
    Tensor w,
    Tensor grad,
    std::optional<Tensor> buffer,
    double lr,
    double momentum,
    double dampening,
    double weight_decay,
    bool nesterov,
    bool maximize,
    double radius,
    bool unit_norm,
    std::optional<Tensor> lr_rows,
    std::optional<Tensor> weight_decay_rows,
    std::optional<Tensor> radius_rows) {
  check_rows(w);
  check_written(w, "w");
  check_alike(w, grad, "grad");
  if (buffer) {
    check_alike(w, *buffer, "buf");
    check_written(*buffer, "buf");
  }
  if (w.numel() == 0) return;
  const typename Backend::Guard guard(w);
  Operands rows(buffer ? std::vector<Tensor>{w, grad, *buffer} : std::vector<Tensor>{w, grad});
  dispatch(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = accumulation_t<T>;
    const Step<A> step{
        per_row<A>(w, lr, lr_rows, "lr"),
        per_row<A>(w, weight_decay, weight_decay_rows, "weight_decay"),
        static_cast<A>(momentum),
        static_cast<A>(1 - dampening),
        nesterov,
        maximize,
        weight_decay_rows.has_value() || weight_decay != 0,
        unit_norm || radius_rows.has_value() || radius < std::numeric_limits<double>::infinity(),
        {per_row<A>(w, radius, radius_rows, "radius"), unit_norm, A(1)}};
    Backend::template step<T>(
        rows_to_write<T>(rows[0]),
        rows_to_read<T>(rows[1]),
        buffer ? rows_to_write<T>(rows[2]) : Rows<T>{},
        step);
  });
  rows.write_back(0);
  if (buffer) rows.write_back(2);
}

}  // namespace wbcli

#define WBCLI_REGISTER(KEY, BACKEND)                                    \
  STABLE_TORCH_LIBRARY_IMPL(wbcli, KEY, m) {                            \
    m.impl("row_norms", TORCH_BOX(&wbcli::row_norms<BACKEND>));         \
    m.impl("max_norm_", TORCH_BOX(&wbcli::max_norm_<BACKEND>));         \
    m.impl("tau_norm_", TORCH_BOX(&wbcli::tau_norm_<BACKEND>));         \
    m.impl("sgd_max_norm_", TORCH_BOX(&wbcli::sgd_max_norm_<BACKEND>)); \
  }
