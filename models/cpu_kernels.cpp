// Some steps of a recurrent layer on a CPU, forward and back: models/steps.py, in vectors that stay in registers.
//
// Each thread takes its share of the B sequences through all steps, and never waits for another. Products read W_hh in
// panels, N vectors wide, for as many rows at once as there are registers for sums; where a panel of the forward pass
// ends, they hold all gates of some units, and become states before they reach memory.
//
// models/cpu_kernels.py compiles this for one CELL, GATE (which stands for σ) and ACT (for tanh), and REAL numbers.
// Letters: K steps, B batch, H hidden size, G gates. Everything is row-major, time first.

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

using real = REAL;
using Size = std::int64_t;
using Bits = std::conditional_t<sizeof(real) == 4, std::int32_t, std::int64_t>;

#if defined(__AVX512F__)
constexpr int BYTES = 64, SUMS = 24;  // of a vector; and vectors that fit into registers, beside those they are made of
#elif defined(__AVX__)
constexpr int BYTES = 32, SUMS = 12;
#elif defined(__aarch64__)
constexpr int BYTES = 16, SUMS = 24;
#else
constexpr int BYTES = 16, SUMS = 12;
#endif
constexpr int W = BYTES / sizeof(real);
typedef real V __attribute__((vector_size(BYTES)));
typedef Bits VBits __attribute__((vector_size(BYTES)));
typedef real Anywhere __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
#define UNROLL _Pragma("GCC unroll 24")

inline V broadcast(real a) { return a - V{}; }

// A vector of which the first n values are in memory.
inline V load(const real* from, Size n = W) {
    if (n >= W) return *reinterpret_cast<const Anywhere*>(from);
    V v{};
    std::memcpy(&v, from, n * sizeof(real));
    return v;
}

inline void store(real* to, V v, Size n = W) {
    if (n >= W) *reinterpret_cast<Anywhere*>(to) = v;
    else std::memcpy(to, &v, n * sizeof(real));
}

// e^x − 1, right to little more than a unit in the last place, near 0, too: x = n ln 2 + r, |r| ≤ ln 2 / 2,
// e^x − 1 = 2^n (e^r − 1) + (2^n − 1), and e^r − 1 = r + r²/2 (1 + r/3 (1 + r/4 (1 + …))), with as many terms as count.
inline V expm1(V x) {
    constexpr bool single = sizeof(real) == 4;
    constexpr int TERMS = single ? 7 : 13, FRACTION = single ? 23 : 52, BIAS = single ? 127 : 1023;
    constexpr real TO_WHOLE = real(3) * (Bits(1) << (FRACTION - 1));  // of what is added to it, whole numbers are left
    constexpr real LN_2 = 0.693147180559945309417232, HIGH = single ? 0.693359375 : 0.693147180369123816490;
    constexpr real LOW = single ? -2.121944400546905827679e-4 : 1.90821492927058770002e-10;  // HIGH times n is exact
    constexpr real LARGEST = BIAS * LN_2, SMALLEST = -(BIAS - 1) * LN_2;
    V held = x < SMALLEST ? broadcast(SMALLEST) : x;
    V shifted = held * (1 / LN_2) + TO_WHOLE, n = shifted - TO_WHOLE;
    V r = (held - n * HIGH) - n * LOW, series = broadcast(1);
    UNROLL for (int k = TERMS; k > 2; --k) series = 1 + r * (real(1) / k) * series;
    V power = reinterpret_cast<V>((reinterpret_cast<VBits>(shifted) + BIAS) << FRACTION);
    V found = power * (r + r * r * (series / 2)) + (power - 1);
    return x > LARGEST ? broadcast(std::numeric_limits<real>::infinity()) : found;
}

// Activations f, and f′ as a function of what is kept: y = f(a), or a, where y does not tell on which side of a kink a is.
struct Sigmoid {
    static constexpr bool keeps_a = false;
    static V of(V a) { return 1 / (2 + expm1(-a)); }
    static V slope(V y) { return y * (1 - y); }
};
struct Tanh {
    static constexpr bool keeps_a = false;
    static V of(V a) {
        V e = expm1(-2 * (a < 0 ? -a : a)), y = 0 - e / (2 + e);
        return a < 0 ? -y : y;
    }
    static V slope(V y) { return 1 - y * y; }
};
struct Relu {
    static constexpr bool keeps_a = false;
    static V of(V a) { return a < 0 ? V{} : a; }
    static V slope(V y) { return y > 0 ? broadcast(1) : V{}; }
};
struct Identity {
    static constexpr bool keeps_a = false;
    static V of(V a) { return a; }
    static V slope(V) { return broadcast(1); }
};

