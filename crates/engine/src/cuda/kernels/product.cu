// Products of our own, for what no library takes and to hold the libraries against: matrices, and convolutions as products whose
// left factor is gathered. One thread has 4×4 elements of a 64×64 tile, each a single chain of fused multiply-adds in order.

const unsigned TILE = 64;
const unsigned DEPTH = 16;

/// store(i, j, Σ_k left(i, k) · right(k, j)) over k in first .. end for an m × n result. Grid: (rows / 64, columns / 64, …).
template <class L, class R, class S>
__device__ void multiply(unsigned m, unsigned n, unsigned first, unsigned end, L left, R right, S store) {
    __shared__ float a[DEPTH][TILE + 4];
    __shared__ float b[DEPTH][TILE + 4];
    unsigned row = blockIdx.x * TILE, column = blockIdx.y * TILE;
    unsigned ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    float sums[4][4] = {};
    for (unsigned start = first; start < end; start += DEPTH) {
        for (unsigned i = threadIdx.x; i < DEPTH * TILE; i += THREADS) {
            // Neighbouring threads read neighbouring k on the left, neighbouring columns on the right.
            unsigned k = i % DEPTH, r = i / DEPTH;
            a[k][r] = row + r < m && start + k < end ? left(row + r, start + k) : 0.0f;
            unsigned s = i % TILE, q = i / TILE;
            b[q][s] = column + s < n && start + q < end ? right(start + q, column + s) : 0.0f;
        }
        __syncthreads();
        for (unsigned k = 0; k < DEPTH; ++k) {
            for (unsigned i = 0; i < 4; ++i) {
                for (unsigned j = 0; j < 4; ++j) sums[i][j] = fmaf(a[k][4 * ty + i], b[k][tx + 16 * j], sums[i][j]);
            }
        }
        __syncthreads();
    }
    for (unsigned i = 0; i < 4; ++i) {
        for (unsigned j = 0; j < 4; ++j) {
            unsigned r = row + 4 * ty + i, s = column + tx + 16 * j;
            if (r < m && s < n) store(r, s, sums[i][j]);
        }
    }
}

/// A batch of products c = alpha · a b (+ c). Strides are in elements: from a row to the next, from a column to the next, from a matrix to
/// the next; so a transposed factor is one with strides exchanged. c's columns are 1 apart. The host has the same struct.
struct Product {
    unsigned m, n, depth, accumulate;
    float alpha;
    unsigned a_row, a_column, b_row, b_column, c_row;
    unsigned long long a_batch, b_batch, c_batch;
};

template <class A, class B, class C> __device__ void multiply_matrices(const Product& p, const A* a, const B* b, C* c) {
    a += p.a_batch * blockIdx.z;
    b += p.b_batch * blockIdx.z;
    c += p.c_batch * blockIdx.z;
    multiply(
        p.m, p.n, 0, p.depth, [=](unsigned i, unsigned k) { return (float)a[(size_t)i * p.a_row + (size_t)k * p.a_column]; },
        [=](unsigned k, unsigned j) { return (float)b[(size_t)k * p.b_row + (size_t)j * p.b_column]; },
        [=](unsigned i, unsigned j, float sum) {
            size_t at = (size_t)i * p.c_row + j;
            c[at] = p.accumulate ? c[at] + p.alpha * sum : p.alpha * sum;
        });
}

/// Activations with each other. Grid: (rows / 64, columns / 64, batch).
extern "C" __global__ void product(Product p, const Element* a, const Element* b, Element* c) { multiply_matrices(p, a, b, c); }

/// Activations with parameters.
extern "C" __global__ void product_with_weights(Product p, const Element* a, const float* b, Element* c) {
    multiply_matrices(p, a, b, c);
}

/// Activations with each other, to a parameter's gradient.
extern "C" __global__ void product_to_gradient(Product p, const Element* a, const Element* b, float* c) {
    multiply_matrices(p, a, b, c);
}

/// A convolution's geometry: x [n, x_h, x_w, in], y [n, y_h, y_w, out], w [kernel_h, kernel_w, in, out]. The host has the same struct.
struct Convolution {
    unsigned n, x_h, x_w, in, y_h, y_w, out, kernel_h, kernel_w, stride, top, left;
};

/// x at the tap of an output pixel.
__device__ float gather(const Convolution& g, const Element* x, unsigned pixel, unsigned tap, unsigned channel) {
    unsigned row = pixel / g.y_w % g.y_h * g.stride + tap / g.kernel_w, column = pixel % g.y_w * g.stride + tap % g.kernel_w;
    unsigned sample = pixel / (g.y_w * g.y_h);
    if (row < g.top || row - g.top >= g.x_h || column < g.left || column - g.left >= g.x_w) return 0.0f;
    return x[((size_t)(sample * g.x_h + row - g.top) * g.x_w + column - g.left) * g.in + channel];
}

extern "C" __global__ void convolution(Convolution g, const Element* x, const float* w, const float* bias, Element* y) {
    multiply(
        g.n * g.y_h * g.y_w, g.out, 0, g.kernel_h * g.kernel_w * g.in,
        [=](unsigned pixel, unsigned k) { return gather(g, x, pixel, k / g.in, k % g.in); },
        [=](unsigned k, unsigned o) { return w[(size_t)k * g.out + o]; },
        [=](unsigned pixel, unsigned o, float sum) { y[(size_t)pixel * g.out + o] = sum + bias[o]; });
}

extern "C" __global__ void convolution_input_gradient(Convolution g, const Element* dy, const float* w, Element* dx) {
    multiply(
        g.n * g.x_h * g.x_w, g.in, 0, g.kernel_h * g.kernel_w * g.out,
        [=](unsigned pixel, unsigned k) {
            unsigned tap = k / g.out;
            unsigned row = pixel / g.x_w % g.x_h + g.top, column = pixel % g.x_w + g.left, sample = pixel / (g.x_w * g.x_h);
            if (row < tap / g.kernel_w || column < tap % g.kernel_w) return 0.0f;
            row -= tap / g.kernel_w;
            column -= tap % g.kernel_w;
            if (row % g.stride != 0 || column % g.stride != 0 || row / g.stride >= g.y_h || column / g.stride >= g.y_w) return 0.0f;
            return (float)dy[((size_t)(sample * g.y_h + row / g.stride) * g.y_w + column / g.stride) * g.out + k % g.out];
        },
        [=](unsigned k, unsigned i) { return w[((size_t)(k / g.out) * g.in + i) * g.out + k % g.out]; },
        [=](unsigned pixel, unsigned i, float sum) { dx[(size_t)pixel * g.in + i] = sum; });
}

/// parts[chunk, tap, in, out]: over a chunk of the result's pixels. Grid: (rows / 64, columns / 64, chunks).
extern "C" __global__ void convolution_weight_gradient(Convolution g, unsigned pixels_per_chunk, const Element* x, const Element* dy,
                                                       float* parts) {
    unsigned rows = g.kernel_h * g.kernel_w * g.in, pixels = g.n * g.y_h * g.y_w;
    unsigned first = blockIdx.z * pixels_per_chunk;
    unsigned end = first + pixels_per_chunk < pixels ? first + pixels_per_chunk : pixels;
    float* out = parts + (size_t)blockIdx.z * rows * g.out;
    multiply(
        rows, g.out, first, end, [=](unsigned i, unsigned pixel) { return gather(g, x, pixel, i / g.in, i % g.in); },
        [=](unsigned pixel, unsigned o) { return (float)dy[(size_t)pixel * g.out + o]; },
        [=](unsigned i, unsigned o, float sum) { out[(size_t)i * g.out + o] = sum; });
}
