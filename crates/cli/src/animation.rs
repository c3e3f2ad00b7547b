//! Pictures one after the other, as an animated PNG: lossless, and a still picture where animation is not known.

use std::io::Cursor;
use train::grid::Picture;

/// Milliseconds that a picture is shown, and the last one.
const SHOWN: u16 = 100;
const LAST_SHOWN: u16 = 2000;

/// An animated PNG of `pictures`, which have one shape of 1 or 3 channels, repeated without end.
///
/// # Errors
/// If there is no picture, one has another shape, or they are larger than PNG allows.
pub fn animated_png(pictures: &[Picture]) -> Result<Vec<u8>, png::EncodingError> {
    let none = || png::EncodingError::IoError(std::io::Error::other("an animation without a picture"));
    let shape = pictures.first().ok_or_else(none)?.shape;
    let mut bytes = Cursor::new(Vec::new());
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(&mut bytes, side(shape.width), side(shape.height));
    encoder.set_color(if shape.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_animated(side(pictures.len()), 0)?;
    encoder.set_frame_delay(SHOWN, 1000)?;
    let mut writer = encoder.write_header()?;
    for (number, picture) in pictures.iter().enumerate() {
        if number + 1 == pictures.len() {
            writer.set_frame_delay(LAST_SHOWN, 1000)?;
        }
        writer.write_image_data(&picture.pixels)?;
    }
    writer.finish()?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::ImageShape;

    #[test]
    fn every_picture_comes_back() {
        for channels in [1, 3] {
            let shape = ImageShape::new(3, 5, channels);
            let picture = |k: usize| Picture {
                shape,
                pixels: (0..shape.len()).map(|i| (i * 7 + k * 50) as u8).collect(),
            };
            let pictures: Vec<_> = (0..4).map(picture).collect();
            let bytes = animated_png(&pictures).unwrap();
            let mut reader = png::Decoder::new(Cursor::new(&bytes)).read_info().unwrap();
            assert_eq!(reader.info().animation_control().unwrap().num_frames, 4);
            let mut pixels = vec![0; shape.len()];
            for (number, picture) in pictures.iter().enumerate() {
                reader.next_frame(&mut pixels).unwrap();
                assert_eq!(pixels, picture.pixels);
                let shown = reader.info().frame_control().unwrap().delay_num;
                assert_eq!(shown, if number == 3 { LAST_SHOWN } else { SHOWN });
            }
        }
        assert!(animated_png(&[]).is_err());
    }
}
