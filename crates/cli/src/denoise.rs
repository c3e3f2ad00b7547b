//! `ddpm denoise`: one network call, to compare with other programs.

use crate::Global;
use crate::failure::Failure;
use crate::image_files::{check_file_place, write_whole};
use crate::model::{self, ModelArgs};
use crate::report::Report;
use diffusion::Denoiser;
use engine::ImageShape;
use numpy::npy::{self, Array};
use serde_json::json;
use std::path::PathBuf;

/// Most images that go through the network at once.
const BATCH: usize = 16;

/// Call the network once, for checks against other programs
///
/// Reads images x_t, calls the network with time step T for all of them, and writes what it predicts (the noise ε for
/// models of the paper).
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Arrays are .npy files [n, channels, height, width] or [n, height, width, channels], told \
apart by the model's image; the output has the layout of the input, as float32. Values are as the network sees them: \
images in [-1, 1] with noise.

Example:
  ddpm denoise runs/cifar10 --x x.npy --t 500 --out eps.npy"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The images x_t, float32 (float64 and uint8 are converted)
    #[arg(long, value_name = "X.npy")]
    x: PathBuf,

    /// The time step, from 0 to the model's T - 1 (the paper counts from 1)
    #[arg(long, value_name = "T")]
    t: usize,

    /// The file for the prediction; replaced if it is there
    #[arg(long, value_name = "EPS.npy")]
    out: PathBuf,
}

/// The order of an array's dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layout {
    /// `[n, channels, height, width]`.
    Nchw,
    /// `[n, height, width, channels]`.
    Nhwc,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    check_file_place(&args.out, "--out")?;
    let x = npy::read(&args.x).map_err(Failure::input)?;
    let count = x.shape.first().copied().unwrap_or(0);
    let mut model = model::open(&args.model, count.clamp(1, BATCH), global.hardware())?;
    if let Some(diffusion) = &model.stored.diffusion
        && args.t >= diffusion.timesteps
    {
        let last = diffusion.timesteps - 1;
        return Err(Failure::input(format!("--t {}: the model has the time steps 0 to {last}", args.t)));
    }
    let image = model.denoiser.image_shape();
    let layout = layout(&x.shape, image)
        .map_err(|reason| Failure::input(format!("{}: {reason}", args.x.display())))?;
    let x_t = match layout {
        Layout::Nchw => channels_last(&x.values, image),
        Layout::Nhwc => x.values,
    };
    let output = ImageShape { channels: model.denoiser.output_channels(), ..image };
    let mut prediction = vec![0.0; count * output.len()];
    model.denoiser.denoise(&x_t, &vec![args.t as f32; count], &mut prediction).map_err(Failure::work)?;

    let array = match layout {
        Layout::Nchw => Array {
            shape: vec![count, output.channels, output.height, output.width],
            values: channels_first(&prediction, output),
        },
        Layout::Nhwc => {
            Array { shape: vec![count, output.height, output.width, output.channels], values: prediction }
        }
    };
    write_whole(&args.out, &npy::encode(&array))?;
    let words = format!(
        "{} of shape {:?} at t = {} ({})",
        args.out.display(),
        array.shape,
        args.t,
        model.weights_name()
    );
    let predicts = model.stored.diffusion.as_ref().map(|diffusion| diffusion.prediction);
    let json = json!({
        "out": args.out, "shape": array.shape, "t": args.t, "model": model.directory, "weights": model.stored.weights,
        "step": model.stored.step, "predicts": predicts,
    });
    Ok(Report::new(words, json))
}

/// The layout of an array of `shape`, for a model of `image`.
fn layout(shape: &[usize], image: ImageShape) -> Result<Layout, String> {
    let ImageShape { height, width, channels } = image;
    let (nchw, nhwc) = ([channels, height, width], [height, width, channels]);
    match shape {
        [0, ..] => Err("there is no image in it".into()),
        // Equal only for images as high and wide as they have channels, of which nobody can tell.
        [_, rest @ ..] if nchw == nhwc && *rest == nchw && channels > 1 => {
            Err(format!("the layout of an array {shape:?} cannot be told by its shape"))
        }
        [_, rest @ ..] if *rest == nchw => Ok(Layout::Nchw),
        [_, rest @ ..] if *rest == nhwc => Ok(Layout::Nhwc),
        _ => Err(format!(
            "an array {shape:?}, but the model takes [n, {channels}, {height}, {width}] or [n, {height}, {width}, {channels}]"
        )),
    }
}

/// NCHW to NHWC.
fn channels_last(values: &[f32], image: ImageShape) -> Vec<f32> {
    let pixels = image.height * image.width;
    let images = values.chunks_exact(image.len());
    let order = |image_values| {
        let value = move |pixel: usize, channel: usize| -> f32 {
            let values: &[f32] = image_values;
            values[channel * pixels + pixel]
        };
        (0..pixels).flat_map(move |pixel| (0..image.channels).map(move |channel| value(pixel, channel)))
    };
    images.flat_map(order).collect()
}

/// NHWC to NCHW.
fn channels_first(values: &[f32], image: ImageShape) -> Vec<f32> {
    let pixels = image.height * image.width;
    let images = values.chunks_exact(image.len());
    let order = |image_values| {
        let value = move |pixel: usize, channel: usize| -> f32 {
            let values: &[f32] = image_values;
            values[pixel * image.channels + channel]
        };
        (0..image.channels).flat_map(move |channel| (0..pixels).map(move |pixel| value(pixel, channel)))
    };
    images.flat_map(order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_by_shape() {
        let image = ImageShape::new(8, 8, 3);
        assert_eq!(layout(&[5, 3, 8, 8], image), Ok(Layout::Nchw));
        assert_eq!(layout(&[5, 8, 8, 3], image), Ok(Layout::Nhwc));
        let gray = ImageShape::new(8, 8, 1);
        assert_eq!(layout(&[1, 1, 8, 8], gray), Ok(Layout::Nchw));
        assert_eq!(layout(&[1, 8, 8, 1], gray), Ok(Layout::Nhwc));
        for shape in [&[5, 8, 3, 8][..], &[3, 8, 8], &[0, 3, 8, 8], &[], &[1, 1, 3, 8, 8]] {
            assert!(layout(shape, image).is_err(), "{shape:?}");
        }
        assert!(layout(&[1, 3, 3, 3], ImageShape::new(3, 3, 3)).is_err());
    }

    #[test]
    fn the_layouts_are_each_others_inverse() {
        let image = ImageShape::new(2, 3, 2);
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let first = channels_first(&values, image);
        assert_eq!(first[..8], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 1.0, 3.0]);
        assert_eq!(channels_last(&first, image), values);
    }
}
