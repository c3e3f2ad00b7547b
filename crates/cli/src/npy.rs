//! NumPy's `.npy` files: one array of numbers (format versions 1 to 3; read as `f32`, written as `<f4`).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// An array in C order.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    /// Length of each dimension.
    pub shape: Vec<usize>,
    /// The elements, the last dimension fastest.
    pub values: Vec<f32>,
}

/// A file that is not an array we can use.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The file cannot be read.
    #[error("{}: cannot read the array: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The content is not what it should be.
    #[error("{}, byte {offset}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy itself refuses to trust longer headers.
const MAX_HEADER: usize = 10_000;

/// The element types that are read.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Element {
    F32 { big_endian: bool },
    F64 { big_endian: bool },
    U8,
}

impl Element {
    fn size(self) -> usize {
        match self {
            Self::F32 { .. } => 4,
            Self::F64 { .. } => 8,
            Self::U8 => 1,
        }
    }
}

/// Reads an array of 32- or 64-bit floats or of bytes.
///
/// No more memory is taken than the file's own length accounts for.
///
/// # Errors
/// [`NpyError`] with the place: a broken header, another element type, Fortran order, a length that does not fit the shape.
pub fn read(path: &Path) -> Result<Array, NpyError> {
    let io = |source| NpyError::Read { path: path.to_owned(), source };
    let format = |offset: usize, reason: String| NpyError::Format {
        path: path.to_owned(),
        offset: offset as u64,
        reason,
    };
    let file = File::open(path).map_err(io)?;
    let file_len = file.metadata().map_err(io)?.len();
    let mut reader = BufReader::new(file);
    let mut take = |offset: usize, len: usize| -> Result<Vec<u8>, NpyError> {
        let mut bytes = Vec::new();
        let read = (&mut reader).take(len as u64).read_to_end(&mut bytes).map_err(io)?;
        if read < len {
            return Err(format(offset + read, "the file ends within the header of the array".into()));
        }
        Ok(bytes)
    };
    let start = take(0, 8)?;
    if start[..6] != MAGIC[..] {
        return Err(format(0, "not an .npy file; write one with numpy.save".into()));
    }
    let length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(format(6, format!("format version {version} is not known; 1 to 3 are"))),
    };
    let length = take(8, length_bytes)?;
    let header_len = length.iter().rev().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
    if header_len > MAX_HEADER {
        return Err(format(8, format!("a header of {header_len} bytes; at most {MAX_HEADER} are read")));
    }
    let header_start = 8 + length_bytes;
    let header = take(header_start, header_len)?;
    let header =
        String::from_utf8(header).map_err(|_| format(header_start, "the header is not text".into()))?;
    let (element, shape) = parse_header(&header).map_err(|reason| format(header_start, reason))?;
    let data_start = header_start + header_len;
    let data_len = file_len.saturating_sub(data_start as u64);
    let count = shape.iter().try_fold(1usize, |product, &len| product.checked_mul(len));
    let expected = count.and_then(|count| count.checked_mul(element.size()));
    if expected.map(|expected| expected as u64) != Some(data_len) {
        let reason = format!("{data_len} bytes of numbers do not fill the shape {shape:?} of the header");
        return Err(format(data_start, reason));
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(io)?;
    Ok(Array { shape, values: decode(&bytes, element) })
}

fn decode(bytes: &[u8], element: Element) -> Vec<f32> {
    fn numbers<const N: usize>(bytes: &[u8], big_endian: bool, convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let (chunks, _) = bytes.as_chunks::<N>();
        let native = |mut chunk: [u8; N]| {
            if big_endian {
                chunk.reverse();
            }
            chunk
        };
        chunks.iter().map(|&chunk| convert(native(chunk))).collect()
    }
    match element {
        Element::F32 { big_endian } => numbers(bytes, big_endian, f32::from_le_bytes),
        Element::F64 { big_endian } => numbers(bytes, big_endian, |chunk| f64::from_le_bytes(chunk) as f32),
        Element::U8 => bytes.iter().map(|&byte| f32::from(byte)).collect(),
    }
}

/// The dictionary in the header: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn parse_header(header: &str) -> Result<(Element, Vec<usize>), String> {
    let field = |name: &str| {
        let quoted = [format!("'{name}'"), format!("\"{name}\"")];
        quoted
            .iter()
            .find_map(|quoted| header.split_once(quoted.as_str()))
            .and_then(|(_, rest)| rest.trim_start().strip_prefix(':'))
            .map(str::trim_start)
            .ok_or_else(|| format!("the header has no `{name}`"))
    };
    let descr = field("descr")?;
    let descr: String = descr.chars().skip(1).take_while(|&c| c != '\'' && c != '"').collect();
    let element = match descr.as_str() {
        "<f4" => Element::F32 { big_endian: false },
        ">f4" => Element::F32 { big_endian: true },
        "<f8" => Element::F64 { big_endian: false },
        ">f8" => Element::F64 { big_endian: true },
        "|u1" => Element::U8,
        _ => {
            let remedy = "save it as float32: numpy.save(path, x.astype(\"float32\"))";
            return Err(format!("elements of type `{descr}`; {remedy}"));
        }
    };
    if !field("fortran_order")?.starts_with("False") {
        return Err("the array is in Fortran order; save it with numpy.ascontiguousarray".into());
    }
    let shape = field("shape")?
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .ok_or("the header's shape is not a tuple")?
        .0;
    let shape = shape
        .split(',')
        .map(str::trim)
        .filter(|len| !len.is_empty())
        .map(|len| len.parse().map_err(|_| format!("the header's shape holds `{len}`")))
        .collect::<Result<Vec<usize>, String>>()?;
    Ok((element, shape))
}

/// The bytes of an `.npy` file (version 1) of an array.
pub fn encode(array: &Array) -> Vec<u8> {
    let lengths: Vec<String> = array.shape.iter().map(|len| format!("{len},")).collect();
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", lengths.join(" "));
    // The numbers start at a multiple of 64 bytes; a newline ends the header.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(array.values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_bytes(bytes: &[u8]) -> Result<Array, NpyError> {
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
            (numpy_file("<i4", "False", &numbers), "<i4"),
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
