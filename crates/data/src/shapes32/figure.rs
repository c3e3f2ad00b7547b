//! The outlines of the shapes, as signed distances.

/// What is drawn. The number of a variant is the image's label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Figure {
    /// A disc.
    Circle,
    /// Its sides upright.
    Square,
    /// Equilateral, on its base.
    Triangle,
    /// A rhombus, taller than wide.
    Diamond,
    /// A circle with a hole.
    Ring,
    /// Five points, one of them up.
    Star,
    /// A plus sign.
    Cross,
    /// Upright.
    Heart,
}

impl Figure {
    /// All of them, in the order of their labels.
    pub const ALL: [Self; 8] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Diamond,
        Self::Ring,
        Self::Star,
        Self::Cross,
        Self::Heart,
    ];

    /// The signed distance from (`x`, `y`) to the figure's outline, negative inside, for the figure of size 1
    /// about the origin; y points down. Exact near the outline, which is where it decides a pixel's colour.
    pub(super) fn distance(self, x: f32, y: f32) -> f32 {
        // Sizes are chosen so that the figures look equally large.
        match self {
            Self::Circle => length(x, y) - 0.92,
            Self::Square => rectangle(x, y, 0.82, 0.82),
            Self::Triangle => polygon(x, y, &[(0.0, -0.9), (1.0, 0.832), (-1.0, 0.832)]),
            Self::Diamond => polygon(x, y, &[(0.0, -1.0), (0.76, 0.0), (0.0, 1.0), (-0.76, 0.0)]),
            Self::Ring => (length(x, y) - 0.69).abs() - 0.25,
            Self::Star => polygon(x, y, &STAR),
            Self::Cross => rectangle(x, y, 0.95, 0.33).min(rectangle(x, y, 0.33, 0.95)),
            Self::Heart => heart(x, y),
        }
    }
}

/// Outer radius 1.05, inner 0.44, moved down by 0.1 to fill its square; sines and cosines of multiples of 36°.
const STAR: [(f32, f32); 10] = [
    (0.0, -0.95),
    (0.258_625, -0.255_967),
    (0.998_609, -0.224_468),
    (0.418_465, 0.235_967),
    (0.617_175, 0.949_468),
    (0.0, 0.54),
    (-0.617_175, 0.949_468),
    (-0.418_465, 0.235_967),
    (-0.998_609, -0.224_468),
    (-0.258_625, -0.255_967),
];

fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

fn rectangle(x: f32, y: f32, half_width: f32, half_height: f32) -> f32 {
    let (dx, dy) = (x.abs() - half_width, y.abs() - half_height);
    length(dx.max(0.0), dy.max(0.0)) + dx.max(dy).min(0.0)
}

/// A square standing on its corner and a disc on each of its two upper sides.
fn heart(x: f32, y: f32) -> f32 {
    const HALF_SIDE: f32 = 0.62;
    // Half a side along the diagonal direction: 0.62 / √2.
    const STEP: f32 = 0.438_406;
    let (x, y) = (x.abs(), y - 0.08);
    let square = {
        // Turned by 45°: (x + y) / √2, (y - x) / √2.
        let (u, v) = ((x + y) * std::f32::consts::FRAC_1_SQRT_2, (y - x) * std::f32::consts::FRAC_1_SQRT_2);
        rectangle(u, v, HALF_SIDE, HALF_SIDE)
    };
    let disc = length(x - STEP, y + STEP) - HALF_SIDE;
    square.min(disc)
}

/// The distance to the nearest side, negative if a ray from the point crosses the sides an odd number of times.
fn polygon(x: f32, y: f32, corners: &[(f32, f32)]) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let (ax, ay) = previous;
        let (bx, by) = corner;
        let (side_x, side_y) = (bx - ax, by - ay);
        let along = ((x - ax) * side_x + (y - ay) * side_y) / (side_x * side_x + side_y * side_y);
        let along = along.clamp(0.0, 1.0);
        nearest = nearest.min(length(x - ax - along * side_x, y - ay - along * side_y));
        if (ay > y) != (by > y) && x < ax + (y - ay) / side_y * side_x {
            inside = !inside;
        }
        previous = corner;
    }
    if inside { -nearest } else { nearest }
}
