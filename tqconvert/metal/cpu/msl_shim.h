// Metal Shading Language for clang on a CPU: keywords, vectors, and the part of the standard library that ggml's
// kernels use. Included before the output of rewrite.py. No vector converts to another by itself and overloads are
// exact, so that what Metal calls ambiguous is ambiguous here.
#pragma once
#include "msl_abi.h"

// Without debug information of its own, an inlined function has the line of the kernel that calls it.
#pragma clang attribute push(__attribute__((nodebug)), apply_to = hasType(functionType))

// ---- address spaces and keywords
#define device
#define constant const
#define MSL_FC static
#define thread
#define threadgroup
#define kernel
#define threadgroup_imageblock
#define object_data
#define MSL_TGVAR static __attribute__((section(MSL_TG_SECTION), used))
#define FLT_MAX 3.402823466e+38F
#define FLT_MIN 1.175494351e-38F
#define FLT_EPSILON 1.1920929e-07F
#define HALF_MAX ((half)65504.0f)
#define MAXHALF ((half)65504.0f)
#define MAXFLOAT FLT_MAX
#define INFINITY (__builtin_inff())
#define NAN (__builtin_nanf(""))
#define M_PI_F 3.14159265358979323846f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_SQRT2_F 1.41421356237309504880f
#define M_E_F 2.71828182845904523536f
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
typedef _Float16 half;
typedef __bf16 bfloat;
inline constexpr half operator""h(long double v) { return (half)v; }
inline constexpr half operator""h(unsigned long long v) { return (half)v; }
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

// ---- lanes that work together
#define MSL_LOC const char *file_ = __builtin_FILE(), uint32_t line_ = __builtin_LINE()
#define MSL_FWD file_, line_
#define MSL_CONV __attribute__((convergent))

namespace msl {
template <class A, class B> struct is_same {
  static constexpr bool value = false;
};
template <class A> struct is_same<A, A> {
  static constexpr bool value = true;
};
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> {
  typedef T type;
};
template <class T> struct remove_ref {
  typedef T type;
};
template <class T> struct remove_ref<T &> {
  typedef T type;
};
template <class T> struct remove_cv {
  typedef T type;
};
template <class T> struct remove_cv<const T> {
  typedef T type;
};
template <class T> struct remove_cv<volatile T> {
  typedef T type;
};
template <class T> struct is_fp {
  static constexpr bool value = false;
};
template <> struct is_fp<float> {
  static constexpr bool value = true;
};
template <> struct is_fp<double> {
  static constexpr bool value = true;
};
template <> struct is_fp<half> {
  static constexpr bool value = true;
};
template <> struct is_fp<bfloat> {
  static constexpr bool value = true;
};
template <class T> struct is_arith {
  static constexpr bool value = is_fp<T>::value;
};
#define A_(T)                           \
  template <> struct is_arith<T> {      \
    static constexpr bool value = true; \
  };
A_(bool)
A_(char)
A_(signed char)
A_(uchar)
A_(short)
A_(ushort)
A_(int)
A_(uint)
A_(long)
A_(ulong)
A_(long long)
A_(unsigned long long)
#undef A_
template <class T> struct is_scalar_or_enum {
  static constexpr bool value = is_arith<T>::value || __is_enum(T);
};

template <class T, int N> struct vec;
template <class D, class S> inline D cvt(S s) {
  if constexpr (is_fp<D>::value && is_fp<S>::value)
    return (D)(float)s;
  else
    return (D)s;
}
template <class T, int N> struct packed_vec;
#define PROP(name, ...) __declspec(property(get = get_##name, put = put_##name)) __VA_ARGS__ name;
#define SW2(name, a, b)                                          \
  vec<T, 2> get_##name() const { return vec<T, 2>(d[a], d[b]); } \
  void put_##name(const vec<T, 2> &v) {                          \
    d[a] = v.d[0];                                               \
    d[b] = v.d[1];                                               \
  }                                                              \
  PROP(name, vec<T, 2>)
#define SW3(name, a, b, c)                                             \
  vec<T, 3> get_##name() const { return vec<T, 3>(d[a], d[b], d[c]); } \
  void put_##name(const vec<T, 3> &v) {                                \
    d[a] = v.d[0];                                                     \
    d[b] = v.d[1];                                                     \
    d[c] = v.d[2];                                                     \
  }                                                                    \
  PROP(name, vec<T, 3>)
#define SW4(name, a, b, c, e)                                                \
  vec<T, 4> get_##name() const { return vec<T, 4>(d[a], d[b], d[c], d[e]); } \
  void put_##name(const vec<T, 4> &v) {                                      \
    d[a] = v.d[0];                                                           \
    d[b] = v.d[1];                                                           \
    d[c] = v.d[2];                                                           \
    d[e] = v.d[3];                                                           \
  }                                                                          \
  PROP(name, vec<T, 4>)

