// The steps of kernels.py for CUDA. A kernel is compiled when it is first used, alone, with what it is to be made for as
// macros: its name, CHANNELS, and what it says of itself below.
//
// Storage is float16, arithmetic float32. A pixel's channels are spread over the lanes of a part of a warp, in vectors
// of up to 16 bytes; the lanes of one pixel add up the squares of its channels among themselves.

#ifdef __HIP__
typedef _Float16 half_bits;
__device__ __forceinline__ float to_float(half_bits bits) { return bits; }
__device__ __forceinline__ half_bits to_half(float value) { return value; }
__device__ __forceinline__ float of_lane(float value, int other) { return __shfl_xor(value, other, 32); }
#else
// Without cuda_fp16.h, which a machine that only runs programs does not have.
typedef unsigned short half_bits;
__device__ __forceinline__ float to_float(half_bits bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ __forceinline__ half_bits to_half(float value) {
    half_bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
__device__ __forceinline__ float of_lane(float value, int other) {
    return __shfl_xor_sync(0xffffffff, value, other);
}
#endif

struct alignas(4) Pair { half_bits first, second; };

__device__ __forceinline__ Pair to_halves(float first, float second) {
#if __CUDA_ARCH__ >= 800  // one instruction, which all cores have; a single number is one for a quarter of them
    Pair pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(reinterpret_cast<unsigned &>(pair)) : "f"(second), "f"(first));
    return pair;
#else
    return {to_half(first), to_half(second)};
#endif
}

#ifdef CHANNELS
constexpr int C = CHANNELS;
constexpr int V = C % 8 == 0 ? 8 : C % 4 == 0 ? 4 : C % 2 == 0 ? 2 : 1;                  // channels of a vector
constexpr int N = C / V;                                                                 // vectors of a pixel
constexpr int L = N > 16 ? 32 : N > 8 ? 16 : N > 4 ? 8 : N > 2 ? 4 : N;                  // lanes of a pixel
constexpr int I = (N + L - 1) / L;                                                       // vectors of a lane

struct alignas(2 * V) Halves { half_bits at[V]; };
struct alignas(V < 4 ? 4 * V : 16) Floats { float at[V]; };

__device__ __forceinline__ void load(float *values, const half_bits *from) {
    Halves bits = *reinterpret_cast<const Halves *>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) values[v] = to_float(bits.at[v]);
}

__device__ __forceinline__ void load(float *values, const float *from) {
    Floats floats = *reinterpret_cast<const Floats *>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) values[v] = floats.at[v];
}

struct alignas(V > 1 ? 2 * V : 4) Pairs { Pair at[V > 1 ? V / 2 : 1]; };

__device__ __forceinline__ void store(half_bits *to, const float *values) {
    if constexpr (V == 1) {
        *to = to_half(values[0]);
        return;
    }
    Pairs pairs;
#pragma unroll
    for (int v = 0; v + 1 < V; v += 2) pairs.at[v / 2] = to_halves(values[v], values[v + 1]);
    *reinterpret_cast<Pairs *>(to) = pairs;
}

__device__ __forceinline__ float sum_of_lanes(float value) {
#pragma unroll
    for (int other = L / 2; other > 0; other /= 2) value += of_lane(value, other);
    return value;
}

// y = rms_norm(x) * gamma, and its silu. `scale` is the root of the number of channels.
__device__ __forceinline__ void norm(float x[I][V], const float *gamma, int lane,
                                                      float scale, bool silu) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < I; ++i)
#pragma unroll
        for (int v = 0; v < V; ++v) squares += x[i][v] * x[i][v];
    float factor = scale / fmaxf(sqrtf(sum_of_lanes(squares)), 1e-12f);
#pragma unroll
    for (int i = 0; i < I; ++i) {
        int vector = lane + i * L;
        if (vector >= N) continue;
        float weights[V];
        load(weights, gamma + vector * V);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            float y = x[i][v] * factor * weights[v];
            x[i][v] = silu ? __fdividef(y, 1.0f + __expf(-y)) : y;
        }
    }
}

enum { BIAS = 1, RESIDUAL = 2, X_OUT = 4, Y_OUT = 8, POINTS = 16, SILU = 32 };

