//! Pairs of images named on the command line: two files, or members of a data source.

use crate::failure::Failure;
use crate::image_count;
use crate::image_files::read_image;
use data::{ImageOptions, SourceSpec};
use engine::ImageShape;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// Which pairs.
#[derive(clap::Args, Debug)]
pub struct PairArgs {
    /// The first image, where λ is 0: a PNG, JPEG, WebP, GIF or BMP file of the model's size
    #[arg(value_name = "A", requires = "second")]
    first: Option<PathBuf>,

    /// The second image, where λ is 1
    #[arg(value_name = "B")]
    second: Option<PathBuf>,

    /// Take the images from a data source instead (as for train)
    #[arg(long, value_name = "SRC", conflicts_with = "first")]
    data: Option<SourceSpec>,

    /// Its members that make a pair, counted from 0; may be given again for more pairs
    #[arg(long, value_name = "I,J", value_parser = parse_members)]
    members: Vec<(u64, u64)>,

    /// Its first members, two and two, as so many pairs
    #[arg(long, value_name = "COUNT", conflicts_with = "members")]
    pairs: Option<NonZeroU64>,

    /// Bring image files to the model's size, as for training: cut to the square in the middle, and resized
    #[arg(long, conflicts_with = "data")]
    fit: bool,
}

fn parse_members(text: &str) -> Result<(u64, u64), String> {
    let numbers = text.split_once(',').map(|(one, other)| (one.trim().parse(), other.trim().parse()));
    match numbers {
        Some((Ok(one), Ok(other))) => Ok((one, other)),
        _ => Err("give two numbers with a comma between them, as in 3,17".into()),
    }
}

/// Two images, and what they are called.
pub struct ImagePair {
    /// Their pixels.
    pub pixels: [Vec<u8>; 2],
    /// Where they come from.
    pub names: [String; 2],
}

impl PairArgs {
    /// Reads the pairs for a model of `image`; `options` bring images to it.
    ///
    /// # Errors
    /// If none is named, one cannot be read, or is not of the model's size.
    pub fn read(&self, image: ImageShape, options: &ImageOptions) -> Result<Vec<ImagePair>, Failure> {
        if self.data.is_none() && (self.pairs.is_some() || !self.members.is_empty()) {
            return Err(Failure::input(
                "--members and --pairs are images of a data source: give it by --data SRC",
            ));
        }
        match (&self.first, &self.second, &self.data) {
            (Some(first), Some(second), _) => {
                let read = |path| self.read_file(path, image, options);
                let names = [first, second].map(|path| path.display().to_string());
                Ok(vec![ImagePair { pixels: [read(first)?, read(second)?], names }])
            }
            (_, _, Some(spec)) => self.read_members(spec, options),
            _ => Err(Failure::input(
                "which images? give two files, or --data SRC with --members I,J or --pairs COUNT",
            )),
        }
    }

    fn read_file(&self, path: &Path, image: ImageShape, options: &ImageOptions) -> Result<Vec<u8>, Failure> {
        let options = ImageOptions { size: options.size.filter(|_| self.fit), ..*options };
        let (found, pixels) = read_image(path, &options).map_err(Failure::input)?;
        match found == image {
            true => Ok(pixels),
            false => Err(Failure::input(format!(
                "{}: an image of {}x{} pixels (height x width), the model's are {}x{}; --fit cuts it to a square and resizes it",
                path.display(),
                found.height,
                found.width,
                image.height,
                image.width
            ))),
        }
    }

    fn read_members(&self, spec: &SourceSpec, options: &ImageOptions) -> Result<Vec<ImagePair>, Failure> {
        let members: Vec<(u64, u64)> = match self.pairs {
            Some(pairs) => (0..pairs.get()).map(|pair| (2 * pair, 2 * pair + 1)).collect(),
            None => self.members.clone(),
        };
        if members.is_empty() {
            return Err(Failure::input(format!(
                "which images of {spec}? give --members I,J or --pairs COUNT"
            )));
        }
        let source = data::open(spec, options).map_err(Failure::input)?;
        let read = |number: u64| {
            if let Some(all) = image_count::available(&*source).filter(|&all| number >= all) {
                let problem = format!("{spec} has no image {number}: its {all} are counted from 0");
                return Err(Failure::input(problem));
            }
            let mut pixels = vec![0; source.shape().len()];
            source.read(number, &mut pixels).map_err(Failure::input)?;
            Ok(pixels)
        };
        members
            .into_iter()
            .map(|(one, other)| {
                let names = [one, other].map(|number| format!("{spec} #{number}"));
                Ok(ImagePair { pixels: [read(one)?, read(other)?], names })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_two_numbers() {
        assert_eq!(parse_members("3,17"), Ok((3, 17)));
        assert_eq!(parse_members("0, 0"), Ok((0, 0)));
        for wrong in ["", "3", "3,", "a,b", "-1,2", "1,2,3", "1.5,2"] {
            assert!(parse_members(wrong).is_err(), "{wrong}");
        }
    }
}
