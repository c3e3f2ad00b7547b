//! The global norm, and Adam with the moving average in one pass over the parameters.

use super::parallel::CHUNK;
use super::simd::Level;
use crate::optimizer::AdamStep;
use rayon::prelude::*;

/// Number of partial sums for a buffer of `len` elements.
pub(crate) fn norm_parts(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

/// √Σ g², in `f64`: the parts have fixed places, and are summed in order.
pub(crate) fn global_norm(level: Level, gradients: &[f32], parts: &mut [f64]) -> f64 {
    const LANES: usize = 32;
    gradients.par_chunks(CHUNK).zip(parts.par_iter_mut()).for_each(|(chunk, part)| {
        *part = level.vectorize(
            #[inline(always)]
            || {
                let mut lanes = [0.0f64; LANES];
                let (whole, rest) = chunk.as_chunks::<LANES>();
                // Whole groups by themselves: their constant length is what lets the lanes stay in registers,
                // several so that one sum need not wait for another.
                for group in whole {
                    for (lane, &g) in lanes.iter_mut().zip(group) {
                        *lane += f64::from(g) * f64::from(g);
                    }
                }
                for (lane, &g) in lanes.iter_mut().zip(rest) {
                    *lane += f64::from(g) * f64::from(g);
                }
                lanes.iter().sum()
            },
        );
    });
    parts.iter().sum::<f64>().sqrt()
}

/// The buffers of one optimiser step.
pub(crate) struct State<'a> {
    pub params: &'a mut [f32],
    pub gradients: &'a mut [f32],
    pub first: &'a mut [f32],
    pub second: &'a mut [f32],
    pub ema: &'a mut [f32],
}

/// `m ← β₁ m + (1-β₁) g`, `v ← β₂ v + (1-β₂) g²`, `p ← p - lr · m̂ / (√v̂ + ε)`,
/// `ema ← ema + (1-d)(p - ema)`; `g ← 0` if `clears`.
pub(crate) fn adam(level: Level, step: &AdamStep, gradient_scale: f32, clears: bool, state: State) {
    let (rate, root) = step.corrected();
    let AdamStep { beta1, beta2, epsilon, ema_decay, .. } = *step;
    let moments = state.first.par_chunks_mut(CHUNK).zip(state.second.par_chunks_mut(CHUNK));
    let weights = state.params.par_chunks_mut(CHUNK).zip(state.ema.par_chunks_mut(CHUNK));
    let gradients = state.gradients.par_chunks_mut(CHUNK);
    weights.zip(moments).zip(gradients).for_each(|(((params, ema), (first, second)), gradients)| {
        level.vectorize(
            #[inline(always)]
            || {
                let weights = params.iter_mut().zip(ema.iter_mut());
                let moments = first.iter_mut().zip(second.iter_mut());
                for (((p, e), (m, v)), gradient) in weights.zip(moments).zip(gradients) {
                    let g = *gradient * gradient_scale;
                    if clears {
                        *gradient = 0.0;
                    }
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * (g * g);
                    *p -= rate * *m / (v.sqrt() * root + epsilon);
                    *e = if ema_decay == 0.0 { *p } else { *e + (1.0 - ema_decay) * (*p - *e) };
                }
            },
        );
    });
}