#define VEC_COMMON(N)                                                                                            \
  typedef T nat __attribute__((ext_vector_type(N)));                                                             \
  typedef T elem;                                                                                                \
  T &operator[](int i) { return d[i]; }                                                                          \
  const T &operator[](int i) const { return d[i]; }                                                              \
  vec() = default;                                                                                               \
  template <class S, class = typename enable_if<is_arith<S>::value>::type> vec(S s) {                            \
    T t = cvt<T>(s);                                                                                             \
    for (int i = 0; i < N; i++) d[i] = t;                                                                        \
  }                                                                                                              \
  template <class U, class = typename enable_if<!is_same<U, T>::value>::type> explicit vec(const vec<U, N> &o) { \
    for (int i = 0; i < N; i++) d[i] = cvt<T>(o.d[i]);                                                           \
  }                                                                                                              \
  template <class U> explicit vec(const packed_vec<U, N> &o) {                                                   \
    for (int i = 0; i < N; i++) d[i] = cvt<T>(o.d[i]);                                                           \
  }

template <class T> struct alignas(2 * sizeof(T)) vec<T, 2> {
  union {
    T d[2];
    struct {
      T x, y;
    };
    struct {
      T r, g;
    };
  };
  VEC_COMMON(2)
  vec(T a, T b) {
    d[0] = a;
    d[1] = b;
  }
  SW2(xy, 0, 1)
  SW2(yx, 1, 0)
  SW2(xx, 0, 0)
  SW2(yy, 1, 1)
};
template <class T> struct alignas(4 * sizeof(T)) vec<T, 3> {
  union {
    T d[4];
    struct {
      T x, y, z;
    };
    struct {
      T r, g, b;
    };
  };
  VEC_COMMON(3)
  vec(T a, T b, T c) {
    d[0] = a;
    d[1] = b;
    d[2] = c;
  }
  SW2(xy, 0, 1)
  SW2(yz, 1, 2)
  SW2(xz, 0, 2)
  SW3(xyz, 0, 1, 2)
};
template <class T> struct alignas(4 * sizeof(T)) vec<T, 4> {
  union {
    T d[4];
    struct {
      T x, y, z, w;
    };
    struct {
      T r, g, b, a;
    };
  };
  VEC_COMMON(4)
  vec(T a, T b, T c, T e) {
    d[0] = a;
    d[1] = b;
    d[2] = c;
    d[3] = e;
  }
  vec(vec<T, 2> a, vec<T, 2> b) {
    d[0] = a[0];
    d[1] = a[1];
    d[2] = b[0];
    d[3] = b[1];
  }
  SW2(xy, 0, 1)
  SW2(zw, 2, 3)
  SW2(xz, 0, 2)
  SW2(yw, 1, 3)
  SW2(yz, 1, 2)
  SW2(yx, 1, 0)
  SW3(xyz, 0, 1, 2)
  SW3(yzw, 1, 2, 3)
  SW4(xyzw, 0, 1, 2, 3)
  SW4(yxwz, 1, 0, 3, 2)
  SW4(zwxy, 2, 3, 0, 1)
  SW4(wzyx, 3, 2, 1, 0)
  SW2(lo, 0, 1)
  SW2(hi, 2, 3)
  SW2(even, 0, 2)
  SW2(odd, 1, 3)
  vec(vec<T, 3> a, T b) {
    d[0] = a[0];
    d[1] = a[1];
    d[2] = a[2];
    d[3] = b;
  }
};
#undef VEC_COMMON
#define VOP(op)                                                                                      \
  template <class T, int N> inline vec<T, N> operator op(const vec<T, N> &a, const vec<T, N> &b) {   \
    vec<T, N> r;                                                                                     \
    for (int i = 0; i < N; i++) r.d[i] = (T)(a.d[i] op b.d[i]);                                      \
    return r;                                                                                        \
  }                                                                                                  \
  template <class T, int N, class S, class = typename enable_if<is_scalar_or_enum<S>::value>::type>  \
  inline vec<T, N> operator op(const vec<T, N> &a, S s) {                                            \
    vec<T, N> r;                                                                                     \
    T b = (T)s;                                                                                      \
    for (int i = 0; i < N; i++) r.d[i] = (T)(a.d[i] op b);                                           \
    return r;                                                                                        \
  }                                                                                                  \
  template <class T, int N, class S, class = typename enable_if<is_scalar_or_enum<S>::value>::type>  \
  inline vec<T, N> operator op(S s, const vec<T, N> &a) {                                            \
    vec<T, N> r;                                                                                     \
    T b = (T)s;                                                                                      \
    for (int i = 0; i < N; i++) r.d[i] = (T)(b op a.d[i]);                                           \
    return r;                                                                                        \
  }                                                                                                  \
  template <class T, int N, class S> inline vec<T, N> &operator op## = (vec<T, N> & a, const S &b) { \
    a = a op b;                                                                                      \
    return a;                                                                                        \
  }
