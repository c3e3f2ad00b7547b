// What all kernels share. The files of this folder are compiled as one source, this one first.
//
// Tensors are NHWC. Activations and their gradients consist of Elements: float, or with HALF defined bf16; parameters, statistics and
// partial sums are float, and so is all arithmetic. Tensors of the arena begin at multiples of 64 bytes, so that they may be read four
// elements at a time; parameters may begin anywhere. No sum uses atomics: each has one order, so that results are the same bits every time.

/// Threads of a block, everywhere.
const unsigned THREADS = 256;

#ifdef HALF
/// The nearest bf16, as the upper half of a float; of two as near the even one.
__device__ unsigned rounded(float value) {
    unsigned bits = __float_as_uint(value);
    if (value != value) return 0x7FC0u;
    return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}

struct Element {
    unsigned short bits;
    __device__ operator float() const { return __uint_as_float((unsigned)bits << 16); }
    __device__ Element& operator=(float value) {
        bits = (unsigned short)rounded(value);
        return *this;
    }
};

/// Four elements, to be moved.
typedef uint2 Quad;

__device__ float4 load4(const Element* from, size_t i) {
    uint2 four = ((const uint2*)from)[i];
    return make_float4(__uint_as_float(four.x << 16), __uint_as_float(four.x & 0xFFFF0000u), __uint_as_float(four.y << 16),
                       __uint_as_float(four.y & 0xFFFF0000u));
}

__device__ void store4(Element* to, size_t i, float4 v) {
    ((uint2*)to)[i] = make_uint2(rounded(v.x) | rounded(v.y) << 16, rounded(v.z) | rounded(v.w) << 16);
}
#else
typedef float Element;

/// Four elements, to be moved.
typedef float4 Quad;

__device__ float4 load4(const Element* from, size_t i) { return ((const float4*)from)[i]; }

__device__ void store4(Element* to, size_t i, float4 v) { ((float4*)to)[i] = v; }
#endif

/// V elements, 1 or 4, of which the first is number `at`, a multiple of V.
template <unsigned V> __device__ void load(const Element* from, size_t at, float values[V]) {
    if (V == 4) {
        float4 four = load4(from, at / 4);
        values[0] = four.x;
        values[V / 4] = four.y;
        values[V / 2] = four.z;
        values[V - 1] = four.w;
    } else {
        values[0] = from[at];
    }
}

__device__ unsigned thread_of_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ unsigned threads_of_grid() { return gridDim.x * blockDim.x; }

__device__ float infinity() { return __int_as_float(0x7f800000); }

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// The gradient before SiLU of z from the gradient after it.
__device__ float before_silu(float z, float dy) {
    float s = sigmoid(z);
    return dy * (s * (z * (1.0f - s) + 1.0f));
}

/// Sum over the block's threads, which all must call it; every thread gets it.
template <class T> __device__ T block_sum(T value) {
    __shared__ T parts[THREADS];
    parts[threadIdx.x] = value;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    __syncthreads();
    T total = parts[0];
    // The next sum writes the same place.
    __syncthreads();
    return total;
}

/// Maximum over the block's threads, NaN passed over.
__device__ float block_max(float value) {
    __shared__ float parts[THREADS];
    parts[threadIdx.x] = value;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            float other = parts[threadIdx.x + half];
            if (other > parts[threadIdx.x]) parts[threadIdx.x] = other;
        }
    }
    __syncthreads();
    float largest = parts[0];
    __syncthreads();
    return largest;
}
