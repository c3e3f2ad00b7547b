// Kernels whose elements are independent of each other.

template <class F> __device__ void map(unsigned count, const Element* a, Element* y, F f) {
    unsigned quads = count / 4;
    for (unsigned i = thread_of_grid(); i < quads; i += threads_of_grid()) {
        float4 u = load4(a, i);
        store4(y, i, make_float4(f(u.x), f(u.y), f(u.z), f(u.w)));
    }
    for (unsigned i = 4 * quads + thread_of_grid(); i < count; i += threads_of_grid()) y[i] = f(a[i]);
}

/// y may be a or b.
template <class F> __device__ void zip(unsigned count, const Element* a, const Element* b, Element* y, F f) {
    unsigned quads = count / 4;
    for (unsigned i = thread_of_grid(); i < quads; i += threads_of_grid()) {
        float4 u = load4(a, i);
        float4 v = load4(b, i);
        store4(y, i, make_float4(f(u.x, v.x), f(u.y, v.y), f(u.z, v.z), f(u.w, v.w)));
    }
    for (unsigned i = 4 * quads + thread_of_grid(); i < count; i += threads_of_grid()) y[i] = f(a[i], b[i]);
}

extern "C" __global__ void silu(unsigned count, const Element* x, Element* y) {
    map(count, x, y, [](float x) { return x * sigmoid(x); });
}

extern "C" __global__ void silu_gradient(unsigned count, const Element* x, const Element* dy, Element* dx) {
    zip(count, x, dy, dx, [](float x, float dy) { return before_silu(x, dy); });
}

extern "C" __global__ void relu(unsigned count, const Element* x, Element* y) {
    // A comparison that is false for NaN keeps it.
    map(count, x, y, [](float x) { return x < 0.0f ? 0.0f : x; });
}

extern "C" __global__ void relu_gradient(unsigned count, const Element* x, const Element* dy, Element* dx) {
    zip(count, x, dy, dx, [](float x, float dy) { return x > 0.0f ? dy : 0.0f; });
}

extern "C" __global__ void add(unsigned count, const Element* a, const Element* b, Element* y) {
    zip(count, a, b, y, [](float a, float b) { return a + b; });
}

/// y[n, pixel, c] = x[n, pixel, c] + vector[n, c]. Grid: (anything, samples).
extern "C" __global__ void add_per_sample(unsigned sample_len, unsigned channels, const Element* x, const Element* vector, Element* y) {
    const Element* v = vector + (size_t)blockIdx.y * channels;
    size_t start = (size_t)blockIdx.y * sample_len;
    if (channels % 4 == 0) {
        for (unsigned i = thread_of_grid(); i < sample_len / 4; i += threads_of_grid()) {
            float4 a = load4(x + start, i), b = load4(v, i % (channels / 4));
            store4(y + start, i, make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w));
        }
    } else {
        for (unsigned i = thread_of_grid(); i < sample_len; i += threads_of_grid()) y[start + i] = x[start + i] + v[i % channels];
    }
}

/// y[n, pixel, c] = x[n, pixel, c] · (1 + vector[n, c]) + vector[n, C + c]. Grid: (anything, samples).
extern "C" __global__ void scale_shift(unsigned sample_len, unsigned channels, const Element* x, const Element* vector, Element* y) {
    const Element* scale = vector + 2 * (size_t)blockIdx.y * channels;
    size_t start = (size_t)blockIdx.y * sample_len;
    for (unsigned i = thread_of_grid(); i < sample_len; i += threads_of_grid()) {
        unsigned channel = i % channels;
        y[start + i] = x[start + i] * (1.0f + scale[channel]) + scale[channels + channel];
    }
}

/// dx = dy · (1 + scale). Grid: (anything, samples).
extern "C" __global__ void scale_gradient(unsigned sample_len, unsigned channels, const Element* vector, const Element* dy,
                                          Element* dx) {
    const Element* scale = vector + 2 * (size_t)blockIdx.y * channels;
    size_t start = (size_t)blockIdx.y * sample_len;
    for (unsigned i = thread_of_grid(); i < sample_len; i += threads_of_grid()) {
        dx[start + i] = dy[start + i] * (1.0f + scale[i % channels]);
    }
}

/// y[row, c] += bias[c].
extern "C" __global__ void add_bias(unsigned count, unsigned channels, const float* bias, Element* y) {
    if (channels % 4 == 0) {
        for (unsigned i = thread_of_grid(); i < count / 4; i += threads_of_grid()) {
            const float* b = bias + 4 * (i % (channels / 4));
            float4 v = load4(y, i);
            store4(y, i, make_float4(v.x + b[0], v.y + b[1], v.z + b[2], v.w + b[3]));
        }
    } else {
        for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) y[i] = y[i] + bias[i % channels];
    }
}

