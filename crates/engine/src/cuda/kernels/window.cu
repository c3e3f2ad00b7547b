// Pools: see ops/pool.rs. Gradients are gathered: each pixel of x goes through the windows it lies in, in order.

/// A window's geometry and both images: x [n, x_h, x_w, c], y [n, y_h, y_w, c]. The host has the same struct.
struct Window {
    unsigned kernel_h, kernel_w, stride, top, left, x_h, x_w, y_h, y_w, c;
};

/// Rows (or columns) first .. end of x inside the window at `index`.
struct Range {
    unsigned first, end;
};

__device__ Range inside(unsigned index, unsigned stride, unsigned before, unsigned kernel, unsigned len) {
    unsigned start = index * stride, end = start + kernel;
    end = end > before ? end - before : 0;
    return Range{start > before ? start - before : 0, end < len ? end : len};
}

/// Windows first .. end that hold row (or column) `index` of x.
__device__ Range holding(unsigned index, unsigned stride, unsigned before, unsigned kernel, unsigned count) {
    unsigned position = index + before;
    unsigned first = position >= kernel ? (position - kernel) / stride + 1 : 0;
    unsigned end = position / stride + 1;
    return Range{first, end < count ? end : count};
}

/// Where element i of a tensor [n, h, w, c] lies.
struct Position {
    unsigned sample, row, column, channel;
};

__device__ Position position(unsigned i, unsigned h, unsigned w, unsigned c) {
    unsigned pixel = i / c;
    return Position{pixel / (w * h), pixel / w % h, pixel % w, i % c};
}

extern "C" __global__ void max_pool(unsigned count, Window g, const Element* x, Element* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        Position at = position(i, g.y_h, g.y_w, g.c);
        Range rows = inside(at.row, g.stride, g.top, g.kernel_h, g.x_h), columns = inside(at.column, g.stride, g.left, g.kernel_w, g.x_w);
        float largest = -infinity();
        for (unsigned r = rows.first; r < rows.end; ++r) {
            for (unsigned s = columns.first; s < columns.end; ++s) {
                float value = x[((at.sample * g.x_h + r) * g.x_w + s) * g.c + at.channel];
                // A NaN in the window stays.
                if (value > largest || value != value) largest = value;
            }
        }
        y[i] = largest;
    }
}

extern "C" __global__ void max_pool_gradient(unsigned count, Window g, const Element* x, const Element* dy, Element* dx) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        Position at = position(i, g.x_h, g.x_w, g.c);
        Range rows = holding(at.row, g.stride, g.top, g.kernel_h, g.y_h);
        Range columns = holding(at.column, g.stride, g.left, g.kernel_w, g.y_w);
        float total = 0.0f;
        for (unsigned a = rows.first; a < rows.end; ++a) {
            for (unsigned b = columns.first; b < columns.end; ++b) {
                Range window_rows = inside(a, g.stride, g.top, g.kernel_h, g.x_h);
                Range window_columns = inside(b, g.stride, g.left, g.kernel_w, g.x_w);
                // The first of the largest, or the window's first pixel.
                float largest = -infinity();
                unsigned best = ((at.sample * g.x_h + window_rows.first) * g.x_w + window_columns.first) * g.c + at.channel;
                for (unsigned r = window_rows.first; r < window_rows.end; ++r) {
                    for (unsigned s = window_columns.first; s < window_columns.end; ++s) {
                        unsigned index = ((at.sample * g.x_h + r) * g.x_w + s) * g.c + at.channel;
                        if (x[index] > largest) {
                            largest = x[index];
                            best = index;
                        }
                    }
                }
                if (best == i) total += dy[((at.sample * g.y_h + a) * g.y_w + b) * g.c + at.channel];
            }
        }
        dx[i] = total;
    }
}

extern "C" __global__ void avg_pool(unsigned count, Window g, const Element* x, Element* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        Position at = position(i, g.y_h, g.y_w, g.c);
        Range rows = inside(at.row, g.stride, g.top, g.kernel_h, g.x_h), columns = inside(at.column, g.stride, g.left, g.kernel_w, g.x_w);
        float total = 0.0f;
        for (unsigned r = rows.first; r < rows.end; ++r) {
            for (unsigned s = columns.first; s < columns.end; ++s) total += x[((at.sample * g.x_h + r) * g.x_w + s) * g.c + at.channel];
        }
        y[i] = total / (float)((rows.end - rows.first) * (columns.end - columns.first));
    }
}

extern "C" __global__ void avg_pool_gradient(unsigned count, Window g, const Element* dy, Element* dx) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        Position at = position(i, g.x_h, g.x_w, g.c);
        Range rows = holding(at.row, g.stride, g.top, g.kernel_h, g.y_h);
        Range columns = holding(at.column, g.stride, g.left, g.kernel_w, g.y_w);
        float total = 0.0f;
        for (unsigned a = rows.first; a < rows.end; ++a) {
            Range window_rows = inside(a, g.stride, g.top, g.kernel_h, g.x_h);
            for (unsigned b = columns.first; b < columns.end; ++b) {
                Range window_columns = inside(b, g.stride, g.left, g.kernel_w, g.x_w);
                unsigned size = (window_rows.end - window_rows.first) * (window_columns.end - window_columns.first);
                total += dy[((at.sample * g.y_h + a) * g.y_w + b) * g.c + at.channel] / (float)size;
            }
        }
        dx[i] = total;
    }
}
