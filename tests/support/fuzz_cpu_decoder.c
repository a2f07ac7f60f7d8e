// Calls the functions of cpu_decoder.c with random arguments, right and wrong, and stops at the first wrong answer.
//
//   cc -std=gnu11 -pthread -fsanitize=address,undefined -DDECODER='"…/cpu_decoder.c"' fuzz_cpu_decoder.c -lm -o fuzz
//   ./fuzz SEED CALLS
//
// Every buffer has exactly the size that the caller states, so the sanitizer sees each access outside of it. Memory
// runs out at random, also in the middle of a call. The program checks:
//
//   - a call is done if its arguments are right, and else refused; a refused call writes nothing;
//   - the same call gives the same latents again, bit by bit, whatever the threads do;
//   - finite values with finite weights give finite latents;
//   - at the end no allocation is left.

#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// --- memory and threads that run out ---------------------------------------------------------------------------------

static atomic_long held;                    // allocations, mappings and threads that were not given back
static int countdown = -1;                  // number of requests until one fails; -1: none fails

static int runs_out(size_t bytes) {
  return bytes > 64u << 20 || (countdown >= 0 && countdown-- == 0);
}

static int counted_memalign(void **p, size_t alignment, size_t bytes) {
  if (runs_out(bytes)) return ENOMEM;
  int error = posix_memalign(p, alignment, bytes);
  if (!error) held++;
  return error;
}

static void *counted_calloc(size_t count, size_t bytes) {
  void *p = runs_out(count * bytes) ? NULL : calloc(count, bytes);
  if (p) held++;
  return p;
}

static void counted_free(void *p) {
  if (p) held--;
  free(p);
}

static void *counted_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
  void *p = runs_out(bytes) ? MAP_FAILED : mmap(at, bytes, protection, flags, file, offset);
  if (p != MAP_FAILED) held++;
  return p;
}

static int counted_munmap(void *p, size_t bytes) {
  held--;
  return munmap(p, bytes);
}

static int counted_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
  if (runs_out(held > 1000 ? SIZE_MAX : 0)) return EAGAIN;
  int error = pthread_create(thread, attributes, start, argument);
  if (!error) held++;
  return error;
}

static int counted_join(pthread_t thread, void **result) {
  held--;
  return pthread_join(thread, result);
}

#define posix_memalign counted_memalign
#define calloc counted_calloc
#define free counted_free
#define mmap counted_mmap
#define munmap counted_munmap
#define pthread_create counted_create
#define pthread_join counted_join
#include DECODER
#undef posix_memalign
#undef calloc
#undef free
#undef mmap
#undef munmap
#undef pthread_create
#undef pthread_join

// --- random arguments ------------------------------------------------------------------------------------------------

static uint64_t state;

static uint32_t chance(uint32_t below) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (uint32_t)((state >> 16) % below);
}

static int wild;                            // how often an argument is wrong: once in so many times; 0: never

// Returns a number from `least` to `most`, or now and then one outside.
static int number(int least, int most) {
  const int outside[] = {-1, 0, INT_MIN, INT_MAX, most + 1, least - 1, 1 << 20, -64};
  if (wild && !chance((uint32_t)wild)) return outside[chance(8)];
  return least + (int)chance((uint32_t)(most - least + 1));
}

static int oddly;                           // whether floats may be infinite, no numbers or huge

static float value(void) {
  const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-40f, 0, -0.0f};
  if (oddly && !chance(16)) return odd[chance(8)];
  return (float)((int)chance(2001) - 1000) / 500.0f;
}

static float *values(size_t count) {
  float *x = malloc(count * 4 + !count);
  for (size_t i = 0; i < count; i++) x[i] = value();
  return x;
}

static int failed;

#define EXPECT(true, what) \
  do { if (!(true)) failed = 1, printf("line %d: %s\n", __LINE__, what); } while (0)

// --- the decoder and what it should know -----------------------------------------------------------------------------

static Decoder *decoder;
static int layers, width, rows, positions, precision, most_tokens;
static char norm_set[4][2], linear_set[4][LINEAR_COUNT];
static int odd_weights;                     // whether a weight, or the cache, may hold what is not finite

static int all_set(void) {
  int set = norm_set[layers][0] && norm_set[layers][1];
  for (int i = 0; i < layers; i++) {
    set = set && norm_set[i][0] && norm_set[i][1];
    for (int n = 0; n < LINEAR_COUNT; n++) set = set && linear_set[i][n];
  }
  return set;
}

