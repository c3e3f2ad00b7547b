// Group normalisation with SiLU and dropout, forward and backward: see ops/group_norm.rs and cpu/group_norm.rs for the formulas.
//
// Passes go over stretches of whole pixels, so memory is read in its order; what stretches found out is put together, in double and in
// a fixed order, by a small kernel between two passes.

/// Each channel's mean over a stretch of pixels, and Σ (x - mean)². Sums are of differences to the stretch's first pixel, so a mean
/// far from 0 costs nothing.
template <unsigned V> struct Spread {
    const Element* x;
    unsigned first, pixels, c;
    float* out;
    float origin[V];

    __device__ void begin(unsigned channel) { load<V>(x, (size_t)first * c + channel, origin); }
    __device__ void add(unsigned pixel, unsigned channel, float sums[2][V]) {
        float values[V];
        load<V>(x, (size_t)pixel * c + channel, values);
        for (unsigned j = 0; j < V; ++j) {
            float difference = values[j] - origin[j];
            sums[0][j] += difference;
            sums[1][j] += difference * difference;
        }
    }
    __device__ void end(unsigned channel, float totals[2]) {
        float count = (float)pixels;
        float rest = totals[1] - totals[0] * totals[0] / count;
        out[channel] = origin[channel % V] + totals[0] / count;
        // Rounding must not make it negative; NaN stays.
        out[c + channel] = rest < 0.0f ? 0.0f : rest;
    }
};

/// spread[n, stretch, (mean, squares), c]. Grid: (stretches, samples).
extern "C" __global__ void group_norm_spread(unsigned pixels, unsigned stretch, unsigned c, const Element* x, float* spread) {
    const Element* sample = x + (size_t)blockIdx.y * pixels * c;
    float* out = spread + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * 2 * c;
    unsigned first = blockIdx.x * stretch;
    unsigned end = first + stretch < pixels ? first + stretch : pixels;
    if (c % 4 == 0) {
        sum_rows<4, 2>(first, end, c, Spread<4>{sample, first, end - first, c, out, {}});
    } else {
        sum_rows<1, 2>(first, end, c, Spread<1>{sample, first, end - first, c, out, {}});
    }
}

/// statistics[n, group]: mean, 1/√(variance + ε). Grid: (groups, samples).
extern "C" __global__ void group_norm_statistics(unsigned pixels, unsigned stretch, unsigned stretches, unsigned c, float epsilon,
                                                 const float* spread, float* statistics) {
    unsigned groups = gridDim.x, group = c / groups, first = blockIdx.x * group;
    const float* sample = spread + (size_t)blockIdx.y * stretches * 2 * c;
    double count = (double)pixels * group;
    double total = 0.0;
    for (unsigned i = threadIdx.x; i < stretches * group; i += THREADS) {
        unsigned k = i / group, channel = first + i % group;
        unsigned size = k + 1 < stretches ? stretch : pixels - k * stretch;
        total += (double)size * (double)sample[(size_t)k * 2 * c + channel];
    }
    double mean = block_sum(total) / count;
    double square = 0.0;
    for (unsigned i = threadIdx.x; i < stretches * group; i += THREADS) {
        unsigned k = i / group, channel = first + i % group;
        unsigned size = k + 1 < stretches ? stretch : pixels - k * stretch;
        double difference = (double)sample[(size_t)k * 2 * c + channel] - mean;
        square += (double)sample[((size_t)k * 2 + 1) * c + channel] + size * difference * difference;
    }
    square = block_sum(square);
    if (threadIdx.x == 0) {
        float* out = statistics + 2 * ((size_t)blockIdx.y * groups + blockIdx.x);
        out[0] = (float)mean;
        out[1] = (float)(1.0 / sqrt(square / count + (double)epsilon));
    }
}

__device__ float normalised(float x, const float* pair) { return (x - pair[0]) * pair[1]; }

__device__ float scaled(float hat, const float* gamma, const float* beta, unsigned c) { return fmaf(hat, gamma[c], beta[c]); }

