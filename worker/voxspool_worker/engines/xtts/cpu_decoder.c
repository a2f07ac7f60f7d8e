// The GPT of XTTS on a CPU: all layers for a handful of tokens in one call. Plain C, compiled on the machine it runs on.
//
// Knows a GPT-2 block (norm, attention, norm, MLP), a cache of keys and values, and threads. Does not know text, voices,
// sampling or audio. native.py is its only caller; torch_decoder.py says the same in PyTorch and is what it is held
// against.
//
// A call takes tokens of any rows at any positions: one of each row is a decoding step, many of one row are a prompt.
// A token's result depends on its own row alone, to the last bit, whatever stands beside it: each sum has one order,
// integers are exact, and activations are quantised token by token.
//
//   weights  packed once into panels of NR columns, so that a step reads them in one stream: at one row the memory's
//            bandwidth is the limit. int8: a scale a column; activations get a scale a token; 32-bit sums.
//   threads  share the columns (linear layers), the heads (attention), the tokens (norms), and meet at barriers.

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#elif defined(__aarch64__)
#include <arm_neon.h>
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() __asm__ volatile("")
#endif

#define LANES 16                            // floats in a vector; wider than the machine's, the compiler splits it
#if defined(__AVX512F__)
#define VECTORS 4                           // vectors in a panel: 6 x 4 sums and 4 weights fill the 32 registers
#define TOKENS 6                            // tokens that share a pass over a panel
#elif defined(__AVX2__)
#define VECTORS 1
#define TOKENS 2
#else
#define VECTORS 1
#define TOKENS 4
#endif
#define NR (LANES * VECTORS)                // columns in a panel
#if defined(__ARM_FEATURE_DOTPROD)
#define OFFSET 0                            // ARM multiplies signed bytes,
#else
#define OFFSET 128                          // x86 unsigned by signed ones: weights are kept with this on top
#endif
#define HEAD 64                             // a head's width; GPT-2's, and every XTTS's
#define BLOCK 16                            // positions whose keys are stored side by side

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float vf_loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

enum { FP32, BF16, INT8 };                  // precisions, as native.py numbers them
enum { QKV, PROJECT, EXPAND, CONTRACT, LINEARS };

INLINE vf load(const float *p) { return *(const vf_loose *)p; }
INLINE void store(float *p, vf v) { *(vf_loose *)p = v; }
INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vf pick(vi where, vf yes, vf no) { return (vf)((where & (vi)yes) | (~where & (vi)no)); }
INLINE vf larger(vf a, vf b) { return pick(a > b, a, b); }
INLINE float sum(vf v) {                    // one order, whatever the machine's width
  float s[LANES];
  store(s, v);
  for (int step = LANES / 2; step; step /= 2)
    for (int i = 0; i < step; i++) s[i] += s[i + step];
  return s[0];
}

// --- half precision, in which keys and values are kept beside bf16 and int8 weights -----------------------------------

#if defined(__AVX512F__)
INLINE vf load_half(const uint16_t *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE uint16_t to_half(float x) { return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x), 0), 0); }
#elif defined(__F16C__)
INLINE vf load_half(const uint16_t *p) {
  union { vf v; __m256 m[2]; } u;
  for (int i = 0; i < 2; i++) u.m[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + i));
  return u.v;
}
INLINE uint16_t to_half(float x) { return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x), 0), 0); }
#else
INLINE float from_half_bits(uint16_t h) { _Float16 f; memcpy(&f, &h, 2); return (float)f; }
INLINE vf load_half(const uint16_t *p) {
  vf v;
  for (int i = 0; i < LANES; i++) v[i] = from_half_bits(p[i]);
  return v;
}
INLINE uint16_t to_half(float x) { _Float16 f = (_Float16)x; uint16_t h; memcpy(&h, &f, 2); return h; }
#endif