static long answers[NO_WEIGHTS + 1];        // number of calls by their status

static void check_status(int status, int right) {
  EXPECT(status >= DONE && status <= NO_WEIGHTS, "unknown status");
  if (!failed) answers[status]++;
  if (right) EXPECT(status == DONE || status == NO_MEMORY, "a right call was refused");
  else EXPECT(status > NO_MEMORY, "a wrong call was done");
}

static void make(void) {
  if (decoder) EXPECT(vx_free(decoder) == DONE, "free");
  decoder = NULL;
  int l = number(1, 3), w = (int)(64u * (unsigned)number(1, 3)), r = number(1, 5), p = number(1, 100), q = number(FP32, INT8);
  int m = number(1, 20), t = number(1, 3);
  if (wild && !chance(8)) w = number(1, 300);
  int right = l >= 1 && l <= MAX_LAYERS && w >= 64 && w <= MAX_WIDTH && w % 64 == 0 && r >= 1 && r <= MAX_ROWS &&
              p >= 1 && p <= MAX_POSITIONS && q >= FP32 && q <= INT8 && m >= 1 && m <= MAX_TOKENS && t >= 1 &&
              t <= MAX_THREADS;
  int status = vx_create(&decoder, l, w, r, p, q, m, t);
  check_status(status, right);
  EXPECT((status == DONE) == (decoder != NULL), "a decoder and no success, or the other way");
  if (decoder && l > 3) vx_free(decoder), decoder = NULL;
  layers = l, width = w, rows = r, positions = p, precision = q, most_tokens = m, odd_weights = 0;
  memset(norm_set, 0, sizeof norm_set), memset(linear_set, 0, sizeof linear_set);
}

static void set_norm(int layer, int which) {
  int w = wild && !chance(4) ? number(1, 300) : width;
  size_t count = w > 0 && w <= 300 ? (size_t)w : 0;
  float *gain = values(count), *bias = values(count);
  Decoder *d = wild && !chance(64) ? NULL : decoder;
  int right = d && layer >= 0 && layer <= layers && which >= 0 && which <= 1 && w == width;
  int status = vx_set_norm(d, layer, which, gain, bias, w);
  check_status(status, right);
  if (right) norm_set[layer][which] = status == DONE, odd_weights |= oddly;
  free(gain), free(bias);
}

static void set_linear(int layer, int which) {
  static const int from[] = {1, 1, 1, 4}, to[] = {3, 1, 4, 1};
  int known = which >= 0 && which < LINEAR_COUNT ? which : 0;
  int inputs = from[known] * width, outputs = to[known] * width, biases = outputs;
  if (wild && !chance(4)) inputs = 64 * (number(1, 4) % 4096);
  if (wild && !chance(4)) outputs = 64 * (number(1, 4) % 4096);
  if (wild && !chance(4)) biases = number(1, 300);
  int usable = inputs > 0 && inputs <= 4096 && outputs > 0 && outputs <= 4096;
  float *weights = values(usable ? (size_t)inputs * (size_t)outputs : 0);
  float *bias = values(biases > 0 && biases <= 4096 ? (size_t)biases : 0);
  Decoder *d = wild && !chance(64) ? NULL : decoder;
  int right = d && layer >= 0 && layer < layers && which == known && inputs == from[known] * width &&
              outputs == to[known] * width && biases == outputs;
  int status = vx_set_linear(d, layer, which, weights, bias, inputs, outputs, biases);
  check_status(status, right);
  if (right) linear_set[layer][which] = status == DONE, odd_weights |= oddly;
  free(weights), free(bias);
}

static void complete(void) {
  int before = wild;
  wild = 0;
  for (int i = 0; decoder && i <= layers; i++)
    for (int n = 0; n < 2; n++) set_norm(i, n);
  for (int i = 0; decoder && i < layers; i++)
    for (int n = 0; n < LINEAR_COUNT; n++) set_linear(i, n);
  wild = before;
}

