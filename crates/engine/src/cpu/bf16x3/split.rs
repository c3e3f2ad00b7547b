//! Numbers as the sum of two bf16: the nearest to the number, and the nearest to what is left of it.

/// How 16 numbers at a time are split. The sum of the halves is within 2⁻¹⁷ of the number; what is not a
/// number stays so, and of what is infinite, or above 3.396e38 and rounded to that, the halves add up to no
/// number. Numbers too small to be normal count as 0.
pub(super) trait Split {
    /// The high and the low halves, each in the lower half of a word.
    fn split(numbers: &[f32; 16]) -> [[u32; 16]; 2];
}

/// By plain arithmetic.
pub(super) struct Plain;

impl Split for Plain {
    #[inline(always)]
    fn split(numbers: &[f32; 16]) -> [[u32; 16]; 2] {
        /// The nearest bf16, ties to even.
        #[inline(always)]
        fn round(x: f32) -> u32 {
            let bits = if x.is_subnormal() { x.to_bits() & 1 << 31 } else { x.to_bits() };
            // Rounding up must not carry a number that is none into one.
            let rounded = if x.is_nan() { bits | 1 << 22 } else { bits + 0x7fff + (bits >> 16 & 1) };
            rounded & 0xffff_0000
        }
        let mut halves = [[0; 16]; 2];
        for i in 0..16 {
            let high = round(numbers[i]);
            halves[0][i] = high >> 16;
            halves[1][i] = round(numbers[i] - f32::from_bits(high)) >> 16;
        }
        halves
    }
}

/// By the instructions that processors with a matrix unit have.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) struct Avx512Bf16;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Split for Avx512Bf16 {
    #[inline(always)]
    fn split(numbers: &[f32; 16]) -> [[u32; 16]; 2] {
        use std::arch::x86_64::*;
        // SAFETY: only reached inside `with_avx512_bf16`.
        unsafe {
            let round =
                |x| _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)));
            let numbers = _mm512_loadu_ps(numbers.as_ptr());
            let high = round(numbers);
            let low = round(_mm512_sub_ps(numbers, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high))));
            [high, low].map(|half| std::mem::transmute::<__m512i, [u32; 16]>(half))
        }
    }
}

/// Runs `$body` with `$split` standing for the way to split numbers that is the fastest beside `$unit`,
/// compiled for it.
macro_rules! with_split {
    ($unit:expr, $level:expr, $split:ident => $body:expr) => {
        match $unit {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            $crate::cpu::bf16x3::MatrixUnit::Amx => $crate::cpu::bf16x3::split::with_avx512_bf16(
                #[inline(always)]
                || {
                    type $split = $crate::cpu::bf16x3::split::Avx512Bf16;
                    $body
                },
            ),
            $crate::cpu::bf16x3::MatrixUnit::Emulated => $level.vectorize(
                #[inline(always)]
                || {
                    type $split = $crate::cpu::bf16x3::split::Plain;
                    $body
                },
            ),
        }
    };
}
pub(super) use with_split;

/// Runs `body`, compiled for these instructions where it is inlined. Only beside
/// [`MatrixUnit::Amx`](super::MatrixUnit).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[inline(always)]
pub(super) fn with_avx512_bf16<R>(body: impl FnOnce() -> R) -> R {
    #[target_feature(enable = "avx512bf16,avx512bw,avx512f,avx512vl,avx2,fma")]
    fn run<R>(body: impl FnOnce() -> R) -> R {
        body()
    }
    // SAFETY: a value of that variant exists only where `detect` found the instructions.
    unsafe { run(body) }
}

/// The first `N` numbers, zeros for those beyond the last.
#[inline(always)]
pub(super) fn padded<const N: usize>(numbers: &[f32]) -> [f32; N] {
    if let Some(whole) = numbers.first_chunk() {
        return *whole;
    }
    let mut padded = [0.0; N];
    padded[..numbers.len()].copy_from_slice(numbers);
    padded
}

