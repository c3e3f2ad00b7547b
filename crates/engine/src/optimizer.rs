//! Adam (Kingma & Ba 2015), global-norm clipping and the exponential moving average of the weights.

/// The settings of one optimiser step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamStep {
    /// Which update this is, counted from 1: for the moments' bias correction.
    pub number: u64,
    /// Learning rate of this step, ≥ 0.
    pub learning_rate: f32,
    /// Decay of the mean of gradients, in [0, 1).
    pub beta1: f32,
    /// Decay of the mean of squared gradients, in [0, 1).
    pub beta2: f32,
    /// Added to the root of the second moment, > 0.
    ///
    /// It follows the bias correction, as in the paper of Adam and in PyTorch; TensorFlow 1's Adam, with
    /// which the original code trained, adds it before, which makes a difference in the first hundreds of
    /// updates only.
    pub epsilon: f32,
    /// The gradient is scaled down to this global norm if it is longer; infinite for never.
    pub max_gradient_norm: f32,
    /// Decay of the moving average; 0 copies the weights.
    pub ema_decay: f32,
}

impl Default for AdamStep {
    /// The first update, with the constants that Adam was proposed with; nothing is clipped, and the average
    /// is a copy.
    fn default() -> Self {
        Self {
            number: 1,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_gradient_norm: f32::INFINITY,
            ema_decay: 0.0,
        }
    }
}

impl AdamStep {
    /// Step size and factor of the second moment's root, both with the moments' bias corrected.
    pub(crate) fn corrected(&self) -> (f32, f32) {
        let correction = |beta: f32| 1.0 - libm::pow(f64::from(beta), self.number as f64);
        let rate = (f64::from(self.learning_rate) / correction(self.beta1)) as f32;
        (rate, (1.0 / correction(self.beta2).sqrt()) as f32)
    }

    /// The factor that clips a gradient of global norm `norm`.
    pub fn clip_factor(&self, norm: f64) -> f32 {
        let limit = f64::from(self.max_gradient_norm);
        if norm > limit { (limit / norm) as f32 } else { 1.0 }
    }
}
