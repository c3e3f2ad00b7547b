//! Latents that are shared, mixed and held: what must be equal is equal to the bit, and what is random is
//! distributed as it must be.

#[path = "support/linear_signal.rs"]
mod linear_signal;
#[path = "support/of_gaussians.rs"]
mod of_gaussians;

use diffusion::{
    DenoiseError, Denoiser, DiffusionConfig, DiffusionError, GaussianDiffusion, Interpolation, KnownRegion,
    Member, Mixing, Pair, Prediction, SamplerKind, Sampling, Variance, branches, noise,
};
use engine::ImageShape;
use engine::random::{Purpose, Stream};
use linear_signal::linear_signal;
use of_gaussians::OfGaussians;

const IMAGE: ImageShape = ImageShape::new(4, 3, 2);
const LEN: usize = IMAGE.len();
const T: usize = 40;
const SEED: u64 = 5;
const KINDS: [SamplerKind; 4] = [
    SamplerKind::Ancestral,
    SamplerKind::Ddim { eta: 0.0 },
    SamplerKind::Ddim { eta: 0.7 },
    SamplerKind::DpmSolver,
];

fn process() -> GaussianDiffusion {
    let config = DiffusionConfig { timesteps: T, beta_end: 0.2, ..DiffusionConfig::default() };
    GaussianDiffusion::new(&config).unwrap()
}

/// A network with something to say about every element and t.
struct Wavy;

impl Denoiser for Wavy {
    fn image_shape(&self) -> ImageShape {
        IMAGE
    }

    fn output_channels(&self) -> usize {
        IMAGE.channels
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        for ((x_t, output), t) in x_t.chunks(LEN).zip(output.chunks_mut(LEN)).zip(timesteps) {
            // Each element's depends on its neighbour's: regions feel each other.
            for (k, output) in output.iter_mut().enumerate() {
                *output = libm::sinf(x_t[k] + 0.5 * x_t[(k + 1) % LEN] + 0.1 * t + k as f32);
            }
        }
        Ok(())
    }
}

/// Images in [-1, 1], with some black and some white.
fn picture(number: u64) -> Vec<f32> {
    let mut values = vec![0.0; LEN];
    Stream::new(1, Purpose::Test, 0, number).normals(0, &mut values);
    values.into_iter().map(|x: f32| (0.8 * x).clamp(-1.0, 1.0)).collect()
}

fn interpolation(kind: SamplerKind, steps: Option<usize>) -> Interpolation {
    Interpolation {
        process: process(),
        sampling: Sampling { kind, steps, spacing: None },
        image: IMAGE,
        seed: SEED,
        mixing: Mixing::Linear,
        region: None,
    }
}

fn decode(interpolation: &Interpolation, t: usize, members: &[Member]) -> Vec<f32> {
    interpolation.start(t, members).unwrap().run(&mut Wavy).unwrap().to_vec()
}

#[test]
fn at_the_ends_it_is_the_reconstruction() {
    let (first, second) = (picture(0), picture(1));
    let pair = Pair { number: 3, first: &first, second: &second };
    for kind in KINDS {
        for mixing in [Mixing::Linear, Mixing::Spherical] {
            let whole = Interpolation { mixing, ..interpolation(kind, None) };
            for t in [1, 17, T] {
                for (lambda, image, number) in [(0.0, &first, 6), (1.0, &second, 7)] {
                    let noise = noise::forward_noise(SEED, number, &[t - 1], LEN);
                    let x_t = process().q_sample(image, &[t - 1], &noise);
                    let mut sampler = kind.sampler(process().until(t).unwrap(), IMAGE, SEED, 3, 1).unwrap();
                    sampler.chain_mut().set_latents(x_t);
                    let plain = sampler.run(&mut Wavy).unwrap();
                    assert_eq!(decode(&whole, t, &[Member { pair, lambda }]), plain, "{kind:?} {t} {lambda}");
                }
            }
        }
    }
}