INLINE uint16_t to_bf16(float x) {          // to the nearest, ties to even
  uint32_t u;
  memcpy(&u, &x, 4);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// --- functions ---------------------------------------------------------------------------------------------------------

INLINE vf exp_v(vf x) {                     // Cephes' expf, 2 ulp; below -87 it gives 0
  vi below = x < -87.0f;
  x = -larger(-larger(x, splat(-87.0f)), splat(-88.0f));
  vf n = x * 1.44269504088896341f;
  vi whole = __builtin_convertvector(n + pick(n < 0, splat(-0.5f), splat(0.5f)), vi);
  vf f = __builtin_convertvector(whole, vf);
  x = x - f * 0.693359375f + f * 2.12194440e-4f;
  vf y = splat(1.9875691500e-4f);
  y = y * x + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.0f;
  vf scale = (vf)((whole + 127) << 23);
  return pick(below, splat(0.0f), y * scale);
}

INLINE vf gelu_v(vf x) {                    // GPT-2's, by tanh: x * sigmoid(2 u)
  vf u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
  return x / (1.0f + exp_v(-2.0f * u));
}

// --- threads -----------------------------------------------------------------------------------------------------------

typedef struct Decoder Decoder;

#define SPINS 2000                          // some 30 us: longer than any phase waits while all cores are ours

typedef struct {
  int count;
  atomic_int arrived, phase;
  atomic_int work, stop;
  pthread_mutex_t lock;
  pthread_cond_t called;
  pthread_t *threads;
} Team;

typedef struct { Decoder *decoder; int me; } Member;

static void barrier(Team *team) {
  int phase = atomic_load(&team->phase);
  if (atomic_fetch_add(&team->arrived, 1) == team->count - 1) {
    atomic_store(&team->arrived, 0);
    atomic_store(&team->phase, phase + 1);
    return;
  }
  for (int spin = 0; atomic_load_explicit(&team->phase, memory_order_acquire) == phase; spin++) {
    if (spin < SPINS) RELAX();
    else sched_yield();
  }
}

INLINE void share(int count, int me, int team, int *first, int *last) {
  *first = (int)((int64_t)count * me / team);
  *last = (int)((int64_t)count * (me + 1) / team);
}

// --- weights -----------------------------------------------------------------------------------------------------------

typedef struct {
  int inputs, outputs, panels;
  void *weights;                            // [panel][input / g][NR][g]: g = 1 float, 2 bf16, 4 bytes
  float *scale;                             // int8: of a column; [panels * NR]
  float *bias;                              // [panels * NR]
} Linear;

typedef struct {
  float *norm[4];                           // gain and bias before attention, gain and bias before the MLP
  Linear linear[LINEARS];
} Layer;

struct Decoder {
  int layers, width, heads, rows, positions, precision, half;
  int most;                                 // tokens in a call
  Layer *layer;
  float *final[4];                          // ln_f, then XTTS's own final norm
  char *cache;                              // [row][layer][keys, values][head][positions][HEAD]
  size_t cache_bytes, head_bytes;
  Team team;
  Member *members;
  // scratch, [most] tokens each
  float *stream, *normed, *qkv, *mixed, *hidden;
  void *packed;                             // activations as the linear layers take them
  float *scales;
  int32_t *sums;
  float *scores;                            // [threads][positions]
  // the call in progress
  int tokens;
  const int32_t *row_of, *position_of;
};

static void *room(size_t bytes) {
  void *p = NULL;
  return posix_memalign(&p, 64, (bytes + 63) / 64 * 64 + 64) ? NULL : memset(p, 0, bytes);
}

static int group(int precision) { return precision == INT8 ? 4 : precision == BF16 ? 2 : 1; }
static size_t weight_bytes(int precision) { return precision == INT8 ? 1 : precision == BF16 ? 2 : 4; }

// Packs one panel of a weight [inputs][outputs] with strides, in floats.
static void pack_panel(Linear *to, int precision, int panel, const float *w, long by_input, long by_output) {
  int g = group(precision), most = to->outputs - panel * NR;
  if (most > NR) most = NR;
  size_t panel_bytes = (size_t)to->inputs * NR * weight_bytes(precision);
  char *out = (char *)to->weights + panel * panel_bytes;
  float inverse[NR] = {0};
  if (precision == INT8) {
    float peak[NR] = {0};
    for (int k = 0; k < to->inputs; k++)
      for (int n = 0; n < most; n++) {
        float a = fabsf(w[k * by_input + (panel * NR + n) * by_output]);
        peak[n] = a > peak[n] ? a : peak[n];
      }
    for (int n = 0; n < NR; n++) {
      to->scale[panel * NR + n] = peak[n] / 127.0f;
      inverse[n] = peak[n] > 0 ? 127.0f / peak[n] : 0;
    }
    memset(out, OFFSET, panel_bytes);
  } else memset(out, 0, panel_bytes);
  for (int k = 0; k < to->inputs; k++)
    for (int n = 0; n < most; n++) {
      float x = w[k * by_input + (panel * NR + n) * by_output];
      size_t at = ((size_t)(k / g) * NR + n) * g + k % g;
      if (precision == INT8) ((uint8_t *)out)[at] = (uint8_t)((int)rintf(x * inverse[n]) + OFFSET);
      else if (precision == BF16) ((uint16_t *)out)[at] = to_bf16(x);
      else ((float *)out)[at] = x;
    }
}

// --- linear layers -----------------------------------------------------------------------------------------------------

// Sums of `n` tokens with a panel; n is a constant wherever this is inlined.
INLINE void sums_fp32(int n, const float *w, int inputs, const float *x, long pitch, vf out[][VECTORS]) {
  vf s[TOKENS][VECTORS] = {{{0}}};
  for (int k = 0; k < inputs; k++, w += NR)
    for (int t = 0; t < n; t++)
      for (int v = 0; v < VECTORS; v++) s[t][v] += load(w + v * LANES) * x[t * pitch + k];
  for (int t = 0; t < n; t++)
    for (int v = 0; v < VECTORS; v++) out[t][v] = s[t][v];
}

INLINE void sums_bf16(int n, const uint16_t *w, int inputs, const uint16_t *x, long pitch, vf out[][VECTORS]) {
  vf s[TOKENS][VECTORS] = {{{0}}};
  for (int k = 0; k < inputs; k += 2, w += 2 * NR)
    for (int t = 0; t < n; t++) {
      uint32_t pair;
      memcpy(&pair, x + t * pitch + k, 4);
#if defined(__AVX512BF16__)
      for (int v = 0; v < VECTORS; v++)
        s[t][v] = (vf)_mm512_dpbf16_ps((__m512)s[t][v], (__m512bh)_mm512_loadu_si512(w + v * 2 * LANES),
                                       (__m512bh)_mm512_set1_epi32((int)pair));
#else
      float low, high;
      uint32_t bits = pair << 16;
      memcpy(&low, &bits, 4);
      bits = pair & 0xffff0000u;
      memcpy(&high, &bits, 4);
      for (int v = 0; v < VECTORS; v++) {
        vu both;
        memcpy(&both, w + v * 2 * LANES, sizeof both);
        s[t][v] += (vf)(both << 16) * low;
        s[t][v] += (vf)(both & 0xffff0000u) * high;
      }
#endif
    }
  for (int t = 0; t < n; t++)
    for (int v = 0; v < VECTORS; v++) out[t][v] = s[t][v];
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// Without VNNI: 16-bit products in pairs, two sums a column, joined at the end. (maddubs would saturate.)
INLINE void sums_int8(int n, const uint8_t *w, int inputs, const int8_t *x, long pitch, vi out[][VECTORS]) {
  __m256i s[TOKENS][VECTORS * 4];
  for (int t = 0; t < n; t++)
    for (int c = 0; c < VECTORS * 4; c++) s[t][c] = _mm256_setzero_si256();
  for (int k = 0; k < inputs; k += 4, w += 4 * NR) {
    __m256i four[TOKENS];
    for (int t = 0; t < n; t++) {
      int32_t bytes;
      memcpy(&bytes, x + t * pitch + k, 4);
      four[t] = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(bytes)));
    }
    for (int c = 0; c < VECTORS * 4; c++) {
      __m256i columns = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)w + c));
      for (int t = 0; t < n; t++) s[t][c] = _mm256_add_epi32(s[t][c], _mm256_madd_epi16(columns, four[t]));
    }
  }
  for (int t = 0; t < n; t++)
    for (int c = 0; c < VECTORS * 4; c++) {
      int32_t pairs[8];
      _mm256_storeu_si256((__m256i *)pairs, s[t][c]);
      for (int i = 0; i < 4; i++) out[t][c / 4][c % 4 * 4 + i] = pairs[2 * i] + pairs[2 * i + 1];
    }
}
#elif defined(__ARM_FEATURE_DOTPROD)
INLINE void sums_int8(int n, const uint8_t *w, int inputs, const int8_t *x, long pitch, vi out[][VECTORS]) {
  int32x4_t s[TOKENS][VECTORS * 4];
  for (int t = 0; t < n; t++)
    for (int c = 0; c < VECTORS * 4; c++) s[t][c] = vdupq_n_s32(0);
  for (int k = 0; k < inputs; k += 4, w += 4 * NR)
    for (int t = 0; t < n; t++) {
      int32_t four;
      memcpy(&four, x + t * pitch + k, 4);
      int8x16_t same = vreinterpretq_s8_s32(vdupq_n_s32(four));
      for (int c = 0; c < VECTORS * 4; c++) s[t][c] = vdotq_s32(s[t][c], vld1q_s8((const int8_t *)w + 16 * c), same);
    }
  for (int t = 0; t < n; t++)
    for (int c = 0; c < VECTORS * 4; c++) vst1q_s32((int32_t *)&out[t][c / 4] + c % 4 * 4, s[t][c]);
}
#else
INLINE void sums_int8(int n, const uint8_t *w, int inputs, const int8_t *x, long pitch, vi out[][VECTORS]) {
  vi s[TOKENS][VECTORS] = {{{0}}};
  for (int k = 0; k < inputs; k += 4, w += 4 * NR)
    for (int t = 0; t < n; t++) {
      int32_t four;
      memcpy(&four, x + t * pitch + k, 4);
#if defined(__AVX512VNNI__)
      for (int v = 0; v < VECTORS; v++)
        s[t][v] = (vi)_mm512_dpbusd_epi32((__m512i)s[t][v], _mm512_loadu_si512(w + v * 4 * LANES),
                                          _mm512_set1_epi32(four));
#else
      const int8_t *byte = x + t * pitch + k;
      for (int v = 0; v < VECTORS; v++)
        for (int i = 0; i < LANES; i++) {
          const uint8_t *c = w + (v * LANES + i) * 4;
          s[t][v][i] += c[0] * byte[0] + c[1] * byte[1] + c[2] * byte[2] + c[3] * byte[3];
        }
#endif
    }
  for (int t = 0; t < n; t++)
    for (int v = 0; v < VECTORS; v++) out[t][v] = s[t][v];
}
#endif

