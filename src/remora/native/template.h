/* The kernels for one stored type. Included once per type, with ELEMENT, LOAD, STORE and NAME defined.
   T rows of a pass, H heads, K key-value heads, G = H / K, F head features, D and O features of a linear layer, R rank.
   Functions return 0, or -1 when there was no memory. */

/* Which elements dropout keeps: those whose 15 bits are at least `level`; a kept one is multiplied by `scale`.
   level 0 means no dropout. Rows with exempt[row] != 0 are left alone. */
typedef struct {
    const int32_t *keys;
    const int32_t *counters;
    const uint8_t *exempt;
    int32_t site;
    int32_t level;
    float scale;
} NAME(Dropout);

INLINE int NAME(drops)(const NAME(Dropout) *dropout, int64_t row) {
    return dropout->level > 0 && !(dropout->exempt && dropout->exempt[row]);
}

/* One row in float32, dropped. `words` has room for (num + 1) / 2. */
INLINE void NAME(load_row)(const ELEMENT *x, int64_t num, const NAME(Dropout) *dropout, int64_t row, int32_t *words,
                           float *out) {
    if (!NAME(drops)(dropout, row)) {
        for (int64_t i = 0; i < num; i++) out[i] = LOAD(x + i);
        return;
    }
    random_row(mix(dropout->keys[row] ^ dropout->site), dropout->counters, (num + 1) / 2, words);
    const uint16_t *bits = (const uint16_t *)words;
    for (int64_t i = 0; i < num; i++)
        out[i] = (bits[i] & 0x7fff) >= dropout->level ? LOAD(x + i) * dropout->scale : 0.0f;
}

/* y = dropout(x) for rows of `num` features. */
int NAME(drop)(const ELEMENT *x, ELEMENT *y, int64_t rows, int64_t num, const int32_t *keys, int32_t site,
               const int32_t *counters, const uint8_t *exempt, int32_t level, float scale) {
    NAME(Dropout) dropout = {keys, counters, exempt, site, level, scale};
    int32_t *words = (int32_t *)scratch((num + 1) / 2);
    if (!words) return -1;
    for (int64_t row = 0; row < rows; row++, x += num, y += num) {
        if (!NAME(drops)(&dropout, row)) {
            if (x != y) memcpy(y, x, (size_t)num * sizeof(ELEMENT));
            continue;
        }
        random_row(mix(keys[row] ^ site), counters, (num + 1) / 2, words);
        const uint16_t *bits = (const uint16_t *)words;
        for (int64_t i = 0; i < num; i++) {
            ELEMENT kept;
            STORE(&kept, LOAD(x + i) * scale);
            y[i] = (bits[i] & 0x7fff) >= level ? kept : (ELEMENT)0;
        }
    }
    return 0;
}

/* y = level * scale: two 4-bit codes per byte, the first in the high bits, a scale for each `block` of an even size.
   A block has no more than 16 different values, so they are multiplied and rounded once. */
int NAME(dequantise)(const uint8_t *codes, const float *scales, const float *levels, int64_t num, int64_t block,
                     ELEMENT *y) {
    for (int64_t start = 0; start < num; start += block) {
        ELEMENT values[16];
        float scale = scales[start / block];
        for (int l = 0; l < 16; l++) STORE(values + l, levels[l] * scale);
        int64_t stop = start + block < num ? start + block : num;
        for (int64_t i = start; i + 1 < stop; i += 2) {
            uint8_t pair = codes[i / 2];
            y[i] = values[pair >> 4];
            y[i + 1] = values[pair & 15];
        }
        if (stop % 2) y[stop - 1] = values[codes[stop / 2] >> 4];
    }
    return 0;
}

/* What the forward and backward pass of attention share. Strides count elements; features lie side by side. */
typedef struct {
    const ELEMENT *q, *k, *v;
    int64_t q_row, q_head, k_row, k_head, v_row, v_head;
    int64_t heads, kv_heads, features;
    const int64_t *starts, *lengths;
    int64_t sequences;
    float scaling, softcap; /* softcap 0: none */
    int64_t window;         /* 0: none */
    int32_t causal;
    int32_t half;           /* counters per head */
    NAME(Dropout) dropout;
} NAME(Attention);