#[test]
fn without_steps_pixels_are_mixed() {
    let (first, second) = (picture(0), picture(1));
    let pair = Pair { number: 0, first: &first, second: &second };
    let plain = interpolation(SamplerKind::Ancestral, None);
    let found = decode(&plain, 0, &[0.0, 0.25, 1.0].map(|lambda| Member { pair, lambda }));
    let quarter: Vec<f32> = first.iter().zip(&second).map(|(x, y)| 0.75 * x + 0.25 * y).collect();
    assert_eq!(found, [&first[..], &quarter, &second].concat());
    let region: Vec<bool> = (0..LEN).map(|k| k < 5).collect();
    let masked = Interpolation { region: Some(region), ..plain };
    assert_eq!(decode(&masked, 0, &[Member { pair, lambda: 0.25 }]), [&quarter[..5], &first[5..]].concat());
}

#[test]
fn a_member_is_the_same_in_any_batch() {
    let pictures: Vec<_> = (0..4).map(picture).collect();
    let pair = |number: u64, k: usize| Pair { number, first: &pictures[k], second: &pictures[k + 1] };
    let member = |(number, k, lambda)| Member { pair: pair(number, k), lambda };
    let members = [(0, 0, 0.5), (1, 2, 0.2), (0, 0, 0.9), (1, 2, 1.0), (0, 0, 0.5)].map(member);
    for kind in KINDS {
        for steps in [None, Some(7)] {
            let half: Vec<bool> = (0..LEN).map(|k| k % 3 > 0).collect();
            for region in [None, Some(half)] {
                let way = Interpolation { region, ..interpolation(kind, steps) };
                let whole = decode(&way, 25, &members);
                for (k, &member) in members.iter().enumerate() {
                    assert_eq!(decode(&way, 25, &[member]), whole[k * LEN..(k + 1) * LEN], "{kind:?} {k}");
                }
                // The same λ of a pair is the same image: nothing but λ tells members apart.
                assert_eq!(whole[..LEN], whole[4 * LEN..]);
            }
        }
    }
}

#[test]
fn a_pair_has_one_reverse_noise_and_its_own() {
    let picture = picture(0);
    let of = |number, lambda| Member { pair: Pair { number, first: &picture, second: &picture }, lambda };
    let whole = interpolation(SamplerKind::Ancestral, None);
    let mut decoding = whole.start(20, &[of(0, 0.0), of(0, 1.0), of(1, 0.0)]).unwrap();
    let mut sampler =
        SamplerKind::Ancestral.sampler(process().until(20).unwrap(), IMAGE, SEED, 0, 2).unwrap();
    let x_t = decoding.x_t().to_vec();
    sampler.chain_mut().set_latents([&x_t[..LEN], &x_t[2 * LEN..]].concat());
    decoding.step(&mut Wavy).unwrap();
    sampler.step(&mut Wavy).unwrap();
    let expected = sampler.chain().x_t();
    assert_eq!(decoding.x_t()[..LEN], expected[..LEN]);
    assert_eq!(decoding.x_t()[2 * LEN..], expected[LEN..]);
    sampler = SamplerKind::Ancestral.sampler(process().until(20).unwrap(), IMAGE, SEED, 0, 1).unwrap();
    sampler.chain_mut().set_latents(x_t[LEN..2 * LEN].to_vec());
    sampler.step(&mut Wavy).unwrap();
    assert_eq!(decoding.x_t()[LEN..2 * LEN], *sampler.chain().x_t());
}

#[test]
fn a_region_of_everything_is_none_and_of_nothing_the_first_image() {
    let (first, second) = (picture(0), picture(1));
    let pair = Pair { number: 2, first: &first, second: &second };
    for kind in KINDS {
        for steps in [None, Some(6)] {
            let way = interpolation(kind, steps);
            for t in [0, 1, 30, T] {
                let masked = |region: Vec<bool>| {
                    let way = Interpolation { region: Some(region), ..way.clone() };
                    decode(&way, t, &[Member { pair, lambda: 0.4 }])
                };
                assert_eq!(masked(vec![true; LEN]), decode(&way, t, &[Member { pair, lambda: 0.4 }]));
                assert_eq!(masked(vec![false; LEN]), first);
                let half = masked((0..LEN).map(|k| k >= LEN / 2).collect());
                assert_eq!(half[..LEN / 2], first[..LEN / 2]);
                assert_ne!(half[LEN / 2..], first[LEN / 2..]);
            }
        }
    }
}