// What a linear layer gives for `n` tokens from `t0`, before what is done with it: y[n][VECTORS], bias and scales in.
INLINE void panel(int n, const Decoder *d, const Linear *l, int p, int t0, vf y[][VECTORS]) {
  const char *w = (const char *)l->weights + (size_t)p * l->inputs * NR * weight_bytes(d->precision);
  size_t pitch = (size_t)l->inputs;
  if (d->precision == INT8) {
    vi s[TOKENS][VECTORS];
    sums_int8(n, (const uint8_t *)w, l->inputs, (const int8_t *)d->packed + t0 * pitch, (long)pitch, s);
    for (int t = 0; t < n; t++)
      for (int v = 0; v < VECTORS; v++)
        y[t][v] = __builtin_convertvector(s[t][v] - OFFSET * d->sums[t0 + t], vf) * d->scales[t0 + t]
                * load(l->scale + p * NR + v * LANES) + load(l->bias + p * NR + v * LANES);
    return;
  }
  if (d->precision == BF16)
    sums_bf16(n, (const uint16_t *)w, l->inputs, (const uint16_t *)d->packed + t0 * pitch, (long)pitch, y);
  else
    sums_fp32(n, (const float *)w, l->inputs, (const float *)d->packed + t0 * pitch, (long)pitch, y);
  for (int t = 0; t < n; t++)
    for (int v = 0; v < VECTORS; v++) y[t][v] += load(l->bias + p * NR + v * LANES);
}

