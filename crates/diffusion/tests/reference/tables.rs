//! Schedules, tables and spacings.

use std::collections::BTreeMap;

use diffusion::{BetaSchedule, DiffusionConfig, Tables, schedule};

use crate::fixture::{self, NamedTables};

fn tables(schedule: BetaSchedule, timesteps: usize) -> BTreeMap<&'static str, Vec<f64>> {
    let config = DiffusionConfig { schedule, timesteps, ..DiffusionConfig::default() };
    let tables = Tables::from_betas(schedule::betas(&config)).unwrap();
    BTreeMap::from([
        ("betas", tables.betas),
        ("alphas_cumprod", tables.alphas_cumprod),
        ("alphas_cumprod_prev", tables.alphas_cumprod_prev),
        ("sqrt_alphas_cumprod", tables.sqrt_alphas_cumprod),
        ("sqrt_one_minus_alphas_cumprod", tables.sqrt_one_minus_alphas_cumprod),
        ("log_one_minus_alphas_cumprod", tables.log_one_minus_alphas_cumprod),
        ("sqrt_recip_alphas_cumprod", tables.sqrt_recip_alphas_cumprod),
        ("sqrt_recipm1_alphas_cumprod", tables.sqrt_recipm1_alphas_cumprod),
        ("posterior_variance", tables.posterior_variance),
        ("posterior_log_variance_clipped", tables.posterior_log_variance_clipped),
        ("posterior_mean_coef1", tables.posterior_mean_coef1),
        ("posterior_mean_coef2", tables.posterior_mean_coef2),
        ("fixed_large_log_variance", tables.fixed_large_log_variance),
    ])
}

#[track_caller]
fn compare(found: &BTreeMap<&'static str, Vec<f64>>, expected: &NamedTables, at: &[usize], what: &str) {
    for (name, expected) in expected {
        for (&t, expected) in at.iter().zip(expected) {
            let found = found[name.as_str()][t];
            match expected {
                None => assert_eq!(found, f64::INFINITY, "{what}: {name}[{t}]"),
                Some(expected) => assert!(
                    // 1-ᾱ costs the first steps four of sixteen digits.
                    (found - expected).abs() <= 1e-10 * expected.abs().max(1e-4),
                    "{what}: {name}[{t}] is {found} instead of {expected}"
                ),
            }
        }
    }
}

#[test]
fn all_tables_of_all_schedules() {
    let fixture = fixture::load().schedules;
    for (all, timesteps) in [(&fixture.t10, 10), (&fixture.t1, 1)] {
        assert_eq!(all.len(), 7);
        for (&schedule, expected) in all {
            let found = tables(schedule, timesteps);
            assert_eq!(expected.len(), found.len());
            let at: Vec<_> = (0..timesteps).collect();
            compare(&found, expected, &at, &format!("{schedule:?}, T = {timesteps}"));
        }
    }
    assert_eq!(fixture.t1000.tables.len(), 7);
    for (&schedule, expected) in &fixture.t1000.tables {
        compare(&tables(schedule, 1000), expected, &fixture.t1000.at, &format!("{schedule:?}, T = 1000"));
    }
}

#[test]
fn spacings() {
    for case in fixture::load().spacings {
        let kept = case.spacing.kept_steps(case.timesteps, case.steps).unwrap();
        assert_eq!(kept, case.kept, "{:?}, {} of {}", case.spacing, case.steps, case.timesteps);
    }
}
