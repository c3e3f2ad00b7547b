//! `.npy` files: one array (format versions 1 to 3; read as `f32`, written as `<f4`).

use crate::{Element, Header, NumpyError};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// An array in C order.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    /// Length of each dimension.
    pub shape: Vec<usize>,
    /// The elements, the last dimension fastest.
    pub values: Vec<f32>,
}

/// Reads a whole array of numbers.
///
/// # Errors
/// If the file cannot be read, is no `.npy` file, is in Fortran order, or its length is not that of its shape.
pub fn read(path: &Path) -> Result<Array, NumpyError> {
    let file = File::open(path).map_err(NumpyError::read(path))?;
    let file_len = file.metadata().map_err(NumpyError::read(path))?.len();
    let mut reader = BufReader::new(file);
    let (header, start) = Header::read(&mut reader, path)?;
    let format = |reason: String| Err(NumpyError::format(path, start, reason));
    if header.fortran_order {
        return format("the array is in Fortran order; save it with numpy.ascontiguousarray".into());
    }
    if let Element::Text { .. } = header.element {
        return format("the array holds text, not numbers".into());
    }
    let data_len = file_len.saturating_sub(start);
    if header.bytes() != Some(data_len) {
        let shape = &header.shape;
        return format(format!("{data_len} bytes of numbers do not fill the shape {shape:?} of the header"));
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(NumpyError::read(path))?;
    let mut values = Vec::new();
    header.element.decode(&bytes, &mut values);
    Ok(Array { shape: header.shape, values: values.into_iter().map(|value| value as f32).collect() })
}

/// The bytes of an `.npy` file (version 1) of an array.
pub fn encode(array: &Array) -> Vec<u8> {
    let mut bytes = Header::encode(Element::F32 { big_endian: false }, &array.shape);
    bytes.extend(array.values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_bytes(bytes: &[u8]) -> Result<Array, NumpyError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path())
    }

    /// What numpy 2.4 writes for `numpy.arange(6, dtype=DTYPE).reshape(1, 2, 3)`, up to the numbers.
    fn numpy_file(descr: &str, order: &str, numbers: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': (1, 2, 3), }}");
        let mut bytes = b"\x93NUMPY\x01\x00v\x00".to_vec();
        bytes.extend(format!("{header:<117}\n").as_bytes());
        bytes.extend(numbers);
        bytes
    }

    #[test]
    fn arrays_of_numpy_are_read() {
        let expected = Array { shape: vec![1, 2, 3], values: (0..6).map(|i| i as f32).collect() };
        let numbers = |bytes: fn(u8) -> Vec<u8>| (0..6).flat_map(bytes).collect::<Vec<u8>>();
        for (descr, numbers) in [
            ("<f4", numbers(|i| f32::from(i).to_le_bytes().to_vec())),
            (">f4", numbers(|i| f32::from(i).to_be_bytes().to_vec())),
            ("<f8", numbers(|i| f64::from(i).to_le_bytes().to_vec())),
            (">f8", numbers(|i| f64::from(i).to_be_bytes().to_vec())),
            ("<i4", numbers(|i| i32::from(i).to_le_bytes().to_vec())),
            (">i8", numbers(|i| i64::from(i).to_be_bytes().to_vec())),
            ("|u1", numbers(|i| vec![i])),
        ] {
            assert_eq!(read_bytes(&numpy_file(descr, "False", &numbers)).unwrap(), expected, "{descr}");
        }
        let le = numbers(|i| f32::from(i).to_le_bytes().to_vec());
        assert_eq!(encode(&expected).len() - le.len(), 128);
        assert_eq!(read_bytes(&encode(&expected)).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let numbers = [0; 24];
        for (bytes, word) in [
            (numpy_file("<i2", "False", &numbers), "<i2"),
            (numpy_file("|O", "False", &numbers), "|O"),
            (numpy_file("<U1", "False", &numbers), "text"),
            (numpy_file("<f4", "True", &numbers), "Fortran"),
            (numpy_file("<f4", "False", &numbers[1..]), "byte 128: 23 bytes"),
            (numpy_file("<f8", "False", &numbers), "[1, 2, 3]"),
            (b"PK\x03\x04 an npz file".to_vec(), "byte 0: not an .npy file"),
            (b"\x93NUMPY\x09\x00".to_vec(), "version 9"),
            (b"\x93NUM".to_vec(), "byte 4: the file ends"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "4294967295"),
            (Vec::new(), "byte 0: the file ends"),
        ] {
            let message = read_bytes(&bytes).unwrap_err().to_string();
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_array_survives(shape in prop::collection::vec(0usize..5, 0..5), seed in any::<u32>()) {
            let count: usize = shape.iter().product();
            let values = (0..count as u32).map(|i| f32::from_bits(i.wrapping_mul(seed) >> 2)).collect();
            let array = Array { shape, values };
            prop_assert_eq!(read_bytes(&encode(&array)).unwrap(), array);
        }

        #[test]
        fn mutated_files_never_panic(at in 0usize..152, byte in any::<u8>(), cut in 0usize..152) {
            let mut bytes = numpy_file("<f4", "False", &[7; 24]);
            bytes[at] = byte;
            let _ = read_bytes(&bytes);
            bytes.truncate(cut);
            let _ = read_bytes(&bytes);
        }
    }
}