#[test]
fn what_is_known_has_the_noise_of_its_step() {
    // One gray image of many elements, each of which is a draw of q(x_t | x_0).
    const MANY: ImageShape = ImageShape::new(64, 64, 2);
    let known = KnownRegion {
        x_start: vec![0.6; MANY.len()],
        is_known: vec![true; MANY.len()],
        noise_of: vec![9],
        seed: SEED,
    };
    for (steps, t) in [(3, 2), (21, 20), (T, T - 1)] {
        let process = process().until(steps).unwrap();
        let mut sampler = SamplerKind::Ancestral.sampler(process, MANY, SEED, 0, 1).unwrap();
        known.impose(sampler.chain_mut());
        let x = sampler.chain().x_t();
        let n = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        // ᾱ by its definition.
        let signal: f64 = (0..=t).map(|s| 1.0 - (1e-4 + (0.2 - 1e-4) * s as f64 / (T - 1) as f64)).product();
        let (expected, spread) = (0.6 * signal.sqrt(), 1.0 - signal);
        assert!((mean - expected).abs() < 5.0 * (spread / n).sqrt(), "t = {t}: {mean}, not {expected}");
        assert!(
            (variance / spread - 1.0).abs() < 5.0 * (2.0 / n).sqrt(),
            "t = {t}: {variance}, not {spread}"
        );
    }
}