/// y = γ x̂ + β, then SiLU and dropout if wanted. Grid: (anything, samples).
extern "C" __global__ void group_norm_apply(unsigned sample_len, unsigned c, unsigned groups, unsigned with_silu, Dropout dropout,
                                            const Element* x, const float* gamma, const float* beta, const float* statistics,
                                            Element* y) {
    const float* pairs = statistics + 2 * (size_t)blockIdx.y * groups;
    size_t start = (size_t)blockIdx.y * sample_len;
    unsigned group = c / groups;
    if (group % 4 == 0) {
        for (unsigned i = thread_of_grid(); i < sample_len / 4; i += threads_of_grid()) {
            unsigned channel = 4 * i % c;
            const float* pair = pairs + 2 * (channel / group);
            float4 v = load4(x + start, i);
            float z[4] = {v.x, v.y, v.z, v.w};
            for (unsigned j = 0; j < 4; ++j) {
                z[j] = scaled(normalised(z[j], pair), gamma, beta, channel + j);
                if (with_silu) z[j] *= sigmoid(z[j]);
            }
            drop<4>(dropout, 4 * i, z);
            store4(y + start, i, make_float4(z[0], z[1], z[2], z[3]));
        }
    } else {
        for (unsigned i = thread_of_grid(); i < sample_len; i += threads_of_grid()) {
            unsigned channel = i % c;
            float z = scaled(normalised(x[start + i], pairs + 2 * (channel / group)), gamma, beta, channel);
            if (with_silu) z *= sigmoid(z);
            drop<1>(dropout, i, &z);
            y[start + i] = z;
        }
    }
}

/// Each channel's sums of dz and dz x̂ over a stretch of pixels, dz being the gradient before SiLU and dropout.
template <unsigned V> struct GradientSums {
    const Element* x;
    const Element* dy;
    const float *gamma, *beta, *pairs;
    unsigned c, group, with_silu;
    Dropout dropout;
    float* out;

    __device__ void begin(unsigned) {}
    __device__ void add(unsigned pixel, unsigned channel, float sums[2][V]) {
        float values[V], dz[V];
        load<V>(x, (size_t)pixel * c + channel, values);
        load<V>(dy, (size_t)pixel * c + channel, dz);
        drop<V>(dropout, pixel * c + channel, dz);
        for (unsigned j = 0; j < V; ++j) {
            float hat = normalised(values[j], pairs + 2 * ((channel + j) / group));
            if (with_silu) dz[j] = before_silu(scaled(hat, gamma, beta, channel + j), dz[j]);
            sums[0][j] += dz[j];
            sums[1][j] = fmaf(dz[j], hat, sums[1][j]);
        }
    }
    __device__ void end(unsigned channel, float totals[2]) {
        out[channel] = totals[0];
        out[c + channel] = totals[1];
    }
};

/// sums[n, stretch, (dz, dz x̂), c]. Grid: (stretches, samples).
extern "C" __global__ void group_norm_gradient_sums(unsigned pixels, unsigned stretch, unsigned c, unsigned groups, unsigned with_silu,
                                                    Dropout dropout, const Element* x, const float* gamma, const float* beta,
                                                    const float* statistics, const Element* dy, float* sums) {
    size_t sample = (size_t)blockIdx.y * pixels * c;
    const float* pairs = statistics + 2 * (size_t)blockIdx.y * groups;
    float* out = sums + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * 2 * c;
    unsigned first = blockIdx.x * stretch, group = c / groups;
    unsigned end = first + stretch < pixels ? first + stretch : pixels;
    if (c % 4 == 0) {
        sum_rows<4, 2>(first, end, c, GradientSums<4>{x + sample, dy + sample, gamma, beta, pairs, c, group, with_silu, dropout, out});
    } else {
        sum_rows<1, 2>(first, end, c, GradientSums<1>{x + sample, dy + sample, gamma, beta, pairs, c, group, with_silu, dropout, out});
    }
}

