/* Elements, elementary functions and random bits, written so that the compiler turns loops over them into vector code.
   Arithmetic is in float32 whatever the stored type. NaN passes through everything. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
typedef float vec __attribute__((vector_size(64), aligned(4)));
typedef int32_t int_vec __attribute__((vector_size(64), aligned(4)));
typedef uint16_t bits_vec __attribute__((vector_size(32), aligned(2)));
typedef float half_vec __attribute__((vector_size(32), aligned(4)));
enum { WIDTH = 16, HALF = 8 }; /* floats of each */

#define INLINE static inline __attribute__((always_inline))

INLINE int64_t round_up(int64_t n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }
INLINE int64_t round_up_half(int64_t n) { return (n + HALF - 1) / HALF * HALF; }

/* A loop over `num` places, a multiple of WIDTH, in blocks of known size: short rows would otherwise run one by one. */
#define EACH(j, num)                                                                                               \
    for (int64_t j##_block = 0; j##_block < (num); j##_block += WIDTH)                                             \
        for (int64_t j = j##_block; j < j##_block + WIDTH; j++)

INLINE float sum_of(vec x) {
    float a = (x[0] + x[1]) + (x[2] + x[3]), b = (x[4] + x[5]) + (x[6] + x[7]);
    float c = (x[8] + x[9]) + (x[10] + x[11]), d = (x[12] + x[13]) + (x[14] + x[15]);
    return (a + b) + (c + d);
}

INLINE vec larger(vec x, vec y) {
    int_vec first = x > y;
    return (vec)((first & (int_vec)x) | (~first & (int_vec)y));
}

INLINE float largest_of(vec x) {
    float most = x[0];
    for (int l = 1; l < WIDTH; l++) most = x[l] > most ? x[l] : most;
    return most;
}

INLINE float load_float(const float *p) { return *p; }
INLINE void store_float(float *p, float value) { *p = value; }

INLINE float load_bf16(const bf16 *p) {
    uint32_t bits = (uint32_t)*p << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Round to nearest, ties to even. */
INLINE void store_bf16(bf16 *p, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *p = value == value ? (bf16)rounded : (bf16)0x7fc0;
}

/* e^x to about 1 ulp by 2^n e^r with |r| <= ln(2)/2; arguments outside [-87, 88] are moved to its ends. */
INLINE float exp_fast(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504088896f);
    float r = x - n * 0.693145751953125f;
    r -= n * 1.42860682030941723e-6f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

/* e^x, exactly 0 for minus infinity. */
INLINE float exp_or_zero(float x) {
    float e = exp_fast(x);
    return x == -INFINITY ? 0.0f : e;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_fast(-x)); }

INLINE float tanh_fast(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

/* The finaliser of remora.engine.hashing.mix_torch. */
INLINE int32_t mix(int32_t key) {
    uint32_t x = (uint32_t)key;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return (int32_t)x;
}

/* remora.engine.hashing.random_bits for one row: 16 bits for each of 2 * num elements (shifts are arithmetic there). */
INLINE void random_row(int32_t key, const int32_t *counters, int64_t num, int32_t *words) {
    for (int64_t j = 0; j < num; j++) {
        int32_t x = (int32_t)((uint32_t)(key ^ counters[j]) * 0x7feb352du);
        x ^= x >> 15;
        x = (int32_t)((uint32_t)x * 0x846ca68bu);
        words[j] = x ^ (x >> 16);
    }
}

/* `scale` where the 15 bits are at least `level`, else 0, for WIDTH places. */
INLINE vec kept_scale(const uint16_t *bits, int32_t level, float scale) {
    int_vec number = __builtin_convertvector(*(const bits_vec *)bits, int_vec) & 0x7fff;
    return (vec)((number >= level) & (int_vec)((vec){0} + scale));
}

/* Memory that a thread keeps from call to call. */
static __thread float *scratch_memory;
static __thread int64_t scratch_size;

static float *scratch(int64_t floats) {
    if (floats > scratch_size) {
        free(scratch_memory);
        scratch_memory = aligned_alloc(64, (size_t)round_up(floats) * sizeof(float));
        scratch_size = scratch_memory ? floats : 0;
    }
    return scratch_memory;
}
