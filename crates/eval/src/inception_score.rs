//! The Inception Score (Salimans et al., "Improved Techniques for Training GANs", 2016), as openai's code
//! computes it: `exp(mean over images of KL(p(y|x) ‖ p(y)))` over ten consecutive parts of the images, of
//! which the mean and the deviation are reported. p is the softmax of the network's 1008 logits without their
//! bias.

use crate::MeasureError;
use crate::feature_store::FeatureStore;
use models::inception::{CLASSES, Classifier};

/// Parts that published scores have.
pub const SPLITS: usize = 10;

/// A score, in nats' exponential: 1 to the number of classes.
#[derive(Clone, PartialEq, Debug)]
pub struct InceptionScore {
    /// Mean over the parts.
    pub mean: f64,
    /// Standard deviation over the parts (divided by their number).
    pub std: f64,
    /// The parts' scores.
    pub splits: Vec<f64>,
}

/// The score of the first `images` images of a store of 2048 features, of which `rows` could be read, over
/// `splits` parts.
///
/// # Errors
/// [`MeasureError::TooFew`] if a part would be empty; or if the store cannot be read.
///
/// # Panics
/// As [`FeatureStore::for_each_rows`], and if `rows` is not the number of those images' rows.
pub fn inception_score(
    store: &FeatureStore,
    images: u64,
    rows: u64,
    splits: usize,
    classifier: &mut Classifier,
) -> Result<InceptionScore, MeasureError> {
    let mut sums = ScoreSums::new(rows, CLASSES, splits)?;
    let mut failure = None;
    store.for_each_rows(images, |rows| match classifier.logits(rows) {
        Ok(logits) => sums.add(&logits),
        Err(error) => failure = Some(error),
    })?;
    failure.map_or_else(|| Ok(sums.finish()), |error| Err(error.into()))
}

/// Sums from which the score follows.
#[derive(Clone, PartialEq, Debug)]
pub struct ScoreSums {
    images: u64,
    classes: usize,
    seen: u64,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Debug)]
struct Part {
    images: u64,
    /// Σ over images of p.
    probabilities: Vec<f64>,
    /// Σ over images of Σ p ln p.
    negative_entropy: f64,
}

impl ScoreSums {
    /// For `images` images with `classes` logits each, in `splits` parts: part i has the images from ⌊i n /
    /// splits⌋ on.
    ///
    /// # Errors
    /// [`MeasureError::TooFew`] if a part would be empty.
    pub fn new(images: u64, classes: usize, splits: usize) -> Result<Self, MeasureError> {
        if images < splits as u64 || splits == 0 {
            let what = format!("the Inception Score over {splits} parts");
            return Err(MeasureError::TooFew { what, images, needed: splits.max(1) as u64 });
        }
        let part = Part { images: 0, probabilities: vec![0.0; classes], negative_entropy: 0.0 };
        Ok(Self { images, classes, seen: 0, parts: vec![part; splits] })
    }

    /// Adds the logits `[n, classes]` of the next images.
    ///
    /// # Panics
    /// If they are not a whole number of rows, or more than there are images.
    pub fn add(&mut self, logits: &[f32]) {
        assert!(logits.len().is_multiple_of(self.classes));
        let splits = self.parts.len() as u128;
        let mut p = vec![0.0; self.classes];
        for logits in logits.chunks_exact(self.classes) {
            assert!(self.seen < self.images);
            // The part i with ⌊i n / splits⌋ ≤ seen < ⌊(i + 1) n / splits⌋.
            let part = ((u128::from(self.seen) + 1) * splits - 1) / u128::from(self.images);
            let part = &mut self.parts[part as usize];
            let largest = logits.iter().fold(f64::NEG_INFINITY, |most, &logit| most.max(f64::from(logit)));
            for (p, &logit) in p.iter_mut().zip(logits) {
                *p = libm::exp(f64::from(logit) - largest);
            }
            let sum: f64 = p.iter().sum();
            let log_sum = libm::log(sum);
            for ((&p, &logit), total) in p.iter().zip(logits).zip(&mut part.probabilities) {
                let p = p / sum;
                *total += p;
                part.negative_entropy += p * (f64::from(logit) - largest - log_sum);
            }
            part.images += 1;
            self.seen += 1;
        }
    }

    /// The score.
    ///
    /// # Panics
    /// If images are missing.
    pub fn finish(self) -> InceptionScore {
        assert_eq!(self.seen, self.images);
        let score = |part: &Part| {
            let n = part.images as f64;
            // mean KL(p ‖ q) = mean Σ p ln p - Σ q ln q, with q the mean of p.
            let marginal = part.probabilities.iter().map(|sum| sum / n).filter(|&q| q > 0.0);
            let marginal: f64 = marginal.map(|q| q * libm::log(q)).sum();
            libm::exp(part.negative_entropy / n - marginal)
        };
        let splits: Vec<f64> = self.parts.iter().map(score).collect();
        let n = splits.len() as f64;
        let mean = splits.iter().sum::<f64>() / n;
        let variance = splits.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n;
        InceptionScore { mean, std: variance.sqrt(), splits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(logits: &[f32], classes: usize, splits: usize) -> InceptionScore {
        let mut sums = ScoreSums::new((logits.len() / classes) as u64, classes, splits).unwrap();
        for chunk in logits.chunks(classes * 3) {
            sums.add(chunk);
        }
        sums.finish()
    }

    #[test]
    fn certain_and_evenly_spread_images_score_the_number_of_classes() {
        let classes = 7;
        let logits: Vec<f32> = (0..70)
            .flat_map(|image| {
                (0..classes).map(move |class| if image % classes == class { 200.0 } else { 0.0 })
            })
            .collect();
        let result = score(&logits, classes, 10);
        assert!((result.mean - 7.0).abs() < 1e-9 && result.std < 1e-9, "{result:?}");
    }

    #[test]
    fn images_that_say_nothing_score_one() {
        let result = score(&vec![3.5; 40 * 5], 5, 10);
        assert!((result.mean - 1.0).abs() < 1e-12 && result.std < 1e-12, "{result:?}");
    }

    #[test]
    fn parts_are_cut_where_openai_cuts_them() {
        // 23 images in 10 parts: from ⌊23 i / 10⌋; each part has only images of one class.
        let (images, classes) = (23, 10);
        let mut logits = vec![0.0; images * classes];
        for part in 0..10 {
            for image in part * images / 10..(part + 1) * images / 10 {
                logits[image * classes + part] = 300.0;
            }
        }
        assert!(score(&logits, classes, 10).splits.iter().all(|score| (score - 1.0).abs() < 1e-12));
    }

    #[test]
    fn a_part_needs_an_image() {
        let text = ScoreSums::new(9, 5, 10).unwrap_err().to_string();
        assert!(text.contains("9 images, but 10"), "{text}");
    }
}
