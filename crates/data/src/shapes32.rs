//! `shapes32`: a procedural set of 32×32 RGB images with known factors. Each shows one anti-aliased coloured shape
//! on a soft background. Images are made when they are read, need no file, never run out, and have the same bytes on
//! every machine (only IEEE additions, multiplications, divisions and square roots are used).

use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec, converted};
use engine::ImageShape;
use engine::random::{Purpose, Stream};
use std::sync::Arc;

mod figure;

pub use figure::Figure;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "shapes32",
    form: "shapes32",
    about: "embedded: coloured shapes of 32x32 pixels, as many as one wants",
    takes_path: false,
    takes_split: false,
    open,
};

fn open(_spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    Ok(converted::convert(Arc::new(Shapes32::new(0)), options))
}

/// Height and width.
const SIDE: usize = 32;
const SHAPE: ImageShape = ImageShape::new(SIDE, SIDE, 3);
/// What is called an epoch of the endless set: CIFAR-10's number of training images.
const EPOCH: u64 = 50_000;
/// Range of [`Factors::size`], in pixels.
const SIZES: (f32, f32) = (10.0, 13.0);
/// Least distance of a shape's bounding square from the image's edge, in pixels.
const MARGIN: f32 = 1.5;

/// The colour of a shape.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // The names say it.
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Cyan,
    Blue,
    Purple,
    Pink,
}

impl Colour {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Cyan,
        Self::Blue,
        Self::Purple,
        Self::Pink,
    ];

    /// As sRGB.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [214, 32, 38],
            Self::Orange => [240, 120, 16],
            Self::Yellow => [246, 196, 0],
            Self::Green => [32, 150, 66],
            Self::Cyan => [0, 168, 190],
            Self::Blue => [34, 74, 200],
            Self::Purple => [122, 44, 170],
            Self::Pink => [232, 74, 150],
        }
    }
}

/// The tone of a background.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // The names say it.
pub enum Tone {
    White,
    Sand,
    Mint,
    Sky,
    Lilac,
    Rose,
}

impl Tone {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::White, Self::Sand, Self::Mint, Self::Sky, Self::Lilac, Self::Rose];

    /// As sRGB: the tone itself, and the deeper one that a gradient ends in.
    pub const fn rgb(self) -> [[u8; 3]; 2] {
        match self {
            Self::White => [[246, 246, 246], [206, 206, 210]],
            Self::Sand => [[244, 236, 220], [216, 198, 168]],
            Self::Mint => [[224, 242, 228], [178, 212, 190]],
            Self::Sky => [[222, 236, 248], [172, 198, 226]],
            Self::Lilac => [[236, 228, 246], [198, 184, 222]],
            Self::Rose => [[248, 228, 230], [224, 188, 194]],
        }
    }
}

/// How a background changes across the image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gradient {
    /// Not at all.
    Plain,
    /// Deeper towards the bottom.
    Down,
    /// Deeper towards the top.
    Up,
    /// Deeper towards the right.
    Right,
    /// Deeper towards the left.
    Left,
}

impl Gradient {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Down, Self::Up, Self::Right, Self::Left];
}

/// All that an image of the set depends on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Factors {
    /// What is drawn.
    pub figure: Figure,
    /// In which colour.
    pub colour: Colour,
    /// Half the width of the square that the figure about fills, in pixels: 10 to 13.
    pub size: f32,
    /// The figure's centre (x to the right, y down) in pixels from the upper left corner of the image. The figure's
    /// square is at least 1.5 pixels from the edges.
    pub centre: (f32, f32),
    /// The tone behind it.
    pub tone: Tone,
    /// How the tone changes across the image.
    pub gradient: Gradient,
}

/// The set that belongs to a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shapes32 {
    seed: u64,
}

impl Shapes32 {
    /// The set of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// What image `index` shows. All factors are drawn uniformly and independently, but for the centre's range,
    /// which is what the size leaves.
    pub fn factors(&self, index: u64) -> Factors {
        // A stream numbers 2⁵⁶ samples; the step takes the bits above.
        let stream = Stream::new(self.seed, Purpose::Synthetic, (index >> 56) as u32, index);
        let choice = |element, count: usize| stream.below(element, count as u64) as usize;
        let between = |element, low: f32, high: f32| low + (high - low) * stream.uniform(element);
        // `below` takes two words an element: 0..4 use words 0..8.
        let size = between(8, SIZES.0, SIZES.1);
        let reach = size + MARGIN;
        Factors {
            figure: Figure::ALL[choice(0, Figure::ALL.len())],
            colour: Colour::ALL[choice(1, Colour::ALL.len())],
            tone: Tone::ALL[choice(2, Tone::ALL.len())],
            gradient: Gradient::ALL[choice(3, Gradient::ALL.len())],
            size,
            centre: (between(9, reach, SIDE as f32 - reach), between(10, reach, SIDE as f32 - reach)),
        }
    }
}

