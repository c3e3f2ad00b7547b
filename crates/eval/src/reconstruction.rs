//! What is left of images that have gone forward to x_t and back, by t (§4.4): from a small t an image
//! returns nearly as it was, from T another one comes.

use crate::chart::{Axis, Chart, Figure, Scale, Series};
use crate::estimate::Estimate;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// How far images are from others.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Distance {
    /// RMSE of pixels, on the 0–255 scale.
    pub rmse: Estimate,
    /// Mean Euclidean distance of Inception features, if they were computed.
    pub feature_distance: Option<Estimate>,
}

/// Reconstructions by t, beside their originals.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reconstructions {
    /// The images measured.
    pub images: u64,
    /// Between the two images of each pair: what a reconstruction is from that has forgotten its original.
    pub between_pairs: Distance,
    /// For each t, ascending, between originals and reconstructions.
    pub by_t: Vec<(usize, Distance)>,
}

impl Reconstructions {
    /// A line for each t, for people.
    pub fn words(&self) -> String {
        let words = |what: String, distance: &Distance| {
            let features = distance.feature_distance;
            let features = features.map_or(String::new(), |e| format!(", features {}", e.with_interval(2)));
            format!("  {what:>10}  RMSE {}{features}\n", distance.rmse.with_interval(2))
        };
        let mut text =
            format!("from {} originals to their reconstructions, on the 0-255 scale:\n", self.images);
        for (t, distance) in &self.by_t {
            text.push_str(&words(format!("t = {t}"), distance));
        }
        text.push_str(&words("to B".into(), &self.between_pairs));
        text.trim_end().to_owned()
    }

    /// A line for each t; what was not measured is empty. The line of t `pair` is between the images of each pair.
    pub fn csv(&self) -> String {
        let mut text =
            "t,images,rmse,rmse_low,rmse_high,feature_distance,feature_distance_low,feature_distance_high\n"
                .to_owned();
        let lines = self.by_t.iter().map(|(t, distance)| (t.to_string(), distance));
        for (t, distance) in lines.chain([("pair".to_owned(), &self.between_pairs)]) {
            let _ = write!(text, "{t},{}", distance.rmse.count);
            for estimate in [Some(distance.rmse), distance.feature_distance] {
                let numbers = estimate.map_or([None; 3], |e| [Some(e.mean), e.low, e.high]);
                for number in numbers {
                    let _ = write!(text, ",{}", number.map(|number| number.to_string()).unwrap_or_default());
                }
            }
            text.push('\n');
        }
        text
    }

    /// A panel for pixels and, if they were measured, one for features; shaded: 95 % confidence intervals.
    pub fn figure(&self) -> Figure {
        let panel = |title: &str, label: &str, value: &dyn Fn(&Distance) -> Option<Estimate>| {
            let by_t: Option<Vec<(f64, Estimate)>> =
                self.by_t.iter().map(|(t, distance)| Some((*t as f64, value(distance)?))).collect();
            let by_t = by_t?;
            let other = value(&self.between_pairs)?;
            let ends = [by_t.first()?.0, by_t.last()?.0].map(|t| (t, other));
            Some(Chart {
                title: title.into(),
                x: Axis { label: "diffusion steps t".into(), scale: Scale::Linear, from_zero: true },
                y: Axis { label: label.into(), scale: Scale::Linear, from_zero: true },
                series: vec![
                    Series::estimates("reconstruction", &by_t, true),
                    Series::estimates("another image", &ends, false),
                ],
            })
        };
        let charts = [
            panel("Pixels", "RMSE to the original (0–255)", &|distance| Some(distance.rmse)),
            panel("Inception features", "distance to the original", &|distance| distance.feature_distance),
        ];
        let charts: Vec<Chart> = charts.into_iter().flatten().collect();
        Figure { columns: charts.len(), charts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(mean: f64) -> Estimate {
        Estimate { mean, standard_error: Some(0.1), low: Some(mean - 0.2), high: Some(mean + 0.2), count: 4 }
    }

    fn report(features: bool) -> Reconstructions {
        let distance = |rmse| Distance {
            rmse: estimate(rmse),
            feature_distance: features.then(|| estimate(rmse / 8.0)),
        };
        Reconstructions {
            images: 4,
            between_pairs: distance(64.0),
            by_t: vec![(0, distance(0.5)), (10, distance(8.0)), (20, distance(60.0))],
        }
    }

    #[test]
    fn tables_and_figures_have_what_was_measured() {
        let text = report(true).csv();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], "10,4,8,7.8,8.2,1,0.8,1.2");
        assert!(lines[4].starts_with("pair,4,64,"));
        assert!(report(false).csv().lines().all(|line| line.starts_with("t,") || line.ends_with(",,,")));
        let (with, without) = (report(true).figure(), report(false).figure());
        assert_eq!((with.charts.len(), without.charts.len()), (2, 1));
        assert_eq!(with.charts[1].series[0].points[2], (20.0, 7.5));
        assert_eq!(with.charts[0].series[1].points, [(0.0, 64.0), (20.0, 64.0)]);
        with.svg().unwrap();
    }
}
