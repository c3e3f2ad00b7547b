//! A mean over images, and how well it is known.

use serde::{Deserialize, Serialize};

/// The mean of independent numbers, with its standard error and 95 % confidence interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; `None` for a single number, which says nothing of its error.
    pub standard_error: Option<f64>,
    /// Lower end of the 95 % confidence interval (Student's t); `None` as above.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
    /// How many numbers.
    pub count: u64,
}

impl Estimate {
    /// An estimate whose standard error has `degrees` degrees of freedom.
    fn new(mean: f64, standard_error: f64, degrees: f64, count: u64) -> Self {
        let half = t_quantile(degrees) * standard_error;
        Self {
            mean,
            standard_error: Some(standard_error),
            low: Some(mean - half),
            high: Some(mean + half),
            count,
        }
    }

    /// Half the width of the confidence interval.
    pub fn half_width(&self) -> Option<f64> {
        Some((self.high? - self.low?) / 2.0)
    }

    /// The mean and, where it is known, half the width of the interval, with so many digits: `3.75 ± 0.02`.
    pub fn with_interval(&self, digits: usize) -> String {
        match self.half_width() {
            Some(half) => format!("{:.digits$} ± {half:.digits$}", self.mean),
            None => format!("{:.digits$}", self.mean),
        }
    }

    /// This estimate less an independent other one (Welch's interval).
    pub fn minus(&self, other: &Self) -> Self {
        let mean = self.mean - other.mean;
        let count = self.count.min(other.count);
        let (Some(a), Some(b)) = (self.standard_error, other.standard_error) else {
            return Self { mean, standard_error: None, low: None, high: None, count };
        };
        let (a, b) = (a * a, b * b);
        let spread = a * a / (self.count - 1) as f64 + b * b / (other.count - 1) as f64;
        // Without any spread the interval is a point, whatever the degrees of freedom.
        let degrees = if spread > 0.0 { (a + b) * (a + b) / spread } else { 1.0 };
        Self::new(mean, (a + b).sqrt(), degrees, count)
    }

    /// The square root of a mean of squares, its interval carried over: an RMSE from a mean squared error.
    /// The standard error is that of the root to first order.
    pub fn root(&self) -> Self {
        let mean = self.mean.sqrt();
        let root = |end: f64| end.max(0.0).sqrt();
        Self {
            mean,
            standard_error: self
                .standard_error
                .map(|error| if mean > 0.0 { error / (2.0 * mean) } else { 0.0 }),
            low: self.low.map(root),
            high: self.high.map(root),
            count: self.count,
        }
    }

    /// The estimate in a unit `factor` times smaller.
    pub fn times(&self, factor: f64) -> Self {
        Self {
            mean: self.mean * factor,
            standard_error: self.standard_error.map(|error| error * factor.abs()),
            low: self.low.map(|low| low * factor),
            high: self.high.map(|high| high * factor),
            count: self.count,
        }
    }
}

/// Numbers summed up one by one: their count, mean and squared deviations (Welford 1962).
/// The same numbers in the same order give the same bits.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct RunningMean {
    count: u64,
    mean: f64,
    squares: f64,
}

impl RunningMean {
    /// Adds a number.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; 0 of none.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Their mean, as an estimate of that of the population they are drawn from.
    pub fn estimate(&self) -> Estimate {
        let Self { count, mean, squares } = *self;
        if count < 2 {
            return Estimate { mean, standard_error: None, low: None, high: None, count };
        }
        let degrees = (count - 1) as f64;
        Estimate::new(mean, (squares / degrees / count as f64).sqrt(), degrees, count)
    }
}