VOP(+)
VOP(-)
VOP(*)
VOP(/)
VOP(%)
VOP(&)
VOP(|)
VOP(^)
VOP(<<)
VOP(>>)
#undef VOP
#define VCMP(op)                                                                                      \
  template <class T, int N> inline vec<bool, N> operator op(const vec<T, N> &a, const vec<T, N> &b) { \
    vec<bool, N> r;                                                                                   \
    for (int i = 0; i < N; i++) r.d[i] = a.d[i] op b.d[i];                                            \
    return r;                                                                                         \
  }                                                                                                   \
  template <class T, int N, class S, class = typename enable_if<is_arith<S>::value>::type>            \
  inline vec<bool, N> operator op(const vec<T, N> &a, S s) {                                          \
    vec<bool, N> r;                                                                                   \
    T b = (T)s;                                                                                       \
    for (int i = 0; i < N; i++) r.d[i] = a.d[i] op b;                                                 \
    return r;                                                                                         \
  }
VCMP(<)
VCMP(>)
VCMP(<=)
VCMP(>=)
VCMP(==)
VCMP(!=)
#undef VCMP
template <class T, int N> inline vec<T, N> operator-(const vec<T, N> &a) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = -a.d[i];
  return r;
}
template <class T, int N> inline vec<T, N> operator~(const vec<T, N> &a) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = ~a.d[i];
  return r;
}
template <int N> inline vec<bool, N> operator!(const vec<bool, N> &a) {
  vec<bool, N> r;
  for (int i = 0; i < N; i++) r.d[i] = !a.d[i];
  return r;
}

template <class T, int N> struct packed_vec {
  T d[N];
  packed_vec() = default;
  packed_vec(const vec<T, N> &v) {
    for (int i = 0; i < N; i++) d[i] = v.d[i];
  }
  operator vec<T, N>() const {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r.d[i] = d[i];
    return r;
  }
  T &operator[](int i) { return d[i]; }
  const T &operator[](int i) const { return d[i]; }
};

template <class T, int C, int R> struct matrix {
  vec<T, R> c[C];
  matrix() = default;
  matrix(const matrix &) = default;
  matrix &operator=(const matrix &) = default;
  explicit matrix(T s) {
    for (int i = 0; i < C; i++)
      for (int j = 0; j < R; j++) c[i].d[j] = (C == R && i != j) ? (T)0 : s;
  }
  template <class U, class = typename enable_if<!is_same<U, T>::value>::type>
  explicit matrix(const matrix<U, C, R> &o) {
    for (int i = 0; i < C; i++) c[i] = vec<T, R>(o.c[i]);
  }
  matrix(vec<T, R> a, vec<T, R> b, vec<T, R> e, vec<T, R> f) {
    c[0] = a;
    c[1] = b;
    c[2] = e;
    c[3] = f;
  }
  vec<T, R> &operator[](int i) { return c[i]; }
  const vec<T, R> &operator[](int i) const { return c[i]; }
};
template <class T, int C, int R> inline vec<T, R> operator*(const matrix<T, C, R> &m, const vec<T, C> &v) {
  vec<T, R> r((T)0);
  for (int i = 0; i < C; i++) r += m.c[i] * v.d[i];
  return r;
}
template <class T, int C, int R> inline vec<T, C> operator*(const vec<T, R> &v, const matrix<T, C, R> &m) {
  vec<T, C> r;
  for (int i = 0; i < C; i++) {
    T s = 0;
    for (int j = 0; j < R; j++) s += v.d[j] * m.c[i].d[j];
    r.d[i] = s;
  }
  return r;
}
template <class T, int C, int R> inline matrix<T, C, R> operator*(const matrix<T, C, R> &m, T s) {
  matrix<T, C, R> r;
  for (int i = 0; i < C; i++) r.c[i] = m.c[i] * s;
  return r;
}
template <class T, int C, int R> inline matrix<T, C, R> operator+(const matrix<T, C, R> &m, const matrix<T, C, R> &s) {
  matrix<T, C, R> r;
  for (int i = 0; i < C; i++) r.c[i] = m.c[i] + s.c[i];
  return r;
}
} // namespace msl
using msl::is_same;
using msl::matrix;
using msl::vec;
#define VT(T)                                  \
  typedef msl::vec<T, 2> T##2;                 \
  typedef msl::vec<T, 3> T##3;                 \
  typedef msl::vec<T, 4> T##4;                 \
  typedef msl::packed_vec<T, 2> packed_##T##2; \
  typedef msl::packed_vec<T, 3> packed_##T##3; \
  typedef msl::packed_vec<T, 4> packed_##T##4;
VT(float)
VT(half)
VT(bfloat)
VT(char)
VT(uchar)
VT(short)
VT(ushort)
VT(int)
VT(uint)
VT(long)
VT(ulong)
VT(bool)
#undef VT
#define MT(T)                          \
  typedef msl::matrix<T, 2, 2> T##2x2; \
  typedef msl::matrix<T, 2, 4> T##2x4; \
  typedef msl::matrix<T, 3, 3> T##3x3; \
  typedef msl::matrix<T, 4, 4> T##4x4; \
  typedef msl::matrix<T, 4, 2> T##4x2;