INLINE void panel_of(int n, const Decoder *d, const Linear *l, int p, int t0, vf y[][VECTORS]) {
  switch (n) {                              // constants, so that each gets its own unrolled loops
    case 1: panel(1, d, l, p, t0, y); break;
#if TOKENS > 2
    case 2: panel(2, d, l, p, t0, y); break;
    case 3: panel(3, d, l, p, t0, y); break;
#endif
#if TOKENS > 4
    case 4: panel(4, d, l, p, t0, y); break;
    case 5: panel(5, d, l, p, t0, y); break;
#endif
    default: panel(TOKENS, d, l, p, t0, y);
  }
}

enum Then { SET, ADD, GELU };

// This thread's columns of a linear layer, for all tokens of the call.
static void linear(const Decoder *d, const Linear *l, float *out, enum Then then, int me) {
  int first, last;
  share(l->panels, me, d->team.count, &first, &last);
  vf y[TOKENS][VECTORS];
  for (int p = first; p < last; p++)
    for (int t0 = 0; t0 < d->tokens; t0 += TOKENS) {
      int n = d->tokens - t0 < TOKENS ? d->tokens - t0 : TOKENS;
      panel_of(n, d, l, p, t0, y);
      for (int t = 0; t < n; t++)
        for (int v = 0; v < VECTORS; v++) {
          int column = p * NR + v * LANES;
          if (column >= l->outputs) break;  // outputs are multiples of LANES; a panel may reach beyond
          float *to = out + (size_t)(t0 + t) * l->outputs + column;
          if (then == SET) store(to, y[t][v]);
          else if (then == ADD) store(to, load(to) + y[t][v]);
          else store(to, gelu_v(y[t][v]));
        }
    }
}