/// The 97.5 % quantile of Student's t with `degrees` degrees of freedom (at least 1).
fn t_quantile(degrees: f64) -> f64 {
    /// For 1, 2, …, 10 degrees of freedom.
    const FEW: [f64; 10] = [
        12.706_205, 4.302_653, 3.182_446, 2.776_445, 2.570_582, 2.446_912, 2.364_624, 2.306_004, 2.262_157,
        2.228_139,
    ];
    if degrees < FEW.len() as f64 {
        // The wider interval of the whole number below.
        return FEW[(degrees.max(1.0) as usize).min(FEW.len()) - 1];
    }
    // Fisher's expansion about the normal quantile.
    let z: f64 = 1.959_963_984_540_054;
    let (z2, n) = (z * z, degrees);
    let terms = [
        (z2 + 1.0) / 4.0,
        ((5.0 * z2 + 16.0) * z2 + 3.0) / 96.0,
        (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) / 384.0,
        ((((79.0 * z2 + 776.0) * z2 + 1482.0) * z2 - 1920.0) * z2 - 945.0) / 92160.0,
    ];
    z * (1.0 + (terms[0] + (terms[1] + (terms[2] + terms[3] / n) / n) / n) / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_interval_where_it_is_known() {
        let known =
            Estimate { mean: 2.0, standard_error: Some(0.5), low: Some(1.0), high: Some(3.0), count: 4 };
        assert_eq!(known.with_interval(2), "2.00 ± 1.00");
        assert_eq!(Estimate { low: None, high: None, ..known }.with_interval(1), "2.0");
    }

    fn running_mean(values: &[f64]) -> RunningMean {
        let mut sums = RunningMean::default();
        values.iter().for_each(|&value| sums.add(value));
        sums
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees, quantile) in [
            (1.0, 12.706_205),
            (9.0, 2.262_157),
            (9.7, 2.262_157),
            (10.0, 2.228_139),
            (11.0, 2.200_985),
            (20.0, 2.085_963),
            (30.0, 2.042_272),
            (120.0, 1.979_930),
            (1e9, 1.959_964),
        ] {
            assert!((t_quantile(degrees) - quantile).abs() < 1e-5, "{degrees}: {}", t_quantile(degrees));
        }
    }

    #[test]
    fn the_mean_and_its_interval() {
        let estimate = running_mean(&[1.0, 2.0, 3.0, 4.0]).estimate();
        // Variance 5/3, standard error √(5/12), t(3) = 3.182446.
        assert_eq!((estimate.mean, estimate.count), (2.5, 4));
        assert!((estimate.standard_error.unwrap() - 0.645_497_224).abs() < 1e-9);
        assert!((estimate.half_width().unwrap() - 2.054_260).abs() < 1e-5, "{estimate:?}");
        let one = running_mean(&[7.0]).estimate();
        assert_eq!((one.mean, one.standard_error, one.low, one.high), (7.0, None, None, None));
    }

    #[test]
    fn a_large_mean_does_not_drown_the_spread() {
        let estimate = running_mean(&[1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0]).estimate();
        assert!((estimate.standard_error.unwrap() - (1.0f64 / 3.0).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn differences_follow_welch() {
        let (a, b) =
            (running_mean(&[1.0, 2.0, 3.0, 4.0]).estimate(), running_mean(&[2.0, 2.5, 3.0]).estimate());
        let gap = a.minus(&b);
        assert_eq!(gap.mean, 0.0);
        let error = (5.0f64 / 12.0 + 0.25 / 3.0).sqrt();
        assert!((gap.standard_error.unwrap() - error).abs() < 1e-12);
        // ν = 0.5² / ((5/12)²/3 + (1/12)²/2) = 4.07.
        assert!((gap.high.unwrap() - 2.776_445 * error).abs() < 1e-6, "{gap:?}");
        assert_eq!(a.minus(&running_mean(&[1.0]).estimate()).standard_error, None);
    }

    #[test]
    fn roots_and_units() {
        let mse = running_mean(&[4.0, 4.0, 16.0, 12.0]).estimate();
        let rmse = mse.root().times(127.5);
        assert_eq!(rmse.mean, 382.5);
        assert_eq!(rmse.low.unwrap(), 127.5 * mse.low.unwrap().max(0.0).sqrt());
        assert!((rmse.standard_error.unwrap() - 127.5 * mse.standard_error.unwrap() / 6.0).abs() < 1e-9);
    }
}