/* Rows of the longest sequence. */
static int64_t NAME(longest)(const NAME(Attention) *a) {
    int64_t longest = 0;
    for (int64_t s = 0; s < a->sequences; s++) longest = a->lengths[s] > longest ? a->lengths[s] : longest;
    return longest;
}

/* (L, F) of one head to (L, width) float32, zeros behind. */
static void NAME(load_head)(const ELEMENT *x, int64_t length, int64_t row, int64_t features, float factor, float *out,
                            int64_t width) {
    int64_t whole = features / WIDTH * WIDTH;
    for (int64_t t = 0; t < length; t++, x += row, out += width) {
        EACH(f, whole) out[f] = LOAD(x + f) * factor;
        for (int64_t f = whole; f < features; f++) out[f] = LOAD(x + f) * factor;
        for (int64_t f = features; f < width; f++) out[f] = 0.0f;
    }
}

static void NAME(store_head)(const float *x, int64_t length, int64_t width, int64_t features, float factor,
                             ELEMENT *out, int64_t row) {
    int64_t whole = features / WIDTH * WIDTH;
    for (int64_t t = 0; t < length; t++, x += width, out += row) {
        EACH(f, whole) STORE(out + f, x[f] * factor);
        for (int64_t f = whole; f < features; f++) STORE(out + f, x[f] * factor);
    }
}

/* (L, from_width) to (features, width), zeros behind. */
static void NAME(transpose)(const float *x, int64_t length, int64_t from_width, int64_t features, float *out,
                            int64_t width) {
    for (int64_t start = 0; start < features; start += HALF) {
        int64_t stop = start + HALF < features ? start + HALF : features;
        for (int64_t t = 0; t < length; t++)
            for (int64_t f = start; f < stop; f++) out[f * width + t] = x[t * from_width + f];
        for (int64_t f = start; f < stop; f++)
            for (int64_t t = length; t < width; t++) out[f * width + t] = 0.0f;
    }
}

/* Keys that query i may look at: [*low, *high). */
INLINE void NAME(sight)(const NAME(Attention) *a, int64_t i, int64_t length, int64_t *low, int64_t *high) {
    *low = a->window && i - a->window + 1 > 0 ? i - a->window + 1 : 0;
    *high = a->causal ? i + 1 : (a->window && i + a->window < length ? i + a->window : length);
}

/* Factors of dropout on one query's probabilities, for all places of a padded row. */
INLINE void NAME(probs_factors)(const NAME(Attention) *a, int64_t row, int64_t head, int64_t width, int32_t *words,
                                float *factor) {
    const NAME(Dropout) *d = &a->dropout;
    if (!NAME(drops)(d, row)) {
        EACH(j, width) factor[j] = 1.0f;
        return;
    }
    int32_t key = mix(d->keys[row] ^ d->site);
    const int32_t *counters = d->counters + head * a->half;
    for (int64_t j = 0; j < width / 2; j += HALF) random_row(key, counters + j, HALF, words + j);
    const uint16_t *bits = (const uint16_t *)words;
    for (int64_t j = 0; j < width; j += WIDTH) *(vec *)(factor + j) = kept_scale(bits + j, d->level, d->scale);
}

/* Scores of one query made ready for exp: soft-capped, minus infinity where it must not look. */
INLINE void NAME(limit_scores)(const NAME(Attention) *a, int64_t i, int64_t length, int64_t width, float *p) {
    int64_t low, high;
    NAME(sight)(a, i, length, &low, &high);
    if (a->softcap > 0.0f) EACH(j, width) p[j] = a->softcap * tanh_fast(p[j] / a->softcap);
    for (int64_t j = 0; j < low; j++) p[j] = -INFINITY;
    for (int64_t j = high; j < width; j++) p[j] = -INFINITY;
}

