// Sums over rows, over pixels, over everything; softmax.

/// SUMS sums of each column over the rows first .. end, by a block: a thread has V columns beside each other (1 or 4) and a share of the
/// rows; the shares' sums are added in order. A visitor says what is summed:
/// begin(column) before the rows, add(row, column, sums[SUMS][V]) for each, end(column, totals[SUMS]) for each column at the end.
template <unsigned V, unsigned SUMS, class T> __device__ void sum_rows(unsigned first, unsigned end, unsigned columns, T visitor) {
    __shared__ float parts[SUMS][V][THREADS];
    unsigned groups = columns / V;
    unsigned lanes = groups < THREADS ? groups : THREADS;
    unsigned shares = THREADS / lanes;
    unsigned lane = threadIdx.x % lanes, share = threadIdx.x / lanes;
    for (unsigned start = 0; start < groups; start += lanes) {
        unsigned column = V * (start + lane);
        bool inside = share < shares && start + lane < groups;
        float sums[SUMS][V] = {};
        if (inside) {
            visitor.begin(column);
            for (unsigned row = first + share; row < end; row += shares) visitor.add(row, column, sums);
        }
        for (unsigned i = 0; i < SUMS; ++i) {
            for (unsigned j = 0; j < V; ++j) parts[i][j][threadIdx.x] = sums[i][j];
        }
        __syncthreads();
        if (inside && share == 0) {
            for (unsigned j = 0; j < V; ++j) {
                float totals[SUMS];
                for (unsigned i = 0; i < SUMS; ++i) {
                    totals[i] = sums[i][j];
                    for (unsigned other = 1; other < shares; ++other) totals[i] += parts[i][j][other * lanes + lane];
                }
                visitor.end(column + j, totals);
            }
        }
        __syncthreads();
    }
}

/// What column_sums sums.
template <unsigned V> struct PlainSum {
    const Element* x;
    unsigned c;
    float* out;

    __device__ void begin(unsigned) {}
    __device__ void add(unsigned row, unsigned column, float sums[1][V]) {
        float values[V];
        load<V>(x, (size_t)row * c + column, values);
        for (unsigned j = 0; j < V; ++j) sums[0][j] += values[j];
    }
    __device__ void end(unsigned column, float totals[1]) { out[column] = totals[0]; }
};

/// parts[n, chunk, c]: the sum over a chunk of x's rows; x [n, rows, c]. Grid: (chunks, n).
extern "C" __global__ void column_sums(unsigned rows, unsigned rows_per_chunk, unsigned c, const Element* x, float* parts) {
    const Element* sample = x + (size_t)blockIdx.y * rows * c;
    float* out = parts + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * c;
    unsigned first = blockIdx.x * rows_per_chunk;
    unsigned end = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
    if (c % 4 == 0) {
        sum_rows<4, 1>(first, end, c, PlainSum<4>{sample, c, out});
    } else {
        sum_rows<1, 1>(first, end, c, PlainSum<1>{sample, c, out});
    }
}

/// What scale_shift's vector gets from a chunk of pixels.
template <unsigned V> struct ScaleShiftSums {
    const Element* x;
    const Element* dy;
    unsigned c;
    float* out;

    __device__ void begin(unsigned) {}
    __device__ void add(unsigned row, unsigned column, float sums[2][V]) {
        float values[V], gradients[V];
        load<V>(x, (size_t)row * c + column, values);
        load<V>(dy, (size_t)row * c + column, gradients);
        for (unsigned j = 0; j < V; ++j) {
            sums[0][j] += gradients[j] * values[j];
            sums[1][j] += gradients[j];
        }
    }
    __device__ void end(unsigned column, float totals[2]) {
        out[column] = totals[0];
        out[c + column] = totals[1];
    }
};

/// parts[n, chunk, (dy x, dy), c]: sums over a chunk of pixels. Grid: (chunks, n).
extern "C" __global__ void scale_shift_sums(unsigned rows, unsigned rows_per_chunk, unsigned c, const Element* x, const Element* dy,
                                            float* parts) {
    size_t sample = (size_t)blockIdx.y * rows * c;
    float* out = parts + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * 2 * c;
    unsigned first = blockIdx.x * rows_per_chunk;
    unsigned end = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
    if (c % 4 == 0) {
        sum_rows<4, 2>(first, end, c, ScaleShiftSums<4>{x + sample, dy + sample, c, out});
    } else {
        sum_rows<1, 2>(first, end, c, ScaleShiftSums<1>{x + sample, dy + sample, c, out});
    }
}

