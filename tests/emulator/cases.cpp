// The launchers of csrc/cuda/ops.cu on the emulator, over generated cases: shapes, strides,
// alignments, dtypes, settings. Results are compared with sums in long double. What lies before,
// between and behind the rows must keep its bytes, and is poisoned for AddressSanitizer.
//
//   cases COUNT SEED     COUNT cases of every dtype, and some with many rows; ends at a fault
#include "ops.inc"

using namespace wbcli;
using namespace wbcli::cuda;

namespace {

std::mt19937_64 dice(1);

int64_t below(int64_t n) {
  return int64_t(dice() % uint64_t(n));
}

template <size_t N>
int64_t one_of(const int64_t (&choices)[N]) {
  return choices[below(N)];
}

double uniform(double low, double high) {
  return low + (high - low) * (dice() >> 11) * 0x1p-53;
}

double normal() {
  double sum = 0;
  for (int i = 0; i < 12; ++i) sum += uniform(-0.5, 0.5);
  return sum;
}

template <typename T>
constexpr double EPS = 0;
template <>
constexpr double EPS<double> = 0x1p-52;
template <>
constexpr double EPS<float> = 0x1p-23;
template <>
constexpr double EPS<Half> = 0x1p-10;
template <>
constexpr double EPS<BFloat16> = 0x1p-7;

template <typename T>
constexpr double SMALLEST = 0;  // the distance between numbers next to 0, where it matters
template <>
constexpr double SMALLEST<Half> = 0x1p-24;

template <typename T>
double real(T x) {
  return static_cast<double>(static_cast<accumulation_t<T>>(x));
}

template <typename T>
T rounded(double x) {
  return static_cast<T>(static_cast<accumulation_t<T>>(x));
}

// Rows in a block of memory of their own, `offset` elements behind a multiple of 16 bytes.
template <typename T>
struct Matrix {
  static constexpr size_t MARGIN = 64;

  const int64_t K, D, stride;
  const size_t bytes;
  char* const memory;
  T* const data;

  Matrix(int64_t K, int64_t D)
      : Matrix(K, D, one_of({0, 0, 1, N, 3 * N, 5}), one_of({0, 0, 0, 1, N - 1})) {}

  Matrix(int64_t K, int64_t D, int64_t gap, int64_t offset)
      : K(K),
        D(D),
        stride(D + gap),
        bytes((2 * MARGIN + (offset + K * stride) * sizeof(T) + MARGIN - 1) / MARGIN * MARGIN),
        memory(static_cast<char*>(aligned_alloc(MARGIN, bytes))),
        data(reinterpret_cast<T*>(memory + MARGIN) + offset) {
    memset(memory, 0x7f, bytes);
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t d = 0; d < D; ++d) data[k * stride + d] = rounded<T>(normal());
    }
  }

  Matrix(const Matrix&) = delete;
  ~Matrix() { free(memory); }

  void scale_rows() {  // by random numbers, some by 0
    for (int64_t k = 0; k < K; ++k) {
      const double factor = below(10) ? uniform(0.1, 1.5) : 0;
      T* const row = data + k * stride;
      for (int64_t d = 0; d < D; ++d) row[d] = rounded<T>(real(row[d]) * factor);
    }
  }

  // AddressSanitizer has a grain of 8 bytes: a row may share one with its gap, which is why the
  // bytes of the gaps are compared as well.
  void poison() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(memory, bytes);
    for (int64_t k = 0; k < K; ++k) {
      __asan_unpoison_memory_region(data + k * stride, D * sizeof(T));
    }
#endif
  }

  void unpoison() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memory, bytes);
#endif
  }

  std::vector<char> gaps() const {  // all bytes that are not of a row
    std::vector<char> all(memory, memory + bytes);
    for (int64_t k = 0; k < K; ++k) {
      const auto row = reinterpret_cast<const char*>(data + k * stride) - memory;
      std::fill_n(all.begin() + row, D * sizeof(T), 0);
    }
    return all;
  }

  std::vector<double> values() const {  // [K, D]
    std::vector<double> all;
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t d = 0; d < D; ++d) all.push_back(real(data[k * stride + d]));
    }
    return all;
  }

  Rows<T> rows() { return {data, K, D, stride}; }
  Rows<const T> const_rows() const { return {data, K, D, stride}; }

 private:
  static constexpr int64_t N = 16 / sizeof(T);
};

