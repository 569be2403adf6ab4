/* Runs decode.c in memory that is exactly as large as it may be, for sanitizers to watch. */
#include "decode.c"

#include <stdio.h>
#include <stdlib.h>

static uint32_t state = 1;

static float some(void) {
    state = state * 1664525u + 1013904223u;
    return (float)((int32_t)state / 2147483648.0);
}

static void *filled(long count, int is_bf16) {
    void *memory = malloc(count * (is_bf16 ? 2 : 4));
    for (long i = 0; i < count; i++) put(memory, is_bf16, i, some() * 0.3f);
    return memory;
}

static int all_finite(const float *x, long count) {
    for (long i = 0; i < count; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

/* hidden, heads, KV heads, head size, inner, positions, batch */
static const long shapes[][7] = {
    {1, 1, 1, 2, 1, 3, 1},   {3, 2, 1, 2, 5, 9, 8},    {17, 3, 3, 6, 1, 5, 2},
    {48, 4, 2, 16, 80, 7, 3}, {33, 6, 2, 30, 67, 6, 5}, {19, 2, 2, 128, 31, 5, 1},
};

static int layers(const long *sizes, int bf16_weights, int bf16_cache, int threads) {
    enum { COUNT = 2 };
    shape s = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], 0,
               bf16_weights, bf16_cache, 1e-5f};
    long query = s.heads * s.size, key = s.kv_heads * s.size;
    long out[MODULES] = {query, key, key, s.hidden, s.inner, s.inner, s.hidden};
    long in[MODULES] = {s.hidden, s.hidden, s.hidden, query, s.hidden, s.hidden, s.inner};
    void *parts[COUNT * POINTERS];
    for (long l = 0; l < COUNT; l++) {
        void **p = parts + l * POINTERS;
        for (int m = 0; m < MODULES; m++) {
            p[m] = filled(out[m] * in[m], bf16_weights);
            p[BIASES + m] = l ? filled(out[m], 0) : NULL;
        }
        p[ATTENTION_NORM] = filled(s.hidden, 0);
        p[MLP_NORM] = filled(s.hidden, 0);
    }
    char *cache = filled(COUNT * 2 * s.batch * key * s.capacity, bf16_cache);
    int good = 1;
    for (s.position = 0; s.position < s.capacity; s.position++) {
        float *cosine = filled(s.size / 2, 0), *sine = filled(s.size / 2, 0);
        float *x = filled(s.batch * s.hidden, 0), *work = malloc(decode_work(&s, threads) * sizeof(float));
        decode_layers(&s, parts, COUNT, cache, cosine, sine, x, work, threads);
        good &= all_finite(x, s.batch * s.hidden);
        for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
            void *wire = filled(s.batch * s.hidden, is_bf16), *out = filled(s.batch * s.hidden, is_bf16);
            decode_rounded(&s, parts, COUNT, cache, cosine, sine, wire, is_bf16, x, out, work, threads);
            good &= all_finite(x, s.batch * s.hidden);
            free(wire), free(out);
        }
        free(cosine), free(sine), free(x), free(work);
    }
    for (long i = 0; i < COUNT * POINTERS; i++) free(parts[i]);
    free(cache);
    return good;
}

static int rows(long out, long in, long batch, int bf16_weight, int bf16_out, int threads) {
    void *weight = filled(out * in, bf16_weight);
    float *bias = batch % 2 ? filled(out, 0) : NULL, *x = filled(batch * in, 0);
    void *result = malloc(batch * out * (bf16_out ? 2 : 4));
    few_rows(weight, bf16_weight, bias, out, in, x, batch, result, bf16_out, threads);
    int good = 1;
    for (long i = 0; i < batch * out; i++) good &= isfinite(at(result, bf16_out, i)) != 0;
    free(weight), free(bias), free(x), free(result);
    return good;
}

int main(void) {
    int good = 1;
    for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int kind = 0; kind < 4; kind++)
            for (int threads = 1; threads <= 3; threads++) good &= layers(shapes[i], kind & 1, kind >> 1, threads);
    for (long out = 1; out <= 21; out += 4)
        for (long in = 1; in <= 37; in += 12)
            for (long batch = 1; batch <= 8; batch += 3)
                for (int kind = 0; kind < 4; kind++) good &= rows(out, in, batch, kind & 1, kind >> 1, 3);
    /* what overflows, underflows and is no number ends in no trap */
    const float odd[] = {0, -0.f, 1e-30f, -1e30f, 88.f, -88.f, INFINITY, -INFINITY, NAN};
    for (unsigned i = 0; i < sizeof odd / sizeof *odd; i++) {
        volatile float result = exponential(odd[i]) + widen(narrow(odd[i]));
        (void)result;
    }
    puts(good ? "finite" : "not finite");
    return !good;
}
