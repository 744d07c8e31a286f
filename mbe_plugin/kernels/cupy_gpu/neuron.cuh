// The MBE neuron of one element: the torch path's operations, in its order, in float32.
//
// Every product and sum is rounded once (--fmad=false), subnormal numbers are kept, division and square roots are correctly
// rounded: see OPTIONS in kernel.py. The tests compile this same file for the CPU too, where the intrinsics are a header's.

enum Kind { NONE, CLIP, FRACTION, EXPONENT, OCTAVE };        // Reduction.kind
enum Power { LINEAR, INVERSE, ROOT, INVERSE_ROOT };          // Reduction.power: 1, -1, 1/2, -1/2
enum { MOST_STEPS = 20 };                                    // tables.MAX_TIME_STEPS: what registers are kept for

typedef long long whole;

struct Neuron {
    const float *threshold, *reset, *intensity;              // [T, N]
    const float *weight, *offset, *gain;                     // [N]
    const float *bias;                                       // [banks]
    const float *breakpoints;                                // [segments - 1]
    int time_steps, bases, banks, per_bank, kind, power;
    bool mirrored, octaves, one_sided, halving;
};

struct Start {  // what is known of an element before its first step
    float x, reduced;
    int exponent, bank, first_row;
    bool active;
};

struct Half { unsigned short bits; };
struct Brain { unsigned short bits; };  // bfloat16

__device__ inline float infinity() { return __int_as_float(0x7F800000); }
__device__ inline float not_a_number() { return __int_as_float(0x7FC00000); }

__device__ inline float load(const float *x, whole at) { return x[at]; }
__device__ inline float load(const Brain *x, whole at) { return __int_as_float((int)((unsigned)x[at].bits << 16)); }

__device__ inline float load(const Half *x, whole at) {
    const unsigned bits = x[at].bits, sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7FFFu) << 13;
    if (magnitude >= 0x1Fu << 23) return __int_as_float((int)(sign | 0x7F800000u | magnitude));
    const float value = __int_as_float((int)magnitude) * 5192296858534827628530496329220096.0f;  // 2^112
    return sign ? -value : value;
}

__device__ inline void store(float *y, whole at, float value) { y[at] = value; }

// to nearest, of two the even one
__device__ inline void store(Brain *y, whole at, float value) {
    const unsigned bits = (unsigned)__float_as_int(value);
    y[at].bits = value != value ? 0x7FC0 : (unsigned short)((bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16);
}

__device__ inline void store(Half *y, whole at, float value) {
#ifdef __CUDA_ARCH__
    unsigned short nearest;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(nearest) : "f"(value));
    y[at].bits = nearest;
#else
    const unsigned bits = (unsigned)__float_as_int(value), magnitude = bits & 0x7FFFFFFFu, sign = (bits >> 16) & 0x8000u;
    unsigned rounded;
    if (magnitude > 0x7F800000u) rounded = 0x7E00u;
    else if (magnitude >= 0x47800000u) rounded = 0x7C00u;
    else if (magnitude < 0x38800000u)  // a subnormal number: the addition shifts and rounds
        rounded = (unsigned)__float_as_int(__int_as_float((int)magnitude) + 0.5f) - 0x3F000000u;
    else rounded = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1)) >> 13;
    y[at].bits = (unsigned short)(sign | rounded);
#endif
}

// 2^exponent; 0 below the normal range, infinity above
__device__ inline float power_of_two(int exponent) {
    const int field = exponent + 127;
    return __int_as_float((field < 0 ? 0 : field > 255 ? 255 : field) << 23);
}

// scaling.scale_by_power_of_two
__device__ inline float shifted(float y, int exponent) {
    const int half = exponent >> 1;
    return y * power_of_two(half) * power_of_two(exponent - half);
}

// neuron.dynamics.bank_index
__device__ inline int bank_of(float reduced, const Neuron &n) {
    const int points = (n.mirrored ? n.banks / 2 : n.banks) - 1;
    float compared = reduced;
    if (n.octaves) {
        const int bits = max(__float_as_int(reduced) & 0x7FFFFFFF, 1 << 23);
        compared = __int_as_float((bits & 0x7FFFFF) | (126 << 23));
    } else if (n.mirrored) {
        compared = fabsf(reduced);
    }
    int low = 0, high = points;  // the first `low` break points are at or below it
    while (low < high) {
        const int middle = (low + high) >> 1;
        if (compared >= n.breakpoints[middle]) low = middle + 1;
        else high = middle;
    }
    return n.mirrored && reduced < 0.0f ? low + points + 1 : low;
}

// Reduction.split, and the bank
__device__ inline Start begin(float x, const Neuron &n) {
    const float last = 0.999999940395355224609375f;  // 1 - 2^-24, the largest number below 1
    Start s = {x, x, 0, 0, 0, true};
    if (n.kind == CLIP) {
        s.reduced = x > last ? last : x < -last ? -last : x;
    } else if (n.kind == FRACTION) {
        const float below = floorf(x);
        s.active = below >= -126.0f && x < infinity();
        s.exponent = s.active ? (int)fminf(below, 254.0f) : 0;
        s.reduced = s.active ? x - below : 0.0f;
    } else if (n.kind != NONE) {
        const bool root = n.power == ROOT || n.power == INVERSE_ROOT;
        const int bits = __float_as_int(x), field = (bits >> 23) & 0xFF;
        const int odd = root && n.kind == EXPONENT ? (field - 126) & 1 : 0;  // halving the exponent needs it even
        s.exponent = field - 126 - odd;
        s.reduced = __int_as_float((int)((unsigned)bits & 0x807FFFFFu) | ((126 + odd) << 23));
        s.active = field != 0 && field != 0xFF && (x > 0.0f || !(root || n.one_sided));
    }
    if (n.banks > 1) s.bank = bank_of(s.reduced, n);
    s.first_row = s.bank * n.per_bank;
    return s;
}

