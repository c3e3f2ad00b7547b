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

extern "C" __global__ void max_pool(unsigned count, Window g, const Element* x, Element* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        unsigned channel = i % g.c, pixel = i / g.c, column = pixel % g.y_w, row = pixel / g.y_w % g.y_h;
        unsigned sample = pixel / (g.y_w * g.y_h);
        Range rows = inside(row, g.stride, g.top, g.kernel_h, g.x_h), columns = inside(column, g.stride, g.left, g.kernel_w, g.x_w);
        float largest = -infinity();
        for (unsigned r = rows.first; r < rows.end; ++r) {
            for (unsigned s = columns.first; s < columns.end; ++s) {
                float value = x[((sample * g.x_h + r) * g.x_w + s) * g.c + channel];
                // A NaN in the window stays.
                if (value > largest || value != value) largest = value;
            }
        }
        y[i] = largest;
    }
}

extern "C" __global__ void max_pool_gradient(unsigned count, Window g, const Element* x, const Element* dy, Element* dx) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        unsigned channel = i % g.c, pixel = i / g.c, column = pixel % g.x_w, row = pixel / g.x_w % g.x_h;
        unsigned sample = pixel / (g.x_w * g.x_h);
        Range rows = holding(row, g.stride, g.top, g.kernel_h, g.y_h), columns = holding(column, g.stride, g.left, g.kernel_w, g.y_w);
        float total = 0.0f;
        for (unsigned a = rows.first; a < rows.end; ++a) {
            for (unsigned b = columns.first; b < columns.end; ++b) {
                Range window_rows = inside(a, g.stride, g.top, g.kernel_h, g.x_h);
                Range window_columns = inside(b, g.stride, g.left, g.kernel_w, g.x_w);
                // The first of the largest, or the window's first pixel.
                float largest = -infinity();
                unsigned best = ((sample * g.x_h + window_rows.first) * g.x_w + window_columns.first) * g.c + channel;
                for (unsigned r = window_rows.first; r < window_rows.end; ++r) {
                    for (unsigned s = window_columns.first; s < window_columns.end; ++s) {
                        unsigned index = ((sample * g.x_h + r) * g.x_w + s) * g.c + channel;
                        if (x[index] > largest) {
                            largest = x[index];
                            best = index;
                        }
                    }
                }
                if (best == i) total += dy[((sample * g.y_h + a) * g.y_w + b) * g.c + channel];
            }
        }
        dx[i] = total;
    }
}

extern "C" __global__ void avg_pool(unsigned count, Window g, const Element* x, Element* y) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        unsigned channel = i % g.c, pixel = i / g.c, column = pixel % g.y_w, row = pixel / g.y_w % g.y_h;
        unsigned sample = pixel / (g.y_w * g.y_h);
        Range rows = inside(row, g.stride, g.top, g.kernel_h, g.x_h), columns = inside(column, g.stride, g.left, g.kernel_w, g.x_w);
        float total = 0.0f;
        for (unsigned r = rows.first; r < rows.end; ++r) {
            for (unsigned s = columns.first; s < columns.end; ++s) total += x[((sample * g.x_h + r) * g.x_w + s) * g.c + channel];
        }
        y[i] = total / (float)((rows.end - rows.first) * (columns.end - columns.first));
    }
}

extern "C" __global__ void avg_pool_gradient(unsigned count, Window g, const Element* dy, Element* dx) {
    for (unsigned i = thread_of_grid(); i < count; i += threads_of_grid()) {
        unsigned channel = i % g.c, pixel = i / g.c, column = pixel % g.x_w, row = pixel / g.x_w % g.x_h;
        unsigned sample = pixel / (g.x_w * g.x_h);
        Range rows = holding(row, g.stride, g.top, g.kernel_h, g.y_h), columns = holding(column, g.stride, g.left, g.kernel_w, g.y_w);
        float total = 0.0f;
        for (unsigned a = rows.first; a < rows.end; ++a) {
            Range window_rows = inside(a, g.stride, g.top, g.kernel_h, g.x_h);
            for (unsigned b = columns.first; b < columns.end; ++b) {
                Range window_columns = inside(b, g.stride, g.left, g.kernel_w, g.x_w);
                unsigned size = (window_rows.end - window_rows.first) * (window_columns.end - window_columns.first);
                total += dy[((sample * g.y_h + a) * g.y_w + b) * g.c + channel] / (float)size;
            }
        }
        dx[i] = total;
    }
}