// Adds bias and residual, and keeps the sum where that is wanted.
__device__ __forceinline__ void add(float x[I][V], const float *bias,
                                                     const half_bits *residual, half_bits *x_out, long long pixel,
                                                     bool inside, int lane, int flags) {
#pragma unroll
    for (int i = 0; i < I; ++i) {
        int vector = lane + i * L;
        if (!inside || vector >= N) continue;
        long long at = pixel * C + vector * V;
        float more[V];
        if (flags & BIAS) {
            load(more, bias + vector * V);
#pragma unroll
            for (int v = 0; v < V; ++v) x[i][v] += more[v];
        }
        if (flags & RESIDUAL) {
            load(more, residual + at);
#pragma unroll
            for (int v = 0; v < V; ++v) x[i][v] += more[v];
        }
        if (flags & X_OUT) store(x_out + at, x[i]);
    }
}

#ifdef NORM_SILU
extern "C" __global__ void norm_silu(const half_bits *a, const float *bias, const half_bits *residual, const float *gamma,
                          half_bits *x_out, half_bits *y_out, int pixels, int scale_bits, int flags) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long pixel = thread / L;
    int lane = thread % L;
    bool inside = pixel < pixels;
    float x[I][V] = {};
#pragma unroll
    for (int i = 0; i < I; ++i) {
        int vector = lane + i * L;
        if (!inside || vector >= N) continue;
        load(x[i], a + pixel * C + vector * V);
#pragma unroll
        for (int v = 0; v < V; ++v) x[i][v] *= __int_as_float(scale_bits);
    }
    add(x, bias, residual, x_out, pixel, inside, lane, flags);
    if (!(flags & Y_OUT)) return;
    norm(x, gamma, lane, sqrtf(C), flags & SILU);
#pragma unroll
    for (int i = 0; i < I; ++i) {
        int vector = lane + i * L;
        if (inside && vector < N) store(y_out + pixel * C + vector * V, x[i]);
    }
}

#endif

// Four frames of one channel from its products: winograd.OUTPUT.
__device__ __forceinline__ void four_frames(float &y0, float &y1, float &y2, float &y3, float s0, float s1, float s2,
                                            float s3, float s4, float s5) {
    float even = 2.0f * (s2 + s1), odd = 2.0f * (s2 - s1);
    y0 = 4.0f * s0 + even + 4.0f * s3 + 0.5f * s4;
    y1 = odd + 2.0f * s3 - s4;
    y2 = even + s3 + 2.0f * s4;
    y3 = odd + 0.5f * s3 - 4.0f * s4 + 4.0f * s5;
}

// Of FRAMES frames, from PRODUCTS or as they are. A lane has its channels of a pixel in every frame, and reads them before
// it writes: so points may replace products.
#ifdef NORM_SILU_POINTS
extern "C" __global__ void norm_silu_points(const half_bits *s0, const half_bits *s1, const half_bits *s2, const half_bits *s3,
                                 const half_bits *s4, const half_bits *s5, const float *bias,
                                 const half_bits *residual, const float *gamma, half_bits *x_out, half_bits *y_out,
                                 half_bits *history, half_bits *p0, half_bits *p1, half_bits *p2, half_bits *p3,
                                 half_bits *p4, half_bits *p5, int pixels, int scale_bits, int flags) {
    constexpr int SOURCES = PRODUCTS ? FRAMES + 2 : FRAMES;
    const half_bits *sources[6] = {s0, s1, s2, s3, s4, s5};
    half_bits *points[6] = {p0, p1, p2, p3, p4, p5};
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long pixel = thread / L;
    int lane = thread % L;
    bool inside = pixel < pixels;
    float y[FRAMES][I][V] = {};
#pragma unroll
    for (int i = 0; i < I; ++i) {
        int vector = lane + i * L;
        if (!inside || vector >= N) continue;
        float s[SOURCES][V];
#pragma unroll
        for (int p = 0; p < SOURCES; ++p) load(s[p], sources[p] + pixel * C + vector * V);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            if constexpr (PRODUCTS && FRAMES == 4) {
                four_frames(y[0][i][v], y[1][i][v], y[2][i][v], y[3][i][v], s[0][v], s[1][v], s[2][v], s[3][v], s[4][v],
                            s[5][v]);
            } else if constexpr (PRODUCTS) {
                y[0][i][v] = 2.0f * (s[0][v] + s[1][v] + s[2][v]);
                y[1][i][v] = 2.0f * (s[1][v] - s[2][v] + s[3][v]);
            } else {
#pragma unroll
                for (int t = 0; t < FRAMES; ++t) y[t][i][v] = s[t][v];
            }
#pragma unroll
            for (int t = 0; t < FRAMES; ++t) y[t][i][v] *= __int_as_float(scale_bits);
        }
    }
