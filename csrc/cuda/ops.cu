// The CUDA backend.
//
//   norms   ‖w_k‖                          reads w
//   scale   w_k ← factor(‖w_k‖)·w_k        reads w, writes the rows whose factor is not 1
//   step    SGD, then the same             reads w, grad, buffer; writes w, buffer
//
// Parallel work. A group of GROUP threads takes a row: a warp, four rows to a block, for short
// rows, else a whole block. Thread `lane` of a group takes the columns
//
//   (item · GROUP + lane) · N + j,   item = 0, 1, ..., j = 0 .. N − 1
//
// where N elements are 16 bytes: neighbouring threads read neighbouring 16-byte words, while
// the CPU kernels go through a row from left to right. Up to ITEMS words of a thread stay in
// registers between the norm and the write, so that a row is read once; wider rows, and rows
// that are not aligned to 16 bytes (N = 1), are read again, each element by the thread that
// wrote it. Rows beyond the size of a grid are taken in turns.
//
// Sums are fp32 (fp64 for fp64): a thread's own columns in order, then the lanes of a warp by
// shuffles, then the warps of a block in order. No atomics: results are deterministic, and
// depend on the row's length, dtype and alignment only. Nothing here waits for the device or
// reads from it on the host; settings in device memory are read by the kernels.

#include "../ops.h"

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

namespace wbcli::cuda {
namespace {

constexpr int WARP = 32;
constexpr int MIN_BLOCK = 128;
constexpr int64_t MAX_GRID = 2147483647;

// N elements that are loaded and stored as one word.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

template <int N, typename T>
__device__ Pack<T, N> load(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}

template <int N, typename T>
__device__ void store(T* p, const accumulation_t<T> (&x)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int j = 0; j < N; ++j) pack.v[j] = static_cast<T>(x[j]);
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

// A product that the compiler may not fuse with the sum around it.
__device__ float rounded_product(float a, float b) {
  return __fmul_rn(a, b);
}
__device__ double rounded_product(double a, double b) {
  return __dmul_rn(a, b);
}

// The sum over the threads of a group, the same in all of them. All threads of the block call.
template <int GROUP, typename A>
__device__ A group_sum(A sum) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffff, sum, offset);
  }
  if constexpr (GROUP > WARP) {
    __shared__ A partial[GROUP / WARP];
    __syncthreads();  // the row before has been read
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int warp = 0; warp < GROUP / WARP; ++warp) sum += partial[warp];
  }
  return sum;
}

// What a kernel does with its columns of a row: `begin` loads the row's settings and `fetch` the
// elements, before anything is stored, so that all loads are under way at once; `update` gives
// the values whose norm is taken, and `factor` what their sum of squares makes of the row.
// DIRTY: the values differ from those in memory and have to be written whatever the factor.
template <typename T>
struct Scale {
  using Element = T;
  using A = accumulation_t<T>;
  static constexpr bool DIRTY = false;
  template <int N>
  using Words = Pack<T, N>;
  struct Settings {
    A radius;
  };

  Rows<T> w;  // [K, D]
  Factor<A> row_factor;

  __device__ Settings begin(int64_t row) const { return {row_factor.radius(row)}; }

  template <int N>
  __device__ void fetch(int64_t row, int64_t column, Pack<T, N>& words) const {
    words = load<N>(w[row] + column);
  }

  template <int N>
  __device__ void update(
      int64_t, int64_t, const Settings&, const Pack<T, N>& words, A (&x)[N]) const {
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = static_cast<A>(words.v[j]);
  }

  __device__ A factor(A sum, const Settings& settings) const {
    return row_factor(std::sqrt(sum), settings.radius);
  }
};

template <typename T>
struct SgdStep {
  using Element = T;
  using A = accumulation_t<T>;
  static constexpr bool DIRTY = true;
  template <int N>
  struct Words {
    Pack<T, N> w, grad, buffer;
  };
  struct Settings {
    A lr, decay, radius;
  };

  Rows<T> w;           // [K, D]
  Rows<const T> grad;  // [K, D]
  Rows<T> buffer;      // [K, D], or null data
  Step<A> step;

  __device__ Settings begin(int64_t row) const {
    return {step.lr(row), step.weight_decay(row), step.factor.radius(row)};
  }

