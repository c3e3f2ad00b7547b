//! Files of a real network: computed with vectors and threads on one side, without on the other.

use crate::progressive::{decoded, encoded};
use codec::Model;
use codec::progressive::{Extent, Limit};
use diffusion::{DiffusionConfig, GaussianDiffusion};
use engine::random::{Purpose, Stream};
use engine::{Cpu, CpuOptions, Level};
use models::{Unet, UnetConfig, UnetDenoiser};

fn network(options: CpuOptions, batch: usize) -> UnetDenoiser {
    let config = UnetConfig {
        image_size: 8,
        image_channels: 3,
        channels: 16,
        channel_mult: vec![1, 2],
        num_res_blocks: 1,
        attention_resolutions: vec![4],
        norm_groups: 4,
        scale_shift_norm: false,
        conventions: models::Conventions::default(),
        learned_variance: false,
        dropout: 0.0,
        block_size: 1,
    };
    let layout = Unet::layout(&config);
    let mut weights = vec![0.0; layout.len()];
    Stream::new(3, Purpose::Test, 0, 0).normals(0, &mut weights);
    weights.iter_mut().for_each(|weight| *weight *= 0.05);
    let backend = Box::new(Cpu::with_options(options).unwrap());
    UnetDenoiser::new(&config, &weights, batch, backend).unwrap()
}

#[test]
fn the_scalar_path_decodes_what_the_vector_path_encoded() {
    let config = DiffusionConfig { timesteps: 100, beta_end: 0.2, ..DiffusionConfig::default() };
    let process = GaussianDiffusion::new(&config).unwrap();
    let mut x_start = vec![0.0; 3 * 8 * 8 * 3];
    Stream::new(4, Purpose::Test, 0, 0).normals(0, &mut x_start);
    x_start.iter_mut().for_each(|x| *x = (*x * 0.4).clamp(-1.0, 1.0));

    let mut fast = network(CpuOptions { threads: 3, ..CpuOptions::default() }, 2);
    let mut fast = Model::new(&process, &mut fast, "network", 0).unwrap().with_batch(2);
    let file = encoded(&mut fast, &x_start, Limit::BitsPerDim(1.5));
    let images = decoded(&mut fast, &file.bytes, Extent::Whole).unwrap();
    let error = images.iter().zip(&x_start).map(|(&a, &b)| f64::from(a - b).powi(2)).sum::<f64>();
    assert!((error / x_start.len() as f64 - file.squared_error).abs() < 1e-6);

    let mut slow = network(CpuOptions { threads: 1, level: Level::Scalar, ..CpuOptions::default() }, 1);
    let mut slow = Model::new(&process, &mut slow, "network", 0).unwrap().with_level(Level::Scalar);
    assert!(decoded(&mut slow, &file.bytes, Extent::Whole).unwrap() == images);
    assert!(encoded(&mut slow, &x_start, Limit::BitsPerDim(1.5)) == file);
}