#pragma unroll
    for (int t = 0; t < FRAMES; ++t) {
        add(y[t], bias, residual, x_out, pixel + (long long)t * pixels, inside, lane, flags);
        if (flags & (Y_OUT | POINTS)) norm(y[t], gamma, lane, sqrtf(C), true);
    }
#pragma unroll
    for (int i = 0; i < I; ++i) {
        int vector = lane + i * L;
        if (!inside || vector >= N) continue;
        long long at = pixel * C + vector * V, frame = (long long)pixels * C;
        if (flags & Y_OUT)
#pragma unroll
            for (int t = 0; t < FRAMES; ++t) store(y_out + at + t * frame, y[t][i]);
        if (!(flags & POINTS)) continue;
        float h0[V], h1[V], p[FRAMES + 2][V];
        load(h0, history + at);
        load(h1, history + at + frame);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            // winograd.INPUT, of (h0, h1, y0, ...)
            float y0 = y[0][i][v], y1 = y[1][i][v];
            if constexpr (FRAMES == 4) {
                float y2 = y[2][i][v], y3 = y[3][i][v];
                p[0][v] = 0.25f * (h0[v] + y2) + 0.375f * (y1 - h1[v]) - 0.5f * y0;
                p[1][v] = 0.25f * (h1[v] + y2) - 0.625f * y0 + 0.125f * y1;
                p[2][v] = 0.25f * (y2 - h1[v]) + 0.125f * y0 + 0.625f * y1;
                p[3][v] = 0.5f * (y1 - h1[v]) + 0.25f * (y2 - y0);
                p[4][v] = 0.25f * (h1[v] - y1) + 0.5f * (y2 - y0);
                p[5][v] = 0.25f * (h1[v] + y3) + 0.375f * (y2 - y0) - 0.5f * y1;
            } else {
                p[0][v] = 0.5f * (y0 - h0[v]);
                p[1][v] = 0.5f * (h1[v] + y0);
                p[2][v] = 0.5f * (y0 - h1[v]);
                p[3][v] = 0.5f * (y1 - h1[v]);
            }
        }
#pragma unroll
        for (int k = 0; k < FRAMES + 2; ++k) store(points[k] + at, p[k]);
        store(history + at, y[FRAMES - 2][i]);
        store(history + at + frame, y[FRAMES - 1][i]);
    }
}

#endif

// A vector of channels of one pixel of the large frame.
#ifdef DEPTH_TO_SPACE
extern "C" __global__ void depth_to_space(const half_bits *phases, const float *bias, half_bits *out, const half_bits *shortcut,
                               int vectors, int height, int width, int in_channels, int k,
                               int factor_t, int repeats, int has_shortcut) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= vectors) return;
    int channel = (int)(thread % N) * V;
    long long pixel = thread / N;
    int x = (int)(pixel % (2 * width));
    int y = (int)(pixel / (2 * width) % (2 * height));
    long long t = pixel / (4LL * width * height);
    int phase = (y % 2) * 2 + x % 2;
    long long at = (t * (height + 1) + y / 2 + y % 2) * (width + 1) + x / 2 + x % 2;
    float value[V], more[V];
    load(value, phases + (at * 4 + phase) * C + channel);
    load(more, bias + channel);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] += more[v];
    if (has_shortcut) {
        long long source = ((t * height + y / 2) * width + x / 2) * in_channels;
#pragma unroll
        for (int v = 0; v < V; ++v)
            value[v] += to_float(shortcut[source + (((channel + v) * factor_t + k) * 4 + phase) / repeats]);
    }
    long long to = (t * 2 * height + y) * 2 * width + x;
    store(out + to * C + channel, value);
}

#endif
#endif