// Held between low and high; and 1 where it need not be.
inline V within(V a, real low, real high) { return a < low ? broadcast(low) : a > high ? broadcast(high) : a; }
inline V is_within(V a, real low, real high) { return (a >= low) & (a <= high) ? broadcast(1) : V{}; }
struct HardSigmoid {
    static constexpr bool keeps_a = true;
    static V of(V a) { return within((a + 2) / 4, 0, 1); }
    static V slope(V a) { return is_within(a, -2, 2) / 4; }
};
struct HardTanh {
    static constexpr bool keeps_a = true;
    static V of(V a) { return within(a, -1, 1); }
    static V slope(V a) { return is_within(a, -1, 1); }
};

template <class F> inline V keep(V a, V y) { return F::keeps_a ? a : y; }
template <class F> inline V value(V kept) { return F::keeps_a ? F::of(kept) : kept; }

// A step of each cell, of W units: x and h are the gates' parts from the input and from the state, d is ∂L/∂state after
// the step and becomes the part of ∂L/∂(state before) that does not come through W_hh. States are h, and c.
struct RNN {
    static constexpr int GATES = 1, KEPT = 1, STATES = 1, APART = 0;
    static void forward(const V* x, const V* h, const V*, V* kept, V* after) {
        V a = x[0] + h[0];
        after[0] = ACT::of(a);
        kept[0] = keep<ACT>(a, after[0]);
    }
    static void backward(const V* kept, const V*, const V*, V* d, V* d_x, V* d_h) {
        d_x[0] = d_h[0] = d[0] * ACT::slope(kept[0]);
        d[0] = V{};
    }
};
struct GRU {
    static constexpr int GATES = 3, KEPT = 4, STATES = 1, APART = 1;  // d_x and d_h are not the same
    static void forward(const V* x, const V* h, const V* before, V* kept, V* after) {
        V a_r = x[0] + h[0], a_z = x[1] + h[1], r = GATE::of(a_r), z = GATE::of(a_z);
        V a_n = x[2] + r * h[2], n = ACT::of(a_n);
        after[0] = (1 - z) * n + z * before[0];
        kept[0] = keep<GATE>(a_r, r), kept[1] = keep<GATE>(a_z, z), kept[2] = keep<ACT>(a_n, n), kept[3] = h[2];
    }
    static void backward(const V* kept, const V* before, const V*, V* d, V* d_x, V* d_h) {
        V r = value<GATE>(kept[0]), z = value<GATE>(kept[1]), n = value<ACT>(kept[2]);
        V d_n = d[0] * (1 - z) * ACT::slope(kept[2]);                         // ∂h'/∂n = 1 − z
        d_x[0] = d_h[0] = d_n * kept[3] * GATE::slope(kept[0]);               // ∂a_n/∂r = h_n
        d_x[1] = d_h[1] = d[0] * (before[0] - n) * GATE::slope(kept[1]);      // ∂h'/∂z = h − n
        d_x[2] = d_n, d_h[2] = d_n * r;
        d[0] = d[0] * z;
    }
};
struct LSTM {
    static constexpr int GATES = 4, KEPT = 4, STATES = 2, APART = 0;
    static void forward(const V* x, const V* h, const V* before, V* kept, V* after) {
        V a_i = x[0] + h[0], a_f = x[1] + h[1], a_g = x[2] + h[2], a_o = x[3] + h[3];
        V i = GATE::of(a_i), f = GATE::of(a_f), g = ACT::of(a_g), o = GATE::of(a_o);
        after[1] = f * before[1] + i * g;
        after[0] = o * ACT::of(after[1]);
        kept[0] = keep<GATE>(a_i, i), kept[1] = keep<GATE>(a_f, f), kept[2] = keep<ACT>(a_g, g);
        kept[3] = keep<GATE>(a_o, o);
    }
    static void backward(const V* kept, const V* before, const V* after, V* d, V* d_x, V* d_h) {
        V i = value<GATE>(kept[0]), f = value<GATE>(kept[1]), g = value<ACT>(kept[2]), o = value<GATE>(kept[3]);
        V squashed = ACT::of(after[1]), d_c = d[1] + d[0] * o * ACT::slope(keep<ACT>(after[1], squashed));
        d_x[0] = d_h[0] = d_c * g * GATE::slope(kept[0]);          // ∂c'/∂i = g
        d_x[1] = d_h[1] = d_c * before[1] * GATE::slope(kept[1]);  // ∂c'/∂f = c
        d_x[2] = d_h[2] = d_c * i * ACT::slope(kept[2]);           // ∂c'/∂g = i
        d_x[3] = d_h[3] = d[0] * squashed * GATE::slope(kept[3]);  // ∂h'/∂o = tanh(c')
        d[0] = V{}, d[1] = d_c * f;                                // ∂c'/∂c = f
    }
};