MT(float)
MT(half)
#undef MT
template <class D, class S> inline D as_type(const S &s) {
  static_assert(sizeof(D) == sizeof(S), "as_type size");
  D d;
  __builtin_memcpy(&d, &s, sizeof(D));
  return d;
}

namespace metal {
using ::as_type;
using msl::is_same;
using msl::matrix;
using msl::vec;
template <class T> using remove_const_t = typename msl::remove_cv<T>::type;
template <bool B, class T = void> using enable_if_t = typename msl::enable_if<B, T>::type;
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }
enum memory_order { memory_order_relaxed = 0, memory_order_seq_cst = 5 };
inline MSL_CONV void threadgroup_barrier(mem_flags f, MSL_LOC) { msl_threadgroup_barrier((uint)f, MSL_FWD); }
inline MSL_CONV void simdgroup_barrier(mem_flags f, MSL_LOC) {
  msl_collective(nullptr, nullptr, nullptr, (uint)f, MSL_FWD);
}

// ---- math. overload sets kept exact (no mixed-type templates) so ambiguity matches Metal
#define M1(name, expr)                                                                                        \
  inline float name(float x) { return expr; }                                                                 \
  inline half name(half x_) {                                                                                 \
    float x = x_;                                                                                             \
    return (half)(expr);                                                                                      \
  }                                                                                                           \
  inline bfloat name(bfloat x_) {                                                                             \
    float x = x_;                                                                                             \
    return (bfloat)(expr);                                                                                    \
  }                                                                                                           \
  template <class T, int N> inline vec<T, N> name(const vec<T, N> &v) {                                       \
    vec<T, N> r;                                                                                              \
    for (int i = 0; i < N; i++) r.d[i] = name(v.d[i]);                                                        \
    return r;                                                                                                 \
  }                                                                                                           \
  template <class T, class = typename msl::enable_if<msl::is_arith<T>::value && !msl::is_fp<T>::value>::type> \
  inline float name(T i) {                                                                                    \
    return name((float)i);                                                                                    \
  }
M1(exp, __builtin_expf(x))
M1(exp2, __builtin_exp2f(x))
M1(exp10, __builtin_exp2f(x * 3.32192809488736f))
M1(log, __builtin_logf(x))
M1(log2, __builtin_log2f(x))
M1(log10, __builtin_log10f(x))
M1(sqrt, __builtin_sqrtf(x))
M1(rsqrt, 1.0f / __builtin_sqrtf(x))
M1(sin, __builtin_sinf(x))
M1(cos, __builtin_cosf(x))
M1(tan, __builtin_tanf(x))
M1(tanh, __builtin_tanhf(x))
M1(sinh, __builtin_sinhf(x))
M1(cosh, __builtin_coshf(x))
M1(atan, __builtin_atanf(x))
M1(asin, __builtin_asinf(x))
M1(acos, __builtin_acosf(x))
M1(fabs, __builtin_fabsf(x))
M1(floor, __builtin_floorf(x))
M1(ceil, __builtin_ceilf(x))
M1(round, __builtin_roundf(x))
M1(rint, __builtin_rintf(x))
M1(trunc, __builtin_truncf(x))
M1(sign, (x > 0.f ? 1.f : (x < 0.f ? -1.f : 0.f)))
M1(fract, (x - __builtin_floorf(x)))
M1(saturate, (x < 0.f ? 0.f : (x > 1.f ? 1.f : x)))
#undef M1
#define M2(name, expr)                                                                      \
  inline float name(float x, float y) { return expr; }                                      \
  inline half name(half x_, half y_) {                                                      \
    float x = x_, y = y_;                                                                   \
    return (half)(expr);                                                                    \
  }                                                                                         \
  inline bfloat name(bfloat x_, bfloat y_) {                                                \
    float x = x_, y = y_;                                                                   \
    return (bfloat)(expr);                                                                  \
  }                                                                                         \
  template <class T, int N> inline vec<T, N> name(const vec<T, N> &a, const vec<T, N> &b) { \
    vec<T, N> r;                                                                            \
    for (int i = 0; i < N; i++) r.d[i] = name(a.d[i], b.d[i]);                              \
    return r;                                                                               \
  }
M2(pow, __builtin_powf(x, y))
M2(powr, __builtin_powf(x, y))
M2(fmod, __builtin_fmodf(x, y))
M2(atan2, __builtin_atan2f(x, y))
M2(fmin, __builtin_fminf(x, y))
M2(fmax, __builtin_fmaxf(x, y))
M2(step, (y < x ? 0.f : 1.f))
M2(copysign, __builtin_copysignf(x, y))
M2(ldexp_, __builtin_ldexpf(x, (int)y))
#undef M2
#define MS(name)                                                                                     \
  template <class T, int N, class S, class = typename msl::enable_if<msl::is_arith<S>::value>::type> \
  inline vec<T, N> name(S s, const vec<T, N> &b) {                                                   \
    return name(vec<T, N>(s), b);                                                                    \
  }                                                                                                  \
  template <class T, int N, class S, class = typename msl::enable_if<msl::is_arith<S>::value>::type> \
  inline vec<T, N> name(const vec<T, N> &a, S s) {                                                   \
    return name(a, vec<T, N>(s));                                                                    \
  }