// Sums up for each pixel, in OUTPUTS channels, what its neighbours in space and time give: products of each tap with these
// frames, (T, 27 * OUTPUTS, rows, W), and what the frames before have `carried` here already. Two frames more than there
// are get something of these: that is carried on. The products' first row is `top` rows above the first that is wanted.
#ifdef ADD_TAPS
extern "C" __global__ void add_taps(const float *products, const float *carried, const float *bias, float *out, float *carry,
                         int frames, int rows, int width, int top, int first, int wanted, int height) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= (long long)(frames + 2) * wanted * width) return;
    int x = (int)(thread % width), y = (int)(thread / width % wanted), t = (int)(thread / width / wanted);
    long long plane = (long long)height * width, place = (long long)(first + y) * width + x;
    float sums[OUTPUTS];
#pragma unroll
    for (int n = 0; n < OUTPUTS; ++n) {
        sums[n] = t < frames ? bias[n] : 0.0f;
        if (t < 2) sums[n] += carried[(t * OUTPUTS + n) * plane + place];
    }
    for (int dt = 0; dt < 3; ++dt) {
        int frame = t + dt - 2;
        if (frame < 0 || frame >= frames) continue;
        for (int dy = -1; dy < 2; ++dy)
            for (int dx = -1; dx < 2; ++dx) {
                int row = y + top + dy, column = x + dx;
                if (row < 0 || row >= rows || column < 0 || column >= width) continue;
                int tap = dt * 9 + (dy + 1) * 3 + dx + 1;
                long long at = (((long long)frame * 27 + tap) * OUTPUTS * rows + row) * width + column;
#pragma unroll
                for (int n = 0; n < OUTPUTS; ++n) sums[n] += products[at + (long long)n * rows * width];
            }
    }
#pragma unroll
    for (int n = 0; n < OUTPUTS; ++n)
        if (t < frames) out[((long long)n * frames + t) * plane + place] = sums[n];
        else carry[((t - frames) * OUTPUTS + n) * plane + place] = sums[n];
}
#endif

// For the softmax of rows of `columns` scores, a block a row: exp(scale * (score - largest)) as float16 in the first half
// of the row's own memory, and the sum of those.
#ifdef EXPONENTIALS
__device__ __forceinline__ float of_block(float value, bool largest) {
    __shared__ float of_warp[32];
    for (int other = 16; other > 0; other /= 2) {
        float more = of_lane(value, other);
        value = largest ? fmaxf(value, more) : value + more;
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    value = of_warp[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp)
        value = largest ? fmaxf(value, of_warp[warp]) : value + of_warp[warp];
    __syncthreads();
    return value;
}

extern "C" __global__ void exponentials(float *scores, float *sums, int columns, int scale_bits) {
    float *row = scores + (long long)blockIdx.x * columns;
    half_bits *out = reinterpret_cast<half_bits *>(row);
    float top = row[0];
    for (int at = threadIdx.x; at < columns; at += blockDim.x) top = fmaxf(top, row[at]);
    top = of_block(top, true);
    float sum = 0;
    for (int first = 0; first < columns; first += blockDim.x) {
        int at = first + threadIdx.x;
        float value = at < columns ? __expf(__int_as_float(scale_bits) * (row[at] - top)) : 0;
        // What is written lies where this turn and those before it have read.
        __syncthreads();
        half_bits bits = to_half(value);
        if (at < columns) out[at] = bits;
        sum += to_float(bits);
    }
    sum = of_block(sum, false);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
#endif

// The steps of LTX's decoder: several groups of four frames one after the other, each by six products.
#ifdef CHANNELS
// Lanes of a pixel, up to several warps: what is kept of a pixel has to fit into registers.
constexpr int GL = N > 64 ? 128 : N > 32 ? 64 : L;
constexpr int GI = (N + GL - 1) / GL;

__device__ __forceinline__ float sum_of_group(float value) {
#pragma unroll
    for (int other = (GL > 32 ? 32 : GL) / 2; other > 0; other /= 2) value += of_lane(value, other);
    if constexpr (GL > 32) {
        __shared__ float of_warp[32];
        __syncthreads();  // until all have read what was there
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
        __syncthreads();
        int first = threadIdx.x / GL * (GL / 32);
        value = of_warp[first];
#pragma unroll
        for (int warp = 1; warp < GL / 32; ++warp) value += of_warp[first + warp];
    }
    return value;
}

// y = x / sqrt(mean(x^2) + eps), times gamma plus beta if AFFINE, and its silu.
__device__ __forceinline__ void norm_affine(float x[GI][V], const float *gamma, const float *beta, bool affine, float eps,
                                            int lane) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < GI; ++i)
#pragma unroll
        for (int v = 0; v < V; ++v) squares += x[i][v] * x[i][v];
    float factor = rsqrtf(sum_of_group(squares) / C + eps);
#pragma unroll
    for (int i = 0; i < GI; ++i) {
        int vector = lane + i * GL;
        if (vector >= N) continue;
        float weights[V] = {}, more[V] = {};
        if (affine) {
            load(weights, gamma + vector * V);
            load(more, beta + vector * V);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
            float y = x[i][v] * factor;
            if (affine) y = y * weights[v] + more[v];
            x[i][v] = __fdividef(y, 1.0f + __expf(-y));
        }
    }
}