/* out (T, H, F) contiguous; stats (T, H, 2): each query's largest score and the inverse of its sum of exponentials. */
int NAME(attend)(const NAME(Attention) *a, ELEMENT *out, float *stats) {
    int64_t longest = NAME(longest)(a), F = a->features, width_F = round_up(F), groups = a->heads / a->kv_heads;
    int64_t room = round_up(longest);
    float *kt = scratch(F * room + 3 * longest * width_F + longest * room + 2 * room);
    if (!kt) return -1;
    float *v = kt + F * room, *q = v + longest * width_F, *o = q + longest * width_F;
    float *scores = o + longest * width_F, *factor = scores + longest * room;
    int32_t *words = (int32_t *)(factor + room);
    for (int64_t s = 0; s < a->sequences; s++) {
        int64_t start = a->starts[s], L = a->lengths[s], width = round_up(L);
        for (int64_t kv = 0; kv < a->kv_heads; kv++) {
            NAME(load_head)(a->k + start * a->k_row + kv * a->k_head, L, a->k_row, F, 1.0f, o, width_F);
            NAME(transpose)(o, L, width_F, F, kt, width);
            NAME(load_head)(a->v + start * a->v_row + kv * a->v_head, L, a->v_row, F, 1.0f, v, width_F);
            for (int64_t h = kv * groups; h < (kv + 1) * groups; h++) {
                NAME(load_head)(a->q + start * a->q_row + h * a->q_head, L, a->q_row, F, a->scaling, q, width_F);
                product(L, width, F, q, width_F, 1, kt, width, scores, width, 0);
                for (int64_t i = 0; i < L; i++) {
                    float *p = scores + i * width;
                    NAME(limit_scores)(a, i, L, width, p);
                    vec most = *(vec *)p, sums = {0};
                    for (int64_t j = WIDTH; j < width; j += WIDTH) most = larger(*(vec *)(p + j), most);
                    float largest = largest_of(most);
                    EACH(j, width) p[j] = exp_or_zero(p[j] - largest);
                    for (int64_t j = 0; j < width; j += WIDTH) sums += *(vec *)(p + j);
                    float inverse = 1.0f / sum_of(sums);
                    NAME(probs_factors)(a, start + i, h, width, words, factor);
                    EACH(j, width) p[j] *= inverse * factor[j];
                    float *stat = stats + ((start + i) * a->heads + h) * 2;
                    stat[0] = largest;
                    stat[1] = inverse;
                }
                product(L, width_F, L, scores, width, 1, v, width_F, o, width_F, 0);
                NAME(store_head)(o, L, width_F, F, 1.0f, out + (start * a->heads + h) * F, a->heads * F);
            }
        }
    }
    return 0;
}

