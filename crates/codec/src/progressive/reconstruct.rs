//! An image from the x_t that has been reached.

use crate::error::CodecError;
use crate::model::Model;

/// How an image is made from x_t.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reconstruction {
    /// x̂0: least squared error, but soft where little is known.
    XStart,
    /// Along the deterministic flow (DDIM, η = 0) in at most so many steps: sharp, at some more squared error.
    Flow {
        /// Calls of the network, at most; at least 1.
        steps: usize,
    },
}

impl Reconstruction {
    /// The t at which the network is asked, from `t` down.
    fn steps_from(self, t: usize) -> Vec<usize> {
        match self {
            Self::XStart => vec![t],
            Self::Flow { steps } => {
                let count = steps.clamp(1, t + 1);
                // Both ends included; t alone for one step.
                (0..count).map(|k| t - k * t / (count - 1).max(1)).collect()
            }
        }
    }
}

/// Images of x_t, each at its own t.
pub(crate) fn reconstruct(
    model: &mut Model,
    mut x_t: Vec<f32>,
    t: &[usize],
    how: Reconstruction,
    proceed: &mut dyn FnMut() -> Result<(), CodecError>,
) -> Result<Vec<f32>, CodecError> {
    let len = model.image_len();
    let routes: Vec<Vec<usize>> = t.iter().map(|&t| how.steps_from(t)).collect();
    let rounds = routes.iter().map(Vec::len).max().unwrap_or(0);
    let mut images = vec![0.0; x_t.len()];
    for round in 0..rounds {
        proceed()?;
        let active: Vec<usize> = (0..routes.len()).filter(|&image| round < routes[image].len()).collect();
        let x: Vec<f32> =
            active.iter().flat_map(|&image| x_t[image * len..][..len].iter().copied()).collect();
        let at: Vec<usize> = active.iter().map(|&image| routes[image][round]).collect();
        let predicted = model.predict(&x, &at)?;
        let parts = predicted.x_start.chunks_exact(len).zip(predicted.eps.chunks_exact(len));
        for (&image, (x_start, eps)) in active.iter().zip(parts) {
            let range = image * len..(image + 1) * len;
            images[range.clone()].copy_from_slice(x_start);
            let Some(&next) = routes[image].get(round + 1) else {
                continue;
            };
            let tables = model.process.tables();
            let signal = tables.sqrt_alphas_cumprod[next] as f32;
            let sigma = tables.sqrt_one_minus_alphas_cumprod[next] as f32;
            for ((x, x_start), eps) in x_t[range].iter_mut().zip(x_start).zip(eps) {
                *x = signal * x_start + sigma * eps;
            }
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_goes_from_t_to_the_first_step() {
        for (steps, t) in [(1, 0), (1, 900), (2, 900), (25, 999), (25, 7), (1000, 999)] {
            let route = Reconstruction::Flow { steps }.steps_from(t);
            assert_eq!(route.len(), steps.min(t + 1));
            assert_eq!(route[0], t);
            assert!(route.is_sorted_by(|one, next| one > next));
            assert!(steps == 1 || route.ends_with(&[0]));
        }
    }
}
