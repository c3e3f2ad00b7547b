//! How good x̂0 is along the reverse process (Fig. 10): large features come first, details last.

use crate::chart::{Axis, Chart, Figure, Scale, Series};
use crate::estimate::Estimate;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// x̂0 at a moment of the reverse process.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// The t whose x_t it is predicted from, 1 to T as the paper counts.
    pub t: usize,
    /// T - t + 1, how far the reverse process then is: 1 at its beginning, T at its end.
    pub reverse_steps: usize,
    /// RMSE of the samples' x̂0 to what they are at the end, on the 0–255 scale.
    pub rmse_to_final: Estimate,
    /// RMSE of x̂0 to real images x_0, from x_t ~ q(x_t | x_0), on the 0–255 scale; if there were any.
    pub rmse_to_data: Option<Estimate>,
    /// FID of the samples' x̂0 against the reference, if it was measured.
    pub fid: Option<f64>,
}

/// The quality of x̂0 over the reverse process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProgressiveQuality {
    /// Moments, from the beginning of the reverse process on.
    pub moments: Vec<Moment>,
}

impl ProgressiveQuality {
    /// A line for each moment; what was not measured is empty.
    pub fn csv(&self) -> String {
        let mut text = "t,reverse_steps".to_owned();
        for name in ["rmse_to_final", "rmse_to_data"] {
            let _ = write!(text, ",{name},{name}_low,{name}_high");
        }
        text.push_str(",fid\n");
        let cell = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
        for moment in &self.moments {
            let _ = write!(text, "{},{}", moment.t, moment.reverse_steps);
            for estimate in [Some(moment.rmse_to_final), moment.rmse_to_data] {
                for number in estimate.map_or([None; 3], |e| [Some(e.mean), e.low, e.high]) {
                    let _ = write!(text, ",{}", cell(number));
                }
            }
            let _ = writeln!(text, ",{}", cell(moment.fid));
        }
        text
    }

    /// RMSE and, if it was measured, FID over the reverse process; shaded: 95 % confidence intervals.
    pub fn figure(&self) -> Figure {
        let x = || Axis {
            label: "reverse process steps (T − t + 1)".into(),
            scale: Scale::Linear,
            from_zero: true,
        };
        let y = |label: &str| Axis { label: label.into(), scale: Scale::Linear, from_zero: true };
        let steps = |moment: &Moment| moment.reverse_steps as f64;
        let line = |name: &str, value: &dyn Fn(&Moment) -> Option<Estimate>| {
            let estimates: Option<Vec<_>> =
                self.moments.iter().map(|m| Some((steps(m), value(m)?))).collect();
            Some(Series::estimates(name, &estimates?, true))
        };
        let lines = [
            line("to the final sample", &|moment| Some(moment.rmse_to_final)),
            line("to real images, from q(xₜ | x₀)", &|moment| moment.rmse_to_data),
        ];
        let mut charts = vec![Chart {
            title: "Error of the predicted x₀".into(),
            x: x(),
            y: y("RMSE (0–255)"),
            series: lines.into_iter().flatten().collect(),
        }];
        let fid: Option<Vec<_>> = self.moments.iter().map(|m| Some((steps(m), m.fid?))).collect();
        if let Some(points) = fid {
            charts.push(Chart {
                title: "FID of the predicted x₀".into(),
                x: x(),
                y: y("FID"),
                series: vec![Series { name: String::new(), points, band: Vec::new(), dots: true }],
            });
        }
        Figure { columns: charts.len(), charts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_figures_have_what_was_measured() {
        let estimate = |mean: f64| Estimate {
            mean,
            standard_error: Some(0.1),
            low: Some(mean - 0.25),
            high: Some(mean + 0.25),
            count: 4,
        };
        let moment = |t: usize, fid, data: Option<f64>| Moment {
            t,
            reverse_steps: 21 - t,
            rmse_to_final: estimate(t as f64),
            rmse_to_data: data.map(estimate),
            fid,
        };
        let bare = ProgressiveQuality { moments: vec![moment(20, None, None), moment(1, None, None)] };
        assert_eq!(bare.csv().lines().nth(2), Some("1,20,1,0.75,1.25,,,,"));
        let figure = bare.figure();
        assert_eq!((figure.charts.len(), figure.charts[0].series.len()), (1, 1));
        let full = ProgressiveQuality {
            moments: vec![moment(20, Some(90.5), Some(70.0)), moment(1, Some(3.0), Some(2.0))],
        };
        assert_eq!(full.csv().lines().nth(1), Some("20,1,20,19.75,20.25,70,69.75,70.25,90.5"));
        let figure = full.figure();
        assert_eq!((figure.charts.len(), figure.charts[0].series.len()), (2, 2));
        assert_eq!(figure.charts[1].series[0].points, [(1.0, 90.5), (20.0, 3.0)]);
        figure.svg().unwrap();
    }
}