/// Four random words from a 128-bit counter and a 64-bit key: Philox4x32-10, as random.rs has it.
__device__ void philox(unsigned counter[4], unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; ++round) {
        unsigned long long p0 = 0xD2511F53ull * counter[0];
        unsigned long long p1 = 0xCD9E8D57ull * counter[2];
        counter[0] = (unsigned)(p1 >> 32) ^ counter[1] ^ k0;
        counter[2] = (unsigned)(p0 >> 32) ^ counter[3] ^ k1;
        counter[1] = (unsigned)p1;
        counter[3] = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/// An element is multiplied by scale where its random word reaches the threshold, else it becomes 0. run: seed, number of the first
/// sample; null where nothing is dropped. The host has the same struct.
struct Dropout {
    unsigned purpose, layer, threshold;
    float scale;
    const unsigned long long* run;
};

/// The four random words of a sample's elements 4 · block and on. The sample is the grid's second index. run: seed, number of the first
/// sample.
__device__ void random_words(const unsigned long long* run, unsigned purpose, unsigned step, unsigned block, unsigned words[4]) {
    unsigned long long seed = run[0], sample = run[1] + blockIdx.y;
    words[0] = block;
    words[1] = step;
    words[2] = (unsigned)sample;
    words[3] = ((unsigned)(sample >> 32) & 0x00FFFFFFu) << 8 | purpose;
    philox(words, (unsigned)seed, (unsigned)(seed >> 32));
}

__device__ void random_words(const Dropout& dropout, unsigned block, unsigned words[4]) {
    random_words(dropout.run, dropout.purpose, dropout.layer, block, words);
}

/// V elements of a sample, 1 or 4, of which the first is number `at`, a multiple of V.
template <unsigned V> __device__ void drop(const Dropout& dropout, unsigned at, float values[V]) {
    if (!dropout.run) return;
    unsigned words[4];
    random_words(dropout, at / 4, words);
    for (unsigned j = 0; j < V; ++j) {
        unsigned word = V == 4 ? words[j] : at % 4 == 0 ? words[0] : at % 4 == 1 ? words[1] : at % 4 == 2 ? words[2] : words[3];
        values[j] = word >= dropout.threshold ? values[j] * dropout.scale : 0.0f;
    }
}

/// Grid: (anything, samples).
extern "C" __global__ void dropout(unsigned sample_len, Dropout dropout, const Element* x, Element* y) {
    size_t start = (size_t)blockIdx.y * sample_len;
    for (unsigned block = thread_of_grid(); block < (sample_len + 3) / 4; block += threads_of_grid()) {
        unsigned words[4];
        random_words(dropout, block, words);
        for (unsigned word = 0; word < 4 && 4 * block + word < sample_len; ++word) {
            size_t i = start + 4 * block + word;
            y[i] = words[word] >= dropout.threshold ? x[i] * dropout.scale : 0.0f;
        }
    }
}

/// Standard normal numbers of each sample's step, by the Box-Muller transform, in double as random.rs has it. Grid: (anything, samples).
extern "C" __global__ void normals(unsigned sample_len, unsigned purpose, const unsigned long long* run, const float* step, float* y) {
    const double TAU = 6.283185307179586, CELL = 1.0 / 4294967296.0;
    float* sample = y + (size_t)blockIdx.y * sample_len;
    for (unsigned block = thread_of_grid(); block < (sample_len + 3) / 4; block += threads_of_grid()) {
        unsigned words[4];
        random_words(run, purpose, (unsigned)fmaxf(step[blockIdx.y], 0.0f), block, words);
        for (unsigned word = 0; word < 4; word += 2) {
            double radius = sqrt(-2.0 * log(((double)words[word] + 0.5) * CELL));
            double sine, cosine;
            sincos(TAU * (double)words[word + 1] * CELL, &sine, &cosine);
            unsigned i = 4 * block + word;
            if (i < sample_len) sample[i] = (float)(radius * cosine);
            if (i + 1 < sample_len) sample[i + 1] = (float)(radius * sine);
        }
    }
}

/// weights[n, 0] x + weights[n, 1] y. Grid: (anything, samples).
extern "C" __global__ void weighted_sum(unsigned sample_len, const float* x, const float* y, const float* weights, Element* sum) {
    size_t start = (size_t)blockIdx.y * sample_len;
    float a = weights[2 * blockIdx.y], b = weights[2 * blockIdx.y + 1];
    for (unsigned i = thread_of_grid(); i < sample_len; i += threads_of_grid()) sum[start + i] = a * x[start + i] + b * y[start + i];
}

/// See ops/sinusoid.rs. In double, as the CPU computes them.
extern "C" __global__ void sinusoid(unsigned samples, unsigned half, double decay, unsigned sines, unsigned cosines, float scale,
                                    const float* t, Element* y) {
    for (unsigned i = thread_of_grid(); i < samples * half; i += threads_of_grid()) {
        unsigned sample = i / half, frequency = i % half;
        double angle = (double)(t[sample] * scale) * exp(-decay * frequency);
        y[sample * 2 * half + sines + frequency] = (float)sin(angle);
        y[sample * 2 * half + cosines + frequency] = (float)cos(angle);
    }
}

/// Parameters as elements.
extern "C" __global__ void convert(unsigned count, const float* x, Element* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) y[i] = x[i];
}