/// Draws the image of `factors` into `pixels`, 32·32·3 bytes.
///
/// # Panics
/// If `pixels` has another length.
pub fn render(factors: &Factors, pixels: &mut [u8]) {
    assert_eq!(pixels.len(), SHAPE.len(), "pixels of a {SHAPE} image");
    let colour = factors.colour.rgb().map(f32::from);
    let tone = factors.tone.rgb().map(|rgb| rgb.map(f32::from));
    for (number, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (x, y) = ((number % SIDE) as f32 + 0.5, (number / SIDE) as f32 + 0.5);
        let depth = match factors.gradient {
            Gradient::Plain => 0.0,
            Gradient::Down => y / SIDE as f32,
            Gradient::Up => 1.0 - y / SIDE as f32,
            Gradient::Right => x / SIDE as f32,
            Gradient::Left => 1.0 - x / SIDE as f32,
        };
        let (dx, dy) = (x - factors.centre.0, y - factors.centre.1);
        let distance = factors.figure.distance(dx / factors.size, dy / factors.size) * factors.size;
        // How much of the pixel a straight edge at this distance covers.
        let coverage = (0.5 - distance).clamp(0.0, 1.0);
        for channel in 0..3 {
            let background = tone[0][channel] + (tone[1][channel] - tone[0][channel]) * depth;
            let value = background + (colour[channel] - background) * coverage;
            pixel[channel] = (value + 0.5) as u8;
        }
    }
}

impl ImageSource for Shapes32 {
    fn len(&self) -> u64 {
        EPOCH
    }

    fn is_endless(&self) -> bool {
        true
    }

    fn shape(&self) -> ImageShape {
        SHAPE
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        render(&self.factors(index), pixels);
        Ok(())
    }

    fn label(&self, index: u64) -> Option<u32> {
        Some(self.factors(index).figure as u32)
    }