constexpr int G = CELL::GATES, KEPT = CELL::KEPT, STATES = CELL::STATES;
constexpr int GROUPS = G < 3 ? 4 / G : 1;  // of W units, in a panel of the forward pass: all gates of each
constexpr int ACROSS = 4;                  // vectors in a panel of the backward pass
constexpr int AHEAD = 16;                  // rows of a panel: a page of four vectors each

// a (M, K) with a panel (K, NW): each value of a meets N vectors, each vector M values. What comes is asked for early:
// large panels lie beyond the nearest cache, and processors of themselves look ahead no further than a page.
template <int M, int N>
inline void product(const real* a, Size row, const real* panel, Size K, V (&sums)[M][N]) {
    UNROLL for (int m = 0; m < M; ++m) UNROLL for (int n = 0; n < N; ++n) sums[m][n] = V{};
    for (Size k = 0; k < K; ++k, panel += N * W) {
        V of_panel[N];
        UNROLL for (int n = 0; n < N; ++n) __builtin_prefetch(panel + (AHEAD * N + n) * W);
        UNROLL for (int n = 0; n < N; ++n) of_panel[n] = load(panel + n * W);
        UNROLL for (int m = 0; m < M; ++m) {
            V of_a = broadcast(a[m * row + k]);
            UNROLL for (int n = 0; n < N; ++n) sums[m][n] += of_a * of_panel[n];
        }
    }
}

// Calls f(m, row) for parts of some rows, as even as can be, where m, at most M, is a constant.
template <int M, class F>
inline void with_constant(Size m, F f) {
    if constexpr (M > 0) {
        if (m == M) f(std::integral_constant<int, M>{});
        else with_constant<M - 1>(m, f);
    }
}
template <int M, class F>
inline void in_parts(Size first, Size last, F f) {
    Size rows = last - first, parts = (rows + M - 1) / M;
    for (Size part = 0; part < parts; ++part) {
        Size at = first + rows * part / parts, end = first + rows * (part + 1) / parts;
        with_constant<M>(end - at, [&](auto m) { f(m, at); });
    }
}

// Calls f(first, last) for each thread's share of B.
template <class F>
inline void in_threads(Size B, Size threads, F f) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (Size thread = 0; thread < threads; ++thread) f(B * thread / threads, B * (thread + 1) / threads);
}

struct Call {
    Size K, B, H, threads;
    const real* x;                  // (K, B, GH), or
    const Size* tokens;             // (K, B), with x a table (V, GH)
    const real *panels, *bias;
    const bool* is_real;            // (K, B), or null: what is not real leaves the state as it was
    real *kept, *states[2];         // (K, B, KEPT, H); (K + 1, B, H)
    const real* d_output;           // (K, B, H)
    real *d_states[2], *d_x, *d_h;  // (B, H); (K, B, GH)
};

