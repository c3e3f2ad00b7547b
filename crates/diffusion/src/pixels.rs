//! Bytes of images, 0 to 255, and the numbers that a process knows them as, -1 to 1.

/// Pixel values per unit of the [-1, 1] scale.
pub const PIXEL_VALUES_PER_UNIT: f64 = 127.5;

/// Images from [-1, 1] to bytes: (x + 1) · 127.5, rounded, and clipped to 0…255.
pub fn to_bytes(images: &[f32]) -> Vec<u8> {
    images.iter().map(|x| ((x + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8).collect()
}

/// Bytes to images in [-1, 1]: x / 127.5 - 1, as for training.
pub fn from_bytes(pixels: &[u8]) -> Vec<f32> {
    pixels.iter().map(|&pixel| f32::from(pixel) / 127.5 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_to_the_network_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let images = from_bytes(&bytes);
        assert_eq!((images[0], images[255]), (-1.0, 1.0));
        assert_eq!(to_bytes(&images), bytes);
        assert_eq!(to_bytes(&[-1.7, 1.3, -2.0 / 255.0]), [0, 255, 127]);
    }
}