// A setting: a number, one value in memory, one per row, or one per row with others between.
template <typename A>
struct Setting {
  std::vector<A> memory;
  PerRow<A> per_row;

  Setting(int64_t K, double low, double high) {
    const int64_t kind = below(4), step = kind == 3 ? 3 : 1;
    const int64_t count = kind == 0 ? 0 : kind == 1 ? 1 : (K - 1) * step + 1;
    for (int64_t i = 0; i < count; ++i) memory.push_back(static_cast<A>(uniform(low, high)));
    const double number = kind == 0 ? uniform(low, high) : NAN;
    per_row = {count ? memory.data() : nullptr, kind < 2 ? 0 : step, static_cast<A>(number)};
  }
};

int64_t num_cases = 0;
int64_t num_scaled = 0;  // rows

[[noreturn]] void fail(const char* what, int64_t K, int64_t D, double got, double expected) {
  char text[256];
  snprintf(
      text,
      sizeof text,
      "%s: [%ld, %ld], got %.9g, expected %.9g",
      what,
      long(K),
      long(D),
      got,
      expected);
  emulator::fail(text);
}

double norm_of(const double* row, int64_t D) {
  long double sum = 0;
  for (int64_t d = 0; d < D; ++d) sum += static_cast<long double>(row[d]) * row[d];
  return double(std::sqrt(sum));
}

// Relative error that a norm may have: rounding errors of D sums add up like a random walk.
template <typename T>
double norm_tolerance(int64_t D) {
  return (8 + std::sqrt(double(D))) * EPS<accumulation_t<T>>;
}

// A radius that clips some rows of length D.
template <typename A>
Setting<A> draw_radius(int64_t K, int64_t D) {
  return {K, 0.2 * std::sqrt(double(D)), 1.2 * std::sqrt(double(D))};
}

template <typename T>
void check_norms(Matrix<T>& w) {
  using A = accumulation_t<T>;
  const A untouched = -7;
  std::vector<A> norms(w.K + 2, untouched);
  const auto before = w.values();
  w.poison();
  Backend::norms<T>(w.const_rows(), norms.data() + 1);
  w.unpoison();
  if (norms.front() != untouched || norms.back() != untouched) {
    fail("a norm beside its place", w.K, w.D, norms.front(), norms.back());
  }
  for (int64_t k = 0; k < w.K; ++k) {
    const double got = norms[k + 1], expected = norm_of(&before[k * w.D], w.D);
    if (!(std::abs(got - expected) <= norm_tolerance<T>(w.D) * expected)) {
      fail("norm", w.K, w.D, got, expected);
    }
  }
  if (w.values() != before) fail("norms write", w.K, w.D, 0, 0);
}

template <typename T>
void check_scale(Matrix<T>& w) {
  using A = accumulation_t<T>;
  const bool is_power = below(3) == 0;
  const double tau = below(2) ? 1.0 : uniform(0, 2);
  const Setting<A> radius = draw_radius<A>(w.K, w.D);
  const PerRow<A> none{nullptr, 0, A(0)};
  const auto before = w.values();
  w.poison();
  Backend::scale<T>(w.rows(), {is_power ? none : radius.per_row, is_power, static_cast<A>(tau)});
  w.unpoison();
  const auto after = w.values();
  const double rtol = EPS<T> / 2 + 4 * norm_tolerance<T>(w.D);
  for (int64_t k = 0; k < w.K; ++k) {
    const double norm = norm_of(&before[k * w.D], w.D), delta = radius.per_row(k);
    const double clip = norm > delta ? delta / norm : 1,
                 power = norm > 0 ? std::pow(norm, -tau) : 1;
    const double factor = is_power ? power : clip;
    const bool on_edge = !is_power && std::abs(norm / delta - 1) < 1e-4;
    num_scaled += factor != 1;
    for (int64_t i = k * w.D; i < (k + 1) * w.D; ++i) {
      const double got = after[i], expected = factor * before[i];
      if (factor == 1 && !on_edge && got != before[i]) {
        fail("a row with factor 1 has changed", w.K, w.D, got, before[i]);
      }
      const double tolerance = (std::abs(expected) + 1e-12) * rtol + SMALLEST<T> / 2;
      if (!(std::abs(got - expected) <= tolerance)) fail("scale", w.K, w.D, got, expected);
    }
  }
}

