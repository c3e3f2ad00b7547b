// Kernels that move pixels and channels.

/// Part `part` channels wide from channel `x_start` of x to channel `y_start` of y, for all pixels. T: one element or four.
template <class T>
__device__ void copy_channels_of(unsigned pixels, unsigned part, unsigned x_channels, unsigned x_start, unsigned y_channels,
                                 unsigned y_start, const T* x, T* y) {
    for (unsigned i = thread_of_grid(); i < pixels * part; i += threads_of_grid()) {
        unsigned pixel = i / part, c = i % part;
        y[(size_t)pixel * y_channels + y_start + c] = x[(size_t)pixel * x_channels + x_start + c];
    }
}

extern "C" __global__ void copy_channels(unsigned pixels, unsigned part, unsigned x_channels, unsigned x_start, unsigned y_channels,
                                         unsigned y_start, const Element* x, Element* y) {
    copy_channels_of(pixels, part, x_channels, x_start, y_channels, y_start, x, y);
}

/// The same where all numbers of channels are multiples of 4; they are given in fours.
extern "C" __global__ void copy_channel_quads(unsigned pixels, unsigned part, unsigned x_channels, unsigned x_start,
                                              unsigned y_channels, unsigned y_start, const Element* x, Element* y) {
    copy_channels_of(pixels, part, x_channels, x_start, y_channels, y_start, (const Quad*)x, (Quad*)y);
}

/// Each pixel of y [n, 2h, 2w, c] from x [n, h, w, c]; w, c: x's.
template <class T> __device__ void upsample_of(unsigned count, unsigned w, unsigned c, const T* x, T* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        unsigned pixel = i / c, column = pixel % (2 * w), row = pixel / (2 * w);
        // Rows of all samples in one: they are even in number.
        y[i] = x[((row / 2) * w + column / 2) * c + i % c];
    }
}

extern "C" __global__ void upsample(unsigned count, unsigned w, unsigned c, const Element* x, Element* y) {
    if (c % 4 == 0) {
        upsample_of(count / 4, w, c / 4, (const Quad*)x, (Quad*)y);
    } else {
        upsample_of(count, w, c, x, y);
    }
}

/// dx [n, h, w, c] from the sums of dy's blocks; count: elements of dx.
extern "C" __global__ void upsample_gradient(unsigned count, unsigned w, unsigned c, const Element* dy, Element* dx) {
    if (c % 4 == 0) {
        unsigned quads = c / 4;
        for (unsigned i = thread_of_grid(); i < count / 4; i += threads_of_grid()) {
            unsigned pixel = i / quads, column = pixel % w, row = pixel / w;
            unsigned upper = ((2 * row) * (2 * w) + 2 * column) * quads + i % quads, lower = upper + 2 * w * quads;
            float4 a = load4(dy, upper), b = load4(dy, upper + quads), d = load4(dy, lower), e = load4(dy, lower + quads);
            store4(dx, i,
                   make_float4((a.x + b.x) + (d.x + e.x), (a.y + b.y) + (d.y + e.y), (a.z + b.z) + (d.z + e.z),
                               (a.w + b.w) + (d.w + e.w)));
        }
    } else {
        for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
            unsigned pixel = i / c, column = pixel % w, row = pixel / w;
            const Element* upper = dy + ((2 * row) * (2 * w) + 2 * column) * c + i % c;
            const Element* lower = upper + 2 * w * c;
            dx[i] = ((float)upper[0] + upper[c]) + ((float)lower[0] + lower[c]);
        }
    }
}

/// Image [n, h, w, c] and blocks [n, h/b, w/b, b²c]: w, c, count are the image's.
extern "C" __global__ void space_to_depth(unsigned count, unsigned w, unsigned c, unsigned block, unsigned to_depth, const Element* x,
                                          Element* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        unsigned pixel = i / c, column = pixel % w, row = pixel / w;
        unsigned deep_pixel = (row / block) * (w / block) + column / block;
        unsigned deep = ((deep_pixel * block + row % block) * block + column % block) * c + i % c;
        if (to_depth) {
            y[deep] = x[i];
        } else {
            y[i] = x[deep];
        }
    }
}

/// Samples' [n, pixels, heads · c] and heads' [n · heads, pixels, c].
extern "C" __global__ void split_heads(unsigned count, unsigned heads, unsigned pixels, unsigned c, unsigned split, const Element* x,
                                       Element* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        // i: among the samples'.
        unsigned channel = i % c, head = i / c % heads, pixel = i / (c * heads) % pixels, sample = i / (c * heads * pixels);
        unsigned apart = ((sample * heads + head) * pixels + pixel) * c + channel;
        if (split) {
            y[apart] = x[i];
        } else {
            y[i] = x[apart];
        }
    }
}

/// y [n, y_h, y_w, c]: x [n, h, w, c] with zeros above and to the left (top, left) and as many as fit on the other sides.
extern "C" __global__ void pad(unsigned count, unsigned h, unsigned w, unsigned c, unsigned y_h, unsigned y_w, unsigned top,
                               unsigned left, const Element* x, Element* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        unsigned pixel = i / c, column = pixel % y_w, row = pixel / y_w % y_h, sample = pixel / (y_w * y_h);
        bool inside = row >= top && row - top < h && column >= left && column - left < w;
        y[i] = inside ? (float)x[((sample * h + row - top) * w + column - left) * c + i % c] : 0.0f;
    }
}

/// x [n, h, w, c]: the inner part of y [n, y_h, y_w, c]; count: elements of x.
extern "C" __global__ void crop(unsigned count, unsigned h, unsigned w, unsigned c, unsigned y_h, unsigned y_w, unsigned top,
                                unsigned left, const Element* y, Element* x) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        unsigned pixel = i / c, column = pixel % w, row = pixel / w % h, sample = pixel / (w * h);
        x[i] = y[((sample * y_h + row + top) * y_w + column + left) * c + i % c];
    }
}

/// store(index in y [columns, rows], value) for all of x [rows, columns]. Grid: (columns / 32, rows / 32).
template <class T, class S> __device__ void transpose(unsigned rows, unsigned columns, const T* x, S store) {
    __shared__ float tile[32][33];
    unsigned lane = threadIdx.x % 32, first = threadIdx.x / 32;
    unsigned column = blockIdx.x * 32 + lane;
    for (unsigned r = first; r < 32; r += THREADS / 32) {
        unsigned row = blockIdx.y * 32 + r;
        if (row < rows && column < columns) tile[r][lane] = x[(size_t)row * columns + column];
    }
    __syncthreads();
    unsigned row = blockIdx.y * 32 + lane;
    for (unsigned r = first; r < 32; r += THREADS / 32) {
        unsigned to = blockIdx.x * 32 + r;
        if (row < rows && to < columns) store((size_t)to * rows + row, tile[lane][r]);
    }
}

/// A filter [taps · in, out] as the library wants it, [out, taps · in].
extern "C" __global__ void transpose_filter(unsigned rows, unsigned columns, const float* x, Element* y) {
    transpose(rows, columns, x, [=](size_t i, float value) { y[i] = value; });
}

/// A filter's gradient [out, taps · in], added to ours [taps · in, out].
extern "C" __global__ void transpose_gradient(unsigned rows, unsigned columns, const Element* x, float* y) {
    transpose(rows, columns, x, [=](size_t i, float value) { y[i] += value; });
}
