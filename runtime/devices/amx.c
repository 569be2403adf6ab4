/* The layer's kernels for x86-64 processors with matrix tiles (Intel AMX).
 *
 * Activations and weights are bfloat16 here. A float32 value is carried as two of them, x = high + low, and
 * a float32 product is three tile products that are summed in float32 registers before anything is
 * written: high high' + high low' + low high'. Each half is rounded to 2^-9 of itself, so that the two keep
 * 2^-18 of the value, and the product that is left out, low low', is below 2^-18 of the whole.
 * Where there is no low half (NULL), its products are left out.
 *
 * Activations: (rows padded to 32, inner padded to 32), row-major, padding columns zero.
 * Weights: per 32 output columns, per 32 inner elements, two tiles of 16 pairs x 16 columns x 2.
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define CHUNK_ROWS 256  /* rows of activations that stay in the second-level cache */
#define CHUNK_INNER 1024
#define COLUMNS 32
#define PANEL_STEP 1024  /* elements of one panel per 32 inner elements */

typedef uint16_t bf16;

static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} TILES __attribute__((aligned(64))) = {
    1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static inline __mmask16 lanes(long left) { return left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1); }

static inline __m512 load(const void *x, int is_bf16, long index, __mmask16 mask) {
    if (!is_bf16) return _mm512_maskz_loadu_ps(mask, (const float *)x + index);
    __m256i half = _mm256_maskz_loadu_epi16(mask, (const bf16 *)x + index);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline void store(void *x, int is_bf16, long index, __mmask16 mask, __m512 value) {
    if (!is_bf16) _mm512_mask_storeu_ps((float *)x + index, mask, value);
    else _mm256_mask_storeu_epi16((bf16 *)x + index, mask, (__m256i)_mm512_cvtneps_pbh(value));
}

/* 32 values, past the cache; x + index is a cache line's begin */
static inline void stream(void *x, int is_bf16, long index, const __m512 *values) {
    if (is_bf16) {
        __m512i line = _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(values[0]));
        line = _mm512_inserti64x4(line, (__m256i)_mm512_cvtneps_pbh(values[1]), 1);
        _mm512_stream_si512((__m512i *)((bf16 *)x + index), line);
    } else {
        _mm512_stream_ps((float *)x + index, values[0]);
        _mm512_stream_ps((float *)x + index + 16, values[1]);
    }
}

static inline void store_halves(bf16 *high, bf16 *low, long index, __mmask16 mask, __m512 value) {
    __m256i upper = (__m256i)_mm512_cvtneps_pbh(value);
    _mm256_mask_storeu_epi16(high + index, mask, upper);
    if (!low) return;
    __m512 rounded = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16));
    __m256i rest = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(value, rounded));
    _mm256_mask_storeu_epi16(low + index, mask, rest);
}

/* e^x: 2^(whole + fraction), the fraction's power by its Taylor series, |error| < 1e-7 relative. */
static inline __m512 exponential(__m512 x) {
    __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    /* ln 2 in two parts, so that the difference is exact. */
    __m512 f = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    f = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), f);
    __m512 sum = _mm512_set1_ps(1.f / 5040);
    const float coefficients[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};
    for (int i = 0; i < 7; i++) sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(coefficients[i]));
    return _mm512_scalef_ps(sum, whole);
}

/* x (rows, inner) -> halves */
void split(const void *x, int is_bf16, long rows, long inner, bf16 *high, bf16 *low, long stride) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < inner; i += 16)
            store_halves(high + r * stride, low ? low + r * stride : 0, i, lanes(inner - i),
                         load(x, is_bf16, r * inner + i, lanes(inner - i)));
}

/* x (rows, inner) / rms(x) * weight -> halves */
void rms_norm(const void *x, int is_bf16, const float *weight, float eps, long rows, long inner,
              bf16 *high, bf16 *low, long stride) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        __m512 squares = _mm512_setzero_ps();
        for (long i = 0; i < inner; i += 16) {
            __m512 v = load(x, is_bf16, r * inner + i, lanes(inner - i));
            squares = _mm512_fmadd_ps(v, v, squares);
        }
        float scale = 1.f / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / inner + eps);
        for (long i = 0; i < inner; i += 16) {
            __mmask16 mask = lanes(inner - i);
            __m512 v = _mm512_mul_ps(load(x, is_bf16, r * inner + i, mask), _mm512_set1_ps(scale));
            store_halves(high + r * stride, low ? low + r * stride : 0, i, mask,
                         _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, weight + i)));
        }
    }
}

/* x (rows, gate inner + up inner): silu(gate) * up -> halves */
void silu_mul(const void *x, int is_bf16, long rows, long inner, bf16 *high, bf16 *low, long stride) {
    const __m512 one = _mm512_set1_ps(1.f);
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < inner; i += 16) {
            __mmask16 mask = lanes(inner - i);
            __m512 gate = load(x, is_bf16, 2 * r * inner + i, mask);
            __m512 up = load(x, is_bf16, (2 * r + 1) * inner + i, mask);
            __m512 down = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
            store_halves(high + r * stride, low ? low + r * stride : 0, i, mask,
                         _mm512_mul_ps(_mm512_div_ps(gate, down), up));
        }
}

/* In place: the first `heads` heads of each row (stride elements) turn by their token's angles.
 * cosine, sine: (tokens, half) */
