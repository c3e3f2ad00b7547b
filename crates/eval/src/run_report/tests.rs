use super::*;
use crate::estimate::{Estimate, RunningMean};
use crate::likelihood::{Gap, SetReport, StepRow, Summary};
use crate::model_facts::ModelFacts;
use diffusion::{DiffusionConfig, NormalCdf};

fn estimate(mean: f64) -> Estimate {
    let mut sum = RunningMean::default();
    [0.9, 1.0, 1.1].into_iter().for_each(|factor| sum.add(factor * mean));
    sum.estimate()
}

fn likelihood() -> LikelihoodReport {
    let set = |name: &str, shift: f64| SetReport {
        name: name.into(),
        data: "digits <b>".into(),
        data_images: Some(100),
        seconds_per_image: None,
        summary: Summary {
            images: 3,
            timesteps: 100,
            terms: 100,
            bits_per_dim: estimate(3.75 + shift),
            rate: estimate(1.75),
            distortion: estimate(2.0 + shift),
            prior: estimate(1e-5),
            standard_error_of_choice: 0.0,
            steps: (0..100)
                .map(|t| StepRow {
                    first_t: t,
                    last_t: t,
                    bits_per_dim: estimate(1.0 / (1.0 + t as f64)),
                    rate: estimate(1.75 / (1.0 + t as f64)),
                    rmse: estimate(1.0 + t as f64),
                })
                .collect(),
        },
    };
    let sets = vec![set("train", 0.0), set("test", 0.25)];
    LikelihoodReport {
        model: ModelFacts {
            path: "m".into(),
            weights: Some("ema".into()),
            step: Some(9),
            fingerprint: "0123456789".into(),
        },
        diffusion: DiffusionConfig::default(),
        decoder_cdf: NormalCdf::Tanh,
        seed: 4,
        convolutions: "fast".into(),
        gap: Gap::between(&sets),
        sets,
    }
}

fn full() -> RunReport {
    let figure = figures::loss(&[(1, 1.0), (2, 0.5)]);
    RunReport {
        title: "digits & more".into(),
        subtitle: "9 updates".into(),
        setup: vec![("T".into(), "100".into())],
        samples: Some(Pictures { png: figure.png().unwrap(), words: "36 samples".into() }),
        loss: (1..200).map(|step| (step * 20, 1.0 / step as f64)).collect(),
        loss_words: "L_simple".into(),
        scores: (1..5)
            .map(|i| ScoreLine { step: i * 100, scores: vec![("FID".into(), 9.0 / i as f64)] })
            .collect(),
        scores_words: "1000 samples".into(),
        likelihood: vec![likelihood()],
        quality: vec![QualityLine {
            name: "FID".into(),
            value: "3.17".into(),
            words: "50000 samples".into(),
        }],
        ablation: None,
        config: "[train]\nsteps = 9 # <tag>\n".into(),
    }
}

#[test]
fn what_is_no_number_is_never_the_best() {
    let page = |values: &[f64]| {
        let line = |(step, &value): (u64, &f64)| ScoreLine { step, scores: vec![("FID".into(), value)] };
        let scores = (1..).zip(values).map(line).collect();
        let dir = tempfile::tempdir().unwrap();
        let files = RunReport { scores, ..full() }.write(dir.path()).unwrap();
        std::fs::read_to_string(&files[0]).unwrap()
    };
    // 0/0 has the sign bit set on some machines, and is then the least in the total order.
    assert!(page(&[-f64::NAN, 3.0, 2.0, 2.0]).contains("Best after 3 updates"));
    assert!(!page(&[f64::NAN, -f64::NAN]).contains("Best after"));
}

#[test]
fn the_page_has_every_part_and_needs_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let files = full().write(dir.path()).unwrap();
    let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names[0], PAGE_FILE);
    for name in [
        "loss.svg",
        "loss.png",
        "loss.csv",
        "scores.svg",
        "scores.csv",
        "rate_distortion.png",
        "rate_distortion_test.csv",
        "samples.png",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let page = std::fs::read_to_string(&files[0]).unwrap();
    for word in [
        "digits &amp; more",
        "4.1 Sample quality",
        "NLL test",
        "3.17",
        "test less train",
        "L_simple",
        "# &lt;tag&gt;",
        "digits &lt;b&gt;",
        "Best after 400 updates: FID 2.2500",
        "ema weights after 9 updates (01234567)",
    ] {
        assert!(page.contains(word), "{word}");
    }
    assert_eq!(page.matches("<svg").count(), 3);
    assert_eq!(page.matches("data:image/png;base64,").count(), 1);
    for elsewhere in ["http://", "https://", "<script", "<link", "url("] {
        // The name of SVG's namespace is no address that is fetched.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    // Table 4's rows.
    assert!(page.contains("<td>100</td><td>1.75000"), "the row of all steps");
    assert!(page.contains("<td>10</td>"));
    let scores = std::fs::read_to_string(dir.path().join("scores.csv")).unwrap();
    assert!(scores.starts_with("step,FID\n100,9\n"), "{scores}");
}

#[test]
fn what_is_missing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let empty = RunReport { title: "new".into(), ..RunReport::default() };
    let files = empty.write(dir.path()).unwrap();
    assert_eq!(files.len(), 1);
    let page = std::fs::read_to_string(&files[0]).unwrap();
    for word in [
        "No samples have been drawn",
        "Neither FID nor likelihood",
        "No line of metrics",
        "No ablation",
        "Likelihood has not been measured",
    ] {
        assert!(page.contains(word), "{word}");
    }
}