// --- between the linear layers -----------------------------------------------------------------------------------------

// Brings a token's activations [width] into the form that the linear layers take.
static void pack_token(const Decoder *d, int t, const float *x, int width) {
  if (d->precision == FP32) {
    memcpy((float *)d->packed + (size_t)t * width, x, (size_t)width * 4);
  } else if (d->precision == BF16) {
    uint16_t *to = (uint16_t *)d->packed + (size_t)t * width;
    for (int i = 0; i < width; i++) to[i] = to_bf16(x[i]);
  } else {
    vf peaks = {0};
    for (int i = 0; i < width; i += LANES) {
      vf a = load(x + i);
      peaks = larger(larger(a, -a), peaks);
    }
    float peak = 0;
    for (int i = 0; i < LANES; i++) peak = peaks[i] > peak ? peaks[i] : peak;
    float inverse = peak > 0 ? 127.0f / peak : 0;
    int8_t *to = (int8_t *)d->packed + (size_t)t * width;
    int32_t total = 0;
    for (int i = 0; i < width; i++) {
      float y = x[i] * inverse;
      int q = (int)(y + (y < 0 ? -0.5f : 0.5f));
      to[i] = (int8_t)q;
      total += q;
    }
    d->scales[t] = peak / 127.0f;
    d->sums[t] = total;
  }
}

static void norm(const float *x, int width, const float *gain, const float *bias, float *out) {
  vf s = {0}, q = {0};
  for (int i = 0; i < width; i += LANES) s += load(x + i);
  float mean = sum(s) / (float)width;
  for (int i = 0; i < width; i += LANES) {
    vf c = load(x + i) - mean;
    q += c * c;
  }
  float inverse = 1.0f / sqrtf(sum(q) / (float)width + 1e-5f);
  for (int i = 0; i < width; i += LANES) store(out + i, (load(x + i) - mean) * inverse * load(gain + i) + load(bias + i));
}

static void norm_and_pack(const Decoder *d, const float *gain, const float *bias, int me) {
  int first, last;
  share(d->tokens, me, d->team.count, &first, &last);
  for (int t = first; t < last; t++) {
    float *normed = d->normed + (size_t)t * d->width;
    norm(d->stream + (size_t)t * d->width, d->width, gain, bias, normed);
    pack_token(d, t, normed, d->width);
  }
}

static void pack_all(const Decoder *d, const float *x, int width, int me) {
  int first, last;
  share(d->tokens, me, d->team.count, &first, &last);
  for (int t = first; t < last; t++) pack_token(d, t, x + (size_t)t * width, width);
}

// --- attention ---------------------------------------------------------------------------------------------------------

