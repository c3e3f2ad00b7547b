//! Vector widths: which instructions this processor has, and the few vector operations the GEMM tiles need.
//!
//! Every output element of every kernel is one chain of operations in a fixed order, so a level changes
//! speed, never bits.

/// A set of vector instructions that kernels are compiled for.
///
/// Outside this crate only [`Self::detect`] and [`Self::available`] make one with vectors: where there is a
/// value, the processor has the instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// No vectors: one element at a time, with exactly rounded fused multiply-adds.
    Scalar,
    /// 8 lanes (AVX2 and FMA).
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Avx2,
    /// 16 lanes (AVX-512 F).
    ///
    /// ```compile_fail,E0603
    /// let level = engine::Level::Avx512; // The processor might not have the instructions.
    /// ```
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Avx512,
    /// 4 lanes, which every 64-bit ARM processor has.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// The widest level this processor runs.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
            Self::Scalar
        }
        #[cfg(target_arch = "aarch64")]
        return Self::Neon;
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Self::Scalar
    }

    /// Every level this processor runs, narrowest first.
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let widest = Self::detect();
            if widest != Self::Scalar {
                levels.push(Self::Avx2);
            }
            if widest == Self::Avx512 {
                levels.push(Self::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        levels.push(Self::Neon);
        levels
    }

    /// Its name: `scalar`, `avx2`, `avx512`, `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
        }
    }

    /// Runs `body` compiled for this level, so that its plain loops over slices use its vectors.
    ///
    /// The compiler vectorises only loops whose elements are independent: it never reorders `f32` sums.
    #[inline(always)]
    pub fn vectorize<R>(self, body: impl FnOnce() -> R) -> R {
        match self {
            Self::Scalar => body(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => with_avx2(body),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => with_avx512(body),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => body(),
        }
    }
}

/// Runs `$body` with `$vector` standing for the vectors of `$level`, compiled for it.
macro_rules! with_vectors {
    ($level:expr, $vector:ident => $body:expr) => {
        match $level {
            $crate::cpu::simd::Level::Scalar => {
                type $vector = f32;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::simd::Level::Avx2 => $crate::cpu::simd::with_avx2(
                #[inline(always)]
                || {
                    type $vector = std::arch::x86_64::__m256;
                    $body
                },
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::simd::Level::Avx512 => $crate::cpu::simd::with_avx512(
                #[inline(always)]
                || {
                    type $vector = std::arch::x86_64::__m512;
                    $body
                },
            ),
            #[cfg(target_arch = "aarch64")]
            $crate::cpu::simd::Level::Neon => {
                type $vector = std::arch::aarch64::float32x4_t;
                $body
            }
        }
    };
}
pub(crate) use with_vectors;

/// Runs `body`, compiled for AVX2 and FMA where it is inlined. Only for [`Level::Avx2`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn with_avx2<R>(body: impl FnOnce() -> R) -> R {
    #[target_feature(enable = "avx2,fma")]
    fn run<R>(body: impl FnOnce() -> R) -> R {
        body()
    }
    // SAFETY: a value of this level exists only where `detect` found the instructions.
    unsafe { run(body) }
}

/// Runs `body`, compiled for AVX-512 where it is inlined. Only for [`Level::Avx512`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn with_avx512<R>(body: impl FnOnce() -> R) -> R {
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    fn run<R>(body: impl FnOnce() -> R) -> R {
        body()
    }
    // SAFETY: a value of this level exists only where `detect` found the instructions.
    unsafe { run(body) }
}

/// Elements of a cache line.
pub(crate) const LINE: usize = 16;

/// Calls what `address` leads to into the first-level cache, to be written to; any address will do. Without
/// it the first store to a line that is not there waits until the line has been read.
#[inline(always)]
pub(crate) fn prefetch_for_writing(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Calls what `address` leads to into the first-level cache; any address will do.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Calls what `address` leads to into the second-level cache; any address will do.
#[inline(always)]
pub(crate) fn prefetch_second_level(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The same address, of whose origin the compiler knows nothing. It then steps this pointer by itself, where
/// it would give all pointers of a loop one common index: with an index, Intel's processors split a
/// multiply-add that reads memory in two.
#[inline(always)]
pub(crate) fn on_its_own(pointer: *const f32) -> *const f32 {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut same = pointer;
        // SAFETY: no instruction.
        #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through it here")]
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) same, options(pure, nomem, nostack, preserves_flags));
        }
        same
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pointer
}

/// Copies a few vectors: cheaper than a call for so little.
#[inline(always)]
pub(crate) fn copy(from: &[f32], to: &mut [f32]) {
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<LINE>(), to.as_chunks_mut::<LINE>());
    for (from, to) in from.iter().zip(to) {
        *to = *from;
    }
    // Even of nothing it would be a call.
    if !from_rest.is_empty() {
        to_rest.copy_from_slice(from_rest);
    }
}

/// A vector of `f32` lanes.
pub(crate) trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;
    /// Number of vectors that the processor has registers for.
    const REGISTERS: usize;
    /// What rows of a product are read by: where vectors are shorter than a line, several side by side, which
    /// need fewer loads for as many multiply-adds.
    type Wide: Vector;
    /// All lanes `value`.
    fn splat(value: f32) -> Self;
    /// Lanes from memory, any alignment.
    ///
    /// # Safety
    /// `LANES` elements at `source` are readable.
    unsafe fn load(source: *const f32) -> Self;
    /// Lanes to memory, any alignment.
    ///
    /// # Safety
    /// `LANES` elements at `target` are writable.
    unsafe fn store(self, target: *mut f32);
    /// `self · factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Lane by lane sum.
    fn add(self, other: Self) -> Self;
    /// Lane by lane difference.
    fn sub(self, other: Self) -> Self;
    /// Lane by lane product.
    fn mul(self, other: Self) -> Self;
    /// 0 where a lane is less, else the lane: also NaN, and -0.
    fn rectified(self) -> Self;
}