template <typename A>
struct StepSettings {
  Setting<A> lr, decay, radius;
  const bool has_buffer = below(4) != 0;
  const bool nesterov = has_buffer && below(3) == 0;
  const bool maximize = below(4) == 0;
  const bool decays = below(3) != 0;
  const enum { NONE, RADIUS, UNIT } projection = static_cast<decltype(projection)>(below(3));
  const A momentum = below(5) ? A(0.9) : A(0);
  const A gradient_share = nesterov || below(2) ? A(1) : A(0.6);

  StepSettings(int64_t K, int64_t D)
      : lr(K, 0.01, 0.5), decay(K, 0, 0.1), radius(draw_radius<A>(K, D)) {}

  Step<A> step() const {
    const PerRow<A> infinite{nullptr, 0, A(INFINITY)};
    return {
        lr.per_row,
        decay.per_row,
        momentum,
        gradient_share,
        nesterov,
        maximize,
        decays,
        projection != NONE,
        {projection == RADIUS ? radius.per_row : infinite, projection == UNIT, A(1)}};
  }

  double factor(double norm, int64_t row) const {
    if (projection == UNIT) return norm > 0 ? 1 / norm : 1;
    const double delta = radius.per_row(row);
    return projection == RADIUS && norm > delta ? delta / norm : 1;
  }
};

// The new buffer, and the new w before its projection, rounded to T: both [K, D].
template <typename T, typename A>
std::pair<std::vector<double>, std::vector<double>> expected_step(
    const StepSettings<A>& settings,
    const std::vector<double>& w,
    const std::vector<double>& grad,
    const std::vector<double>& buffer,
    int64_t D) {
  std::vector<double> new_buffer = buffer, new_w = w;
  for (size_t i = 0; i < w.size(); ++i) {
    const int64_t row = i / D;
    double g = settings.maximize ? -grad[i] : grad[i];
    if (settings.decays) g += double(settings.decay.per_row(row)) * w[i];
    if (settings.has_buffer) {
      const double momentum = settings.momentum;
      const double m = momentum * buffer[i] + double(settings.gradient_share) * g;
      new_buffer[i] = m;
      g = settings.nesterov ? g + momentum * m : m;
    }
    new_w[i] = real(rounded<T>(w[i] - double(settings.lr.per_row(row)) * g));
  }
  return {new_buffer, new_w};
}

template <typename T>
void check_step(Matrix<T>& w) {
  using A = accumulation_t<T>;
  Matrix<T> grad(w.K, w.D), buffer(w.K, w.D);
  const StepSettings<A> settings(w.K, w.D);
  const auto before = w.values(), grad_before = grad.values(), buffer_before = buffer.values();
  const auto grad_gaps = grad.gaps(), buffer_gaps = buffer.gaps();
  for (Matrix<T>* m : {&w, &grad, &buffer}) m->poison();
  Backend::step<T>(
      w.rows(),
      grad.const_rows(),
      settings.has_buffer ? buffer.rows() : Rows<T>{},
      settings.step());
  for (Matrix<T>* m : {&w, &grad, &buffer}) m->unpoison();
  if (grad.values() != grad_before || grad.gaps() != grad_gaps || buffer.gaps() != buffer_gaps) {
    fail("grad or a gap has changed", w.K, w.D, 0, 0);
  }
  const auto [new_buffer, new_w] =
      expected_step<T>(settings, before, grad_before, buffer_before, w.D);
  const auto after = w.values(), buffer_after = buffer.values();
  if (!settings.has_buffer && buffer_after != buffer_before) fail("a buffer", w.K, w.D, 0, 0);
  for (int64_t k = 0; k < w.K; ++k) {
    const double factor = settings.factor(norm_of(&new_w[k * w.D], w.D), k);
    num_scaled += factor != 1;
    double largest = 0;
    for (int64_t i = k * w.D; i < (k + 1) * w.D; ++i)
      largest = std::max(largest, std::abs(new_w[i]));
    for (int64_t i = k * w.D; i < (k + 1) * w.D; ++i) {
      const double terms = 1 + std::abs(new_buffer[i]) + std::abs(grad_before[i]);
      const double buffer_tolerance = terms * (EPS<T> / 2 + 4 * EPS<A>);
      if (!(std::abs(buffer_after[i] - new_buffer[i]) <= buffer_tolerance)) {
        fail("buffer", w.K, w.D, buffer_after[i], new_buffer[i]);
      }
      const double got = after[i], expected = factor * new_w[i];
      // a sum on the edge of a rounding may go either way: one more step of T
      const double rtol = 1.6 * EPS<T> + 8 * norm_tolerance<T>(w.D);
      const double size = factor * (1.5 * std::abs(new_w[i]) + 0.02 * largest);
      if (!(std::abs(got - expected) <= size * rtol + 2 * SMALLEST<T> + 1e-30)) {
        fail("step", w.K, w.D, got, expected);
      }
    }
  }
}

