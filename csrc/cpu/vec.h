// Included once per instruction set, inside its namespace: Vec<A>, W numbers of the
// accumulation type A, loaded from and stored to memory of type T (16-bit types convert,
// stores round to nearest even). ISA 512: AVX-512F; 2: AVX2, FMA, F16C; 0: whatever the
// compiler makes of 16-byte vectors (SSE2, NEON).

template <typename A>
struct Vec;

#if WBCLI_ISA == 512

template <>
struct Vec<float> {
  static constexpr int64_t W = 16;
  __m512 v;

  static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const Half* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec load(const BFloat16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(Half* p) const {
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  void store(BFloat16* p) const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_mask_mov_epi32(
        rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
  Vec operator+(Vec other) const { return {_mm512_add_ps(v, other.v)}; }
  Vec operator*(Vec other) const { return {_mm512_mul_ps(v, other.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
};

template <>
struct Vec<double> {
  static constexpr int64_t W = 8;
  __m512d v;

  static Vec all(double x) { return {_mm512_set1_pd(x)}; }
  static Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  void store(double* p) const { _mm512_storeu_pd(p, v); }
  Vec operator+(Vec other) const { return {_mm512_add_pd(v, other.v)}; }
  Vec operator*(Vec other) const { return {_mm512_mul_pd(v, other.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
};

#elif WBCLI_ISA == 2

template <>
struct Vec<float> {
  static constexpr int64_t W = 8;
  __m256 v;

  static Vec all(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec load(const BFloat16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(Half* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  void store(BFloat16* p) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    rounded = _mm256_castps_si256(_mm256_blendv_ps(
        _mm256_castsi256_ps(rounded),
        _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)),
        _mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    const __m256i halves = _mm256_srli_epi32(rounded, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(halves, halves), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  Vec operator+(Vec other) const { return {_mm256_add_ps(v, other.v)}; }
  Vec operator*(Vec other) const { return {_mm256_mul_ps(v, other.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
};

template <>
struct Vec<double> {
  static constexpr int64_t W = 4;
  __m256d v;

  static Vec all(double x) { return {_mm256_set1_pd(x)}; }
  static Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  void store(double* p) const { _mm256_storeu_pd(p, v); }
  Vec operator+(Vec other) const { return {_mm256_add_pd(v, other.v)}; }
  Vec operator*(Vec other) const { return {_mm256_mul_pd(v, other.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
};

#else

template <typename A>
struct Vec {
  static constexpr int64_t W = 16 / sizeof(A);
  A v[W];

  static Vec all(A x) {
    Vec r;
    for (A& lane : r.v) lane = x;
    return r;
  }
  template <typename T>
  static Vec load(const T* p) {
    Vec r;
    for (int64_t i = 0; i < W; ++i) r.v[i] = static_cast<A>(p[i]);
    return r;
  }
  template <typename T>
  void store(T* p) const {
    for (int64_t i = 0; i < W; ++i) p[i] = static_cast<T>(v[i]);
  }
  Vec operator+(Vec other) const {
    for (int64_t i = 0; i < W; ++i) other.v[i] += v[i];
    return other;
  }
  Vec operator*(Vec other) const {
    for (int64_t i = 0; i < W; ++i) other.v[i] *= v[i];
    return other;
  }
  static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
};

#endif
