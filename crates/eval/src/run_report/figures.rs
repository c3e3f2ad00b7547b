//! What went on while training, as charts.

use super::ScoreLine;
use crate::chart::{Axis, Chart, Figure, Scale, Series};

/// Lines of a smoothed curve's window.
const WINDOW_PART: usize = 50;

fn axis(label: &str, scale: Scale) -> Axis {
    Axis { label: label.into(), scale, from_zero: false }
}

fn series(name: &str, points: Vec<(f64, f64)>, dots: bool) -> Series {
    Series { name: name.into(), points, band: Vec::new(), dots }
}

/// The loss by updates, and its running mean.
pub(super) fn loss(loss: &[(u64, f64)]) -> Figure {
    let points: Vec<_> = loss.iter().map(|&(step, loss)| (step as f64, loss)).collect();
    // A loss that falls by orders of magnitude shows nothing on a linear axis.
    let scale = if points.iter().all(|&(_, loss)| loss > 0.0) { Scale::Log } else { Scale::Linear };
    let mut lines = vec![series("each line of metrics", points.clone(), false)];
    let window = points.len() / WINDOW_PART;
    if window > 1 {
        let mean =
            |places: &[(f64, f64)]| places.iter().map(|point| point.1).sum::<f64>() / places.len() as f64;
        let smooth = points.windows(window).map(|places| (places[window - 1].0, mean(places)));
        lines.push(series(&format!("mean of {window}"), smooth.collect(), false));
    } else {
        lines[0].name = String::new();
    }
    let chart = Chart {
        title: "Loss".into(),
        x: axis("updates", Scale::Linear),
        y: axis("loss", scale),
        series: lines,
    };
    Figure { charts: vec![chart], columns: 1 }
}

/// The names of all scores, in the order in which they came.
pub(super) fn score_names(lines: &[ScoreLine]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in lines.iter().flat_map(|line| &line.scores) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

/// Each score by updates, in a panel of its own.
pub(super) fn scores(lines: &[ScoreLine]) -> Figure {
    let chart = |name: &str| {
        let of = |line: &ScoreLine| {
            let value = line.scores.iter().find(|(found, _)| found == name)?.1;
            Some((line.step as f64, value))
        };
        Chart {
            title: name.to_owned(),
            x: axis("updates", Scale::Linear),
            y: axis(name, Scale::Linear),
            series: vec![series("", lines.iter().filter_map(of).collect(), true)],
        }
    };
    Figure { charts: score_names(lines).into_iter().map(chart).collect(), columns: 2 }
}
