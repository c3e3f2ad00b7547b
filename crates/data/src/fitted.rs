//! Sets whose images may have any size, as sources of images of one shape.

use crate::picture::Picture;
use crate::resize::{ResizeFilter, View};
use crate::source::check_index;
use crate::{DataError, ImageOptions, ImageSource, channels};
use engine::ImageShape;
use std::path::Path;

/// How pictures get the shape that is asked for.
#[derive(Debug)]
pub(crate) struct Fit {
    shape: ImageShape,
    /// `None`: they must have the size already.
    filter: Option<ResizeFilter>,
}

impl Fit {
    /// To the size and channels of `options`; what they leave open is as `first` says of the first image, which is
    /// asked only then.
    pub(crate) fn new(
        options: &ImageOptions,
        default_channels: Option<usize>,
        first: impl FnOnce() -> Result<ImageShape, DataError>,
    ) -> Result<Self, DataError> {
        options.validate()?;
        let filter = options.size.map(|_| options.filter);
        let shape = match (options.size, options.channels.or(default_channels)) {
            (Some(size), Some(channels)) => ImageShape::new(size, size, channels),
            (size, channels) => {
                let first = first()?;
                let (height, width) = size.map_or((first.height, first.width), |size| (size, size));
                ImageShape::new(height, width, channels.unwrap_or(first.channels))
            }
        };
        Ok(Self { shape, filter })
    }

    pub(crate) fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Writes `picture` to `pixels`, cut to the square in its middle and resized if need be; `place` is asked
    /// where it lies if it does not fit.
    pub(crate) fn write<'a>(
        &self,
        picture: Picture,
        place: impl FnOnce() -> Place<'a>,
        pixels: &mut [u8],
    ) -> Result<(), DataError> {
        let ImageShape { height, width, .. } = self.shape;
        let (shape, fitted) = self.as_stored(picture);
        if shape != self.shape {
            let what = format!(
                "it has {}x{} pixels (height x width), the first image {height}x{width}",
                shape.height, shape.width
            );
            let Place { path, offset } = place();
            let remedy = "give an image size to crop and resize to";
            return Err(DataError::malformed(path, offset, what, remedy));
        }
        pixels.copy_from_slice(&fitted);
        Ok(())
    }

    /// The shape and pixels of `picture` with the channels asked for, and the size too if one was.
    pub(crate) fn as_stored(&self, picture: Picture) -> (ImageShape, Vec<u8>) {
        let shape = match self.filter {
            Some(_) => self.shape,
            None => ImageShape { height: picture.height, width: picture.width, ..self.shape },
        };
        let pixels = match self.filter {
            Some(filter) if (picture.height, picture.width) != (shape.height, shape.width) => {
                let view = View::new(&picture.pixels, picture.width, picture.height, picture.channels);
                view.centre_square().resize(shape.width, shape.height, filter)
            }
            _ => picture.pixels,
        };
        (shape, channels::convert(pixels, picture.channels, shape.channels))
    }

    /// What is done to the images, to be added to a description.
    pub(crate) fn describe(&self) -> String {
        let ImageShape { height, width, channels } = self.shape;
        let size = match self.filter {
            Some(filter) => format!("centre-cropped to square and resized to {height}x{width} ({filter})"),
            None => format!("not resized (the first has {height}x{width})"),
        };
        let change = match channels {
            1 => "RGB reduced to gray (BT.601 luma)",
            _ => "gray expanded to RGB",
        };
        format!("{size}, {change}")
    }
}

/// Where an image lies, for messages.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub path: std::borrow::Cow<'a, Path>,
    pub offset: Option<u64>,
}

/// A numbered set of images of any size.
pub(crate) trait PictureSet: Send + Sync {
    /// Number of images.
    fn len(&self) -> u64;

    /// Image `index`, which is below [`len`](Self::len).
    fn picture(&self, index: u64) -> Result<Picture, DataError>;

    /// Where image `index` lies.
    fn place(&self, index: u64) -> Place<'_>;

    /// See [`ImageSource::verify_checksums`].
    fn verify_checksums(&self) -> Result<(), DataError> {
        Ok(())
    }

    /// The class of image `index`.
    fn label(&self, _index: u64) -> Option<u32> {
        None
    }

    /// What the set is and how many images it has, for people.
    fn description(&self) -> String;
}

/// A [`PictureSet`] as a source.
struct Fitted<S> {
    set: S,
    fit: Fit,
}

/// The images of `set` in the shape that `options` ask for.
pub(crate) fn open<S: PictureSet + 'static>(
    set: S,
    options: &ImageOptions,
    default_channels: Option<usize>,
) -> Result<std::sync::Arc<dyn ImageSource>, DataError> {
    if set.len() == 0 {
        return Err(DataError::Empty {
            origin: set.description(),
            remedy: "give a source that has some".into(),
        });
    }
    let fit = Fit::new(options, default_channels, || Ok(set.picture(0)?.shape()))?;
    Ok(std::sync::Arc::new(Fitted { set, fit }))
}

impl<S: PictureSet> ImageSource for Fitted<S> {
    fn len(&self) -> u64 {
        self.set.len()
    }

    fn shape(&self) -> ImageShape {
        self.fit.shape()
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        check_index(self, index)?;
        let picture = self.set.picture(index)?;
        self.fit.write(picture, || self.set.place(index), pixels)
    }

    fn read_as_stored(&self, index: u64) -> Result<(ImageShape, Vec<u8>), DataError> {
        check_index(self, index)?;
        Ok(self.fit.as_stored(self.set.picture(index)?))
    }

    fn verify_checksums(&self) -> Result<(), DataError> {
        self.set.verify_checksums()
    }

    fn label(&self, index: u64) -> Option<u32> {
        if index < self.len() { self.set.label(index) } else { None }
    }

    fn description(&self) -> String {
        format!("{}, {}", self.set.description(), self.fit.describe())
    }
}
