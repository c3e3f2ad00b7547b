//! The page: the paper's section 4 for a run of one's own.

use super::html::{escape, figure, paragraph, png, table};
use super::{RunReport, ScoreLine};
use crate::likelihood::{LikelihoodReport, SetReport};

const STYLE: &str = include_str!("page.css");

/// Reverse steps whose rate and distortion are tabulated (Table 4), in hundredths of T.
const TABLE_STEPS: [usize; 10] = [100, 90, 80, 70, 60, 50, 40, 30, 20, 10];

/// The page, with the figures `svgs` by name.
pub(super) fn page(report: &RunReport, svgs: &[(&str, String)]) -> String {
    let svg = |name: &str| svgs.iter().find(|(found, _)| *found == name).map(|(_, svg)| svg.as_str());
    let title = escape(&report.title);
    let body = [
        format!("<h1>{title}</h1>\n<p class=\"subtitle\">{}</p>\n", escape(&report.subtitle)),
        setup(report),
        sample_quality(report, svg("scores")),
        objective(report, svg("loss")),
        progressive_coding(report, svg("rate_distortion")),
        format!("<h2>Configuration</h2>\n<pre>{}</pre>\n", escape(&report.config)),
        format!(
            "<footer>Written by ddpm {}. The numbers behind the figures are in the CSV files beside this page.</footer>\n",
            env!("CARGO_PKG_VERSION")
        ),
    ]
    .concat();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

fn missing(text: &str) -> String {
    format!("<p class=\"missing\">{}</p>\n", escape(text))
}

fn depends(text: &str) -> String {
    format!("<p class=\"depends\">{}</p>\n", escape(text))
}

fn setup(report: &RunReport) -> String {
    let rows: Vec<_> = report.setup.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    format!("<h2>4 Experiments</h2>\n{}", table(&["setting", "value"], &rows))
}

fn sample_quality(report: &RunReport, scores: Option<&str>) -> String {
    let mut html = "<h2>4.1 Sample quality</h2>\n".to_owned();
    match &report.samples {
        Some(samples) => html.push_str(&figure(&png(&samples.png, "a grid of samples"), &samples.words)),
        None => html.push_str(&missing("No samples have been drawn yet.")),
    }
    let mut rows = Vec::new();
    for line in &report.quality {
        rows.push(vec![line.name.clone(), line.value.clone(), line.words.clone()]);
    }
    for likelihood in &report.likelihood {
        for set in &likelihood.sets {
            let name = format!("NLL {} (bits/dim)", set.name);
            rows.push(vec![
                name,
                format!("≤ {}", set.summary.bits_per_dim.with_interval(3)),
                set_words(likelihood, set),
            ]);
        }
    }
    match rows.is_empty() {
        true => html.push_str(&missing(
            "Neither FID nor likelihood has been measured: ddpm evaluate, ddpm likelihood.",
        )),
        false => html.push_str(&table(&["measure", "value", "depends on"], &rows)),
    }
    if let Some(svg) = scores {
        html.push_str("<h3>Over training</h3>\n");
        html.push_str(&figure(svg, &report.scores_words));
        if let Some(best) = best(&report.scores) {
            let scores: Vec<_> =
                best.scores.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            html.push_str(&paragraph(&format!("Best after {} updates: {}.", best.step, scores.join(", "))));
        }
    }
    html
}

/// The first line of those with the least deciding number, as `train::evaluation::best` says it of the
/// weights in `best/`: NaN is never the best.
fn best(lines: &[ScoreLine]) -> Option<&ScoreLine> {
    let deciding = |line: &ScoreLine| line.scores.first().map_or(f64::INFINITY, |(_, value)| *value);
    let numbers = lines.iter().filter(|line| !deciding(line).is_nan());
    numbers.min_by(|a, b| deciding(a).total_cmp(&deciding(b)))
}

fn objective(report: &RunReport, loss: Option<&str>) -> String {
    let mut html = "<h2>4.2 Reverse process parameterization and training objective</h2>\n".to_owned();
    match loss {
        Some(svg) => html.push_str(&figure(svg, &report.loss_words)),
        None => html.push_str(&missing("No line of metrics has been written yet.")),
    }
    match &report.ablation {
        None => {
            html.push_str(&missing("No ablation was given: ddpm ablate, and ddpm report --ablation DIR."))
        }
        Some(ablation) => {
            html.push_str("<h3>Ablation</h3>\n");
            html.push_str(&table(&ablation.head(), &ablation.rows()));
            html.push_str(&depends(&ablation.words()));
        }
    }
    html
}

fn progressive_coding(report: &RunReport, curve: Option<&str>) -> String {
    let mut html = "<h2>4.3 Progressive coding</h2>\n".to_owned();
    let Some(likelihood) = report.likelihood.first() else {
        html.push_str(&missing("Likelihood has not been measured: ddpm likelihood."));
        return html;
    };
    let rows: Vec<_> = (likelihood.sets.iter())
        .map(|set| {
            let summary = &set.summary;
            vec![
                set.name.clone(),
                summary.bits_per_dim.with_interval(4),
                summary.rate.with_interval(4),
                summary.distortion.with_interval(4),
                format!("{:.1e}", summary.prior.mean),
                format!("{:.4}", summary.standard_error_of_choice),
            ]
        })
        .collect();
    let head = [
        "set",
        "bits/dim",
        "rate L₁ … L_T",
        "distortion L₀",
        "prior L_T",
        "standard error by the choice of terms",
    ];
    html.push_str(&table(&head, &rows));
    if let Some(gap) = &likelihood.gap {
        html.push_str(&paragraph(&format!(
            "{} less {}: {} bits/dim.",
            gap.of,
            gap.less,
            gap.bits_per_dim.with_interval(4)
        )));
    }
    for set in &likelihood.sets {
        html.push_str(&depends(&format!("{}: {}", set.name, set_words(likelihood, set))));
    }
    if let Some(svg) = curve {
        let words = "Distortion and rate along the reverse process, one against the other, and the terms of the bound. \
                     Shaded: 95 % confidence intervals.";
        html.push_str(&figure(svg, words));
    }
    if let Some(set) = likelihood.sets.last() {
        html.push_str(&format!("<h3>Rate and distortion ({})</h3>\n", escape(&set.name)));
        let head = ["reverse steps", "rate (bits/dim)", "distortion (RMSE, 0–255)"];
        html.push_str(&table(&head, &rate_distortion_rows(set)));
    }
    html
}

/// Table 4: what a receiver has after so many reverse steps.
fn rate_distortion_rows(set: &SetReport) -> Vec<Vec<String>> {
    let timesteps = set.summary.timesteps;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for hundredths in TABLE_STEPS {
        let t = timesteps - (timesteps * hundredths).div_ceil(100);
        let Some(row) = set.summary.steps.iter().find(|row| row.first_t <= t && t <= row.last_t) else {
            continue;
        };
        let steps = match row.first_t == row.last_t {
            true => (timesteps - t).to_string(),
            false => format!("{}–{} (mean)", timesteps - row.last_t, timesteps - row.first_t),
        };
        if rows.last().is_none_or(|last| last[0] != steps) {
            rows.push(vec![steps, row.rate.with_interval(5), row.rmse.with_interval(3)]);
        }
    }
    rows
}

fn set_words(report: &LikelihoodReport, set: &SetReport) -> String {
    let summary = &set.summary;
    let weights = report.model.weights.as_deref().unwrap_or("unlabelled");
    let step = report.model.step.map_or_else(String::new, |step| format!(" after {step} updates"));
    let decoder = format!("{:?}", report.decoder_cdf).to_lowercase();
    format!(
        "{} of {} images of {}; {} of {} terms; {weights} weights{step} ({}); {decoder} decoder; seed {}; {} convolutions{}",
        summary.images,
        set.data_images.map_or_else(|| "endless".to_owned(), |all| all.to_string()),
        set.data,
        summary.terms,
        summary.timesteps,
        report.model.fingerprint.get(..8).unwrap_or(&report.model.fingerprint),
        report.seed,
        report.convolutions,
        // Unlike that of an Inception Score, which its own line explains.
        if summary.bits_per_dim.half_width().is_some() { "; ± is half the 95 % interval" } else { "" },
    )
}