// Keys: [block][HEAD][BLOCK], so that one vector is a feature of 16 positions. Values: [position][HEAD].
INLINE char *head_cache(const Decoder *d, int row, int layer, int values, int head) {
  return d->cache + ((((size_t)row * d->layers + layer) * 2 + values) * d->heads + head) * d->head_bytes;
}

INLINE void keep(int half, char *cache, size_t at, float x) {
  if (half) ((uint16_t *)cache)[at] = to_half(x);
  else ((float *)cache)[at] = x;
}

INLINE vf kept(int half, const char *cache, size_t at) {
  return half ? load_half((const uint16_t *)cache + at) : load((const float *)cache + at);
}

INLINE void attend_as(int half, const Decoder *d, int layer, int head, int t, float *score) {
  int row = d->row_of[t], seen = d->position_of[t] + 1;
  const float *q = d->qkv + (size_t)t * 3 * d->width + head * HEAD;
  const char *keys = head_cache(d, row, layer, 0, head), *values = head_cache(d, row, layer, 1, head);
  vf most = splat(-INFINITY);
  for (int b = 0; b < seen; b += BLOCK) {
    vf s[2] = {{0}, {0}};
    for (int i = 0; i < HEAD; i += 2)
      for (int j = 0; j < 2; j++) s[j] += q[i + j] * kept(half, keys, (size_t)b * HEAD + (i + j) * BLOCK);
    vf x = (s[0] + s[1]) * 0.125f;          // 1 / sqrt(HEAD)
    for (int i = seen - b; i < BLOCK; i++) x[i] = -INFINITY;
    store(score + b, x);
    most = larger(x, most);
  }
  float top = most[0];
  for (int i = 1; i < LANES; i++) top = most[i] > top ? most[i] : top;
  vf total = {0}, out[HEAD / LANES] = {{0}};
  for (int b = 0; b < seen; b += BLOCK) {
    vf p = exp_v(load(score + b) - top);
    store(score + b, p);
    total += p;
  }
  for (int i = 0; i < seen; i++)
    for (int v = 0; v < HEAD / LANES; v++) out[v] += score[i] * kept(half, values, (size_t)i * HEAD + v * LANES);
  float inverse = 1.0f / sum(total);
  for (int v = 0; v < HEAD / LANES; v++)
    store(d->mixed + (size_t)t * d->width + head * HEAD + v * LANES, out[v] * inverse);
}

// This thread's heads: every token's key and value first, so that a prompt's tokens see those before them.
static void attention(const Decoder *d, int layer, int me) {
  int first, last;
  share(d->heads, me, d->team.count, &first, &last);
  float *score = d->scores + (size_t)me * (d->positions + BLOCK);
  for (int head = first; head < last; head++) {
    for (int t = 0; t < d->tokens; t++) {
      const float *k = d->qkv + (size_t)t * 3 * d->width + d->width + head * HEAD, *v = k + d->width;
      char *keys = head_cache(d, d->row_of[t], layer, 0, head), *values = head_cache(d, d->row_of[t], layer, 1, head);
      size_t at = (size_t)d->position_of[t], block = at / BLOCK * BLOCK * HEAD + at % BLOCK;
      for (int i = 0; i < HEAD; i++) keep(d->half, keys, block + i * BLOCK, k[i]);
      for (int i = 0; i < HEAD; i++) keep(d->half, values, at * HEAD + i, v[i]);
    }
    for (int t = 0; t < d->tokens; t++) {
      if (d->half) attend_as(1, d, layer, head, t, score);
      else attend_as(0, d, layer, head, t, score);
    }
  }
}

// --- a call ------------------------------------------------------------------------------------------------------------

static void run(Decoder *d, int me) {
  Team *team = &d->team;
  for (int i = 0; i < d->layers; i++) {
    const Layer *l = d->layer + i;
    norm_and_pack(d, l->norm[0], l->norm[1], me);
    barrier(team);
    linear(d, &l->linear[QKV], d->qkv, SET, me);
    barrier(team);
    attention(d, i, me);
    barrier(team);
    pack_all(d, d->mixed, d->width, me);
    barrier(team);
    linear(d, &l->linear[PROJECT], d->stream, ADD, me);
    barrier(team);
    norm_and_pack(d, l->norm[2], l->norm[3], me);
    barrier(team);
    linear(d, &l->linear[EXPAND], d->hidden, GELU, me);
    barrier(team);
    pack_all(d, d->hidden, 4 * d->width, me);
    barrier(team);
    linear(d, &l->linear[CONTRACT], d->stream, ADD, me);
    barrier(team);
  }
}