/// store(index in [n, c], Σ_k parts[n, k, c]), in a fixed order. Grid: (c / 32, n).
template <class S> __device__ void fold(unsigned chunks, unsigned c, const float* parts, S store) {
    __shared__ float sums[THREADS];
    unsigned column = blockIdx.x * 32 + threadIdx.x % 32, share = threadIdx.x / 32;
    float total = 0.0f;
    if (column < c) {
        for (unsigned k = share; k < chunks; k += THREADS / 32) total += parts[((size_t)blockIdx.y * chunks + k) * c + column];
    }
    sums[threadIdx.x] = total;
    __syncthreads();
    if (share == 0 && column < c) {
        for (unsigned other = 1; other < THREADS / 32; ++other) total += sums[other * 32 + threadIdx.x];
        store((size_t)blockIdx.y * c + column, total);
    }
}

/// y[n, c] += Σ_k parts[n, k, c]: a parameter's gradient.
extern "C" __global__ void fold_to_gradient(unsigned chunks, unsigned c, const float* parts, float* y) {
    fold(chunks, c, parts, [=](size_t i, float total) { y[i] += total; });
}

/// y[n, c] = Σ_k parts[n, k, c].
extern "C" __global__ void fold_to_elements(unsigned chunks, unsigned c, const float* parts, Element* y) {
    fold(chunks, c, parts, [=](size_t i, float total) { y[i] = total; });
}

/// y = softmax(scale · x) of each row; y may be x. Grid: rows.
extern "C" __global__ void softmax(unsigned len, float scale, const Element* x, Element* y) {
    size_t start = (size_t)blockIdx.x * len;
    float largest = -infinity();
    for (unsigned i = threadIdx.x; i < len; i += THREADS) {
        float value = scale * x[start + i];
        if (value > largest) largest = value;
    }
    largest = block_max(largest);
    float total = 0.0f;
    for (unsigned i = threadIdx.x; i < len; i += THREADS) total += expf(scale * x[start + i] - largest);
    total = block_sum(total);
    for (unsigned i = threadIdx.x; i < len; i += THREADS) y[start + i] = expf(scale * x[start + i] - largest) / total;
}

/// dx = scale · y ⊙ (dy - Σ y dy) of each row; dx may be dy. Grid: rows.
extern "C" __global__ void softmax_gradient(unsigned len, float scale, const Element* y, const Element* dy, Element* dx) {
    size_t start = (size_t)blockIdx.x * len;
    float mean = 0.0f;
    for (unsigned i = threadIdx.x; i < len; i += THREADS) mean += (float)y[start + i] * dy[start + i];
    mean = block_sum(mean);
    for (unsigned i = threadIdx.x; i < len; i += THREADS) dx[start + i] = scale * ((float)y[start + i] * (dy[start + i] - mean));
}

/// The mean squared difference of each sample. Grid: samples.
extern "C" __global__ void squared_error(unsigned sample_len, const Element* a, const float* b, float* y) {
    size_t start = (size_t)blockIdx.x * sample_len;
    float total = 0.0f;
    for (unsigned i = threadIdx.x; i < sample_len; i += THREADS) {
        float difference = (float)a[start + i] - b[start + i];
        total += difference * difference;
    }
    total = block_sum(total);
    if (threadIdx.x == 0) y[blockIdx.x] = total / (float)sample_len;
}

/// Grid: (anything, samples).
extern "C" __global__ void squared_error_gradient(unsigned sample_len, const Element* a, const float* b, const float* dy, Element* da) {
    size_t start = (size_t)blockIdx.y * sample_len;
    float factor = 2.0f * dy[blockIdx.y] / (float)sample_len;
    for (unsigned i = thread_of_grid(); i < sample_len; i += threads_of_grid()) da[start + i] = factor * ((float)a[start + i] - b[start + i]);
}