#[test]
fn spherical_mixing_keeps_the_size_of_noise() {
    let n = 20_000;
    let normals = |sample| {
        let mut values = vec![0.0; n];
        Stream::new(2, Purpose::Test, 0, sample).normals(0, &mut values);
        values
    };
    let (first, second) = (normals(0), normals(1));
    let variance = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
    for (lambda, linear) in [(0.5, 0.5), (0.2, 0.68)] {
        let found = variance(&Mixing::Spherical.mix(&first, &second, lambda).unwrap());
        assert!((found - 1.0).abs() < 0.05, "{found}");
        let found = variance(&Mixing::Linear.mix(&first, &second, lambda).unwrap());
        assert!((found - linear).abs() < 0.05, "{found}");
    }
    // Of unit vectors at a right angle, at 60 degrees and of one direction.
    let at = |degrees: f64| [degrees.to_radians().cos() as f32, degrees.to_radians().sin() as f32];
    for (from, to) in [(0.0, 90.0), (10.0, 70.0), (30.0, 30.0)] {
        for lambda in [0.0, 0.3, 1.0, 1.5] {
            let found = Mixing::Spherical.mix(&at(from), &at(to), lambda).unwrap();
            let expected = at(from + lambda * (to - from));
            assert!((found[0] - expected[0]).abs() + (found[1] - expected[1]).abs() < 1e-6);
        }
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let image = picture(0);
    let pair = Pair { number: 0, first: &image, second: &image };
    let whole = interpolation(SamplerKind::Ancestral, None);
    let start = |way: &Interpolation, t, lambda| way.start(t, &[Member { pair, lambda }]).map(|_| ());
    for lambda in [f64::NAN, -1.1, 2.5, f64::INFINITY] {
        assert!(matches!(start(&whole, 5, lambda), Err(DiffusionError::OutOfRange { key: "lambda", .. })));
    }
    let text = start(&whole, T + 1, 0.5).unwrap_err().to_string();
    assert!(text.contains("`t` is 41") && text.contains("to the process's 40"), "{text}");
    let too_many = interpolation(SamplerKind::Ancestral, Some(41));
    assert!(matches!(start(&too_many, 5, 0.5), Err(DiffusionError::OutOfRange { key: "steps", .. })));
    let opposite = Mixing::Spherical.mix(&[0.5, -1.0], &[-0.5, 1.0], 0.5);
    assert!(matches!(opposite, Err(DiffusionError::Conflict(_))));
    assert!(matches!(Mixing::Spherical.mix(&[0.0], &[1.0], 0.5), Err(DiffusionError::Conflict(_))));
}

#[test]
fn branches_go_on_where_the_chain_is() {
    for kind in KINDS {
        for steps in [T, 9] {
            let sampling = Sampling { kind, steps: Some(steps), spacing: None };
            let mut chain = sampling.sampler(&process(), IMAGE, SEED, 3, 2).unwrap();
            for left in [steps, steps / 2, 1] {
                while chain.chain().steps_left() > left {
                    chain.step(&mut Wavy).unwrap();
                }
                let mut branch = branches(kind, chain.chain(), 1, 4, 3).unwrap();
                let shared = branch.chain().x_t().to_vec();
                assert_eq!(shared, chain.chain().x_t()[LEN..].repeat(3));
                let ends = branch.run(&mut Wavy).unwrap().to_vec();
                // The first has the sample's own noise. (A multistep solver forgets what it knew.)
                if kind != SamplerKind::DpmSolver || left == steps {
                    let mut whole = sampling.sampler(&process(), IMAGE, SEED, 4, 1).unwrap();
                    assert_eq!(ends[..LEN], *whole.run(&mut Wavy).unwrap(), "{kind:?} {steps} {left}");
                }
                let differ = kind.is_random() && left > 1;
                assert_eq!(ends[..LEN] != ends[LEN..2 * LEN], differ, "{kind:?} {steps} {left}");
            }
        }
    }
}

#[test]
fn on_gaussian_data_mixtures_have_the_moments_of_the_recursion() {
    const MANY: ImageShape = ImageShape::new(64, 64, 1);
    let (mean, variance) = (0.1, 0.04);
    let config = DiffusionConfig {
        timesteps: T,
        beta_end: 0.2,
        prediction: Prediction::Xstart,
        variance: Variance::FixedSmall,
        clip_denoised: false,
        ..DiffusionConfig::default()
    };
    let signal = linear_signal(&config);
    let mut best = OfGaussians { signal: signal.clone(), mean, variance, image: MANY };
    let data = |sample| {
        let mut values = vec![0.0; MANY.len()];
        Stream::new(8, Purpose::Test, 0, sample).normals(0, &mut values);
        values.into_iter().map(|z: f32| mean as f32 + variance.sqrt() as f32 * z).collect::<Vec<f32>>()
    };
    let (first, second) = (data(0), data(1));
    let pair = Pair { number: 0, first: &first, second: &second };
    let way = Interpolation {
        process: GaussianDiffusion::new(&config).unwrap(),
        sampling: Sampling { kind: SamplerKind::Ancestral, steps: None, spacing: None },
        image: MANY,
        seed: 3,
        mixing: Mixing::Linear,
        region: None,
    };
    for (t, lambda) in [(25, 0.0), (25, 0.5), (T, 0.3), (5, 0.5)] {
        // Both latents are N(√ᾱ m, ᾱ s² + 1 - ᾱ), and independent.
        let of_mixture = (1.0 - lambda) * (1.0 - lambda) + lambda * lambda;
        let at = signal[t - 1];
        let (mut mu, mut var) = (at.sqrt() * mean, of_mixture * (at * variance + 1.0 - at));
        for s in (0..t).rev() {
            let (gain, offset) = best.affine(s);
            let (now, before) = (signal[s], if s == 0 { 1.0 } else { signal[s - 1] });
            let beta = 1.0 - now / before;
            let c1 = beta * before.sqrt() / (1.0 - now);
            let c2 = (1.0 - before) * (1.0 - beta).sqrt() / (1.0 - now);
            let noise = if s == 0 { 0.0 } else { beta * (1.0 - before) / (1.0 - now) };
            let slope = c1 * gain + c2;
            (mu, var) = (slope * mu + c1 * offset, slope * slope * var + noise);
        }
        let mut decoding = way.start(t, &[Member { pair, lambda }]).unwrap();
        let found = decoding.run(&mut best).unwrap();
        let n = found.len() as f64;
        let found_mean = found.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let found_var = found.iter().map(|&x| (f64::from(x) - found_mean).powi(2)).sum::<f64>() / n;
        let what = format!("t = {t}, λ = {lambda}");
        assert!((found_mean - mu).abs() < 5.0 * (var / n).sqrt(), "{what}: mean {found_mean}, not {mu}");
        assert!(
            (found_var / var - 1.0).abs() < 5.0 * (2.0 / n).sqrt(),
            "{what}: variance {found_var}, not {var}"
        );
    }
}