/// totals[(dz, dz x̂), n, c] over all stretches, and means[n, group]: of γ dz and γ dz x̂ over the group. Grid: (groups, samples).
extern "C" __global__ void group_norm_gradient_means(unsigned pixels, unsigned stretches, unsigned c, const float* gamma,
                                                     const float* sums, float* totals, float* means) {
    __shared__ double plain[THREADS];
    __shared__ double hats[THREADS];
    unsigned groups = gridDim.x, group = c / groups;
    const float* sample = sums + (size_t)blockIdx.y * stretches * 2 * c;
    unsigned lanes = group < THREADS ? group : THREADS;
    unsigned shares = THREADS / lanes;
    unsigned lane = threadIdx.x % lanes, share = threadIdx.x / lanes;
    double mean = 0.0, mean_hat = 0.0;
    for (unsigned start = 0; start < group; start += lanes) {
        bool inside = start + lane < group;
        unsigned channel = blockIdx.x * group + start + lane;
        double total = 0.0, with_hat = 0.0;
        if (share < shares && inside) {
            for (unsigned k = share; k < stretches; k += shares) {
                total += (double)sample[(size_t)k * 2 * c + channel];
                with_hat += (double)sample[((size_t)k * 2 + 1) * c + channel];
            }
        }
        plain[threadIdx.x] = total;
        hats[threadIdx.x] = with_hat;
        __syncthreads();
        if (share == 0 && inside) {
            for (unsigned other = 1; other < shares; ++other) {
                total += plain[other * lanes + lane];
                with_hat += hats[other * lanes + lane];
            }
            size_t i = (size_t)blockIdx.y * c + channel;
            totals[i] = (float)total;
            totals[(size_t)gridDim.y * c + i] = (float)with_hat;
            mean += (double)gamma[channel] * total;
            mean_hat += (double)gamma[channel] * with_hat;
        }
        __syncthreads();
    }
    double count = (double)pixels * group;
    mean = block_sum(mean) / count;
    mean_hat = block_sum(mean_hat) / count;
    if (threadIdx.x == 0) {
        float* out = means + 2 * ((size_t)blockIdx.y * groups + blockIdx.x);
        out[0] = (float)mean;
        out[1] = (float)mean_hat;
    }
}

/// dx = (γ dz - mean - x̂ · mean_hat) / deviation. Grid: (anything, samples).
extern "C" __global__ void group_norm_gradient_apply(unsigned sample_len, unsigned c, unsigned groups, unsigned with_silu,
                                                     Dropout dropout, const Element* x, const float* gamma, const float* beta,
                                                     const float* statistics, const Element* dy, const float* means, Element* dx) {
    const float* pairs = statistics + 2 * (size_t)blockIdx.y * groups;
    const float* group_means = means + 2 * (size_t)blockIdx.y * groups;
    size_t start = (size_t)blockIdx.y * sample_len;
    unsigned group = c / groups;
    if (group % 4 == 0) {
        for (unsigned i = thread_of_grid(); i < sample_len / 4; i += threads_of_grid()) {
            unsigned channel = 4 * i % c, index = channel / group;
            const float* pair = pairs + 2 * index;
            const float* mean = group_means + 2 * index;
            float4 v = load4(x + start, i);
            float4 d = load4(dy + start, i);
            float z[4] = {v.x, v.y, v.z, v.w};
            float dz[4] = {d.x, d.y, d.z, d.w};
            drop<4>(dropout, 4 * i, dz);
            for (unsigned j = 0; j < 4; ++j) {
                float hat = normalised(z[j], pair);
                if (with_silu) dz[j] = before_silu(scaled(hat, gamma, beta, channel + j), dz[j]);
                z[j] = (fmaf(-hat, mean[1], dz[j] * gamma[channel + j]) - mean[0]) * pair[1];
            }
            store4(dx + start, i, make_float4(z[0], z[1], z[2], z[3]));
        }
    } else {
        for (unsigned i = thread_of_grid(); i < sample_len; i += threads_of_grid()) {
            unsigned channel = i % c, index = channel / group;
            const float* pair = pairs + 2 * index;
            const float* mean = group_means + 2 * index;
            float hat = normalised(x[start + i], pair);
            float dz = dy[start + i];
            drop<1>(dropout, i, &dz);
            if (with_silu) dz = before_silu(scaled(hat, gamma, beta, channel), dz);
            dx[start + i] = (fmaf(-hat, mean[1], dz * gamma[channel]) - mean[0]) * pair[1];
        }
    }
}