// Four frames of the products of a group, a vector of a pixel.
__device__ __forceinline__ void frames_of(float y[4][V], const half_bits *const sources[6], long long at) {
    float s[6][V];
#pragma unroll
    for (int p = 0; p < 6; ++p) load(s[p], sources[p] + at);
#pragma unroll
    for (int v = 0; v < V; ++v)
        four_frames(y[0][v], y[1][v], y[2][v], y[3][v], s[0][v], s[1][v], s[2][v], s[3][v], s[4][v], s[5][v]);
}

// A lane has its channels of a pixel in every frame, and of a group reads all before it writes: so points may replace
// products, and the sum the residual, also where that is added two frames late (DELAYED). PADDED: what is put out has a
// pixel more all around, its mirror image.
#ifdef NORM_SILU_GROUPS
__device__ __forceinline__ void store_around(half_bits *frame, const float *values, int row, int column, int height,
                                             int width, int channel) {
    int across = width + 2 * PADDED;
    store(frame + ((long long)(row + PADDED) * across + column + PADDED) * C + channel, values);
    if (!PADDED || (row != 1 && row != height - 2 && column != 1 && column != width - 2)) return;
    // -1, this one, or what is beyond the last; few come here, so that it need not be quick.
#pragma unroll 1
    for (int at = 0; at < 9; ++at) {
        int to_row = at / 3 == 0 ? -1 : at / 3 == 1 ? row : height, to_column = at % 3 == 0 ? -1 : at % 3 == 1 ? column : width;
        if (at == 4 || (to_row < 0 && row != 1) || (to_row == height && row != height - 2)) continue;
        if ((to_column < 0 && column != 1) || (to_column == width && column != width - 2)) continue;
        store(frame + ((long long)(to_row + 1) * across + to_column + 1) * C + channel, values);
    }
}