  template <int N>
  __device__ void fetch(int64_t row, int64_t column, Words<N>& words) const {
    words.w = load<N>(w[row] + column);
    words.grad = load<N>(grad[row] + column);
    if (buffer.data) words.buffer = load<N>(buffer[row] + column);
  }

  template <int N>
  __device__ void update(
      int64_t row, int64_t column, const Settings& settings, const Words<N>& words, A (&x)[N])
      const {
    A m[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      x[j] = static_cast<A>(words.w.v[j]);
      A g = static_cast<A>(words.grad.v[j]);
      if (step.maximize) g = -g;
      if (step.decays) g = fma(x[j], settings.decay, g);
      if (buffer.data) {
        m[j] = rounded_product(static_cast<A>(words.buffer.v[j]), step.momentum);
        m[j] = fma(g, step.gradient_share, m[j]);
        g = step.nesterov ? fma(m[j], step.momentum, g) : m[j];
      }
      x[j] = static_cast<A>(static_cast<T>(fma(g, -settings.lr, x[j])));  // as w rounds it
    }
    if (buffer.data) store(buffer[row] + column, m);
  }

  __device__ A factor(A sum, const Settings& settings) const {
    return step.projects ? step.factor(std::sqrt(sum), settings.radius) : A(1);
  }
};

// Rows of up to GROUP · ITEMS · N elements: read, reduced and written from registers.
template <int GROUP, int ITEMS, int N, typename Op>
__global__ void __launch_bounds__(GROUP < MIN_BLOCK ? MIN_BLOCK : GROUP)
    rows_in_registers(const Op op) {
  using A = typename Op::A;
  const int lane = threadIdx.x % GROUP;
  const int64_t group = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / GROUP;
  const int64_t num_groups = int64_t(gridDim.x) * blockDim.x / GROUP;
  for (int64_t row = group; row < op.w.count; row += num_groups) {
    const typename Op::Settings settings = op.begin(row);
    typename Op::template Words<N> words[ITEMS];
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      const int64_t column = int64_t(item * GROUP + lane) * N;
      if (column < op.w.length) op.fetch(row, column, words[item]);
    }
    A x[ITEMS][N];
    A sum = 0;
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      const int64_t column = int64_t(item * GROUP + lane) * N;
      if (column < op.w.length) {
        op.update(row, column, settings, words[item], x[item]);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += x[item][j] * x[item][j];
      }
    }
    const A factor = op.factor(group_sum<GROUP>(sum), settings);
    if (!Op::DIRTY && factor == A(1)) continue;
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      const int64_t column = int64_t(item * GROUP + lane) * N;
      if (column < op.w.length) {
#pragma unroll
        for (int j = 0; j < N; ++j) x[item][j] *= factor;
        store(op.w[row] + column, x[item]);
      }
    }
  }
}

// Rows of any length: read once for the norm and, where the factor is not 1, once more.
template <int GROUP, int N, typename Op>
__global__ void __launch_bounds__(GROUP < MIN_BLOCK ? MIN_BLOCK : GROUP)
    rows_in_two_passes(const Op op) {
  using A = typename Op::A;
  constexpr int UNROLL = Op::DIRTY ? 1 : 2;  // loads do not overtake stores
  const int lane = threadIdx.x % GROUP;
  const int64_t group = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / GROUP;
  const int64_t num_groups = int64_t(gridDim.x) * blockDim.x / GROUP;
  for (int64_t row = group; row < op.w.count; row += num_groups) {
    auto* const w = op.w[row];
    const typename Op::Settings settings = op.begin(row);
    A sum = 0;
#pragma unroll UNROLL
    for (int64_t column = lane * N; column < op.w.length; column += GROUP * N) {
      typename Op::template Words<N> words;
      A x[N];
      op.fetch(row, column, words);
      op.update(row, column, settings, words, x);
      if constexpr (Op::DIRTY) store(w + column, x);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += x[j] * x[j];
    }
    const A factor = op.factor(group_sum<GROUP>(sum), settings);
    if (factor == A(1)) continue;
    for (int64_t column = lane * N; column < op.w.length; column += GROUP * N) {
      const auto words = load<N>(w + column);
      A x[N];
#pragma unroll
      for (int j = 0; j < N; ++j) x[j] = static_cast<A>(words.v[j]) * factor;
      store(w + column, x);
    }
  }
}

