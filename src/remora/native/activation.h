/* Activations and their gradients, element by element. */

/* Phi(x), the normal distribution function, by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), and e^(-x^2/2). */
INLINE float normal_cdf(float x, float *bell) {
    float t = 1.0f / (1.0f + 0.3275911f * 0.70710678118655f * fabsf(x));
    float poly = 1.061405429f;
    poly = poly * t - 1.453152027f;
    poly = poly * t + 1.421413741f;
    poly = poly * t - 0.284496736f;
    poly = poly * t + 0.254829592f;
    *bell = exp_fast(-0.5f * x * x);
    float tail = 0.5f * poly * t * *bell;
    return x < 0.0f ? tail : 1.0f - tail;
}

INLINE float gelu(float x) {
    float bell;
    return x * normal_cdf(x, &bell);
}

INLINE float gelu_slope(float x) {
    float bell;
    float below = normal_cdf(x, &bell);
    return below + x * bell * 0.398942280401433f;
}

/* x s(2u), u = sqrt(2 / pi) (x + 0.044715 x^3): the same as x (1 + tanh(u)) / 2. */
INLINE float gelu_tanh(float x) {
    return x * sigmoid(1.59576912160573f * (x + 0.044715f * x * x * x));
}

INLINE float gelu_tanh_slope(float x) {
    float s = sigmoid(1.59576912160573f * (x + 0.044715f * x * x * x));
    return s + x * s * (1.0f - s) * 1.59576912160573f * (1.0f + 0.134145f * x * x);
}

INLINE float silu(float x) { return x * sigmoid(x); }

INLINE float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

#define ACTIVATION(type, name)                                                                                     \
    void name##_##type(const type *x, type *y, int64_t num) {                                                      \
        for (int64_t i = 0; i < num; i++) store_##type(y + i, name(load_##type(x + i)));                           \
    }                                                                                                              \
    void name##_back_##type(const type *x, const type *grad, type *out, int64_t num) {                             \
        for (int64_t i = 0; i < num; i++)                                                                          \
            store_##type(out + i, load_##type(grad + i) * name##_slope(load_##type(x + i)));                       \
    }

#define ACTIVATIONS(type) ACTIVATION(type, gelu) ACTIVATION(type, gelu_tanh) ACTIVATION(type, silu)

ACTIVATIONS(float)
ACTIVATIONS(bf16)