extern "C" __global__ void norm_silu_groups(const half_bits *s0, const half_bits *s1, const half_bits *s2, const half_bits *s3,
                                 const half_bits *s4, const half_bits *s5, const float *bias,
                                 const half_bits *residual, const half_bits *before, half_bits *x_out,
                                 half_bits *x_history, const float *gamma, const float *beta, half_bits *history,
                                 half_bits *p0, half_bits *p1, half_bits *p2, half_bits *p3, half_bits *p4,
                                 half_bits *p5, half_bits *y_out, int height, int width, int residuals, int groups,
                                 int first, int end, int scale_bits, int eps_bits, int affine, int flags) {
    const half_bits *sources[6] = {s0, s1, s2, s3, s4, s5};
    half_bits *points[6] = {p0, p1, p2, p3, p4, p5};
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int pixels = height * width, lane = (int)(thread % GL), pixel = (int)(thread / GL);
    bool inside = pixel < pixels;
    int row = pixel / width, column = pixel % width;
    long long frame = (long long)pixels * C;
    long long padded_frame = (long long)(height + 2 * PADDED) * (width + 2 * PADDED) * C;
    float scale = __int_as_float(scale_bits);
    float h[2][GI][V] = {};
    Halves late[2][GI] = {};
#pragma unroll
    for (int i = 0; i < GI; ++i) {
        int vector = lane + i * GL;
        if (!inside || vector >= N) continue;
        long long at = (long long)pixel * C + vector * V;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            if (flags & POINTS) load(h[t][i], history + at + t * frame);
            if (DELAYED && t < end) late[t][i] = *reinterpret_cast<const Halves *>(before + at + t * frame);
        }
    }
    for (int g = 0; g < groups; ++g) {
        float y[4][GI][V] = {};
#pragma unroll
        for (int i = 0; i < GI; ++i) {
            int vector = lane + i * GL;
            if (!inside || vector >= N || 4 * g >= end) continue;
            long long at = (long long)pixel * C + vector * V;
            if constexpr (PRODUCTS) {
                float four[4][V];
                frames_of(four, sources, g * frame + at);
#pragma unroll
                for (int t = 0; t < 4; ++t)
#pragma unroll
                    for (int v = 0; v < V; ++v) y[t][i][v] = four[t][v];
            } else {
#pragma unroll
                for (int t = 0; t < 4; ++t)
                    if (4 * g + t < end) load(y[t][i], s0 + (4 * g + t) * frame + at);
            }
            float more[V] = {};
            if (flags & BIAS) load(more, bias + vector * V);
            Halves now[4] = {};
            if (flags & RESIDUAL)
#pragma unroll
                for (int t = 0; t < 4; ++t)
                    if (4 * g + t < residuals)
                        now[t] = *reinterpret_cast<const Halves *>(residual + (4 * g + t) * frame + at);
#pragma unroll
            for (int t = 0; t < 4; ++t) {
                Halves added = !DELAYED ? now[t] : t < 2 ? late[t][i] : now[t - 2];
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    y[t][i][v] = y[t][i][v] * scale + more[v];
                    if (flags & RESIDUAL) y[t][i][v] += to_float(added.at[v]);
                }
                if ((flags & X_OUT) && 4 * g + t < end) store(x_out + (4 * g + t) * frame + at, y[t][i]);
            }
            if (DELAYED) {
                late[0][i] = now[2];
                late[1][i] = now[3];
            }
        }
#pragma unroll
        for (int t = 0; t < 4; ++t) {
            if (4 * g + t < end) {
                if (flags & SILU) norm_affine(y[t], gamma, beta, affine, __int_as_float(eps_bits), lane);
                continue;
            }
#pragma unroll
            for (int i = 0; i < GI; ++i)
#pragma unroll
                for (int v = 0; v < V; ++v) y[t][i][v] = t > 0 ? y[t > 0 ? t - 1 : 0][i][v] : h[1][i][v];
        }
        if (g == 0 && first >= 0) {
#pragma unroll
            for (int i = 0; i < GI; ++i)
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    if (first > 2) y[2][i][v] = y[3][i][v];
                    if (first > 1) y[1][i][v] = y[2][i][v];
                    if (first > 0) y[0][i][v] = y[1][i][v];
                    h[0][i][v] = h[1][i][v] = y[0][i][v];
                }
        }
#pragma unroll
        for (int i = 0; i < GI; ++i) {
            int vector = lane + i * GL;
            if (!inside || vector >= N) continue;
            if (flags & Y_OUT)
#pragma unroll
                for (int t = 0; t < 4; ++t)
                    if (4 * g + t < end)
                        store_around(y_out + (4 * g + t) * padded_frame, y[t][i], row, column, height, width, vector * V);
            if (!(flags & POINTS)) continue;
            float p[6][V];
#pragma unroll
            for (int v = 0; v < V; ++v) {
                // winograd.INPUT, of (h0, h1, y0, ...)
                float h0 = h[0][i][v], h1 = h[1][i][v];
                float y0 = y[0][i][v], y1 = y[1][i][v], y2 = y[2][i][v], y3 = y[3][i][v];
                p[0][v] = 0.25f * (h0 + y2) + 0.375f * (y1 - h1) - 0.5f * y0;
                p[1][v] = 0.25f * (h1 + y2) - 0.625f * y0 + 0.125f * y1;
                p[2][v] = 0.25f * (y2 - h1) + 0.125f * y0 + 0.625f * y1;
                p[3][v] = 0.5f * (y1 - h1) + 0.25f * (y2 - y0);
                p[4][v] = 0.25f * (h1 - y1) + 0.5f * (y2 - y0);
                p[5][v] = 0.25f * (h1 + y3) + 0.375f * (y2 - y0) - 0.5f * y1;
                h[0][i][v] = y2;
                h[1][i][v] = y3;
            }
#pragma unroll
            for (int k = 0; k < 6; ++k)
                store_around(points[k] + g * padded_frame, p[k], row, column, height, width, vector * V);
        }
    }