/// Splits a row: the high halves side by side, then the low ones.
#[inline(always)]
pub(super) fn split_row<S: Split, const N: usize>(numbers: &[f32; N], halves: &mut [[u16; N]; 2]) {
    let [high, low] = halves.each_mut().map(|half| half.as_chunks_mut::<16>().0);
    for ((numbers, high), low) in numbers.as_chunks().0.iter().zip(high).zip(low) {
        let halves = S::split(numbers);
        for (to, from) in [high, low].into_iter().zip(&halves) {
            *to = std::array::from_fn(|i| from[i] as u16);
        }
    }
}

/// Splits two rows: of each column the two high halves side by side, the upper row's first, then likewise the
/// low ones.
#[inline(always)]
pub(super) fn split_pairs<S: Split, const N: usize>(
    upper: &[f32; N],
    lower: &[f32; N],
    pairs: &mut [[u32; N]; 2],
) {
    let [high, low] = pairs.each_mut().map(|half| half.as_chunks_mut::<16>().0);
    let rows = upper.as_chunks().0.iter().zip(lower.as_chunks().0);
    for (((upper, lower), high), low) in rows.zip(high).zip(low) {
        let (upper, lower) = (S::split(upper), S::split(lower));
        for (half, to) in [high, low].into_iter().enumerate() {
            *to = std::array::from_fn(|i| upper[half][i] | lower[half][i] << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [f32; 16] = [
        0.0,
        1.0,
        -1.0,
        1.0 + 3.0 * f32::EPSILON,
        0.1,
        -123.456,
        1e-30,
        3.3e38,
        std::f32::consts::PI,
        -0.0,
        1.0058594,
        1.0019531,
        -65535.99,
        // Its remainder, and the next, are a little too small to be normal.
        f32::from_bits(0x0480_7f80),
        7.0 / 3.0,
        -f32::from_bits(0x007f_ffff),
    ];

    #[test]
    fn halves_add_up() {
        let halves = Plain::split(&NUMBERS);
        for (i, x) in NUMBERS.into_iter().enumerate() {
            let [high, low] = halves.map(|half| f32::from_bits(half[i] << 16));
            let bound = (x.abs() * 2f32.powi(-17)).max(f32::MIN_POSITIVE);
            assert!((high + low - x).abs() <= bound, "{x}: {high} and {low}");
            assert!(low.abs() <= high.abs() * 2f32.powi(-8), "{x}: {high} and {low}");
        }
        let mut none = [f32::NAN; 16];
        for (x, bits) in none.iter_mut().zip([0x7fff_ffff, 0xffff_ffff, 0x7f80_0001]) {
            *x = f32::from_bits(bits);
        }
        none[3] = f32::NEG_INFINITY;
        let [high, _] = Plain::split(&none).map(|half| half.map(|half| f32::from_bits(half << 16)));
        assert!(
            high.iter().enumerate().all(|(i, x)| if i == 3 { *x == none[3] } else { x.is_nan() }),
            "{high:?}"
        );
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn instructions_split_alike() {
        if super::super::MatrixUnit::detect().is_none() {
            eprintln!("SKIPPED, this processor has no AMX");
            return;
        }
        assert_eq!(with_avx512_bf16(|| Avx512Bf16::split(&NUMBERS)), Plain::split(&NUMBERS));
    }

    #[test]
    fn rows_and_pairs_hold_the_halves_in_order() {
        let [high, low] = Plain::split(&NUMBERS);
        let mut row = [[0; 16]; 2];
        split_row::<Plain, 16>(&NUMBERS, &mut row);
        assert_eq!(row, [high, low].map(|half| half.map(|half| half as u16)));
        let mut pairs = [[0; 16]; 2];
        split_pairs::<Plain, 16>(&NUMBERS, &[1.0; 16], &mut pairs);
        assert_eq!(pairs, [high.map(|half| half | 0x3f80_0000), low]);
    }
}