MS(fmin)
MS(fmax)
MS(pow)
MS(step)
inline float ldexp(float x, int e) { return __builtin_ldexpf(x, e); }
inline float pow(float x, int y) { return __builtin_powf(x, (float)y); }
inline float pow(float x, short y) { return __builtin_powf(x, (float)y); }
#define MM(T)                                                     \
  inline T max(T a, T b) { return a < b ? b : a; }                \
  inline T min(T a, T b) { return b < a ? b : a; }                \
  inline T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); } \
  inline T select(T a, T b, bool c) { return c ? b : a; }
MM(half)
MM(bfloat)
MM(char)
MM(uchar)
MM(short)
MM(ushort)
MM(int)
MM(uint)
MM(long)
MM(ulong)
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float clamp(float x, float lo, float hi) { return min(max(x, lo), hi); }
inline float select(float a, float b, bool c) { return c ? b : a; }
#undef MM
template <class T, int N> inline vec<T, N> max(const vec<T, N> &a, const vec<T, N> &b) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = max(a.d[i], b.d[i]);
  return r;
}
template <class T, int N> inline vec<T, N> min(const vec<T, N> &a, const vec<T, N> &b) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = min(a.d[i], b.d[i]);
  return r;
}
MS(max)
MS(min)
template <class T, int N> inline vec<T, N> clamp(const vec<T, N> &a, T lo, T hi) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = clamp(a.d[i], lo, hi);
  return r;
}
template <class T, int N> inline vec<T, N> clamp(const vec<T, N> &a, const vec<T, N> &lo, const vec<T, N> &hi) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = clamp(a.d[i], lo.d[i], hi.d[i]);
  return r;
}
template <class T, int N> inline vec<T, N> select(const vec<T, N> &a, const vec<T, N> &b, const vec<bool, N> &c) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = c.d[i] ? b.d[i] : a.d[i];
  return r;
}
inline int abs(int x) { return x < 0 ? -x : x; }
inline short abs(short x) { return x < 0 ? -x : x; }
inline char abs(char x) { return x < 0 ? -x : x; }
inline long abs(long x) { return x < 0 ? -x : x; }
inline float abs(float x) { return __builtin_fabsf(x); }
inline half abs(half x) { return x < (half)0 ? -x : x; }
template <class T, int N> inline vec<T, N> abs(const vec<T, N> &v) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = abs(v.d[i]);
  return r;
}
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline half fma(half a, half b, half c) { return (half)__builtin_fma((double)a, (double)b, (double)c); }
template <class T, int N> inline vec<T, N> fma(const vec<T, N> &a, const vec<T, N> &b, const vec<T, N> &c) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r.d[i] = fma(a.d[i], b.d[i], c.d[i]);
  return r;
}
inline float mix(float a, float b, float t) { return a + (b - a) * t; }
inline float mad(float a, float b, float c) { return a * b + c; }
template <class T, int N> inline vec<T, N> mix(const vec<T, N> &a, const vec<T, N> &b, T t) { return a + (b - a) * t; }
template <class T, int N> inline T dot(const vec<T, N> &a, const vec<T, N> &b) {
  T s = a.d[0] * b.d[0];
  for (int i = 1; i < N; i++) s += a.d[i] * b.d[i];
  return s;
}
template <class T, int N> inline T length_squared(const vec<T, N> &a) { return dot(a, a); }
template <class T, int N> inline T length(const vec<T, N> &a) { return sqrt(dot(a, a)); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
template <int N> inline bool any(const vec<bool, N> &v) {
  bool r = false;
  for (int i = 0; i < N; i++) r |= v.d[i];
  return r;
}
template <int N> inline bool all(const vec<bool, N> &v) {
  bool r = true;
  for (int i = 0; i < N; i++) r &= v.d[i];
  return r;
}
inline int popcount(uint x) { return __builtin_popcount(x); }
inline int popcount(int x) { return __builtin_popcount(x); }
inline uchar popcount(uchar x) { return __builtin_popcount(x); }
inline ushort popcount(ushort x) { return __builtin_popcount(x); }
inline ulong popcount(ulong x) { return __builtin_popcountl(x); }
inline uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
inline uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
inline int clz(int x) { return x ? __builtin_clz(x) : 32; }
inline uint reverse_bits(uint x) { return __builtin_bitreverse32(x); }
inline uint extract_bits(uint x, uint o, uint b) { return b ? (x >> o) & ((b == 32 ? 0u : (1u << b)) - 1u) : 0; }
inline uint mulhi(uint a, uint b) { return (uint)(((ulong)a * b) >> 32); }
namespace precise {
using namespace metal;
using metal::cos;
using metal::exp;
using metal::exp2;
using metal::log;
using metal::log2;
using metal::pow;
using metal::rint;
using metal::round;
using metal::rsqrt;
using metal::sin;
using metal::sqrt;
using metal::tanh;
} // namespace precise
namespace fast {
using metal::cos;
using metal::exp;
using metal::exp2;
using metal::log;
using metal::log2;
using metal::pow;
using metal::rsqrt;
using metal::sin;
using metal::sqrt;
using metal::tanh;
} // namespace fast

// ---- SIMD-group functions
template <class T> struct opsum {
  static T f(T a, T b) { return a + b; }
};
template <class T> struct opmul {
  static T f(T a, T b) { return a * b; }
};
template <class T> struct opmax {
  static T f(T a, T b) { return max(a, b); }
};
template <class T> struct opmin {
  static T f(T a, T b) { return min(a, b); }
};
template <class T> struct opand {
  static T f(T a, T b) { return a & b; }
};
template <class T> struct opor {
  static T f(T a, T b) { return a | b; }
};
template <class T> struct opxor {
  static T f(T a, T b) { return a ^ b; }
};
template <class T, class OP> inline void red_impl(void *sg, uint32_t mask) {
  T v[32];
  uint32_t act[32];
  int n = 0;
  for (int l = 0; l < 32; l++)
    if (mask >> l & 1) {
      v[n] = *(const T *)msl_in(sg, l);
      act[n++] = l;
    }
  // pairwise tree (order of lanes), like a butterfly
  for (int s = 1; s < n; s *= 2)
    for (int i = 0; i + s < n; i += 2 * s) v[i] = OP::f(v[i], v[i + s]);
  for (int i = 0; i < n; i++) *(T *)msl_out(sg, act[i]) = v[0];
}
template <class T, class OP, bool INCL> inline void scan_impl(void *sg, uint32_t mask) {
  bool first = true;
  T acc = (T)0;
  for (int l = 0; l < 32; l++)
    if (mask >> l & 1) {
      T x = *(const T *)msl_in(sg, l);
      if (INCL) {
        acc = first ? x : OP::f(acc, x);
        *(T *)msl_out(sg, l) = acc;
      } else {
        *(T *)msl_out(sg, l) = acc;
        acc = first ? x : OP::f(acc, x);
      }
      first = false;
    }
}
enum { SH_XOR, SH_UP, SH_DOWN, SH_IDX, SH_ROT };
template <class T, int K> inline void shuf_impl(void *sg, uint32_t mask) {
  for (uint32_t l = 0; l < 32; l++)
    if (mask >> l & 1) {
      uint32_t a = msl_aux(sg, l), s = K == SH_XOR    ? l ^ a
                                       : K == SH_UP   ? l - a
                                       : K == SH_DOWN ? l + a
                                       : K == SH_ROT  ? (l + a) & 31
                                                      : a;
      if (s < 32 && (mask >> s & 1))
        *(T *)msl_out(sg, l) = *(const T *)msl_in(sg, s);
      else if ((K == SH_UP || K == SH_DOWN) && s >= 32)
        *(T *)msl_out(sg, l) = *(const T *)msl_in(sg, l); // out-of-range: undefined in MSL; lane keeps own
      else {
        msl_finding(msl::shuffle_from_inactive_lane, nullptr, 0, nullptr, l, s);
        *(T *)msl_out(sg, l) = *(const T *)msl_in(sg, l);
      }
    }
}
template <class T> inline MSL_CONV T coll_(msl_collective_fn fn, T v, uint32_t aux, const char *f, uint32_t l) {
  T r;
  msl_collective(fn, &v, &r, aux, f, l);
  return r;
}
#define RED(name, OP) \
  template <class T> inline MSL_CONV T name(T v, MSL_LOC) { return coll_<T>(red_impl<T, OP<T>>, v, 0, MSL_FWD); }
RED(simd_sum, opsum)
RED(simd_product, opmul)
RED(simd_max, opmax)
RED(simd_min, opmin)
RED(simd_and, opand)
RED(simd_or, opor)
RED(simd_xor, opxor)
#undef RED
template <class T> inline MSL_CONV T simd_prefix_inclusive_sum(T v, MSL_LOC) {
  return coll_<T>(scan_impl<T, opsum<T>, true>, v, 0, MSL_FWD);
}
template <class T> inline MSL_CONV T simd_prefix_exclusive_sum(T v, MSL_LOC) {
  return coll_<T>(scan_impl<T, opsum<T>, false>, v, 0, MSL_FWD);
}
#define SHF(name, K) \
  template <class T> inline MSL_CONV T name(T v, ushort d, MSL_LOC) { return coll_<T>(shuf_impl<T, K>, v, d, MSL_FWD); }
SHF(simd_shuffle_xor, SH_XOR)
SHF(simd_shuffle_up, SH_UP)
SHF(simd_shuffle_down, SH_DOWN)
SHF(simd_shuffle, SH_IDX)
SHF(simd_broadcast, SH_IDX)
SHF(simd_shuffle_rotate_down, SH_ROT)
SHF(quad_shuffle_xor, SH_XOR)
#undef SHF
template <class T> inline void bfirst_impl(void *sg, uint32_t mask) {
  int f = __builtin_ctz(mask);
  T v = *(const T *)msl_in(sg, f);
  for (int l = 0; l < 32; l++)
    if (mask >> l & 1) *(T *)msl_out(sg, l) = v;
}
template <class T> inline MSL_CONV T simd_broadcast_first(T v, MSL_LOC) {
  return coll_<T>(bfirst_impl<T>, v, 0, MSL_FWD);
}
inline MSL_CONV bool simd_any(bool v, MSL_LOC) { return coll_<int>(red_impl<int, opor<int>>, v, 0, MSL_FWD); }
inline MSL_CONV bool simd_all(bool v, MSL_LOC) { return coll_<int>(red_impl<int, opand<int>>, v, 0, MSL_FWD); }
inline void ballot_impl(void *sg, uint32_t mask) {
  uint64_t b = 0;
  for (int l = 0; l < 32; l++)
    if (mask >> l & 1) b |= (uint64_t)(*(const int *)msl_in(sg, l) != 0) << l;
  for (int l = 0; l < 32; l++)
    if (mask >> l & 1) *(uint64_t *)msl_out(sg, l) = b;
}
struct simd_vote {
  uint64_t v;
  explicit operator uint64_t() const { return v; }
  bool all() const { return v == 0xffffffffu; }
  bool any() const { return v != 0; }
};
inline MSL_CONV simd_vote simd_ballot(bool x, MSL_LOC) {
  int v = x;
  uint64_t r;
  msl_collective(ballot_impl, &v, &r, 0, MSL_FWD);
  return {r};
}
inline MSL_CONV bool simd_is_first(MSL_LOC) {
  return coll_<uint>(bfirst_impl<uint>, msl_lane(), 0, MSL_FWD) == msl_lane();
}

// ---- simdgroup_matrix: each lane holds 2 elements (Apple layout), load/store are lane-local, mma is collective
template <class T, int C, int R> struct simdgroup_matrix {
  T e[2];
  typedef T elem;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T v) {
    uint32_t l = msl_lane();
    int r = row(l), c = col(l);
    e[0] = r == c ? v : (T)0;
    e[1] = r == c + 1 ? v : (T)0;
  }
  static inline int row(uint32_t l) { return ((l & 16) >> 2) | ((l & 6) >> 1); } // row bits: 4, 2, 1 of the lane number
  static inline int col(uint32_t l) {
    return ((l & 8) >> 1) | ((l & 1) << 1);
  } // column bits: 3, 0; a lane holds columns c and c+1
  msl::vec<T, 2> &thread_elements() { return *(msl::vec<T, 2> *)e; }
};
template <class T, int N> inline simdgroup_matrix<T, N, N> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, N, N> m;
  m.e[0] = m.e[1] = v;
  return m;
}
template <class T, int C, int R> inline simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, C, R> m;
  m.e[0] = m.e[1] = v;
  return m;
}
template <class T>
inline void simdgroup_load(simdgroup_matrix<T, 8, 8> &m, const T *p, ulong ld = 8, ulong2 o = ulong2(0),
                           bool tr = false) {
  uint32_t l = msl_lane();
  int r = m.row(l), c = m.col(l);
  p += o.y * ld + o.x;
  if (!tr) {
    m.e[0] = p[r * ld + c];
    m.e[1] = p[r * ld + c + 1];
  } else {
    m.e[0] = p[c * ld + r];
    m.e[1] = p[(c + 1) * ld + r];
  }
}
template <class T>
inline void simdgroup_store(const simdgroup_matrix<T, 8, 8> &m, T *p, ulong ld = 8, ulong2 o = ulong2(0),
                            bool tr = false) {
  uint32_t l = msl_lane();
  int r = m.row(l), c = m.col(l);
  p += o.y * ld + o.x;
  if (!tr) {
    p[r * ld + c] = m.e[0];
    p[r * ld + c + 1] = m.e[1];
  } else {
    p[c * ld + r] = m.e[0];
    p[(c + 1) * ld + r] = m.e[1];
  }
}
template <class A, class B, class C> struct mma_in {
  A a[2];
  B b[2];
  C c[2];
};
template <class D, class A, class B, class C> inline void mma_impl(void *sg, uint32_t mask) {
  float a[8][8], b[8][8], d[8][8];
  typedef mma_in<A, B, C> I;
  typedef simdgroup_matrix<A, 8, 8> M;
  for (uint32_t l = 0; l < 32; l++) {
    const I *x = (const I *)msl_in(sg, l);
    int r = M::row(l), c = M::col(l);
    a[r][c] = (float)x->a[0];
    a[r][c + 1] = (float)x->a[1];
    b[r][c] = (float)x->b[0];
    b[r][c + 1] = (float)x->b[1];
    d[r][c] = (float)x->c[0];
    d[r][c + 1] = (float)x->c[1];
  }
  for (int i = 0; i < 8; i++)
    for (int k = 0; k < 8; k++) {
      float s = a[i][k];
      for (int j = 0; j < 8; j++) d[i][j] += s * b[k][j];
    }
  for (uint32_t l = 0; l < 32; l++) {
    D *o = (D *)msl_out(sg, l);
    int r = M::row(l), c = M::col(l);
    o[0] = (D)d[r][c];
    o[1] = (D)d[r][c + 1];
  }
}
template <class D, class A, class B, class C>
inline MSL_CONV void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8> &d, const simdgroup_matrix<A, 8, 8> &a,
                                                   const simdgroup_matrix<B, 8, 8> &b,
                                                   const simdgroup_matrix<C, 8, 8> &c, MSL_LOC) {
  mma_in<A, B, C> in{{a.e[0], a.e[1]}, {b.e[0], b.e[1]}, {c.e[0], c.e[1]}};
  msl_collective(mma_impl<D, A, B, C>, &in, d.e, 0, MSL_FWD);
}
template <class D, class A, class B>
inline MSL_CONV void simdgroup_multiply(simdgroup_matrix<D, 8, 8> &d, const simdgroup_matrix<A, 8, 8> &a,
                                        const simdgroup_matrix<B, 8, 8> &b, MSL_LOC) {
  mma_in<A, B, float> in{{a.e[0], a.e[1]}, {b.e[0], b.e[1]}, {0, 0}};
  msl_collective(mma_impl<D, A, B, float>, &in, d.e, 0, MSL_FWD);
}
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

