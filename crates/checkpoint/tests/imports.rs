//! Checkpoints that TensorFlow and PyTorch wrote (`tools/import_fixtures.py`): the same parameters from all, damage found.

use checkpoint::{ForeignModel, TensorBundle, Weights};
use diffusion::Denoiser;
use engine::{ConvMethod, Cpu, CpuOptions, ParamLayout};
use flate2::read::GzDecoder;
use models::{Unet, UnetDenoiser};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

const INDEX: &str = "model.ckpt-7.index";
const DATA: &str = "model.ckpt-7.data-00000-of-00001";
const TORCH: &str = "ema_model-7.ckpt";
const PYTORCH_DDPM: &str = "ckpt.pt";

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/imports");
    match std::fs::read(folder.join(name)) {
        Ok(bytes) => bytes,
        Err(_) => {
            let packed = std::fs::read(folder.join(format!("{name}.gz"))).unwrap();
            let mut bytes = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
            bytes
        }
    }
}

/// All files of the fixtures in a folder of their own.
fn unpacked() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in [INDEX, DATA, TORCH, PYTORCH_DDPM] {
        std::fs::write(dir.path().join(name), fixture(name)).unwrap();
    }
    dir
}

fn read(
    path: PathBuf,
    wanted: Option<Weights>,
) -> Result<(ForeignModel, ParamLayout, Vec<f32>), checkpoint::Error> {
    let mut model = ForeignModel::open(&path, wanted, None)?;
    let layout = Unet::layout(&model.unet);
    let parameters = model.read_parameters(&layout)?;
    Ok((model, layout, parameters))
}

/// The original's name of a parameter of this small network, written out a second time.
fn original(name: &str) -> String {
    let name = name
        .replace("time_embedding.linear_1", "temb.dense0")
        .replace("time_embedding.linear_2", "temb.dense1");
    let name = name.replace("up_blocks.0", "up_1").replace("up_blocks.1", "up_0");
    let name = name.replace("down_blocks.", "down_").replace("mid_block.attentions.0", "mid.attn_1");
    let name =
        name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2");
    let name = name.replace("resnets.", "block_").replace("attentions.", "attn_");
    let name = name.replace("time_emb_proj", "temb_proj").replace("conv_shortcut", "nin_shortcut");
    let name = name
        .replace("group_norm", "norm")
        .replace("to_out.0", "proj_out")
        .replace("conv_norm_out", "norm_out");
    let name =
        name.replace(".to_", ".").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample");
    let (stem, kind) = name.rsplit_once('.').unwrap();
    let kind = match (stem.contains("norm"), kind) {
        (true, "weight") => "gamma",
        (true, _) => "beta",
        (false, "weight") => "W",
        (false, _) => "b",
    };
    format!("model/{}/{kind}", stem.replace('.', "/"))
}

/// What every parameter must be.
fn expected(layout: &ParamLayout, scale: f32) -> Vec<f32> {
    let mut names: Vec<String> = layout.specs().iter().map(|spec| original(&spec.name)).collect();
    names.sort_unstable();
    let numbers: BTreeMap<&str, usize> =
        names.iter().enumerate().map(|(n, name)| (name.as_str(), n)).collect();
    let mut parameters = vec![0.0; layout.len()];
    for spec in layout.specs() {
        let n = numbers[original(&spec.name).as_str()];
        for (k, value) in parameters[spec.range()].iter_mut().enumerate() {
            *value = scale * (((7 * k + 13 * n) % 251) as f32 / 64.0 - 2.0);
        }
    }
    parameters
}

#[test]
fn the_originals_checkpoints_have_averaged_and_raw_weights() {
    let dir = unpacked();
    for (wanted, scale) in [(None, 0.5), (Some(Weights::Ema), 0.5), (Some(Weights::Raw), 1.0)] {
        for name in ["model.ckpt-7", INDEX] {
            let (model, layout, parameters) = read(dir.path().join(name), wanted).unwrap();
            assert_eq!(model.weights, wanted.or(Some(Weights::Ema)));
            assert_eq!((model.step, model.has_both), (Some(7), true));
            let unet = &model.unet;
            assert_eq!((unet.channels, &unet.channel_mult[..], unet.num_res_blocks), (32, &[1, 1][..], 1));
            assert_eq!((unet.image_size, &unet.attention_resolutions[..]), (32, &[16][..]));
            assert!(parameters == expected(&layout, scale));
            // The other weights, the optimiser's and the step.
            assert!(
                model.ignored.len() > layout.specs().len()
                    && model.ignored.contains(&"global_step".to_owned())
            );
        }
    }
}

