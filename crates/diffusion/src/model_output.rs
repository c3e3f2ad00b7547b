//! What a network's output holds: a prediction and, when the variance is learned, a log variance.

/// A network's output for a batch, taken apart; or the gradient with respect to it, to be put together.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelOutput {
    /// What [`crate::Prediction`] says, `[n, height, width, channels]`.
    pub prediction: Vec<f32>,
    /// The second half of channels, where the variance [is learned](crate::Variance::is_learned), in the same shape:
    /// log σ² of p(x_{t-1} | x_t) for each element, or its place in a range.
    pub log_variance: Option<Vec<f32>>,
}

impl ModelOutput {
    /// Takes apart an output of `[n, height, width, channels]` or, when `learned`, of
    /// `[n, height, width, 2·channels]`: in each pixel the prediction's channels, then the log variance's.
    ///
    /// # Panics
    /// If `raw` is not a whole number of pixels.
    pub fn split(raw: &[f32], channels: usize, learned: bool) -> Self {
        if !learned {
            return Self { prediction: raw.to_vec(), log_variance: None };
        }
        assert_eq!(
            raw.len() % (2 * channels),
            0,
            "an output with learned variance has 2·{channels} channels"
        );
        let mut prediction = Vec::with_capacity(raw.len() / 2);
        let mut log_variance = Vec::with_capacity(raw.len() / 2);
        for pixel in raw.chunks_exact(2 * channels) {
            let (first, second) = pixel.split_at(channels);
            prediction.extend_from_slice(first);
            log_variance.extend_from_slice(second);
        }
        Self { prediction, log_variance: Some(log_variance) }
    }

    /// Puts the parts together in the network's layout: the inverse of [`Self::split`].
    pub fn join(self, channels: usize) -> Vec<f32> {
        let Some(log_variance) = self.log_variance else {
            return self.prediction;
        };
        let mut raw = Vec::with_capacity(self.prediction.len() * 2);
        for (first, second) in self.prediction.chunks_exact(channels).zip(log_variance.chunks_exact(channels))
        {
            raw.extend_from_slice(first);
            raw.extend_from_slice(second);
        }
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learned_variance_stands_behind_the_prediction_in_each_pixel() {
        // Two pixels of two channels.
        let raw = [1.0, 2.0, -1.0, -2.0, 3.0, 4.0, -3.0, -4.0];
        let output = ModelOutput::split(&raw, 2, true);
        assert_eq!(output.prediction, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(output.log_variance.as_deref(), Some(&[-1.0, -2.0, -3.0, -4.0][..]));
        assert_eq!(output.join(2), raw);
    }

    #[test]
    fn without_it_the_output_is_the_prediction() {
        let raw = [1.0, 2.0, 3.0];
        let output = ModelOutput::split(&raw, 1, false);
        assert_eq!((&output.prediction[..], &output.log_variance), (&raw[..], &None));
        assert_eq!(output.join(1), raw);
    }
}