template <int GROUP, int N, typename T>
__global__ void __launch_bounds__(GROUP < MIN_BLOCK ? MIN_BLOCK : GROUP)
    norms_of_rows(const Rows<const T> w, accumulation_t<T>* norms) {
  using A = accumulation_t<T>;
  const int lane = threadIdx.x % GROUP;
  const int64_t group = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / GROUP;
  const int64_t num_groups = int64_t(gridDim.x) * blockDim.x / GROUP;
  for (int64_t row = group; row < w.count; row += num_groups) {
    A sum = 0;
#pragma unroll 4
    for (int64_t column = lane * N; column < w.length; column += GROUP * N) {
      const Pack<T, N> words = load<N>(w[row] + column);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const A x = static_cast<A>(words.v[j]);
        sum += x * x;
      }
    }
    sum = group_sum<GROUP>(sum);
    if (lane == 0) norms[row] = std::sqrt(sum);
  }
}

template <int GROUP, typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t num_rows, const Arguments&... arguments) {
  constexpr int block = GROUP < MIN_BLOCK ? MIN_BLOCK : GROUP;
  constexpr int rows_per_block = block / GROUP;
  const int64_t grid = std::min(MAX_GRID, (num_rows + rows_per_block - 1) / rows_per_block);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(
      torch::stable::accelerator::getCurrentDeviceIndex(), &stream));
  kernel<<<static_cast<unsigned>(grid), block, 0, static_cast<cudaStream_t>(stream)>>>(
      arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
bool is_aligned(const Rows<T>& rows) {
  constexpr int N = 16 / sizeof(T);
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.stride % N == 0;
}

// The kernel for the length of a row, counted in 16-byte words where they can be used.
template <typename Op>
void launch_for_length(const Op& op, bool aligned) {
  constexpr int N = 16 / sizeof(typename Op::Element);
  constexpr int ITEMS = N == 8 ? 2 : 4;  // words a thread keeps: more would cost occupancy
  const int64_t count = op.w.count, length = op.w.length, words = length / N;
  if (!aligned || length % N) {
    if (length <= 1024) launch<WARP>(rows_in_two_passes<WARP, 1, Op>, count, op);
    else launch<256>(rows_in_two_passes<256, 1, Op>, count, op);
  } else if (words <= WARP) {
    launch<WARP>(rows_in_registers<WARP, 1, N, Op>, count, op);
  } else if (words <= WARP * ITEMS) {
    launch<WARP>(rows_in_registers<WARP, ITEMS, N, Op>, count, op);
  } else if (words <= 128 * ITEMS) {
    launch<128>(rows_in_registers<128, ITEMS, N, Op>, count, op);
  } else if (words <= 256 * ITEMS) {  // two blocks an SM; of 512 threads there is one
    launch<256>(rows_in_registers<256, ITEMS, N, Op>, count, op);
  } else if (words <= 512 * ITEMS) {
    launch<512>(rows_in_registers<512, ITEMS, N, Op>, count, op);
  } else {
    launch<256>(rows_in_two_passes<256, N, Op>, count, op);
  }
}

struct Backend {
  struct Guard {
    torch::stable::accelerator::DeviceGuard guard;
    explicit Guard(const Tensor& w) : guard(w.get_device_index()) {}
  };

  template <typename T>
  static void norms(Rows<const T> w, accumulation_t<T>* norms) {
    constexpr int N = 16 / sizeof(T);
    if (is_aligned(w) && w.length % N == 0) {
      if (w.length <= 4 * WARP * N) launch<WARP>(norms_of_rows<WARP, N, T>, w.count, w, norms);
      else launch<256>(norms_of_rows<256, N, T>, w.count, w, norms);
    } else {
      if (w.length <= 1024) launch<WARP>(norms_of_rows<WARP, 1, T>, w.count, w, norms);
      else launch<256>(norms_of_rows<256, 1, T>, w.count, w, norms);
    }
  }

  template <typename T>
  static void scale(Rows<T> w, const Factor<accumulation_t<T>>& factor) {
    launch_for_length(Scale<T>{w, factor}, is_aligned(w));
  }

  template <typename T>
  static void step(
      Rows<T> w, Rows<const T> grad, Rows<T> buffer, const Step<accumulation_t<T>>& step) {
    launch_for_length(
        SgdStep<T>{w, grad, buffer, step}, is_aligned(w) && is_aligned(grad) && is_aligned(buffer));
  }
};

}  // namespace
}  // namespace wbcli::cuda

WBCLI_REGISTER(CUDA, wbcli::cuda::Backend)
