//! Shapes of activations.

use std::fmt;

/// The shape of an activation: batch, height, width, channels, in this memory order (NHWC).
/// Vectors are `[n, 1, 1, c]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    /// Samples in the batch.
    pub n: usize,
    /// Rows of pixels.
    pub h: usize,
    /// Columns of pixels.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl Shape {
    /// An image batch `[n, h, w, c]`.
    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Self {
        Self { n, h, w, c }
    }

    /// A batch of vectors, `[n, 1, 1, c]`.
    pub const fn vectors(n: usize, c: usize) -> Self {
        Self { n, h: 1, w: 1, c }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of one sample, `h · w · c`.
    pub const fn sample_len(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Pixels of one sample, `h · w`.
    pub const fn pixels(&self) -> usize {
        self.h * self.w
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}, {}, {}]", self.n, self.h, self.w, self.c)
    }
}

/// The shape of one image: height, width, channels (1 gray, 3 RGB), in this memory order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ImageShape {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl ImageShape {
    /// An image of `height × width` pixels with `channels` channels.
    pub const fn new(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels }
    }

    /// Number of elements (the paper's dimension D).
    pub const fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}
