// The transformer blocks of XTTS's GPT on a CPU. Plain C, compiled on the machine on which it runs.
//
// It computes GPT-2 blocks (layer norm, attention, layer norm, MLP) with a KV cache, on a fixed number of threads.
// cpu_decoder.py is its only caller. torch_decoder.py computes the same in PyTorch; the tests compare the two.
//
// The functions that Python calls check every argument that they can, also the sizes of buffers, which the caller passes
// along. They return a status and touch nothing if a call is refused. fuzz_cpu_decoder.c in tests/support calls them
// with random arguments under the sanitizers of the compiler.
//
// A call computes any number of tokens of any rows at any positions: one token of each row is a decoding step, many
// tokens of one row are a prompt. The result for a token depends only on its own row, bit by bit, regardless of the
// other tokens in the call: every sum has a fixed order, integer sums are exact, and activations are quantised per
// token.
//
//   weights  are packed once into panels of PANEL_COLUMNS columns, so that a step reads them sequentially: memory
//            bandwidth is the limit with one row. int8: one scale per column for weights, one scale per token for
//            activations, sums in 32 bits.
//   threads  split the columns of linear layers, the heads of attention and the tokens of layer norms; barriers
//            separate these phases.

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

#define LANES 16                            // floats per vector; the compiler splits what the machine lacks
#if defined(__AVX512F__)
#define VECTORS 4                           // vectors per panel: 6 x 4 sums and 4 weights fit into the 32 registers
#define TOKENS 6                            // tokens that are computed in one pass over a panel
#elif defined(__AVX2__)
#define VECTORS 1
#define TOKENS 2
#else
#define VECTORS 1
#define TOKENS 4
#endif
#define PANEL_COLUMNS (LANES * VECTORS)     // columns per panel
#if defined(__ARM_FEATURE_DOTPROD)
#define WEIGHT_OFFSET 0                     // ARM multiplies signed by signed bytes
#else
#define WEIGHT_OFFSET 128                   // x86 multiplies unsigned by signed: this is added to the weights
#endif
#define HEAD_WIDTH 64                       // width of an attention head in GPT-2 and in XTTS v2
#define KEY_BLOCK 16                        // positions whose keys are interleaved in the cache

// Largest sizes, far above any model: with them, no size below overflows, and neither does a sum in 32 bits (int8).
#define MAX_LAYERS 512
#define MAX_WIDTH 16384
#define MAX_ROWS 4096
#define MAX_POSITIONS 65536
#define MAX_TOKENS 4096
#define MAX_THREADS 1024

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float vf_loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

enum { FP32, BF16, INT8 };                  // precisions, with the numbers of cpu_decoder.py
enum { QKV, ATTENTION_OUTPUT, MLP_EXPAND, MLP_CONTRACT, LINEAR_COUNT };

// Status of a call, with the numbers of cpu_decoder.py.
enum { DONE, NO_MEMORY, NO_DECODER, BAD_SIZE, BAD_LAYER, BAD_WIDTH, BAD_COUNT, BAD_ROW, BAD_POSITION, NO_WEIGHTS };

INLINE vf load(const float *p) { return *(const vf_loose *)p; }
INLINE void store(float *p, vf v) { *(vf_loose *)p = v; }
INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vf blend(vi where, vf yes, vf no) { return (vf)((where & (vi)yes) | (~where & (vi)no)); }
INLINE vf maximum(vf a, vf b) { return blend(a > b, a, b); }
INLINE float sum(vf v) {                    // the order does not depend on the machine's vector length
  float s[LANES];
  store(s, v);
  for (int step = LANES / 2; step; step /= 2)
    for (int i = 0; i < step; i++) s[i] += s[i + step];
  return s[0];
}

// --- half precision, the format of the KV cache with bf16 and int8 weights -------------------------------------------

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

