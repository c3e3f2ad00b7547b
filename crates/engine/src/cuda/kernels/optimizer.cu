// The gradient's norm, and Adam with the moving average in one pass over all parameters, which also clears the gradients: see cpu/optimizer.rs.

/// parts[block]: a share of Σ x². The number of blocks decides the order of the sum.
extern "C" __global__ void squares(size_t count, const float* x, double* parts) {
    double total = 0.0;
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) total += (double)x[i] * (double)x[i];
    total = block_sum(total);
    if (threadIdx.x == 0) parts[blockIdx.x] = total;
}

/// result = the sum of parts. One block.
extern "C" __global__ void fold_squares(unsigned count, const double* parts, double* result) {
    double total = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += THREADS) total += parts[i];
    total = block_sum(total);
    if (threadIdx.x == 0) *result = total;
}

extern "C" __global__ void adam(size_t count, float gradient_scale, float beta1, float beta2, float rate, float root, float epsilon,
                                float ema_decay, unsigned clears, float* gradients, float* params, float* first, float* second, float* ema) {
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        float g = gradients[i] * gradient_scale;
        if (clears) gradients[i] = 0.0f;
        float m = beta1 * first[i] + (1.0f - beta1) * g;
        float v = beta2 * second[i] + (1.0f - beta2) * (g * g);
        float p = params[i] - rate * m / (sqrtf(v) * root + epsilon);
        first[i] = m;
        second[i] = v;
        params[i] = p;
        ema[i] = ema_decay == 0.0f ? p : ema[i] + (1.0f - ema_decay) * (p - ema[i]);
    }
}