static void *member(void *argument) {
  Member *m = argument;
  Decoder *d = m->decoder;
  Team *team = &d->team;
  int done = 0;
  for (;;) {
    for (int spin = 0; spin < SPINS && atomic_load(&team->work) == done && !atomic_load(&team->stop); spin++) RELAX();
    pthread_mutex_lock(&team->lock);
    while (atomic_load(&team->work) == done && !atomic_load(&team->stop)) pthread_cond_wait(&team->called, &team->lock);
    pthread_mutex_unlock(&team->lock);
    if (atomic_load(&team->stop)) return NULL;
    done = atomic_load(&team->work);
    run(d, m->me);
  }
}

static void call_team(Decoder *d) {
  Team *team = &d->team;
  pthread_mutex_lock(&team->lock);
  atomic_fetch_add(&team->work, 1);
  pthread_cond_broadcast(&team->called);
  pthread_mutex_unlock(&team->lock);
  run(d, 0);
}

// --- what native.py calls ------------------------------------------------------------------------------------------------

// Gives NULL where there is no memory.
Decoder *vx_create(int layers, int width, int rows, int positions, int precision, int most, int threads) {
  Decoder *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  d->layers = layers, d->width = width, d->heads = width / HEAD, d->rows = rows, d->precision = precision, d->most = most;
  d->positions = (positions + BLOCK - 1) / BLOCK * BLOCK;
  d->half = precision != FP32;
  d->head_bytes = (size_t)d->positions * HEAD * (d->half ? 2 : 4);
  d->cache_bytes = (size_t)rows * layers * 2 * d->heads * d->head_bytes;
  d->cache = mmap(NULL, d->cache_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  d->layer = calloc((size_t)layers, sizeof *d->layer);
  size_t tokens = (size_t)most + TOKENS, w = (size_t)width;
  d->stream = room(tokens * w * 4), d->normed = room(tokens * w * 4), d->mixed = room(tokens * w * 4);
  d->qkv = room(tokens * 3 * w * 4), d->hidden = room(tokens * 4 * w * 4), d->packed = room(tokens * 4 * w * 4);
  d->scales = room(tokens * 4), d->sums = room(tokens * 4);
  d->scores = room((size_t)threads * (size_t)(d->positions + BLOCK) * 4);
  Team *team = &d->team;
  team->count = threads;
  pthread_mutex_init(&team->lock, NULL);
  pthread_cond_init(&team->called, NULL);
  team->threads = calloc((size_t)threads, sizeof *team->threads);
  d->members = calloc((size_t)threads, sizeof *d->members);
  if (d->cache == MAP_FAILED || !d->layer || !d->stream || !d->normed || !d->mixed || !d->qkv || !d->hidden ||
      !d->packed || !d->scales || !d->sums || !d->scores || !team->threads || !d->members)
    return NULL;                            // the process is out of memory: what was taken goes with it
  for (int me = 1; me < threads; me++) {
    d->members[me] = (Member){d, me};
    if (pthread_create(&team->threads[me], NULL, member, &d->members[me])) return NULL;
  }
  return d;
}

void vx_free(Decoder *d) {
  Team *team = &d->team;
  pthread_mutex_lock(&team->lock);
  atomic_store(&team->stop, 1);
  pthread_cond_broadcast(&team->called);
  pthread_mutex_unlock(&team->lock);
  for (int me = 1; me < team->count; me++) pthread_join(team->threads[me], NULL);
  munmap(d->cache, d->cache_bytes);
  for (int i = 0; i < d->layers; i++) {
    for (int n = 0; n < 4; n++) free(d->layer[i].norm[n]);
    for (int n = 0; n < LINEARS; n++)
      free(d->layer[i].linear[n].weights), free(d->layer[i].linear[n].scale), free(d->layer[i].linear[n].bias);
  }
  for (int n = 0; n < 4; n++) free(d->final[n]);
  free(d->layer), free(d->stream), free(d->normed), free(d->mixed), free(d->qkv), free(d->hidden), free(d->packed);
  free(d->scales), free(d->sums), free(d->scores), free(team->threads), free(d->members), free(d);
}

static float *copied(const float *x, int count, int padded) {
  float *to = room((size_t)padded * 4);
  return to ? memcpy(to, x, (size_t)count * 4) : NULL;
}

// Sets norm `which` (0 before attention, 1 before the MLP) of a layer; layer == layers: 0 is ln_f, 1 the final norm.
int vx_set_norm(Decoder *d, int layer, int which, const float *gain, const float *bias) {
  float **to = (layer == d->layers ? d->final : d->layer[layer].norm) + 2 * which;
  to[0] = copied(gain, d->width, d->width), to[1] = copied(bias, d->width, d->width);
  return to[0] && to[1];
}

typedef struct { Decoder *d; Linear *l; const float *w; long by_input, by_output; int me, team; } Packing;

static void *pack_share(void *argument) {
  Packing *p = argument;
  int first, last;
  share(p->l->panels, p->me, p->team, &first, &last);
  for (int panel = first; panel < last; panel++) pack_panel(p->l, p->d->precision, panel, p->w, p->by_input, p->by_output);
  return NULL;
}

// Packs linear layer `which` of a layer from weights[inputs][outputs]. `inputs` is a multiple of 4, `outputs` of 16.
int vx_set_linear(Decoder *d, int layer, int which, const float *weights, const float *bias, int inputs, int outputs) {
  Linear *l = &d->layer[layer].linear[which];
  l->inputs = inputs, l->outputs = outputs, l->panels = (outputs + NR - 1) / NR;
  l->weights = room((size_t)l->panels * inputs * NR * weight_bytes(d->precision));
  l->scale = room((size_t)l->panels * NR * 4);
  l->bias = copied(bias, outputs, l->panels * NR);
  if (!l->weights || !l->scale || !l->bias) return 0;
  int team = d->team.count;
  Packing shares[team];
  pthread_t threads[team];
  for (int me = team - 1; me >= 0; me--) {
    shares[me] = (Packing){d, l, weights, outputs, 1, me, team};
    if (me == 0 || pthread_create(&threads[me], NULL, pack_share, &shares[me])) pack_share(&shares[me]), threads[me] = 0;
  }
  for (int me = 1; me < team; me++)
    if (threads[me]) pthread_join(threads[me], NULL);
  return 1;
}

// Takes `tokens` embeddings [tokens][width] of rows at positions, puts their keys and values into the cache, and gives
// what XTTS calls latents: [tokens][width] after both final norms. Positions of one row must come in order.
void vx_forward(Decoder *d, int tokens, const float *embeddings, const int32_t *row_of, const int32_t *position_of,
                float *latents) {
  memcpy(d->stream, embeddings, (size_t)tokens * d->width * 4);
  d->tokens = tokens, d->row_of = row_of, d->position_of = position_of;
  call_team(d);
  for (int t = 0; t < tokens; t++) {
    norm(d->stream + (size_t)t * d->width, d->width, d->final[0], d->final[1], d->normed);
    norm(d->normed, d->width, d->final[2], d->final[3], latents + (size_t)t * d->width);
  }
}

// A row's first positions, to keep a voice's prefix: bytes needed, from the cache, into the cache.
static size_t prefix_part(const Decoder *d, int positions) {
  return (size_t)((positions + BLOCK - 1) / BLOCK * BLOCK) * HEAD * (d->half ? 2 : 4);
}

int64_t vx_prefix_bytes(const Decoder *d, int positions) {
  return (int64_t)(prefix_part(d, positions) * 2 * (size_t)d->layers * (size_t)d->heads);
}

void vx_copy_prefix(Decoder *d, int row, int positions, char *outside, int into_cache) {
  size_t part = prefix_part(d, positions);
  for (int i = 0; i < d->layers; i++)
    for (int values = 0; values < 2; values++)
      for (int head = 0; head < d->heads; head++, outside += part) {
        char *inside = head_cache(d, row, i, values, head);
        memcpy(into_cache ? inside : outside, into_cache ? outside : inside, part);
      }
}