static void forward(void) {
  int tokens = number(1, most_tokens), w = wild && !chance(16) ? number(1, 300) : width;
  size_t count = tokens > 0 && tokens <= 100 ? (size_t)tokens : 0, cells = w > 0 && w <= 300 ? count * (size_t)w : 0;
  float *embeddings = values(cells), *latents = malloc(cells * 4 + 4), *again = malloc(cells * 4 + 4);
  int32_t *row_of = malloc(count * 4 + 4), *position_of = malloc(count * 4 + 4);
  int same_row = (int)chance(2), row = number(0, rows - 1), position = number(0, positions - 1), order = 1;
  for (size_t t = 0; t < count; t++) {
    row_of[t] = same_row ? row : number(0, rows - 1);
    position_of[t] = same_row ? (position <= INT_MAX - 100 ? position + (int)t : position) : number(0, positions - 1);
    order = order && row_of[t] >= 0 && row_of[t] < rows && position_of[t] >= 0 && position_of[t] < positions;
    for (size_t u = 0; u < t; u++) order = order && (row_of[u] != row_of[t] || position_of[u] < position_of[t]);
  }
  memset(latents, 0x7f, cells * 4 + 4);
  Decoder *d = wild && !chance(64) ? NULL : decoder;
  int right = d && count && tokens <= most_tokens && w == width && order && all_set();
  int status = vx_forward(d, tokens, w, embeddings, row_of, position_of, latents);
  check_status(status, right);
  if (right) {
    EXPECT(vx_forward(d, tokens, w, embeddings, row_of, position_of, again) == DONE, "once, but not again");
    EXPECT(!memcmp(latents, again, cells * 4), "other latents the second time");
    int finite = 1;
    for (size_t i = 0; i < cells; i++) finite = finite && isfinite(latents[i]);
    EXPECT(finite || oddly || odd_weights, "latents that are not finite");
    odd_weights |= oddly;                   // the cache keeps what it was given
  } else {
    for (size_t i = 0; i < cells * 4; i++) EXPECT(((char *)latents)[i] == 0x7f, "a refused call wrote");
  }
  free(embeddings), free(latents), free(again), free(row_of), free(position_of);
}

static void copy(void) {
  int row = number(0, rows - 1), count = number(1, positions), into = (int)chance(2);
  Decoder *d = wild && !chance(64) ? NULL : decoder;
  int64_t bytes = -1;
  int right = d && count >= 1 && count <= positions;
  check_status(vx_prefix_bytes(d, count, &bytes), right);
  EXPECT(right ? bytes > 0 : bytes == 0, "size of a prefix");
  if (wild && !chance(8)) bytes += (int64_t)number(-100, 100), right = 0;
  int fits = bytes >= 0 && bytes < 8 << 20;
  char *saved = malloc(fits ? (size_t)bytes + !bytes : 1);
  for (int64_t i = 0; fits && i < bytes; i++) saved[i] = (char)chance(256);
  right = right && row >= 0 && row < rows;
  int64_t expected = 0;
  if (d && count >= 1 && count <= positions && row >= 0 && row < rows)
    vx_prefix_bytes(d, count, &expected), right = expected == bytes;
  check_status(vx_copy_prefix(d, row, count, saved, bytes, into), right);
  if (right && into) odd_weights = 1;
  free(saved);
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  long calls = atol(arguments[2]);
  state = strtoull(arguments[1], NULL, 10) * 0x9e3779b97f4a7c15u + 1;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (long done = 0; done < calls && !failed;) {
    wild = chance(4) ? (int)chance(40) + 2 : 0;
    oddly = !chance(4);
    countdown = chance(4) ? -1 : (int)chance(60);
    make();
    if (!chance(8)) countdown = -1;
    if (chance(8)) complete();
    for (int more = decoder ? (int)chance(40) : 2; more > 0 && !failed; more--) {
      if (decoder && !chance(4)) countdown = -1;
      if (!decoder && !wild) break;
      if (!decoder) layers = 1, width = 64, rows = positions = most_tokens = 2;
      uint32_t what = chance(10);
      if (what == 0) set_norm(number(0, layers), number(0, 1));
      else if (what == 1) set_linear(number(0, layers - 1), number(0, LINEAR_COUNT - 1));
      else if (what <= 3) copy();
      else forward();
    }
    done = 0;
    for (int i = 0; i <= NO_WEIGHTS; i++) done += answers[i];
  }
  if (decoder) vx_free(decoder);
  EXPECT(held == 0, "memory, a mapping or a thread was not given back");
  printf("seed %s: %s; calls by status:", arguments[1], failed ? "FAILED" : "ok");
  for (int i = 0; i <= NO_WEIGHTS; i++) printf(" %ld", answers[i]);
  printf("\n");
  return failed;
}