/* Gradients of contiguous (T, H, F) and (T, K, F); dq, dk, dv may be NULL. grad is (T, H, F), contiguous. */
int NAME(attend_back)(const NAME(Attention) *a, const float *stats, const ELEMENT *grad, ELEMENT *dq, ELEMENT *dk,
                      ELEMENT *dv) {
    int64_t longest = NAME(longest)(a), F = a->features, width_F = round_up(F), groups = a->heads / a->kv_heads;
    int64_t room = round_up(longest), block = longest * width_F;
    float *kt = scratch(2 * F * room + 6 * block + 3 * longest * room + 2 * room);
    if (!kt) return -1;
    float *vt = kt + F * room, *k = vt + F * room, *q = k + block, *g = q + block, *sum_k = g + block;
    float *sum_v = sum_k + block, *sum_q = sum_v + block, *scores = sum_q + block, *dropped = scores + longest * room;
    float *back = dropped + longest * room, *factor = back + longest * room;
    int32_t *words = (int32_t *)(factor + room);
    for (int64_t s = 0; s < a->sequences; s++) {
        int64_t start = a->starts[s], L = a->lengths[s], width = round_up(L);
        for (int64_t kv = 0; kv < a->kv_heads; kv++) {
            NAME(load_head)(a->v + start * a->v_row + kv * a->v_head, L, a->v_row, F, 1.0f, k, width_F);
            NAME(transpose)(k, L, width_F, F, vt, width);
            NAME(load_head)(a->k + start * a->k_row + kv * a->k_head, L, a->k_row, F, 1.0f, k, width_F);
            NAME(transpose)(k, L, width_F, F, kt, width);
            for (int64_t h = kv * groups; h < (kv + 1) * groups; h++) {
                int more = h > kv * groups;
                NAME(load_head)(a->q + start * a->q_row + h * a->q_head, L, a->q_row, F, a->scaling, q, width_F);
                NAME(load_head)(grad + (start * a->heads + h) * F, L, a->heads * F, F, 1.0f, g, width_F);
                product(L, width, F, q, width_F, 1, kt, width, scores, width, 0);
                product(L, width, F, g, width_F, 1, vt, width, back, width, 0);
                for (int64_t i = 0; i < L; i++) {
                    float *p = scores + i * width, *d = dropped + i * width, *b = back + i * width;
                    vec sums = {0};
                    const float *stat = stats + ((start + i) * a->heads + h) * 2;
                    NAME(limit_scores)(a, i, L, width, p);
                    NAME(probs_factors)(a, start + i, h, width, words, factor);
                    if (a->softcap > 0.0f) { /* the derivative of the cap at capped score c is 1 - (c / cap)^2 */
                        EACH(j, width) {
                            float t = p[j] / a->softcap, prob = exp_or_zero(p[j] - stat[0]) * stat[1];
                            d[j] = prob * factor[j];
                            p[j] = p[j] == -INFINITY ? 0.0f : prob * (1.0f - t * t);
                        }
                    } else {
                        EACH(j, width) {
                            p[j] = exp_or_zero(p[j] - stat[0]) * stat[1];
                            d[j] = p[j] * factor[j];
                        }
                    }
                    for (int64_t j = 0; j < width; j += WIDTH) sums += *(vec *)(b + j) * *(vec *)(d + j);
                    float sum = sum_of(sums);
                    EACH(j, width) p[j] *= b[j] * factor[j] - sum;
                }
                if (dv) product(L, width_F, L, dropped, 1, width, g, width_F, sum_v, width_F, more);
                if (dk) product(L, width_F, L, scores, 1, width, q, width_F, sum_k, width_F, more);
                if (dq) {
                    product(L, width_F, L, scores, width, 1, k, width_F, sum_q, width_F, 0);
                    NAME(store_head)(sum_q, L, width_F, F, a->scaling, dq + (start * a->heads + h) * F, a->heads * F);
                }
            }
            int64_t at = (start * a->kv_heads + kv) * F, row = a->kv_heads * F;
            if (dk) NAME(store_head)(sum_k, L, width_F, F, 1.0f, dk + at, row);
            if (dv) NAME(store_head)(sum_v, L, width_F, F, 1.0f, dv + at, row);
        }
    }
    return 0;
}

/* The low-rank term of one lane at one linear layer: y += s B A dropout(x), A (R, D), B (O, R). */
typedef struct {
    const ELEMENT *x;
    const float *A, *B;
    int64_t rows, D, O, R;
    float scaling;
    NAME(Dropout) dropout;
} NAME(LowRank);

enum { NAME(BLOCK) = 16 }; /* rows whose intermediate values stay in the first-level cache */

static void NAME(pad)(const float *from, int64_t rows, int64_t columns, int64_t row, int64_t column, float *to,
                      int64_t width) {
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j++) to[i * width + j] = from[i * row + j * column];
        for (int64_t j = columns; j < width; j++) to[i * width + j] = 0.0f;
    }
}