// Reduction.scale
__device__ inline float scaled(float y, const Start &s, const Neuron &n) {
    int exponent = s.exponent;
    if (n.kind == OCTAVE && (exponent & 1)) y = y * (n.power == ROOT ? 1.41421356237309504880f : 0.70710678118654752440f);
    if (n.power == ROOT || n.power == INVERSE_ROOT) exponent >>= 1;
    return shifted(y, n.power == LINEAR || n.power == ROOT ? exponent : -exponent);
}

// what an element reads that sends nothing
__device__ inline float limit_of(float x, const Neuron &n) {
    if (n.kind == FRACTION) return x < 0.0f ? 0.0f : x;
    if (n.power == LINEAR) return fabsf(x) < infinity() ? x * 0.0f : x;
    if (n.power == INVERSE) return 1.0f / x;
    return n.power == ROOT ? sqrtf(x) : 1.0f / sqrtf(x);
}

// Reduction.restore, of a decoded value or of the first step's spikes with the constant
__device__ inline float restored(float y, const Start &s, const Neuron &n) {
    if (n.kind == NONE || n.kind == CLIP) return y + s.x * 0.0f;
    if (n.one_sided && s.x < 0.0f) return not_a_number();
    return s.active ? scaled(y, s, n) : limit_of(s.x, n);
}

// what a later step's spikes are worth
__device__ inline float later(float y, const Start &s, const Neuron &n) {
    if (n.kind == NONE || n.kind == CLIP) return y;
    return s.active ? scaled(y, s, n) : 0.0f;
}

__device__ inline float membrane_of(const Start &s, int row, const Neuron &n) {
    return n.gain[row] * (s.reduced - n.offset[row]);
}

// s[t] as 0 or 1, and u[t + 1] in the place of u[t]; intensity: d[t]
__device__ inline float step(float &membrane, int t, int row, const Neuron &n, float &intensity) {
    const whole at = (whole)t * n.bases + row;
    float threshold, reset;
    if (n.halving) {
        threshold = reset = intensity = power_of_two(-1 - t);
    } else {
        threshold = n.threshold[at], reset = n.reset[at], intensity = n.intensity[at];
    }
    const float spike = membrane - threshold >= 0.0f ? 1.0f : 0.0f;
    membrane = membrane - spike * reset;
    return spike;
}

// steps.decode
__device__ inline float decoded(const Start &s, const Neuron &n) {
    float total = 0.0f;
    for (int row = s.first_row; row < s.first_row + n.per_bank; ++row) {
        float membrane = membrane_of(s, row, n), output = 0.0f, intensity;
        for (int t = 0; t < n.time_steps; ++t) {
            const float spike = step(membrane, t, row, n, intensity);
            output = output + spike * intensity;
        }
        total = total + n.weight[row] * output;
    }
    return restored(total + n.bias[s.bank], s, n);
}

// steps.weighted_sequence with the range reduction's scale inside: y[t * stride + at] for all t
template <class Number>
__device__ inline void write_sequence(const Start &s, const Neuron &n, Number *y, whole at, whole stride) {
    float weighted[MOST_STEPS];
#pragma unroll
    for (int t = 0; t < MOST_STEPS; ++t) weighted[t] = 0.0f;
    for (int row = s.first_row; row < s.first_row + n.per_bank; ++row) {
        const float weight = n.weight[row];
        float membrane = membrane_of(s, row, n), intensity;
#pragma unroll
        for (int t = 0; t < MOST_STEPS; ++t) {
            if (t >= n.time_steps) break;
            const float spike = step(membrane, t, row, n, intensity);
            weighted[t] = weighted[t] + weight * (spike * intensity);
        }
    }
    store(y, at, restored(weighted[0] + n.bias[s.bank], s, n));
#pragma unroll
    for (int t = 1; t < MOST_STEPS; ++t) {
        if (t >= n.time_steps) break;
        store(y, at + t * stride, later(weighted[t], s, n));
    }
}

// the spikes of all N bases, 0 for those that the element does not drive: y[(t * N + basis) * stride + at]
template <class Number>
__device__ inline void write_trains(const Start &s, const Neuron &n, Number *y, whole at, whole stride) {
    for (int row = 0; row < n.bases; ++row) {
        const bool driven = s.active && row >= s.first_row && row < s.first_row + n.per_bank;
        float membrane = driven ? membrane_of(s, row, n) : 0.0f, intensity;
        for (int t = 0; t < n.time_steps; ++t) {
            const float spike = driven ? step(membrane, t, row, n, intensity) : 0.0f;
            store(y, ((whole)t * n.bases + row) * stride + at, spike);
        }
    }
}

// steps.spike_counts of one element: one more in each slot [T, N] that fires, and in the last for an exponent
template <class Count>
__device__ inline void add_counts(const Start &s, const Neuron &n, Count *counts) {
    if (!s.active) return;
    for (int row = s.first_row; row < s.first_row + n.per_bank; ++row) {
        float membrane = membrane_of(s, row, n), intensity;
        for (int t = 0; t < n.time_steps; ++t)
            if (step(membrane, t, row, n, intensity) > 0.0f) atomicAdd(&counts[t * n.bases + row], (Count)1);
    }
    if (n.kind != NONE && n.kind != CLIP) atomicAdd(&counts[n.time_steps * n.bases], (Count)1);
}
