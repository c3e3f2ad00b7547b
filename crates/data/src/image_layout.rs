//! How images lie in NumPy's arrays.

use crate::picture::Picture;

/// How the images of an array lie in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ImageLayout {
    pub count: usize,
    pub height: usize,
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Channel by channel (NCHW) instead of pixel by pixel (NHWC).
    pub planar: bool,
}

impl ImageLayout {
    /// The layout of `[n, height, width, channels]`, `[n, channels, height, width]` (1 or 3 channels; where
    /// both would do, the former) or `[n, height, width]`, with not one dimension 0.
    pub(crate) fn of(shape: &[usize]) -> Option<Self> {
        let is_colour = |len: usize| len == 1 || len == 3;
        let layout = match *shape {
            [count, height, width, channels] if is_colour(channels) => {
                Self { count, height, width, channels, planar: false }
            }
            [count, channels, height, width] if is_colour(channels) => {
                Self { count, height, width, channels, planar: true }
            }
            [count, height, width] => Self { count, height, width, channels: 1, planar: false },
            _ => return None,
        };
        let image = height_times_width(layout.height, layout.width)?.checked_mul(layout.channels)?;
        (layout.count > 0 && image > 0).then_some(layout)
    }

    /// Bytes of an image.
    pub(crate) fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The picture in an image's bytes.
    pub(crate) fn picture(&self, bytes: Vec<u8>) -> Picture {
        let Self { height, width, channels, planar, .. } = *self;
        match planar {
            true => Picture::from_planes(&bytes, width, height, channels),
            false => Picture { pixels: bytes, width, height, channels },
        }
    }
}

fn height_times_width(height: usize, width: usize) -> Option<usize> {
    // The sides that any reader of images accepts.
    const MAX_SIDE: usize = 1 << 15;
    (height <= MAX_SIDE && width <= MAX_SIDE).then(|| height * width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_apart_by_shape() {
        let planar = |shape: &[usize]| ImageLayout::of(shape).map(|layout| (layout.channels, layout.planar));
        assert_eq!(planar(&[5, 8, 9, 3]), Some((3, false)));
        assert_eq!(planar(&[5, 3, 8, 9]), Some((3, true)));
        assert_eq!(planar(&[5, 1, 8, 9]), Some((1, true)));
        assert_eq!(planar(&[5, 3, 3, 3]), Some((3, false)));
        assert_eq!(planar(&[5, 8, 9]), Some((1, false)));
        for none in [&[5, 8][..], &[5, 8, 9, 4], &[0, 8, 9, 3], &[5, 0, 9, 3], &[5, usize::MAX, 2, 3]] {
            assert_eq!(planar(none), None);
        }
    }
}