INLINE uint16_t to_bf16(float x) {          // rounds to nearest, ties to even
  uint32_t u;
  memcpy(&u, &x, 4);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// Limits a value to -127 to 127. C does not define the conversion of NaN to an integer; here it becomes -127. It is not
// lost: the residual stream, to which the layers only add, keeps it up to the latents.
INLINE float to_int8_range(float x) {
  x = x > -127.0f ? x : -127.0f;
  return x < 127.0f ? x : 127.0f;
}

// --- functions -------------------------------------------------------------------------------------------------------

INLINE vf exp_v(vf x) {                     // expf of the Cephes library, 2 ulp; returns 0 below -87
  vi below = x < -87.0f;
  x = -maximum(-maximum(x, splat(-87.0f)), splat(-88.0f));
  vf n = x * 1.44269504088896341f;
  vi whole = __builtin_convertvector(n + blend(n < 0, splat(-0.5f), splat(0.5f)), vi);
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
  return blend(below, splat(0.0f), y * scale);
}

INLINE vf gelu_v(vf x) {                    // GPT-2's approximation with tanh, written as x * sigmoid(2 u)
  vf u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
  return x / (1.0f + exp_v(-2.0f * u));
}

// --- threads ---------------------------------------------------------------------------------------------------------

typedef struct Decoder Decoder;

#define SPINS 2000                          // about 30 us: longer than any wait if no other process uses the cores

typedef struct {
  int count;
  int started;                              // number of threads that run, without the calling one
  atomic_int arrived, phase;
  atomic_int call_number, stopping;         // number of the latest call; whether the threads must end
  pthread_mutex_t lock;
  pthread_cond_t wake_up;
  pthread_t *threads;
} ThreadPool;

typedef struct { Decoder *decoder; int thread; } PoolThread;

static void barrier(ThreadPool *pool) {
  int phase = atomic_load(&pool->phase);
  if (atomic_fetch_add(&pool->arrived, 1) == pool->count - 1) {
    atomic_store(&pool->arrived, 0);
    atomic_store(&pool->phase, phase + 1);
    return;
  }
  for (int spin = 0; atomic_load_explicit(&pool->phase, memory_order_acquire) == phase; spin++) {
    if (spin < SPINS) RELAX();
    else sched_yield();
  }
}

// Splits `count` items evenly: this thread's part is `first` up to, but not including, `last`.
INLINE void split(int count, int thread, int threads, int *first, int *last) {
  *first = (int)((int64_t)count * thread / threads);
  *last = (int)((int64_t)count * (thread + 1) / threads);
}

// --- weights ---------------------------------------------------------------------------------------------------------

typedef struct {
  int inputs, outputs, panels;
  void *weights;                            // [panel][input / g][PANEL_COLUMNS][g]; g: 1 (fp32), 2 (bf16), 4 (int8)
  float *scale;                             // int8: scale of each column; [panels * PANEL_COLUMNS]
  float *bias;                              // [panels * PANEL_COLUMNS]
} Linear;

typedef struct {
  float *norm[4];                           // attention norm: gain, bias; MLP norm: gain, bias
  Linear linear[LINEAR_COUNT];
} Layer;

struct Decoder {
  int layers, width, heads, rows, positions, precision;
  int capacity;                             // positions rounded up to whole blocks of keys
  int half;                                 // whether the KV cache is in half precision
  int max_tokens;                           // maximum number of tokens in a call
  int complete;                             // whether all weights are known to be set
  Layer *layer;
  float *final[4];                          // gain and bias of ln_f, then of XTTS's own final norm
  char *cache;                              // KV cache: [row][layer][keys, values][head][capacity][HEAD_WIDTH]
  size_t cache_bytes, head_bytes;
  ThreadPool pool;
  PoolThread *arguments;
  // work buffers for max_tokens tokens each
  float *residual, *normed, *qkv, *attended, *hidden;
  void *converted;                          // activations in the precision of the linear layers
  float *scales;                            // int8: scale of each token's activations
  int32_t *quantised_sums;                  // int8: sum of each token's quantised activations
  float *scores;                            // [threads][capacity + KEY_BLOCK]
  // arguments of the current call
  int tokens;
  const int32_t *row_of, *position_of;      // row and position of each token
};

static void *allocate(size_t bytes) {
  void *p = NULL;
  return posix_memalign(&p, 64, (bytes + 63) / 64 * 64 + 64) ? NULL : memset(p, 0, bytes);
}

static int group(int precision) { return precision == INT8 ? 4 : precision == BF16 ? 2 : 1; }
static size_t weight_bytes(int precision) { return precision == INT8 ? 1 : precision == BF16 ? 2 : 4; }

// Packs one panel of a weight matrix [inputs][outputs]; the strides are in floats.
static void pack_panel(Linear *to, int precision, int panel, const float *w, long by_input, long by_output) {
  int g = group(precision), columns = to->outputs - panel * PANEL_COLUMNS;
  if (columns > PANEL_COLUMNS) columns = PANEL_COLUMNS;
  size_t panel_bytes = (size_t)to->inputs * PANEL_COLUMNS * weight_bytes(precision);
  char *out = (char *)to->weights + panel * panel_bytes;
  float inverse[PANEL_COLUMNS] = {0};
  if (precision == INT8) {
    float peak[PANEL_COLUMNS] = {0};
    for (int k = 0; k < to->inputs; k++)
      for (int n = 0; n < columns; n++) {
        float a = fabsf(w[k * by_input + (panel * PANEL_COLUMNS + n) * by_output]);
        peak[n] = a > peak[n] ? a : peak[n];
      }
    for (int n = 0; n < PANEL_COLUMNS; n++) {
      to->scale[panel * PANEL_COLUMNS + n] = peak[n] / 127.0f;
      inverse[n] = peak[n] > 0 ? 127.0f / peak[n] : 0;
    }
    memset(out, WEIGHT_OFFSET, panel_bytes);
  } else memset(out, 0, panel_bytes);
  for (int k = 0; k < to->inputs; k++)
    for (int n = 0; n < columns; n++) {
      float x = w[k * by_input + (panel * PANEL_COLUMNS + n) * by_output];
      size_t at = ((size_t)(k / g) * PANEL_COLUMNS + n) * g + k % g;
      if (precision == INT8) ((uint8_t *)out)[at] = (uint8_t)((int)rintf(to_int8_range(x * inverse[n])) + WEIGHT_OFFSET);
      else if (precision == BF16) ((uint16_t *)out)[at] = to_bf16(x);
      else ((float *)out)[at] = x;
    }
}

// --- linear layers ---------------------------------------------------------------------------------------------------

// Multiplies the activations of `n` tokens by a panel. `n` is a constant at every call, so the loops are unrolled.
INLINE void sums_fp32(int n, const float *w, int inputs, const float *x, long pitch, vf out[][VECTORS]) {
  vf s[TOKENS][VECTORS] = {{{0}}};
  for (int k = 0; k < inputs; k++, w += PANEL_COLUMNS)
    for (int t = 0; t < n; t++)
      for (int v = 0; v < VECTORS; v++) s[t][v] += load(w + v * LANES) * x[t * pitch + k];
  for (int t = 0; t < n; t++)
    for (int v = 0; v < VECTORS; v++) out[t][v] = s[t][v];
}

INLINE void sums_bf16(int n, const uint16_t *w, int inputs, const uint16_t *x, long pitch, vf out[][VECTORS]) {
  vf s[TOKENS][VECTORS] = {{{0}}};
  for (int k = 0; k < inputs; k += 2, w += 2 * PANEL_COLUMNS)
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
// Without VNNI: pairs of 16-bit products, two sums per column, added at the end. (maddubs would saturate.)
INLINE void sums_int8(int n, const uint8_t *w, int inputs, const int8_t *x, long pitch, vi out[][VECTORS]) {
  __m256i s[TOKENS][VECTORS * 4];
  for (int t = 0; t < n; t++)
    for (int c = 0; c < VECTORS * 4; c++) s[t][c] = _mm256_setzero_si256();
  for (int k = 0; k < inputs; k += 4, w += 4 * PANEL_COLUMNS) {
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
  for (int k = 0; k < inputs; k += 4, w += 4 * PANEL_COLUMNS)
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
  for (int k = 0; k < inputs; k += 4, w += 4 * PANEL_COLUMNS)
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

// Computes one panel of a linear layer for `n` tokens from `t0` on: y[n][VECTORS], with scales and bias applied.
INLINE void panel(int n, const Decoder *d, const Linear *l, int p, int t0, vf y[][VECTORS]) {
  const char *w = (const char *)l->weights + (size_t)p * l->inputs * PANEL_COLUMNS * weight_bytes(d->precision);
  size_t pitch = (size_t)l->inputs;
  if (d->precision == INT8) {
    vi s[TOKENS][VECTORS];
    sums_int8(n, (const uint8_t *)w, l->inputs, (const int8_t *)d->converted + t0 * pitch, (long)pitch, s);
    for (int t = 0; t < n; t++)
      for (int v = 0; v < VECTORS; v++)
        y[t][v] = __builtin_convertvector(s[t][v] - WEIGHT_OFFSET * d->quantised_sums[t0 + t], vf) * d->scales[t0 + t]
                * load(l->scale + p * PANEL_COLUMNS + v * LANES) + load(l->bias + p * PANEL_COLUMNS + v * LANES);
    return;
  }
  if (d->precision == BF16)
    sums_bf16(n, (const uint16_t *)w, l->inputs, (const uint16_t *)d->converted + t0 * pitch, (long)pitch, y);
  else
    sums_fp32(n, (const float *)w, l->inputs, (const float *)d->converted + t0 * pitch, (long)pitch, y);
  for (int t = 0; t < n; t++)
    for (int v = 0; v < VECTORS; v++) y[t][v] += load(l->bias + p * PANEL_COLUMNS + v * LANES);
}

INLINE void panel_switch(int n, const Decoder *d, const Linear *l, int p, int t0, vf y[][VECTORS]) {
  switch (n) {                              // each case passes a constant, so that it gets its own unrolled loops
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

enum Epilogue { ASSIGN, ADD, GELU };

// Computes this thread's columns of a linear layer for all tokens of the call.
static void linear(const Decoder *d, const Linear *l, float *out, enum Epilogue epilogue, int thread) {
  int first, last;
  split(l->panels, thread, d->pool.count, &first, &last);
  vf y[TOKENS][VECTORS];
  for (int p = first; p < last; p++)
    for (int t0 = 0; t0 < d->tokens; t0 += TOKENS) {
      int n = d->tokens - t0 < TOKENS ? d->tokens - t0 : TOKENS;
      panel_switch(n, d, l, p, t0, y);
      for (int t = 0; t < n; t++)
        for (int v = 0; v < VECTORS; v++) {
          int column = p * PANEL_COLUMNS + v * LANES;
          if (column >= l->outputs) break;  // the number of outputs is a multiple of LANES, but not of PANEL_COLUMNS
          float *to = out + (size_t)(t0 + t) * l->outputs + column;
          if (epilogue == ASSIGN) store(to, y[t][v]);
          else if (epilogue == ADD) store(to, load(to) + y[t][v]);
          else store(to, gelu_v(y[t][v]));
        }
    }
}

// --- between the linear layers ---------------------------------------------------------------------------------------

// Converts the activations [width] of a token to the precision of the linear layers.
static void convert_token(const Decoder *d, int t, const float *x, int width) {
  if (d->precision == FP32) {
    memcpy((float *)d->converted + (size_t)t * width, x, (size_t)width * 4);
  } else if (d->precision == BF16) {
    uint16_t *to = (uint16_t *)d->converted + (size_t)t * width;
    for (int i = 0; i < width; i++) to[i] = to_bf16(x[i]);
  } else {
    vf peaks = {0};
    for (int i = 0; i < width; i += LANES) {
      vf a = load(x + i);
      peaks = maximum(maximum(a, -a), peaks);
    }
    float peak = 0;
    for (int i = 0; i < LANES; i++) peak = peaks[i] > peak ? peaks[i] : peak;
    float inverse = peak > 0 ? 127.0f / peak : 0;
    int8_t *to = (int8_t *)d->converted + (size_t)t * width;
    int32_t total = 0;
    for (int i = 0; i < width; i++) {
      float y = to_int8_range(x[i] * inverse);
      int q = (int)(y + (y < 0 ? -0.5f : 0.5f));
      to[i] = (int8_t)q;
      total += q;
    }
    d->scales[t] = peak / 127.0f;
    d->quantised_sums[t] = total;
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
  for (int i = 0; i < width; i += LANES)
    store(out + i, (load(x + i) - mean) * inverse * load(gain + i) + load(bias + i));
}

static void norm_and_convert(const Decoder *d, const float *gain, const float *bias, int thread) {
  int first, last;
  split(d->tokens, thread, d->pool.count, &first, &last);
  for (int t = first; t < last; t++) {
    float *normed = d->normed + (size_t)t * d->width;
    norm(d->residual + (size_t)t * d->width, d->width, gain, bias, normed);
    convert_token(d, t, normed, d->width);
  }
}

static void convert_all(const Decoder *d, const float *x, int width, int thread) {
  int first, last;
  split(d->tokens, thread, d->pool.count, &first, &last);
  for (int t = first; t < last; t++) convert_token(d, t, x + (size_t)t * width, width);
}

// --- attention -------------------------------------------------------------------------------------------------------

// Keys: [block][HEAD_WIDTH][KEY_BLOCK], so that one vector holds one feature of 16 positions.
// Values: [position][HEAD_WIDTH].
INLINE char *head_cache(const Decoder *d, int row, int layer, int values, int head) {
  return d->cache + ((((size_t)row * d->layers + layer) * 2 + values) * d->heads + head) * d->head_bytes;
}

INLINE void store_cached(int half, char *cache, size_t at, float x) {
  if (half) ((uint16_t *)cache)[at] = to_half(x);
  else ((float *)cache)[at] = x;
}

INLINE vf load_cached(int half, const char *cache, size_t at) {
  return half ? load_half((const uint16_t *)cache + at) : load((const float *)cache + at);
}

INLINE void attend(int half, const Decoder *d, int layer, int head, int t, float *score) {
  int row = d->row_of[t], seen = d->position_of[t] + 1;
  const float *q = d->qkv + (size_t)t * 3 * d->width + head * HEAD_WIDTH;
  const char *keys = head_cache(d, row, layer, 0, head), *values = head_cache(d, row, layer, 1, head);
  vf peaks = splat(-INFINITY);
  for (int b = 0; b < seen; b += KEY_BLOCK) {
    vf s[2] = {{0}, {0}};
    for (int i = 0; i < HEAD_WIDTH; i += 2)
      for (int j = 0; j < 2; j++)
        s[j] += q[i + j] * load_cached(half, keys, (size_t)b * HEAD_WIDTH + (i + j) * KEY_BLOCK);
    vf x = (s[0] + s[1]) * 0.125f;          // 1 / sqrt(HEAD_WIDTH)
    for (int i = seen - b; i < KEY_BLOCK; i++) x[i] = -INFINITY;
    store(score + b, x);
    peaks = maximum(x, peaks);
  }
  float peak = peaks[0];
  for (int i = 1; i < LANES; i++) peak = peaks[i] > peak ? peaks[i] : peak;
  vf total = {0}, out[HEAD_WIDTH / LANES] = {{0}};
  for (int b = 0; b < seen; b += KEY_BLOCK) {
    vf p = exp_v(load(score + b) - peak);
    store(score + b, p);
    total += p;
  }
  for (int i = 0; i < seen; i++)
    for (int v = 0; v < HEAD_WIDTH / LANES; v++)
      out[v] += score[i] * load_cached(half, values, (size_t)i * HEAD_WIDTH + v * LANES);
  float inverse = 1.0f / sum(total);
  for (int v = 0; v < HEAD_WIDTH / LANES; v++)
    store(d->attended + (size_t)t * d->width + head * HEAD_WIDTH + v * LANES, out[v] * inverse);
}

// Computes this thread's heads. It stores the keys and values of all tokens first, so that each token of a prompt can
// attend to the earlier ones.
static void attention(const Decoder *d, int layer, int thread) {
  int first, last;
  split(d->heads, thread, d->pool.count, &first, &last);
  float *score = d->scores + (size_t)thread * (size_t)(d->capacity + KEY_BLOCK);
  for (int head = first; head < last; head++) {
    for (int t = 0; t < d->tokens; t++) {
      const float *k = d->qkv + (size_t)t * 3 * d->width + d->width + head * HEAD_WIDTH, *v = k + d->width;
      char *keys = head_cache(d, d->row_of[t], layer, 0, head), *values = head_cache(d, d->row_of[t], layer, 1, head);
      size_t at = (size_t)d->position_of[t], block = at / KEY_BLOCK * KEY_BLOCK * HEAD_WIDTH + at % KEY_BLOCK;
      for (int i = 0; i < HEAD_WIDTH; i++) store_cached(d->half, keys, block + i * KEY_BLOCK, k[i]);
      for (int i = 0; i < HEAD_WIDTH; i++) store_cached(d->half, values, at * HEAD_WIDTH + i, v[i]);
    }
    for (int t = 0; t < d->tokens; t++) {
      if (d->half) attend(1, d, layer, head, t, score);
      else attend(0, d, layer, head, t, score);
    }
  }
}

// --- a call ----------------------------------------------------------------------------------------------------------

static void run_blocks(Decoder *d, int thread) {
  ThreadPool *pool = &d->pool;
  for (int i = 0; i < d->layers; i++) {
    const Layer *l = d->layer + i;
    norm_and_convert(d, l->norm[0], l->norm[1], thread);
    barrier(pool);
    linear(d, &l->linear[QKV], d->qkv, ASSIGN, thread);
    barrier(pool);
    attention(d, i, thread);
    barrier(pool);
    convert_all(d, d->attended, d->width, thread);
    barrier(pool);
    linear(d, &l->linear[ATTENTION_OUTPUT], d->residual, ADD, thread);
    barrier(pool);
    norm_and_convert(d, l->norm[2], l->norm[3], thread);
    barrier(pool);
    linear(d, &l->linear[MLP_EXPAND], d->hidden, GELU, thread);
    barrier(pool);
    convert_all(d, d->hidden, 4 * d->width, thread);
    barrier(pool);
    linear(d, &l->linear[MLP_CONTRACT], d->residual, ADD, thread);
    barrier(pool);
  }
}

static void *thread_main(void *argument) {
  PoolThread *m = argument;
  Decoder *d = m->decoder;
  ThreadPool *pool = &d->pool;
  int done = 0;
  for (;;) {
    for (int spin = 0; spin < SPINS && atomic_load(&pool->call_number) == done && !atomic_load(&pool->stopping); spin++)
      RELAX();
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->call_number) == done && !atomic_load(&pool->stopping))
      pthread_cond_wait(&pool->wake_up, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    if (atomic_load(&pool->stopping)) return NULL;
    done = atomic_load(&pool->call_number);
    run_blocks(d, m->thread);
  }
}

static void run_on_all_threads(Decoder *d) {
  ThreadPool *pool = &d->pool;
  pthread_mutex_lock(&pool->lock);
  atomic_fetch_add(&pool->call_number, 1);
  pthread_cond_broadcast(&pool->wake_up);
  pthread_mutex_unlock(&pool->lock);
  run_blocks(d, 0);
}

// --- the functions that cpu_decoder.py calls -------------------------------------------------------------------------

int vx_free(Decoder *d);

static int within(int value, int least, int most) { return value >= least && value <= most; }

static int set_up(Decoder *d, int max_tokens, int threads) {
  d->cache = mmap(NULL, d->cache_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (d->cache == MAP_FAILED) {
    d->cache = NULL;
    return NO_MEMORY;
  }
  d->layer = calloc((size_t)d->layers, sizeof *d->layer);
  size_t tokens = (size_t)max_tokens + TOKENS, w = (size_t)d->width;
  d->residual = allocate(tokens * w * 4), d->normed = allocate(tokens * w * 4), d->attended = allocate(tokens * w * 4);
  d->qkv = allocate(tokens * 3 * w * 4), d->hidden = allocate(tokens * 4 * w * 4);
  d->converted = allocate(tokens * 4 * w * 4);
  d->scales = allocate(tokens * 4), d->quantised_sums = allocate(tokens * 4);
  d->scores = allocate((size_t)threads * (size_t)(d->capacity + KEY_BLOCK) * 4);
  d->pool.threads = calloc((size_t)threads, sizeof *d->pool.threads);
  d->arguments = calloc((size_t)threads, sizeof *d->arguments);
  if (!d->layer || !d->residual || !d->normed || !d->attended || !d->qkv || !d->hidden || !d->converted ||
      !d->scales || !d->quantised_sums || !d->scores || !d->pool.threads || !d->arguments)
    return NO_MEMORY;
  for (int thread = 1; thread < threads; thread++) {
    d->arguments[thread] = (PoolThread){d, thread};
    if (pthread_create(&d->pool.threads[thread], NULL, thread_main, &d->arguments[thread])) return NO_MEMORY;
    d->pool.started++;
  }
  return DONE;
}

// Writes a new decoder to `made`, or NULL if the call is refused or there is not enough memory.
int vx_create(Decoder **made, int layers, int width, int rows, int positions, int precision, int max_tokens,
              int threads) {
  *made = NULL;
  if (!within(layers, 1, MAX_LAYERS) || !within(rows, 1, MAX_ROWS) || !within(positions, 1, MAX_POSITIONS) ||
      !within(precision, FP32, INT8) || !within(max_tokens, 1, MAX_TOKENS) || !within(threads, 1, MAX_THREADS))
    return BAD_SIZE;
  if (!within(width, HEAD_WIDTH, MAX_WIDTH) || width % HEAD_WIDTH) return BAD_WIDTH;
  Decoder *d = calloc(1, sizeof *d);
  if (!d) return NO_MEMORY;
  d->layers = layers, d->width = width, d->heads = width / HEAD_WIDTH, d->rows = rows, d->positions = positions;
  d->precision = precision, d->max_tokens = max_tokens;
  d->capacity = (positions + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK;
  d->half = precision != FP32;
  d->head_bytes = (size_t)d->capacity * HEAD_WIDTH * (d->half ? 2 : 4);
  d->cache_bytes = (size_t)rows * (size_t)layers * 2 * (size_t)d->heads * d->head_bytes;
  d->pool.count = threads;
  pthread_mutex_init(&d->pool.lock, NULL);
  pthread_cond_init(&d->pool.wake_up, NULL);
  int status = set_up(d, max_tokens, threads);
  if (status == DONE) *made = d;
  else vx_free(d);
  return status;
}

static void free_linear(Linear *l) {
  free(l->weights), free(l->scale), free(l->bias);
  *l = (Linear){0};
}

// Frees a decoder, also one that was set up in part.
int vx_free(Decoder *d) {
  if (!d) return NO_DECODER;
  ThreadPool *pool = &d->pool;
  pthread_mutex_lock(&pool->lock);
  atomic_store(&pool->stopping, 1);
  pthread_cond_broadcast(&pool->wake_up);
  pthread_mutex_unlock(&pool->lock);
  for (int thread = 1; thread <= pool->started; thread++) pthread_join(pool->threads[thread], NULL);
  pthread_cond_destroy(&pool->wake_up);
  pthread_mutex_destroy(&pool->lock);
  if (d->cache) munmap(d->cache, d->cache_bytes);
  for (int i = 0; d->layer && i < d->layers; i++) {
    for (int n = 0; n < 4; n++) free(d->layer[i].norm[n]);
    for (int n = 0; n < LINEAR_COUNT; n++) free_linear(&d->layer[i].linear[n]);
  }
  for (int n = 0; n < 4; n++) free(d->final[n]);
  free(d->layer), free(d->residual), free(d->normed), free(d->attended), free(d->qkv), free(d->hidden);
  free(d->converted), free(d->scales), free(d->quantised_sums), free(d->scores), free(pool->threads);
  free(d->arguments), free(d);
  return DONE;
}

static float *copy_padded(const float *x, int count, int padded) {
  float *to = allocate((size_t)padded * 4);
  return to ? memcpy(to, x, (size_t)count * 4) : NULL;
}

// Sets a layer norm from gain[width] and bias[width]: `which` is 0 for attention, 1 for the MLP; in layer `layers`, 0 is
// ln_f and 1 the final norm.
int vx_set_norm(Decoder *d, int layer, int which, const float *gain, const float *bias, int width) {
  if (!d) return NO_DECODER;
  if (!within(layer, 0, d->layers) || !within(which, 0, 1)) return BAD_LAYER;
  if (width != d->width || !gain || !bias) return BAD_WIDTH;
  float **to = (layer == d->layers ? d->final : d->layer[layer].norm) + 2 * which;
  d->complete = 0;
  free(to[0]), free(to[1]);
  to[0] = copy_padded(gain, width, width), to[1] = copy_padded(bias, width, width);
  return to[0] && to[1] ? DONE : NO_MEMORY;
}

typedef struct { Decoder *d; Linear *l; const float *w; long by_input, by_output; int thread, threads; } PackingShare;

static void *pack_panels(void *argument) {
  PackingShare *p = argument;
  int first, last;
  split(p->l->panels, p->thread, p->threads, &first, &last);
  for (int panel = first; panel < last; panel++)
    pack_panel(p->l, p->d->precision, panel, p->w, p->by_input, p->by_output);
  return NULL;
}

// Packs linear layer `which` of a layer from weights[inputs][outputs] and bias[outputs].
int vx_set_linear(Decoder *d, int layer, int which, const float *weights, const float *bias, int inputs, int outputs,
                  int biases) {
  static const int FROM[LINEAR_COUNT] = {1, 1, 1, 4}, TO[LINEAR_COUNT] = {3, 1, 4, 1};  // in widths
  if (!d) return NO_DECODER;
  if (!within(layer, 0, d->layers - 1) || !within(which, 0, LINEAR_COUNT - 1)) return BAD_LAYER;
  if (inputs != FROM[which] * d->width || outputs != TO[which] * d->width || biases != outputs || !weights || !bias)
    return BAD_WIDTH;
  Linear *l = &d->layer[layer].linear[which];
  d->complete = 0;
  free_linear(l);
  l->inputs = inputs, l->outputs = outputs, l->panels = (outputs + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
  l->weights = allocate((size_t)l->panels * inputs * PANEL_COLUMNS * weight_bytes(d->precision));
  l->scale = allocate((size_t)l->panels * PANEL_COLUMNS * 4);
  l->bias = copy_padded(bias, outputs, l->panels * PANEL_COLUMNS);
  if (!l->weights || !l->scale || !l->bias) {
    free_linear(l);
    return NO_MEMORY;
  }
  int count = d->pool.count;
  PackingShare shares[count];
  pthread_t threads[count];
  for (int thread = count - 1; thread >= 0; thread--) {
    shares[thread] = (PackingShare){d, l, weights, outputs, 1, thread, count};
    if (thread == 0 || pthread_create(&threads[thread], NULL, pack_panels, &shares[thread]))
      pack_panels(&shares[thread]), threads[thread] = 0;
  }
  for (int thread = 1; thread < count; thread++)
    if (threads[thread]) pthread_join(threads[thread], NULL);
  return DONE;
}

static int is_complete(Decoder *d) {
  int set = d->final[0] && d->final[1] && d->final[2] && d->final[3];
  for (int i = 0; set && i < d->layers; i++) {
    const Layer *l = d->layer + i;
    for (int n = 0; n < 4; n++) set = set && l->norm[n];
    for (int n = 0; n < LINEAR_COUNT; n++) set = set && l->linear[n].weights;
  }
  return d->complete = set;
}

// Returns the fault in the rows and positions of a call. Positions of one row must be in order.
static int fault_of(const Decoder *d, int tokens, const int32_t *row_of, const int32_t *position_of) {
  for (int t = 0; t < tokens; t++) {
    if (!within(row_of[t], 0, d->rows - 1)) return BAD_ROW;
    if (!within(position_of[t], 0, d->positions - 1)) return BAD_POSITION;
    for (int u = 0; u < t; u++)
      if (row_of[u] == row_of[t] && position_of[u] >= position_of[t]) return BAD_POSITION;
  }
  return DONE;
}

// Runs embeddings [tokens][width], each at its row and position, and adds their keys and values to the cache. Writes
// the latents [tokens][width], which are the outputs after both final norms.
int vx_forward(Decoder *d, int tokens, int width, const float *embeddings, const int32_t *row_of,
               const int32_t *position_of, float *latents) {
  if (!d) return NO_DECODER;
  if (width != d->width) return BAD_WIDTH;
  if (!within(tokens, 1, d->max_tokens) || !embeddings || !row_of || !position_of || !latents) return BAD_COUNT;
  int fault = fault_of(d, tokens, row_of, position_of);
  if (fault) return fault;
  if (!d->complete && !is_complete(d)) return NO_WEIGHTS;
  memcpy(d->residual, embeddings, (size_t)tokens * (size_t)d->width * 4);
  d->tokens = tokens, d->row_of = row_of, d->position_of = position_of;
  run_on_all_threads(d);
  for (int t = 0; t < tokens; t++) {
    norm(d->residual + (size_t)t * d->width, d->width, d->final[0], d->final[1], d->normed);
    norm(d->normed, d->width, d->final[2], d->final[3], latents + (size_t)t * d->width);
  }
  return DONE;
}

// Returns the size of one head's keys, or values, of a row's first positions, in bytes.
static size_t prefix_head_bytes(const Decoder *d, int positions) {
  return (size_t)((positions + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK) * HEAD_WIDTH * (d->half ? 2 : 4);
}

// Writes the size of the KV cache of a row's first positions, in bytes.
int vx_prefix_bytes(const Decoder *d, int positions, int64_t *bytes) {
  *bytes = 0;
  if (!d) return NO_DECODER;
  if (!within(positions, 1, d->positions)) return BAD_POSITION;
  *bytes = (int64_t)(prefix_head_bytes(d, positions) * 2 * (size_t)d->layers * (size_t)d->heads);
  return DONE;
}

// Copies the KV cache of a row's first positions to saved[bytes], or back if `into_cache` is not 0.
int vx_copy_prefix(Decoder *d, int row, int positions, char *saved, int64_t bytes, int into_cache) {
  int64_t expected;
  int fault = vx_prefix_bytes(d, positions, &expected);
  if (fault) return fault;
  if (!within(row, 0, d->rows - 1)) return BAD_ROW;
  if (bytes != expected || !saved) return BAD_COUNT;
  size_t part = prefix_head_bytes(d, positions);
  for (int i = 0; i < d->layers; i++)
    for (int values = 0; values < 2; values++)
      for (int head = 0; head < d->heads; head++, saved += part) {
        char *cached = head_cache(d, row, i, values, head);
        memcpy(into_cache ? cached : saved, into_cache ? saved : cached, part);
      }
  return DONE;
}
