/* One new position per prompt through decoder layers, at the speed at which memory gives the weights.
 *
 * Weights are row-major (out features, in features), float32 or bfloat16, and each is read once for all prompts.
 * Sums, the residual and whatever lies between are float32. One parallel region runs all layers: its threads
 * divide the rows of each product, and wait for one another where a product needs all of the one before.
 * C and the vector types that gcc and clang share: for whichever processor it is compiled on.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define ROWS 4    /* threads divide products by so many rows; so many values are added at once */
#define LANES 16  /* floats in a cache line; what threads write to is kept that far apart */

typedef uint16_t bf16;

#ifdef __AVX512F__
#define WIDTH 16 /* floats in a register */
#elif defined __AVX__
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define SUMS 4 /* vectors of them, so that no addition waits for the one before */
typedef float vector __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));

enum { Q, K, V, O, GATE, UP, DOWN, MODULES, BIASES = MODULES, ATTENTION_NORM = 2 * MODULES, MLP_NORM, POINTERS };

typedef struct {
    long hidden, heads, kv_heads, size, inner, capacity, batch, position;
    int bf16_weights, bf16_cache;
    float eps;
} shape;

INLINE float widen(bf16 x) {
    union { uint32_t bits; float value; } wide = {(uint32_t)x << 16};
    return wide.value;
}

/* to the nearest, ties to even; what is not a number stays none */
INLINE bf16 narrow(float x) {
    union { float value; uint32_t bits; } wide = {x};
    if (x != x) return 0x7FC0;
    return (bf16)((wide.bits + 0x7FFF + ((wide.bits >> 16) & 1)) >> 16);
}

INLINE float at(const void *x, const int is_bf16, long index) {
    return is_bf16 ? widen(((const bf16 *)x)[index]) : ((const float *)x)[index];
}

INLINE void put(void *x, const int is_bf16, long index, float value) {
    if (is_bf16) ((bf16 *)x)[index] = narrow(value);
    else ((float *)x)[index] = value;
}

/* what lies at `index`, wherever that is */
INLINE vector load(const void *x, const int is_bf16, long index) {
    vector wide;
    if (is_bf16) {
        halves narrow;
        memcpy(&narrow, (const bf16 *)x + index, sizeof narrow);
        words bits = __builtin_convertvector(narrow, words) << 16;
        memcpy(&wide, &bits, sizeof wide);
    } else memcpy(&wide, (const float *)x + index, sizeof wide);
    return wide;
}

/* e^x for x <= 0 or not far above: 2^whole by the exponent's bits, the rest by its Taylor series; error < 2e-7 */
INLINE float exponential(float x) {
    float near = x < 87.f ? x > -87.f ? x : -87.f : 87.f; /* a number, whatever x is: it becomes an exponent */
    float whole = floorf(near * 1.44269504f + 0.5f);
    /* ln 2 in two parts, so that the difference is exact. */
    float f = near - whole * 0.693359375f + whole * 2.12194440e-4f;
    float sum = 1.f + f * (1.f + f * (0.5f + f * (1.f / 6 + f * (1.f / 24 + f * (1.f / 120 + f / 720)))));
    union { int32_t bits; float value; } power = {((int32_t)whole + 127) << 23};
    return x == x ? sum * power.value : x; /* what is not a number stays none */
}

/* row . x. Weights are read from their first byte to their last: that order is the one that processors foresee. */
INLINE float dot(const void *rows, const int is_bf16, long row, long inner, const float *x) {
    const char *at_row = (const char *)rows + row * inner * (is_bf16 ? 2 : 4);
    vector sums[SUMS] = {{0}};
    long i = 0;
    for (; i + SUMS * WIDTH <= inner; i += SUMS * WIDTH)
        for (int k = 0; k < SUMS; k++)
            sums[k] += load(at_row, is_bf16, i + k * WIDTH) * load(x, 0, i + k * WIDTH);
    for (; i + WIDTH <= inner; i += WIDTH) sums[0] += load(at_row, is_bf16, i) * load(x, 0, i);
    for (int k = 1; k < SUMS; k++) sums[0] += sums[k];
    float sum = 0;
    for (int k = 0; k < WIDTH; k++) sum += sums[0][k];
    for (; i < inner; i++) sum += at(at_row, is_bf16, i) * x[i];
    return sum;
}

/* out (batch, stride) [begin..end), float32 or bfloat16 = x (batch, inner) weight^T + bias, or added to it */
INLINE void product(const void *weight, const int is_bf16, const float *bias, long begin, long end, long inner,
                    const float *x, long batch, void *out, const int bf16_out, long stride, const int add) {
    for (long row = begin; row < end; row++)
        for (long b = 0; b < batch; b++) {
            const long to = b * stride + row;
            const float before = add ? at(out, bf16_out, to) : 0.f;
            put(out, bf16_out, to, before + dot(weight, is_bf16, row, inner, x + b * inner) + (bias ? bias[row] : 0.f));
        }
}

