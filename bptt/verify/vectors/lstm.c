/* Proves an LSTM in C by one of the vectors: cc -O2 lstm.c -lm && ./a.out lstm-hard_tanh-T5-B2-I3-H4-L1-53bits-seed1.txt
   One layer, piecewise-linear gates: every gradient of the parameters must equal the vector's, to the last bit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char names[200][64];
static double *arrays[200];
static int lengths[200], count;

static double *get(const char *name) {
    for (int k = 0; k < count; k++) if (!strcmp(names[k], name)) return arrays[k];
    fprintf(stderr, "no %s in the file\n", name); exit(2);
}

static void read_arrays(FILE *file) {
    while (count < 200 && fscanf(file, "%63s", names[count]) == 1) {
        int axes = 0, size = 1, extent;
        if (fscanf(file, "%d", &axes) != 1) exit(2);
        while (axes--) { if (fscanf(file, "%d", &extent) != 1) exit(2); size *= extent; }
        arrays[count] = malloc(sizeof(double) * size);
        for (int k = 0; k < size; k++) if (fscanf(file, "%lf", &arrays[count][k]) != 1) exit(2);
        lengths[count++] = size;
    }
}

static double clip(double x, double low, double high) { return x < low ? low : x > high ? high : x; }
static double gate(double a) { return clip((a + 2) / 4, 0, 1); }
static double gate_slope(double a) { return a >= -2 && a <= 2 ? 0.25 : 0; }
static double hard_tanh(double a) { return clip(a, -1, 1); }
static double tanh_slope(double a) { return a >= -1 && a <= 1 ? 1 : 0; }

int main(int argc, char **argv) {
    FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
    int T, B, I, H, L;
    if (!file || fscanf(file, "T %d B %d I %d H %d L %d", &T, &B, &I, &H, &L) != 5 || L != 1) return fprintf(stderr, "usage: a.out VECTOR.txt, of one layer\n"), 2;
    read_arrays(file);
    const double *x = get("input:x"), *U = get("parameter:cells.0.weight_hh"), *W = get("parameter:cells.0.weight_ih");
    const double *bi = get("parameter:cells.0.bias_ih"), *bh = get("parameter:cells.0.bias_hh"), *dy = get("cotangent:d.output");
    int G = 4 * H;
    double *h = calloc((T + 1) * B * H, 8), *c = calloc((T + 1) * B * H, 8), *a = calloc(T * B * G, 8);
    double *dW = calloc(G * I, 8), *dU = calloc(G * H, 8), *db = calloc(G, 8), *dh = calloc(B * H, 8), *dc = calloc(B * H, 8), *da = calloc(G, 8);
    memcpy(h, get("input:initial.h"), 8 * B * H); memcpy(c, get("input:initial.c"), 8 * B * H);
    memcpy(dh, get("cotangent:d.final.h"), 8 * B * H); memcpy(dc, get("cotangent:d.final.c"), 8 * B * H);
    for (int t = 0; t < T; t++) for (int b = 0; b < B; b++) {                       /* forward */
        const double *xt = x + (t * B + b) * I, *hp = h + (t * B + b) * H, *cp = c + (t * B + b) * H;
        double *at = a + (t * B + b) * G, *hn = h + ((t + 1) * B + b) * H, *cn = c + ((t + 1) * B + b) * H;
        for (int g = 0; g < G; g++) {
            at[g] = bi[g] + bh[g];
            for (int k = 0; k < I; k++) at[g] += W[g * I + k] * xt[k];
            for (int k = 0; k < H; k++) at[g] += U[g * H + k] * hp[k];
        }
        for (int k = 0; k < H; k++) {
            cn[k] = gate(at[H + k]) * cp[k] + gate(at[k]) * hard_tanh(at[2 * H + k]);
            hn[k] = gate(at[3 * H + k]) * hard_tanh(cn[k]);
        }
    }
    for (int t = T - 1; t >= 0; t--) for (int b = 0; b < B; b++) {                   /* backward */
        const double *xt = x + (t * B + b) * I, *hp = h + (t * B + b) * H, *cp = c + (t * B + b) * H;
        const double *at = a + (t * B + b) * G, *cn = c + ((t + 1) * B + b) * H;
        for (int k = 0; k < H; k++) {
            double i = at[k], f = at[H + k], g = at[2 * H + k], o = at[3 * H + k], d = dh[b * H + k] + dy[(t * B + b) * H + k];
            double e = dc[b * H + k] + d * gate(o) * tanh_slope(cn[k]);
            da[k] = e * hard_tanh(g) * gate_slope(i); da[H + k] = e * cp[k] * gate_slope(f);
            da[2 * H + k] = e * gate(i) * tanh_slope(g); da[3 * H + k] = d * hard_tanh(cn[k]) * gate_slope(o);
            dc[b * H + k] = e * gate(f); dh[b * H + k] = 0;
        }
        for (int g = 0; g < G; g++) {
            db[g] += da[g];
            for (int k = 0; k < I; k++) dW[g * I + k] += da[g] * xt[k];
            for (int k = 0; k < H; k++) { dU[g * H + k] += da[g] * hp[k]; dh[b * H + k] += da[g] * U[g * H + k]; }
        }
    }
    const char *result[] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"};
    const double *mine[] = {dW, dU, db, db};
    int sizes[] = {G * I, G * H, G, G}, wrong = 0;
    for (int r = 0; r < 4; r++) {
        char name[64]; snprintf(name, sizeof name, "result:d.cells.0.%s", result[r]);
        const double *truth = get(name);
        int off = 0; for (int k = 0; k < sizes[r]; k++) off += mine[r][k] != truth[k];
        printf("%-10s %s\n", result[r], off ? "WRONG" : "the same bits"); wrong += off;
    }
    return wrong != 0;
}