void rotate(void *x, int is_bf16, long rows, long tokens, long stride, long heads, long half,
            const float *cosine, const float *sine) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (long h = 0; h < heads; h++)
            for (long i = 0; i < half; i += 16) {
                __mmask16 mask = lanes(half - i);
                long left_at = r * stride + 2 * h * half + i, right_at = left_at + half;
                __m512 left = load(x, is_bf16, left_at, mask), right = load(x, is_bf16, right_at, mask);
                __m512 c = _mm512_maskz_loadu_ps(mask, cosine + (r % tokens) * half + i);
                __m512 s = _mm512_maskz_loadu_ps(mask, sine + (r % tokens) * half + i);
                store(x, is_bf16, left_at, mask, _mm512_fmsub_ps(left, c, _mm512_mul_ps(right, s)));
                store(x, is_bf16, right_at, mask, _mm512_fmadd_ps(right, c, _mm512_mul_ps(left, s)));
            }
}

#define MULTIPLY_ALL()           \
    do {                         \
        _tile_dpbf16ps(0, 4, 6); \
        _tile_dpbf16ps(1, 4, 7); \
        _tile_dpbf16ps(2, 5, 6); \
        _tile_dpbf16ps(3, 5, 7); \
    } while (0)

/* 32 rows by 32 columns over `steps` x 32 inner elements, added to sum (32, COLUMNS) unless first. */
static void multiply_block(const bf16 *high, const bf16 *low, long stride, const bf16 *weight_high,
                           const bf16 *weight_low, long steps, float *sum, int first) {
    float *below = sum + 16 * COLUMNS;
    const long row_bytes = COLUMNS * sizeof(float), bytes = stride * sizeof(bf16), next = 16 * stride;
    if (first) {
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    } else {
        _tile_loadd(0, sum, row_bytes); _tile_loadd(1, sum + 16, row_bytes);
        _tile_loadd(2, below, row_bytes); _tile_loadd(3, below + 16, row_bytes);
    }
    for (long k = 0; k < steps; k++) {
        _tile_loadd(4, high + 32 * k, bytes); _tile_loadd(5, high + next + 32 * k, bytes);
        if (weight_low) {
            _tile_loadd(6, weight_low + k * PANEL_STEP, 64); _tile_loadd(7, weight_low + k * PANEL_STEP + 512, 64);
            MULTIPLY_ALL();
        }
        _tile_loadd(6, weight_high + k * PANEL_STEP, 64); _tile_loadd(7, weight_high + k * PANEL_STEP + 512, 64);
        MULTIPLY_ALL();
        if (low) {
            _tile_loadd(4, low + 32 * k, bytes); _tile_loadd(5, low + next + 32 * k, bytes);
            MULTIPLY_ALL();
        }
    }
    _tile_stored(0, sum, row_bytes); _tile_stored(1, sum + 16, row_bytes);
    _tile_stored(2, below, row_bytes); _tile_stored(3, below + 16, row_bytes);
}

/* out (rows, columns) = activations x weights + bias + residual; residual may be out itself. */
void linear(const bf16 *high, const bf16 *low, long rows, long inner, const bf16 *weight_high,
            const bf16 *weight_low, long columns, const float *bias, const void *residual, void *out,
            int is_bf16) {
    const long chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS, panels = (columns + COLUMNS - 1) / COLUMNS;
    const long panel = inner / 32 * PANEL_STEP;
    /* Long rows a power of two apart would fight for the same cache lines: write past the cache. */
    const int streams = !residual && (uintptr_t)out % 64 == 0 && columns * (is_bf16 ? 2 : 4) % 64 == 0;
#pragma omp parallel
    {
        float sums[CHUNK_ROWS * COLUMNS] __attribute__((aligned(64)));
        _tile_loadconfig(&TILES);
#pragma omp for collapse(2) schedule(static)
        for (long chunk = 0; chunk < chunks; chunk++)
            for (long p = 0; p < panels; p++) {
                long begin = chunk * CHUNK_ROWS, end = begin + CHUNK_ROWS < rows ? begin + CHUNK_ROWS : rows;
                for (long k = 0; k < inner; k += CHUNK_INNER) {
                    long steps = (inner - k < CHUNK_INNER ? inner - k : CHUNK_INNER) / 32;
                    long at = p * panel + k / 32 * PANEL_STEP;
                    for (long r = begin; r < end; r += 32)
                        multiply_block(high + r * inner + k, low ? low + r * inner + k : 0, inner, weight_high + at,
                                       weight_low ? weight_low + at : 0, steps, sums + (r - begin) * COLUMNS, k == 0);
                }
                int whole = streams && (p + 1) * COLUMNS <= columns;
                for (long r = begin; r < end; r++) {
                    __m512 values[2];
                    for (int half = 0; half < 2; half++) {
                        long c = p * COLUMNS + 16 * half;
                        __mmask16 mask = lanes(columns > c ? columns - c : 0);
                        __m512 v = _mm512_load_ps(sums + (r - begin) * COLUMNS + 16 * half);
                        if (bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, bias + c));
                        if (residual) v = _mm512_add_ps(v, load(residual, is_bf16, r * columns + c, mask));
                        if (!whole) store(out, is_bf16, r * columns + c, mask, v);
                        values[half] = v;
                    }
                    if (whole) stream(out, is_bf16, r * columns + p * COLUMNS, values);
                }
            }
        _mm_sfence();
        _tile_release();
    }
}