#[test]
fn pytorch_conversions_have_the_same_parameters() {
    let dir = unpacked();
    let (model, layout, parameters) = read(dir.path().join(TORCH), None).unwrap();
    // The file's name says that they are averaged.
    assert_eq!((model.weights, model.step, model.ignored.len()), (Some(Weights::Ema), None, 0));
    assert!(parameters == expected(&layout, 0.5));
    let renamed = dir.path().join("model.pt");
    std::fs::rename(dir.path().join(TORCH), &renamed).unwrap();
    assert_eq!(read(renamed.clone(), None).unwrap().0.weights, None);
    assert_eq!(read(renamed, Some(Weights::Raw)).unwrap().0.weights, Some(Weights::Raw));
}

#[test]
fn pytorch_ddpm_predicts_what_we_predict() {
    let dir = unpacked();
    let (model, _, parameters) = read(dir.path().join(PYTORCH_DDPM), None).unwrap();
    assert_eq!((model.weights, model.has_both, model.timesteps), (Some(Weights::Ema), true, Some(100)));
    let unet = &model.unet;
    assert_eq!((unet.channels, &unet.channel_mult[..], unet.num_res_blocks), (32, &[1, 2][..], 1));
    assert_eq!((unet.image_size, &unet.attention_resolutions[..]), (32, &[16][..]));
    assert!(model.ignored.contains(&"net_model.head.weight".to_owned()));
    let cpu = Cpu::with_options(CpuOptions { conv: ConvMethod::Direct, ..CpuOptions::default() }).unwrap();
    let mut network = UnetDenoiser::new(unet, &parameters, 1, Box::new(cpu)).unwrap();
    let (channels, pixels) = (3, 32 * 32);
    let mut x_t = vec![0.0; channels * pixels];
    for k in 0..x_t.len() {
        x_t[k % pixels * channels + k / pixels] = ((7 * k % 251) as f32 - 125.0) / 125.0;
    }
    let mut ours = vec![0.0; x_t.len()];
    network.denoise(&x_t, &[61.0], &mut ours).unwrap();
    // The numbers are the last of the file, planes of single precision.
    let stored = fixture("ckpt_output.npy");
    let numbers = &stored[stored.len() - 4 * ours.len()..];
    let theirs: Vec<f32> = numbers.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let rms = (theirs.iter().map(|value| value * value).sum::<f32>() / theirs.len() as f32).sqrt();
    for (k, &theirs) in theirs.iter().enumerate() {
        let ours = ours[k % pixels * channels + k / pixels];
        assert!((ours - theirs).abs() <= 2e-5 * rms, "element {k}: {ours} instead of {theirs} (rms {rms})");
    }
    let (raw, _, twice) = read(dir.path().join(PYTORCH_DDPM), Some(Weights::Raw)).unwrap();
    assert_eq!(raw.weights, Some(Weights::Raw));
    assert!(twice.iter().zip(&parameters).all(|(raw, ema)| *raw == 2.0 * ema));
}

#[test]
fn damage_is_named() {
    let dir = unpacked();
    let check = |name: &str, change: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        let path = dir.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let error = read(dir.path().join("model.ckpt-7"), None).unwrap_err();
        assert!(error.is_input());
        for word in words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
        std::fs::write(&path, whole).unwrap();
    };
    check(
        DATA,
        &|bytes| bytes.iter_mut().step_by(50).for_each(|byte| *byte ^= 1),
        &[DATA, "CRC of tensor", "corrupted"],
    );
    check(DATA, &|bytes| bytes.truncate(bytes.len() / 2), &[DATA, "truncated"]);
    check(INDEX, &|bytes| bytes[100] ^= 1, &[INDEX, "CRC of a block"]);
    check(INDEX, &|bytes| bytes.truncate(bytes.len() - 3), &[INDEX, "truncated"]);
    std::fs::remove_file(dir.path().join(DATA)).unwrap();
    let error = read(dir.path().join("model.ckpt-7"), None).unwrap_err().to_string();
    assert!(error.contains(DATA), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_index_is_an_error_or_an_index(at in any::<Index>(), byte: u8, cut in any::<Index>(), cuts: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = fixture(INDEX);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(dir.path().join(INDEX), &bytes).unwrap();
        if let Err(error) = TensorBundle::open(&dir.path().join(INDEX)) {
            prop_assert!(error.to_string().contains(INDEX), "{error}");
        }
    }
}