static void multiply(const void *weight, int is_bf16, const float *bias, long begin, long end, long inner,
                     const float *x, long batch, float *out, long stride, int add) {
    if (is_bf16) product(weight, 1, bias, begin, end, inner, x, batch, out, 0, stride, add);
    else product(weight, 0, bias, begin, end, inner, x, batch, out, 0, stride, add);
}

/* The part of `count` rows that is this thread's, in whole ROWS. */
INLINE void share(long count, long *begin, long *end) {
    long groups = (count + ROWS - 1) / ROWS, threads = omp_get_num_threads(), thread = omp_get_thread_num();
    *begin = groups * thread / threads * ROWS;
    *end = groups * (thread + 1) / threads * ROWS;
    if (*end > count) *end = count;
    if (*begin > count) *begin = count;
}

static void rms_norm(const float *x, const float *weight, const shape *s, float *out) {
    for (long b = 0; b < s->batch; b++) {
        const float *row = x + b * s->hidden;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (long i = 0; i < s->hidden; i++) squares += row[i] * row[i];
        float scale = 1.f / sqrtf(squares / s->hidden + s->eps);
        for (long i = 0; i < s->hidden; i++) out[b * s->hidden + i] = row[i] * scale * weight[i];
    }
}

/* out (size) = x (size) turned by the position's angles, times scale; may be x itself */
INLINE void rotate(const float *x, const shape *s, const float *cosine, const float *sine, float scale, float *out) {
    long half = s->size / 2;
    for (long i = 0; i < half; i++) {
        float left = x[i], right = x[half + i];
        out[i] = (left * cosine[i] - right * sine[i]) * scale;
        out[half + i] = (right * cosine[i] + left * sine[i]) * scale;
    }
}

/* out (size) = softmax(query . keys) values, over `count` positions; scores: (count) */
INLINE void attend(const void *keys, const void *values, const int is_bf16, const shape *s, long count,
                   const float *query, float *scores, float *out) {
    long whole = count / ROWS * ROWS;
    float most = -INFINITY, sum = 0;
    for (long j = 0; j < count; j++) scores[j] = dot(keys, is_bf16, j, s->size, query);
    for (long j = 0; j < count; j++) most = scores[j] > most ? scores[j] : most;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < count; j++) sum += scores[j] = exponential(scores[j] - most);
    memset(out, 0, s->size * sizeof *out);
    for (long j = 0; j < whole; j += ROWS) {
        const float *p = scores + j;
#pragma omp simd
        for (long i = 0; i < s->size; i++)
            out[i] += p[0] * at(values, is_bf16, j * s->size + i) + p[1] * at(values, is_bf16, (j + 1) * s->size + i) +
                      p[2] * at(values, is_bf16, (j + 2) * s->size + i) + p[3] * at(values, is_bf16, (j + 3) * s->size + i);
    }
    for (long j = whole; j < count; j++)
        for (long i = 0; i < s->size; i++) out[i] += scores[j] * at(values, is_bf16, j * s->size + i);
    for (long i = 0; i < s->size; i++) out[i] /= sum;
}

/* Append this position's key and value to the cache of a prompt's KV head, and attend with a head that shares it. */
static void head(const shape *s, long prompt, long h, const float *projected, const float *cosine, const float *sine,
                 char *keys, char *values, float *own, float *out) {
    long group = s->heads / s->kv_heads, kv = h / group, width = s->bf16_cache ? 2 : 4;
    long at_head = (prompt * s->kv_heads + kv) * s->capacity * s->size;
    void *head_keys = keys + at_head * width, *head_values = values + at_head * width;
    float *query = own, *key = own + s->size, *scores = own + 2 * s->size;
    rotate(projected + h * s->size, s, cosine, sine, 1.f / sqrtf((float)s->size), query);
    rotate(projected + (s->heads + kv) * s->size, s, cosine, sine, 1.f, key);
    const float *value = projected + (s->heads + s->kv_heads + kv) * s->size;
    /* Each head of a group writes the same: none has to wait for another. */
    for (long i = 0; i < s->size; i++) {
        put(head_keys, s->bf16_cache, s->position * s->size + i, key[i]);
        put(head_values, s->bf16_cache, s->position * s->size + i, value[i]);
    }
    if (s->bf16_cache) attend(head_keys, head_values, 1, s, s->position + 1, query, scores, out);
    else attend(head_keys, head_values, 0, s, s->position + 1, query, scores, out);
}

static long own_floats(const shape *s) {
    long attention = 2 * s->size + s->position + 1, norm = s->batch * s->hidden;
    return ((attention > norm ? attention : norm) + 2 * LANES) / LANES * LANES;
}

