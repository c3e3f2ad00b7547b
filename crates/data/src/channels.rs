//! Between gray and RGB.

/// The luma of a pixel (ITU-R BT.601, Y' = 0.299 R + 0.587 G + 0.114 B), rounded to nearest, in 16-bit fixed point.
#[inline]
pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    // The weights add up to 65,536, so white stays 255.
    ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 32_768) >> 16) as u8
}

/// `pixels` of `from` interleaved channels as `to` channels; both are 1 or 3.
pub(crate) fn convert(pixels: Vec<u8>, from: usize, to: usize) -> Vec<u8> {
    match (from, to) {
        (1, 3) => pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
        (3, 1) => pixels.as_chunks().0.iter().map(|&rgb| luma(rgb)).collect(),
        _ => pixels,
    }
}

/// What [`convert`] does, for a source's description; `None` if it does nothing.
pub(crate) fn describe(from: usize, to: usize) -> Option<&'static str> {
    match (from, to) {
        (1, 3) => Some("gray expanded to RGB"),
        (3, 1) => Some("RGB reduced to gray (BT.601 luma)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luma_is_the_rounded_weighted_sum() {
        for rgb in [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [12, 200, 77]] {
            let [r, g, b] = rgb.map(f64::from);
            let exact = 0.299 * r + 0.587 * g + 0.114 * b;
            assert!((f64::from(luma(rgb)) - exact).abs() <= 0.51, "{rgb:?}");
        }
    }

    #[test]
    fn gray_to_rgb_and_back_is_the_identity() {
        let gray: Vec<u8> = (0..=255).collect();
        let rgb = convert(gray.clone(), 1, 3);
        assert_eq!(rgb.len(), 768);
        assert_eq!(convert(rgb, 3, 1), gray);
    }
}
