//! Numbers that follow from a tensor's name, the same as `tools/portable_values.py` makes.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn fnv1a64(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

fn splitmix64(z: u64) -> u64 {
    let z = z.wrapping_add(GOLDEN);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Elements 0, 1, … of the tensor called `name`, uniform in [-1, 1).
pub fn symmetric(name: &str) -> impl Iterator<Item = f32> + use<> {
    let start = fnv1a64(name);
    (0u64..).map(move |index| {
        let bits = splitmix64(start.wrapping_add(index.wrapping_mul(GOLDEN)));
        2.0 * ((bits >> 40) as f32 / 16_777_216.0) - 1.0
    })
}

/// The parameter with this diffusers name and PyTorch shape, in PyTorch's memory order.
pub fn parameter(name: &str, shape: &[usize]) -> Vec<f32> {
    let values = symmetric(name).take(shape.iter().product());
    match shape {
        [_, fan_in @ ..] if !fan_in.is_empty() => {
            let fan_in: usize = fan_in.iter().product();
            let scale = (3.0 / fan_in as f64).sqrt() as f32;
            values.map(|v| v * scale).collect()
        }
        _ if name.ends_with(".bias") => values.map(|v| v * 0.1).collect(),
        _ => values.map(|v| 1.0 + v * 0.1).collect(),
    }
}

#[test]
fn the_generators_agree() {
    // Printed by tools/portable_values.py's functions in Python.
    let first: Vec<f32> = symmetric("conv_in.weight").take(3).collect();
    assert_eq!(first, [0.142_500_04, 0.766_529_1, -0.819_942]);
    assert_eq!(parameter("conv_in.weight", &[4, 3, 3, 3])[..2], [0.047_500_014, 0.255_509_7]);
    assert_eq!(parameter("n.weight", &[4]), [0.984_158_1, 1.038_394, 1.087_933_9, 0.982_234_1]);
    assert_eq!(parameter("n.bias", &[2]), [0.072_027_266, -0.037_461_16]);
}