// ---- atomics: no two of them race, so the checker sees only that they are in bounds
template <class T> struct atomic {
  T v;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;
#define MSL_ATOMIC template <class T, class U> __attribute__((noinline)) MSL_RAW
#define MSL_CHECK(store) msl_atomic((void *)p, sizeof(T), store, __builtin_return_address(0))
template <class T>
__attribute__((noinline)) MSL_RAW T atomic_load_explicit(const volatile atomic<T> *p, memory_order) {
  MSL_CHECK(0);
  return p->v;
}
MSL_ATOMIC void atomic_store_explicit(volatile atomic<T> *p, U x, memory_order) {
  MSL_CHECK(1);
  p->v = (T)x;
}
#define FETCH(name, expr)                                                    \
  MSL_ATOMIC T atomic_fetch_##name(volatile atomic<T> *p, U x, memory_order) { \
    MSL_CHECK(2);                                                              \
    T old = p->v;                                                              \
    p->v = (expr);                                                             \
    return old;                                                                \
  }
FETCH(add_explicit, old + (T)x)
FETCH(sub_explicit, old - (T)x)
FETCH(or_explicit, old | (T)x)
FETCH(and_explicit, old &(T)x)
FETCH(xor_explicit, old ^ (T)x)
FETCH(max_explicit, old < (T)x ? (T)x : old)
FETCH(min_explicit, old > (T)x ? (T)x : old)
#undef FETCH
} // namespace metal
using namespace metal;