/* How many floats `decode_layers` needs to work in, with at most `threads` threads. */
long decode_work(const shape *s, long threads) {
    return s->batch * ((2 * s->heads + 2 * s->kv_heads) * s->size + 2 * s->inner) + threads * own_floats(s) + LANES;
}

/* x (batch, hidden) += `count` layers. layers: POINTERS of each; biases may be NULL.
 * cache: the keys of the first of these layers, its values, the keys of the next, ...;
 * each (batch, KV heads, capacity, size). cosine, sine: (half of size), of the new position.
 * The number of threads is the caller's: torch may bring an OpenMP of its own, whose settings this one does not know. */
void decode_layers(const shape *s, void *const *layers, long count, char *cache, const float *cosine,
                   const float *sine, float *x, float *work, int threads) {
    const long query = s->heads * s->size, key = s->kv_heads * s->size, all = query + 2 * key;
    const long half_cache = s->batch * key * s->capacity * (s->bf16_cache ? 2 : 4);
    const int narrow_weights = s->bf16_weights;
    float *projected = work, *attended = projected + s->batch * all;
    float *gate = attended + s->batch * query, *up = gate + s->batch * s->inner;
    float *owns = up + s->batch * s->inner;
#pragma omp parallel num_threads(threads)
    {
        float *own = owns + omp_get_thread_num() * own_floats(s);
        long begin, end;
        for (long l = 0; l < count; l++) {
            void *const *p = layers + l * POINTERS;
            char *keys = cache + 2 * l * half_cache, *values = keys + half_cache;

            rms_norm(x, p[ATTENTION_NORM], s, own);
            share(all, &begin, &end);
            /* The rows of q, k and v, as if they were one weight's. */
            for (long m = Q, first = 0; m <= V; m++) {
                long rows = m == Q ? query : key;
                long from = begin > first ? begin - first : 0, to = end - first < rows ? end - first : rows;
                if (from < to)
                    multiply(p[m], narrow_weights, p[BIASES + m], from, to, s->hidden, own, s->batch,
                             projected + first, all, 0);
                first += rows;
            }
#pragma omp barrier
#pragma omp for schedule(static)
            for (long i = 0; i < s->batch * s->heads; i++)
                head(s, i / s->heads, i % s->heads, projected + i / s->heads * all, cosine, sine, keys, values, own,
                     attended + i * s->size);
            /* and waits here for all heads */
            share(s->hidden, &begin, &end);
            multiply(p[O], narrow_weights, p[BIASES + O], begin, end, query, attended, s->batch, x, s->hidden, 1);
#pragma omp barrier
            rms_norm(x, p[MLP_NORM], s, own);
            share(s->inner, &begin, &end);
            multiply(p[GATE], narrow_weights, p[BIASES + GATE], begin, end, s->hidden, own, s->batch, gate, s->inner, 0);
            multiply(p[UP], narrow_weights, p[BIASES + UP], begin, end, s->hidden, own, s->batch, up, s->inner, 0);
            for (long b = 0; b < s->batch; b++)
                for (long i = b * s->inner + begin; i < b * s->inner + end; i++)
                    gate[i] *= up[i] / (1.f + exponential(-gate[i]));
#pragma omp barrier
            share(s->hidden, &begin, &end);
            multiply(p[DOWN], narrow_weights, p[BIASES + DOWN], begin, end, s->inner, gate, s->batch, x, s->hidden, 1);
#pragma omp barrier
        }
    }
}

/* As decode_layers, from x to out (batch, hidden) of the wire's type, by way of `sum` (batch, hidden), float32.
 * Where x is bfloat16 it may be the rounding of the sum that the layer before left there: then that goes on. */
void decode_rounded(const shape *s, void *const *layers, long count, char *cache, const float *cosine,
                    const float *sine, const void *x, int is_bf16, float *sum, void *out, float *work, int threads) {
    const long size = s->batch * s->hidden;
    long same = 0;
    if (is_bf16) while (same < size && narrow(sum[same]) == ((const bf16 *)x)[same]) same++;
    if (same < size) for (long i = 0; i < size; i++) sum[i] = at(x, is_bf16, i);
    decode_layers(s, layers, count, cache, cosine, sine, sum, work, threads);
    for (long i = 0; i < size; i++) put(out, is_bf16, i, sum[i]);
}

/* out (batch, rows), float32 or bfloat16 = x (batch, inner) weight^T + bias */
void few_rows(const void *weight, int bf16_weight, const float *bias, long rows, long inner, const float *x,
              long batch, void *out, int bf16_out, int threads) {
#pragma omp parallel num_threads(threads)
    {
        long begin, end;
        share(rows, &begin, &end);
        if (bf16_weight) product(weight, 1, bias, begin, end, inner, x, batch, out, bf16_out, rows, 0);
        else product(weight, 0, bias, begin, end, inner, x, batch, out, bf16_out, rows, 0);
    }
}