/* hidden (T, R') with R' = R rounded up to HALF: A dropout(x), kept for the backward pass. */
int NAME(low_rank)(const NAME(LowRank) *w, ELEMENT *y, float *hidden) {
    int64_t D = w->D, O = w->O, R = w->R, width_R = round_up_half(R), width_O = round_up(O), width_D = round_up(D);
    float *at = scratch(D * width_R + R * width_O + NAME(BLOCK) * (width_D + width_O) + width_D);
    if (!at) return -1;
    float *bt = at + D * width_R, *x = bt + R * width_O, *sum = x + NAME(BLOCK) * width_D;
    int32_t *words = (int32_t *)(sum + NAME(BLOCK) * width_O);
    NAME(pad)(w->A, D, R, 1, D, at, width_R);
    NAME(pad)(w->B, R, O, 1, R, bt, width_O);
    for (int64_t start = 0; start < w->rows; start += NAME(BLOCK)) {
        int64_t num = w->rows - start < NAME(BLOCK) ? w->rows - start : NAME(BLOCK);
        for (int64_t i = 0; i < num; i++)
            NAME(load_row)(w->x + (start + i) * D, D, &w->dropout, start + i, words, x + i * width_D);
        product(num, width_R, D, x, width_D, 1, at, width_R, hidden + start * width_R, width_R, 0);
        product(num, width_O, R, hidden + start * width_R, width_R, 1, bt, width_O, sum, width_O, 0);
        for (int64_t i = 0; i < num; i++) {
            ELEMENT *out = y + (start + i) * O;
            const float *from = sum + i * width_O;
            for (int64_t o = 0; o < O; o++) STORE(out + o, LOAD(out + o) + w->scaling * from[o]);
        }
    }
    return 0;
}

/* grad (T, O). dA (R, D) and dB (O, R) are written, dx (T, D) is added to; any may be NULL. */
int NAME(low_rank_back)(const NAME(LowRank) *w, const float *hidden, const ELEMENT *grad, float *dA, float *dB,
                        ELEMENT *dx) {
    int64_t D = w->D, O = w->O, R = w->R, width_R = round_up_half(R), width_O = round_up(O), width_D = round_up(D);
    int64_t block = NAME(BLOCK);
    float *b = scratch(2 * O * width_R + D * width_R + R * width_D + block * (width_O + 2 * width_D + width_R) + width_D);
    if (!b) return -1;
    float *sum_B = b + O * width_R, *sum_A = sum_B + O * width_R, *a = sum_A + D * width_R, *g = a + R * width_D;
    float *x = g + block * width_O, *back = x + block * width_D, *low = back + block * width_D;
    int32_t *words = (int32_t *)(low + block * width_R);
    NAME(pad)(w->B, O, R, R, 1, b, width_R);
    NAME(pad)(w->A, R, D, D, 1, a, width_D);
    for (int64_t start = 0; start < w->rows; start += block) {
        int64_t num = w->rows - start < block ? w->rows - start : block;
        int more = start > 0;
        for (int64_t i = 0; i < num; i++)
            for (int64_t o = 0; o < O; o++) g[i * width_O + o] = LOAD(grad + (start + i) * O + o) * w->scaling;
        product(num, width_R, O, g, width_O, 1, b, width_R, low, width_R, 0);
        if (dB) product(O, width_R, num, g, 1, width_O, hidden + start * width_R, width_R, sum_B, width_R, more);
        if (dA) {
            for (int64_t i = 0; i < num; i++)
                NAME(load_row)(w->x + (start + i) * D, D, &w->dropout, start + i, words, x + i * width_D);
            product(D, width_R, num, x, 1, width_D, low, width_R, sum_A, width_R, more);
        }
        if (!dx) continue;
        product(num, width_D, R, low, width_R, 1, a, width_D, back, width_D, 0);
        for (int64_t i = 0; i < num; i++) {
            ELEMENT *out = dx + (start + i) * D;
            const float *from = back + i * width_D;
            if (!NAME(drops)(&w->dropout, start + i)) {
                for (int64_t d = 0; d < D; d++) STORE(out + d, LOAD(out + d) + from[d]);
                continue;
            }
            const NAME(Dropout) *drop = &w->dropout;
            random_row(mix(drop->keys[start + i] ^ drop->site), drop->counters, (D + 1) / 2, words);
            const uint16_t *bits = (const uint16_t *)words;
            for (int64_t d = 0; d < D; d++)
                STORE(out + d, LOAD(out + d) + ((bits[d] & 0x7fff) >= drop->level ? from[d] * drop->scale : 0.0f));
        }
    }
    if (dB) NAME(pad)(sum_B, O, R, width_R, 1, dB, R);
    if (dA) NAME(pad)(sum_A, R, D, 1, width_R, dA, D);
    return 0;
}