#pragma clang attribute pop

// ---- kernel table
namespace msl {
template <class A> struct conv {
  static MSL_RAW A get(const uint32_t *p) { return (A)p[0]; }
};
template <class T, int N> struct conv<vec<T, N>> {
  static MSL_RAW vec<T, N> get(const uint32_t *p) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r.d[i] = (T)p[i];
    return r;
  }
};
inline MSL_RAW const uint32_t *builtin(const Param &p, const Context &c) {
  static const uint32_t width = 32;
  switch (p.kind) {
  case TPIG: return c.thread_in_grid;
  case TGPIG: return c.group_in_grid;
  case TPITG: return c.thread_in_group;
  case TPTG: return c.threads_per_group;
  case TGPG: return c.groups_per_grid;
  case TPG: return c.threads_per_grid;
  case TIITG: return &c.index_in_group;
  case TIISG: return &c.lane;
  case SGITG: return &c.simdgroup;
  case SGPTG: return &c.simdgroups;
  default: return &width;
  }
}
template <class A> struct arg {
  static MSL_RAW A get(const Param &p, Context &c) { return conv<typename remove_cv<A>::type>::get(builtin(p, c)); }
};
inline MSL_RAW void *memory(const Param &p, Context &c) {
  return p.kind == TGMEM ? c.tg_memory[p.index] : c.buffers[p.index];
}
template <class T> struct arg<T *> {
  static MSL_RAW T *get(const Param &p, Context &c) { return (T *)memory(p, c); }
};
template <class T> struct arg<T &> {
  static MSL_RAW T &get(const Param &p, Context &c) { return *(T *)memory(p, c); }
};
template <int... I> struct seq {};
template <int N, int... I> struct mkseq : mkseq<N - 1, N - 1, I...> {};
template <int... I> struct mkseq<0, I...> {
  typedef seq<I...> type;
};
template <auto F
> struct K;
template <class... A, void (*F)(A...)> struct K<F> {
  template <int... I> static MSL_RAW void go(const Param *p, Context &c, seq<I...>) { F(arg<A>::get(p[I], c)...); }
  static MSL_RAW void call(const Param *p, Context &c) { go(p, c, typename mkseq<sizeof...(A)>::type()); }
};
} // namespace msl