#pragma unroll
    for (int i = 0; i < GI; ++i) {
        int vector = lane + i * GL;
        if (!inside || vector >= N) continue;
        long long at = (long long)pixel * C + vector * V;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            if (flags & POINTS) store(history + at + t * frame, h[t][i]);
            if (DELAYED) *reinterpret_cast<Halves *>(x_history + at + t * frame) = late[t][i];
        }
    }
}
#endif

// A vector of channels of one pixel of four frames: every TIMEth of the new ones, SPACE times as wide and high.
#ifdef SPREAD_GROUPS
extern "C" __global__ void spread_groups(const half_bits *s0, const half_bits *s1, const half_bits *s2, const half_bits *s3,
                              const half_bits *s4, const half_bits *s5, const float *bias, const half_bits *residual,
                              const half_bits *before, half_bits *out, int threads, int height, int width, int residuals,
                              int in_channels, int delay, int end, int flags) {
    constexpr int PHASES = TIME * SPACE * SPACE;
    const half_bits *sources[6] = {s0, s1, s2, s3, s4, s5};
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= threads) return;
    int channel = (int)(thread % N) * V;
    long long pixel = thread / N;
    int x = (int)(pixel % (SPACE * width)), y = (int)(pixel / (SPACE * width) % (SPACE * height));
    long long rest = pixel / ((long long)SPACE * width * SPACE * height);
    int later = (int)(rest % TIME), g = (int)(rest / TIME);
    int phase = (later * SPACE + y % SPACE) * SPACE + x % SPACE;
    long long source = (long long)(y / SPACE) * width + x / SPACE, pixels = (long long)height * width;
    float four[4][V], more[V];
    frames_of(four, sources, ((g * pixels + source) * PHASES + phase) * C + channel);
    load(more, bias + phase * C + channel);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
        int frame = 4 * g + t, from = frame - delay;
        if (frame >= end) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) four[t][v] += more[v];
        if ((flags & RESIDUAL) && from < residuals) {
            const half_bits *added = from < 0 ? before : residual + from * pixels * in_channels;
#pragma unroll
            for (int v = 0; v < V; ++v)
                four[t][v] += to_float(
                    added[source * in_channels + (channel + v) % (in_channels / PHASES) * PHASES + phase]);
        }
        long long to = (((long long)TIME * frame + later) * SPACE * height + y) * SPACE * width + x;
        store(out + to * C + channel, four[t]);
    }
}
#endif
#endif

// A row of PATCH pixels in one colour: sums of the three taps in time, of frames that are late by `shift`.
#ifdef PATCHES
extern "C" __global__ void patches(const half_bits *taps, const half_bits *history, const float *bias, float *out, int frames,
                        int height, int width, int shift, int lowest, int highest, int scale_bits) {
    constexpr int OUTPUTS = 3 * PATCH * PATCH;
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= (long long)frames * 3 * PATCH * height * width) return;
    int x = (int)(thread % width), y = (int)(thread / width % (PATCH * height));
    int t = (int)(thread / width / (PATCH * height) % frames);
    int colour = (int)(thread / width / (PATCH * height) / frames);
    int output = (colour * PATCH + y % PATCH) * PATCH;
    long long source = (long long)(y / PATCH) * width + x, pixels = (long long)height * width;
    float sums[PATCH] = {};
#pragma unroll
    for (int tap = 0; tap < 3; ++tap) {
        int frame = min(max(t + shift + tap, lowest), highest);
        const half_bits *from = frame < 0 ? history + (frame + 2) * pixels * 3 * OUTPUTS : taps + frame * pixels * 3 * OUTPUTS;
        from += source * 3 * OUTPUTS + tap * OUTPUTS + output;
#pragma unroll
        for (int v = 0; v < PATCH; ++v) sums[v] += to_float(from[v]);
    }
    long long to = (((long long)colour * frames + t) * PATCH * height + y) * PATCH * width + (long long)x * PATCH;
#pragma unroll
    for (int v = 0; v < PATCH; ++v) out[to + v] = sums[v] * __int_as_float(scale_bits) + bias[output + v];
}
#endif
