//! Which sampler, in how many steps: options of commands that draw images.

use clap::ValueEnum;
use diffusion::{SamplerKind, Sampling, Spacing};

/// The way from noise to image.
#[derive(clap::Args, Debug)]
pub struct SamplerArgs {
    /// The way from noise to image
    #[arg(long, value_enum, default_value_t = SamplerName::Ancestral)]
    sampler: SamplerName,

    /// Network calls per image, from 1 to the model's T [default: T]
    #[arg(long, value_name = "K")]
    steps: Option<usize>,

    /// Which of the T steps are taken; names as in diffusers (whose own DDIM with linspace is not exact, so
    /// that its images differ) [default: linspace for dpm-solver++, else leading]
    #[arg(long, value_enum)]
    spacing: Option<SpacingName>,

    /// Fresh noise that ddim adds, from 0 (none) to 1 (as much as ancestral with the small variance)
    #[arg(long, value_name = "ETA", default_value_t = 0.0)]
    eta: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum SamplerName {
    /// The paper's: fresh noise at each step
    Ancestral,
    /// Without fresh noise (unless --eta): better when few steps are taken
    Ddim,
    /// DPM-Solver++ of second order (2M), without fresh noise: good images in 10 to 25 steps
    #[value(name = "dpm-solver++")]
    DpmSolver,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum SpacingName {
    /// Multiples of T/K from 0 on
    Leading,
    /// Every T/K-th step down from the last
    Trailing,
    /// Evenly from the first to the last
    Linspace,
}

impl SamplerArgs {
    /// The sampler's settings.
    ///
    /// # Errors
    /// In words, for options that the sampler does not have.
    pub fn sampling(&self) -> Result<Sampling, &'static str> {
        if self.eta != 0.0 && self.sampler != SamplerName::Ddim {
            return Err("--eta is an option of --sampler ddim only");
        }
        let kind = match self.sampler {
            SamplerName::Ancestral => SamplerKind::Ancestral,
            SamplerName::Ddim => SamplerKind::Ddim { eta: self.eta },
            SamplerName::DpmSolver => SamplerKind::DpmSolver,
        };
        let spacing = self.spacing.map(|name| match name {
            SpacingName::Leading => Spacing::Leading,
            SpacingName::Trailing => Spacing::Trailing,
            SpacingName::Linspace => Spacing::Linspace,
        });
        Ok(Sampling { kind, steps: self.steps, spacing })
    }

    /// The options that are not the paper's, its sampler in all `timesteps` steps.
    ///
    /// # Errors
    /// As [`Self::sampling`].
    pub fn changed(&self, timesteps: usize) -> Result<Vec<String>, &'static str> {
        let Sampling { kind, steps, spacing } = self.sampling()?;
        let mut changed = Vec::new();
        if kind != SamplerKind::Ancestral {
            changed.push(format!("--sampler {}", kind.name()));
        }
        changed.extend(steps.filter(|&steps| steps != timesteps).map(|steps| format!("--steps {steps}")));
        changed.extend(spacing.map(|spacing| format!("--spacing {}", spacing.name())));
        if self.eta != 0.0 {
            changed.push(format!("--eta {}", self.eta));
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Call {
        #[command(flatten)]
        sampler: SamplerArgs,
    }

    fn sampling(arguments: &str) -> Result<Sampling, &'static str> {
        let words = std::iter::once("ddpm").chain(arguments.split_whitespace());
        Call::try_parse_from(words).map_err(|_| "not a call")?.sampler.sampling()
    }

    #[test]
    fn what_is_not_the_papers_is_told() {
        let changed = |arguments: &str| {
            let words = std::iter::once("ddpm").chain(arguments.split_whitespace());
            Call::try_parse_from(words).unwrap().sampler.changed(1000).unwrap().join(" ")
        };
        for same in ["", "--sampler ancestral --steps 1000"] {
            assert_eq!(changed(same), "");
        }
        for other in
            ["--sampler ddim --steps 50 --spacing leading --eta 0.5", "--sampler dpm-solver++", "--steps 999"]
        {
            assert_eq!(changed(other), other);
        }
    }

    #[test]
    fn words_become_settings() {
        let expected = |kind, steps, spacing| Ok(Sampling { kind, steps, spacing });
        assert_eq!(sampling(""), expected(SamplerKind::Ancestral, None, None));
        assert_eq!(
            sampling("--sampler ddim --eta 0.5 --spacing leading"),
            expected(SamplerKind::Ddim { eta: 0.5 }, None, Some(Spacing::Leading))
        );
        assert_eq!(
            sampling("--sampler dpm-solver++ --steps 20 --spacing trailing"),
            expected(SamplerKind::DpmSolver, Some(20), Some(Spacing::Trailing))
        );
        assert_eq!(
            sampling("--spacing linspace"),
            expected(SamplerKind::Ancestral, None, Some(Spacing::Linspace))
        );
        for wrong in ["--eta 1", "--sampler dpm-solver++ --eta 0.1", "--sampler dpm", "--spacing even"] {
            assert!(sampling(wrong).is_err(), "{wrong}");
        }
    }
}
