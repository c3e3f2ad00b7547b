//! Going through a data set: which images can be read, what their values and classes are.

use crate::{DataError, ImageSource};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::{AddAssign, RangeInclusive};

/// What was found in some of a source's images. Surveys of different images add up, in any order to the same.
#[derive(Debug, Default)]
pub struct Survey {
    /// Images that were read.
    pub read: u64,
    /// Images that could not be, and why.
    pub bad: Vec<(u64, DataError)>,
    /// Sum of each channel's values (0 to 255), over all images that were read.
    sums: Vec<u64>,
    /// Sum of their squares.
    squares: Vec<u64>,
    /// Pixels of them.
    pixels: u64,
    /// Images of each class, where the source has classes.
    pub classes: BTreeMap<u32, u64>,
    /// The least and the largest height of those read, and width, in pixels.
    pub sizes: Option<[RangeInclusive<usize>; 2]>,
}

impl Survey {
    /// Reads the images numbered `indices`, in parallel, each in its own size unless the source has one asked for.
    pub fn of(source: &dyn ImageSource, indices: &[u64]) -> Self {
        let read = |&index: &u64| {
            let mut survey = Self::default();
            let (shape, pixels) = match source.read_as_stored(index) {
                Ok(image) => image,
                Err(error) => {
                    survey.bad.push((index, error));
                    return survey;
                }
            };
            survey.read = 1;
            survey.sizes = Some([shape.height..=shape.height, shape.width..=shape.width]);
            survey.pixels = (shape.height * shape.width) as u64;
            for channel in 0..shape.channels {
                let values = || pixels.iter().skip(channel).step_by(shape.channels).map(|&v| u64::from(v));
                survey.sums.push(values().sum());
                survey.squares.push(values().map(|v| v * v).sum());
            }
            if let Some(label) = source.label(index) {
                survey.classes.insert(label, 1);
            }
            survey
        };
        indices.par_iter().map(read).collect::<Vec<_>>().into_iter().fold(Self::default(), |mut sum, part| {
            sum += part;
            sum
        })
    }

    /// The mean of each channel's values, 0 to 255; of no image, none.
    pub fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|&sum| sum as f64 / self.pixels as f64).collect()
    }

    /// The standard deviation of each channel's values, over images and pixels.
    pub fn standard_deviations(&self) -> Vec<f64> {
        let variance = |(mean, &squares): (f64, &u64)| squares as f64 / self.pixels as f64 - mean * mean;
        self.means().into_iter().zip(&self.squares).map(|pair| variance(pair).max(0.0).sqrt()).collect()
    }
}

impl AddAssign for Survey {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.pixels += other.pixels;
        self.bad.extend(other.bad);
        for (all, part) in [(&mut self.sums, other.sums), (&mut self.squares, other.squares)] {
            all.resize(all.len().max(part.len()), 0);
            all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
        }
        self.sizes = match (self.sizes.take(), other.sizes) {
            (Some(all), Some(part)) => Some(std::array::from_fn(|side| {
                let (all, part) = (&all[side], &part[side]);
                *all.start().min(part.start())..=*all.end().max(part.end())
            })),
            (all, part) => all.or(part),
        };
        for (class, count) in other.classes {
            *self.classes.entry(class).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::ImageShape;

    /// Two images of two pixels: image 0 has red 10 and 30, green 0, blue 255; image 1 cannot be read, image
    /// 2 is black.
    struct Three;

    impl ImageSource for Three {
        fn len(&self) -> u64 {
            3
        }

        fn shape(&self) -> ImageShape {
            ImageShape::new(1, 2, 3)
        }

        fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
            match index {
                0 => pixels.copy_from_slice(&[10, 0, 255, 30, 0, 255]),
                1 => return Err(DataError::damaged("x", 7, "bad")),
                _ => pixels.fill(0),
            }
            Ok(())
        }

        fn label(&self, index: u64) -> Option<u32> {
            Some(index as u32 % 2)
        }

        fn description(&self) -> String {
            "three".into()
        }
    }

    #[test]
    fn values_classes_and_bad_images_are_counted() {
        let mut survey = Survey::of(&Three, &[0, 1]);
        assert_eq!(survey.means(), [20.0, 0.0, 255.0]);
        assert_eq!(survey.standard_deviations(), [10.0, 0.0, 0.0]);
        survey += Survey::of(&Three, &[2]);
        assert_eq!((survey.read, survey.bad.len(), survey.bad[0].0), (2, 1, 1));
        assert_eq!(survey.means(), [10.0, 0.0, 127.5]);
        assert_eq!(survey.classes, BTreeMap::from([(0, 2)]));
        assert_eq!(survey.sizes, Some([1..=1, 2..=2]));
        assert!(Survey::of(&Three, &[]).means().is_empty());
    }
}
