//! What the machine can do at most: fused multiply-adds in registers, and reading and writing memory.
//!
//! `cargo run --release -p ddpm-engine --example ceiling -- [threads]` prints one JSON object.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Independent sums: enough to hide the latency of a multiply-add on two units of 16 lanes, or on four of 4.
const SUMS: usize = if cfg!(target_arch = "aarch64") { 24 } else { 12 };
const STEPS: usize = 1 << 20;
/// 256 MiB: beyond every cache.
const ELEMENTS: usize = 1 << 26;
const TRIES: usize = 5;

/// A loop of multiply-adds of `$vector`, compiled for `$features`; gives a sum that depends on all of them.
macro_rules! multiply_add_loop {
    ($name:ident, $arch:ident, $features:literal, $vector:ident, $splat:ident, $multiply_add:ident, $first:ident) => {
        #[target_feature(enable = $features)]
        fn $name(factor: f32) -> f32 {
            use std::arch::$arch::*;
            let (factor, term) = ($splat(factor), $splat(1e-3));
            let mut sums: [$vector; SUMS] = [$splat(1.0); SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = $multiply_add(*sum, factor, term);
                }
            }
            sums.iter().map(|&sum| $first(sum)).sum()
        }
    };
}

#[cfg(target_arch = "x86_64")]
multiply_add_loop!(avx512, x86_64, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_cvtss_f32);
#[cfg(target_arch = "x86_64")]
multiply_add_loop!(avx2, x86_64, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_cvtss_f32);
// A sum is the addend here, and a factor there: one operation either way.
#[cfg(target_arch = "aarch64")]
multiply_add_loop!(neon, aarch64, "neon", float32x4_t, vdupq_n_f32, vfmaq_f32, vaddvq_f32);

/// The loop with the widest vectors there are; their lanes.
fn multiply_adds(factor: f32) -> Result<usize, &'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: just detected.
            black_box(unsafe { avx512(factor) });
            return Ok(16);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: just detected.
            black_box(unsafe { avx2(factor) });
            return Ok(8);
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: every such processor has these instructions.
        black_box(unsafe { neon(factor) });
        Ok(4)
    }
    #[cfg(not(target_arch = "aarch64"))]
    Err("no AVX-512 and no AVX2 with FMA: such a processor's ceiling is not known here")
}

/// The shortest time in which `threads` threads do `work` each, all at once.
fn fastest<T: Send>(mut state: Vec<T>, work: impl Fn(&mut T) + Sync) -> Duration {
    let once = |state: &mut [T]| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for state in state {
                scope.spawn(|| work(state));
            }
        });
        start.elapsed()
    };
    (0..=TRIES).map(|_| once(&mut state)).skip(1).min().unwrap_or_default()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads: usize = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    let lanes = multiply_adds(0.999)?;
    let time = fastest(vec![(); threads], |()| {
        let _ = black_box(multiply_adds(black_box(0.999)));
    });
    let gflops = (2 * STEPS * SUMS * lanes * threads) as f64 / time.as_secs_f64() / 1e9;

    let part = ELEMENTS / threads;
    let bytes = (part * threads * 4) as f64;
    let buffers = || (0..threads).map(|_| vec![1.0f32; part]).collect::<Vec<_>>();
    let read = fastest(buffers(), |buffer| {
        let sums = buffer.chunks_exact(64).fold([0u32; 64], |mut sums, chunk| {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum ^= value.to_bits();
            }
            sums
        });
        black_box(sums);
    });
    let update = fastest(buffers(), |buffer| buffer.iter_mut().for_each(|value| *value += 1.0));
    println!(
        "{{\"threads\": {threads}, \"fma_gflops\": {gflops:.1}, \"read_gb_per_s\": {:.1}, \"read_and_write_gb_per_s\": {:.1}}}",
        bytes / read.as_secs_f64() / 1e9,
        2.0 * bytes / update.as_secs_f64() / 1e9
    );
    Ok(())
}