template <int M>
void forward_units(const Call& call, Size t, Size b, Size first, const real* panel) {
    const Size H = call.H, row = t * call.B + b;
    V sums[M][GROUPS * G];
    product(call.states[0] + row * H, H, panel, H, sums);
    UNROLL for (int m = 0; m < M; ++m) UNROLL for (int group = 0; group < GROUPS; ++group) {
        const Size at = row + m, u = first + group * W, n = H - u;
        if (n <= 0) break;
        const real* x_row = call.x + (call.tokens ? call.tokens[at] : at) * G * H + u;
        V x[G], h[G], before[STATES], after[STATES], kept[KEPT];
        UNROLL for (int g = 0; g < G; ++g) {
            x[g] = load(x_row + g * H, n);
            h[g] = sums[m][group * G + g] + load(call.bias + g * H + u, n);
        }
        UNROLL for (int s = 0; s < STATES; ++s) before[s] = load(call.states[s] + at * H + u, n);
        CELL::forward(x, h, before, kept, after);
        const bool passed_by = call.is_real && !call.is_real[at];
        UNROLL for (int s = 0; s < STATES; ++s)
            store(call.states[s] + (at + call.B) * H + u, passed_by ? before[s] : after[s], n);
        UNROLL for (int k = 0; k < KEPT; ++k) store(call.kept + (at * KEPT + k) * H + u, kept[k], n);
    }
}

// One step of one sequence: ∂L/∂(gates' parts), and what of ∂L/∂(state before) does not come through W_hh.
void backward_row(const Call& call, Size t, Size b) {
    const Size H = call.H, at = t * call.B + b;
    const bool passed_by = call.is_real && !call.is_real[at];
    for (Size u = 0; u < H; u += W) {
        const Size n = H - u;
        V kept[KEPT], before[STATES], after[STATES], d[STATES], d_x[G], d_h[G];
        UNROLL for (int k = 0; k < KEPT; ++k) kept[k] = load(call.kept + (at * KEPT + k) * H + u, n);
        UNROLL for (int s = 0; s < STATES; ++s) {
            before[s] = load(call.states[s] + at * H + u, n);
            after[s] = load(call.states[s] + (at + call.B) * H + u, n);
            d[s] = load(call.d_states[s] + b * H + u, n);
        }
        d[0] += load(call.d_output + at * H + u, n);
        if (passed_by) UNROLL for (int g = 0; g < G; ++g) d_x[g] = d_h[g] = V{};
        else CELL::backward(kept, before, after, d, d_x, d_h);
        UNROLL for (int s = 0; s < STATES; ++s) store(call.d_states[s] + b * H + u, d[s], n);
        UNROLL for (int g = 0; g < G; ++g) {
            store(call.d_h + (at * G + g) * H + u, d_h[g], n);
            if (CELL::APART) store(call.d_x + (at * G + g) * H + u, d_x[g], n);
        }
    }
}

template <int M>
void through_weights(const Call& call, Size t, Size b, Size first, const real* panel) {
    const Size H = call.H;
    V sums[M][ACROSS];
    product(call.d_h + (t * call.B + b) * G * H, G * H, panel, G * H, sums);  // ∂(W_hh h)/∂h = W_hh
    UNROLL for (int m = 0; m < M; ++m) UNROLL for (int across = 0; across < ACROSS; ++across) {
        const Size u = first + across * W, n = H - u;
        if (n <= 0) break;
        real* d = call.d_states[0] + (b + m) * H + u;
        store(d, load(d, n) + sums[m][across], n);
    }
}

extern "C" {
int width = W, groups = GROUPS, across = ACROSS, keeps = KEPT, apart = CELL::APART;

void forward(const Call* call) {
    in_threads(call->B, call->threads, [&](Size first, Size last) {
        for (Size t = 0; t < call->K; ++t)
            for (Size u = 0; u < call->H; u += GROUPS * W)
                in_parts<SUMS / (GROUPS * G)>(first, last, [&](auto m, Size b) {
                    forward_units<m>(*call, t, b, u, call->panels + u * G * call->H);
                });
    });
}

void backward(const Call* call) {
    in_threads(call->B, call->threads, [&](Size first, Size last) {
        for (Size t = call->K - 1; t >= 0; --t) {
            for (Size b = first; b < last; ++b) backward_row(*call, t, b);
            for (Size u = 0; u < call->H; u += ACROSS * W)
                in_parts<SUMS / ACROSS>(first, last, [&](auto m, Size b) {
                    through_weights<m>(*call, t, b, u, call->panels + u * G * call->H);
                });
        }
    });
}
}