template <typename T>
void check(int64_t K, int64_t D) {
  Matrix<T> w(K, D);
  w.scale_rows();
  const auto gaps = w.gaps();
  switch (below(4)) {
    case 0: check_norms(w); break;
    case 1: check_scale(w); break;
    default: check_step(w);
  }
  if (w.gaps() != gaps) fail("bytes between the rows have changed", K, D, 0, 0);
  ++num_cases;
}

constexpr int64_t WIDTHS[] = {1,    2,    3,    5,    7,    8,    15,    16,    17,    31,   32,
                              33,   63,   64,   65,   100,  127,  128,   129,   255,   256,  257,
                              511,  512,  513,  1000, 1023, 1024, 1025,  1032,  2047,  2048, 2049,
                              4095, 4096, 4104, 8191, 8192, 8200, 16384, 16400, 32768, 32776};
constexpr int64_t EDGES[] = {32, 64, 128, 256, 512, 1024, 2048};  // of the tiers, in 16-byte words

template <typename T>
void check_shapes(int count) {
  constexpr int64_t N = 16 / sizeof(T);
  for (int i = 0; i < count; ++i) {
    int64_t D = one_of(WIDTHS);
    if (below(3) == 0) D = (one_of(EDGES) + below(3) - 1) * N + (below(4) == 0);
    const int64_t K = 1 + below(D > 4000 ? 4 : D > 500 ? 9 : 40);
    check<T>(K, D);
  }
}

template <typename T>
void check_many_rows() {  // more than a grid has groups, see EMULATOR_GRID
  check<T>(700, 8);
  check<T>(300, 516);
}

// Rows that lie more than 2^31 elements apart.
void check_far_rows() {
  constexpr int64_t K = 3, D = 2048, STRIDE = (int64_t(1) << 31) + 8;
  constexpr size_t bytes = ((K - 1) * STRIDE + D) * sizeof(BFloat16);
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) emulator::fail("no address space for far rows");
  const Rows<BFloat16> w{static_cast<BFloat16*>(memory), K, D, STRIDE};
  for (int64_t k = 0; k < K; ++k) std::fill_n(w[k], D, BFloat16(float(k + 1)));
  Backend::scale<BFloat16>(w, {{nullptr, 0, 1.0f}, false, 0.0f});
  float norms[K];
  Backend::norms<BFloat16>({w.data, K, D, STRIDE}, norms);
  for (float norm : norms) {
    if (std::abs(norm - 1) > EPS<BFloat16> / 2) fail("far rows", K, D, norm, 1);
  }
  munmap(memory, bytes);
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? atoi(argv[1]) : 40;
  dice.seed(argc > 2 ? atoi(argv[2]) : 1);
  check_shapes<float>(count);
  check_shapes<double>(count);
  check_shapes<Half>(count);
  check_shapes<BFloat16>(count);
  for (int i = 0; i < count / 4; ++i) {
    check_many_rows<float>();
    check_many_rows<BFloat16>();
  }
  check_far_rows();
  const emulator::Machine& m = emulator::machine();
  printf("%ld cases, %ld rows scaled, ", long(num_cases), long(num_scaled));
  printf("%ld launches, %ld barriers\n", long(m.launches), long(m.barriers));
}