    fn description(&self) -> String {
        format!("shapes32: procedural coloured shapes {SHAPE}, endless, seed {}", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(factors: &Factors) -> Vec<u8> {
        let mut pixels = vec![0; SHAPE.len()];
        render(factors, &mut pixels);
        pixels
    }

    fn distance(a: [u8; 3], b: [u8; 3]) -> f64 {
        a.iter().zip(b).map(|(&a, b)| f64::from(a.abs_diff(b)).powi(2)).sum::<f64>().sqrt()
    }

    fn plain(figure: Figure, size: f32) -> Factors {
        let (colour, tone, gradient) = (Colour::Blue, Tone::White, Gradient::Plain);
        Factors { figure, colour, size, centre: (16.0, 16.0), tone, gradient }
    }

    /// The figure's area in pixels, from how much of each pixel has its colour.
    fn area(factors: &Factors) -> f64 {
        let (colour, ground) = (f64::from(factors.colour.rgb()[0]), f64::from(factors.tone.rgb()[0][0]));
        image(factors).iter().step_by(3).map(|&red| (ground - f64::from(red)) / (ground - colour)).sum()
    }

    #[test]
    fn the_set_has_always_had_these_bytes() {
        // FNV-1a over the first 200 images: a change here is a change of the data set for everyone.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut pixels = vec![0; SHAPE.len()];
        for index in 0..200 {
            Shapes32::new(0).read(index, &mut pixels).unwrap();
            for &byte in &pixels {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        assert_eq!(hash, 17_475_188_364_945_081_482);
    }

    #[test]
    fn figures_have_their_areas() {
        let r = 11.0f64;
        for (figure, unit_area) in [
            (Figure::Circle, std::f64::consts::PI * 0.92 * 0.92),
            (Figure::Square, 1.64 * 1.64),
            (Figure::Triangle, 1.732),
            (Figure::Diamond, 2.0 * 0.76),
            (Figure::Ring, std::f64::consts::PI * (0.94 * 0.94 - 0.44 * 0.44)),
            // Ten triangles between the radii 1.05 and 0.44.
            (Figure::Star, 5.0 * 1.05 * 0.44 * 0.587_785),
            (Figure::Cross, 4.0 * 0.95 * 0.33 * 2.0 - 4.0 * 0.33 * 0.33),
            // A square and two half discs.
            (Figure::Heart, 1.24 * 1.24 + std::f64::consts::PI * 0.62 * 0.62),
        ] {
            let found = area(&plain(figure, r as f32)) / (r * r);
            assert!((found / unit_area - 1.0).abs() < 0.015, "{figure:?}: {found} instead of {unit_area}");
        }
    }

    #[test]
    fn figures_stay_in_their_square_and_look_unlike() {
        let mut all = Vec::new();
        for figure in Figure::ALL {
            let pixels = image(&plain(figure, 8.0));
            let outline = |x: usize, y: usize| pixels[(y * SIDE + x) * 3..][..3] != Tone::White.rgb()[0];
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let inside = (7..25).contains(&x) && (7..25).contains(&y);
                    assert!(inside || !outline(x, y), "{figure:?} reaches {x}, {y}");
                }
            }
            all.push(image(&plain(figure, 10.0)));
        }
        for (a, first) in all.iter().enumerate() {
            for (b, second) in all.iter().enumerate().skip(a + 1) {
                let differing = first.iter().zip(second).filter(|(a, b)| a.abs_diff(**b) > 60).count();
                assert!(differing > 60, "{:?} and {:?}: {differing}", Figure::ALL[a], Figure::ALL[b]);
            }
        }
    }

    #[test]
    fn edges_are_anti_aliased_and_move_smoothly() {
        let mut factors = plain(Figure::Square, 10.0);
        let mut last = image(&factors);
        for step in 1..=20 {
            factors.centre.0 = 16.0 + step as f32 * 0.05;
            let next = image(&factors);
            let jump = last.iter().zip(&next).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            // A twentieth of the contrast of 212 levels, and rounding.
            assert!((1..=13).contains(&jump), "{jump}");
            last = next;
        }
    }

    #[test]
    fn colours_stand_out_from_each_other_and_from_every_background() {
        for (number, colour) in Colour::ALL.iter().enumerate() {
            for other in &Colour::ALL[number + 1..] {
                assert!(distance(colour.rgb(), other.rgb()) > 75.0, "{colour:?} {other:?}");
            }
            for tone in Tone::ALL {
                for ground in tone.rgb() {
                    assert!(distance(colour.rgb(), ground) > 110.0, "{colour:?} {tone:?}");
                }
            }
        }
    }

    #[test]
    fn gradients_run_their_way() {
        let at = |gradient, x: usize, y: usize| {
            let factors = Factors { gradient, ..plain(Figure::Circle, 8.0) };
            image(&factors)[(y * SIDE + x) * 3]
        };
        assert_eq!(at(Gradient::Plain, 0, 0), at(Gradient::Plain, 31, 31));
        assert!(at(Gradient::Down, 0, 0) > at(Gradient::Down, 0, 31) + 30);
        assert!(at(Gradient::Up, 0, 31) > at(Gradient::Up, 0, 0) + 30);
        assert!(at(Gradient::Right, 0, 0) > at(Gradient::Right, 31, 0) + 30);
        assert!(at(Gradient::Left, 31, 0) > at(Gradient::Left, 0, 0) + 30);
    }

    #[test]
    fn all_factors_occur_equally_often_and_independently() {
        let set = Shapes32::new(3);
        let mut pairs = [[0; 8]; 8];
        let mut grounds = [[0; 5]; 6];
        let mut size = 0.0;
        for index in 0..16_000 {
            let factors = set.factors(index);
            pairs[factors.figure as usize][factors.colour as usize] += 1;
            grounds[factors.tone as usize][factors.gradient as usize] += 1;
            size += factors.size / 16_000.0;
        }
        assert!(pairs.as_flattened().iter().all(|count| (180..320).contains(count)), "{pairs:?}");
        assert!(grounds.as_flattened().iter().all(|count| (430..640).contains(count)), "{grounds:?}");
        assert!((size - 11.5).abs() < 0.05, "{size}");
    }

    #[test]
    fn seeds_and_far_numbers_give_other_images() {
        let factors = |seed, index| Shapes32::new(seed).factors(index);
        let base = factors(0, 1);
        for other in [factors(1, 1), factors(0, 2), factors(0, 1 << 56 | 1), factors(0, 1 << 40 | 1)] {
            assert_ne!(base, other);
        }
        assert_eq!(Shapes32::new(0).label(1), Some(base.figure as u32));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_image_keeps_its_margin(seed: u64, index: u64) {
            let factors = Shapes32::new(seed).factors(index);
            prop_assert!((10.0..=13.0).contains(&factors.size));
            for place in [factors.centre.0, factors.centre.1] {
                prop_assert!(place - factors.size >= 1.499 && place + factors.size <= 30.501);
            }
        }
    }
}