impl Vector for f32 {
    const LANES: usize = 1;
    const REGISTERS: usize = 16;
    type Wide = Self;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { *source }
    }
    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller's.
        unsafe { *target = self }
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        f32::mul_add(self, factor, addend)
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    fn rectified(self) -> Self {
        // A comparison that is false for NaN keeps it.
        if self < 0.0 { 0.0 } else { self }
    }
}

/// Two vectors side by side as one.
#[derive(Clone, Copy)]
pub(crate) struct Pair<V>(V, V);

impl<V: Vector> Vector for Pair<V> {
    const LANES: usize = 2 * V::LANES;
    const REGISTERS: usize = V::REGISTERS / 2;
    type Wide = Self;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        let half = V::splat(value);
        Self(half, half)
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(V::load(source), V::load(source.add(V::LANES))) }
    }
    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            self.0.store(target);
            self.1.store(target.add(V::LANES));
        }
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(self.0.mul_add(factor.0, addend.0), self.1.mul_add(factor.1, addend.1))
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0.add(other.0), self.1.add(other.1))
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0.sub(other.0), self.1.sub(other.1))
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.0.mul(other.0), self.1.mul(other.1))
    }
    #[inline(always)]
    fn rectified(self) -> Self {
        Self(self.0.rectified(), self.1.rectified())
    }
}

/// Makes a processor's vectors [`Vector`]s. The operations are only reached inside functions compiled for,
/// and called on, processors with the instructions ([`Level`]).
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! vector {
    ($type:ty, $lanes:literal, $registers:literal, $wide:ty, $splat:ident, $load:ident, $store:ident, $mul_add:ident, $add:ident, $sub:ident, $mul:ident, $rectified:ident) => {
        impl Vector for $type {
            const LANES: usize = $lanes;
            const REGISTERS: usize = $registers;
            type Wide = $wide;
            #[inline(always)]
            fn splat(value: f32) -> Self {
                // SAFETY: see above.
                unsafe { $splat(value) }
            }
            #[inline(always)]
            unsafe fn load(source: *const f32) -> Self {
                // SAFETY: see above, and the caller's.
                unsafe { $load(source) }
            }
            #[inline(always)]
            unsafe fn store(self, target: *mut f32) {
                // SAFETY: see above, and the caller's.
                unsafe { $store(target, self) }
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: see above.
                unsafe { $mul_add(self, factor, addend) }
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $add(self, other) }
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $sub(self, other) }
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $mul(self, other) }
            }
            #[inline(always)]
            fn rectified(self) -> Self {
                // SAFETY: see above.
                unsafe { $rectified(self) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Pair, Vector};
    use std::arch::x86_64::*;

    /// The instruction gives its second operand where either is NaN, and where both are zeros.
    #[inline(always)]
    unsafe fn rectified_256(x: __m256) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_max_ps(_mm256_setzero_ps(), x) }
    }

    /// As above.
    #[inline(always)]
    unsafe fn rectified_512(x: __m512) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), x) }
    }

    vector!(
        __m256,
        8,
        16,
        Pair<__m256>,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        rectified_256
    );
    vector!(
        __m512,
        16,
        32,
        Self,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        rectified_512
    );
}

#[cfg(target_arch = "aarch64")]
#[allow(
    unused_unsafe,
    reason = "where the instructions are taken for granted they are safe in newer compilers"
)]
mod arm {
    use super::{Pair, Vector};
    use std::arch::aarch64::*;

    /// Its addend comes last, as everywhere else.
    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, addend: float32x4_t) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { vfmaq_f32(addend, a, b) }
    }

    /// The instruction for a maximum would make -0 into 0.
    #[inline(always)]
    unsafe fn rectified(x: float32x4_t) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { vbslq_f32(vcltzq_f32(x), vdupq_n_f32(0.0), x) }
    }

    vector!(
        float32x4_t,
        4,
        32,
        Pair<Pair<float32x4_t>>,
        vdupq_n_f32,
        vld1q_f32,
        vst1q_f32,
        mul_add,
        vaddq_f32,
        vsubq_f32,
        vmulq_f32,
        rectified
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_rectify_as_comparisons_do() {
        let values: [f32; LINE] = std::array::from_fn(|i| {
            [f32::NAN, -0.0, 0.0, -1.5, 2.5, f32::NEG_INFINITY, -f32::NAN, 1e-40][i % 8]
        });
        let expected = values.map(|value| if value < 0.0 { 0.0 } else { value }.to_bits());
        for level in Level::available() {
            let mut rectified = [0.0f32; LINE];
            with_vectors!(level, V => for first in (0..LINE).step_by(V::LANES) {
                // SAFETY: lanes divide a line.
                unsafe { V::load(values[first..].as_ptr()).rectified().store(rectified[first..].as_mut_ptr()) };
            });
            assert_eq!(rectified.map(f32::to_bits), expected, "{level:?}");
        }
    }
}
