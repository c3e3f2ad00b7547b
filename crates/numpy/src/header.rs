//! What stands before the numbers of an array: their type, and the array's shape.

use crate::NumpyError;
use std::io::Read;
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy itself refuses to trust longer headers.
const MAX_HEADER: usize = 10_000;

/// The types of numbers that are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    /// `|u1`.
    U8,
    /// `<i4` and the like.
    I32 {
        /// Whether the most significant byte comes first.
        big_endian: bool,
    },
    /// `<i8`.
    I64 {
        /// Whether the most significant byte comes first.
        big_endian: bool,
    },
    /// `<f4`.
    F32 {
        /// Whether the most significant byte comes first.
        big_endian: bool,
    },
    /// `<f8`.
    F64 {
        /// Whether the most significant byte comes first.
        big_endian: bool,
    },
    /// `<U12`: text of as many characters, four bytes each.
    Text {
        /// Characters.
        len: usize,
    },
}

impl Element {
    fn parse(descr: &str) -> Option<Self> {
        let (order, kind) = descr.split_at_checked(1)?;
        let big_endian = match order {
            "<" => false,
            ">" => true,
            "|" if kind == "u1" => return Some(Self::U8),
            _ => return None,
        };
        match kind {
            "i4" => Some(Self::I32 { big_endian }),
            "i8" => Some(Self::I64 { big_endian }),
            "f4" => Some(Self::F32 { big_endian }),
            "f8" => Some(Self::F64 { big_endian }),
            _ => match (kind.strip_prefix('U'), big_endian) {
                (Some(len), false) => Some(Self::Text { len: len.parse().ok()? }),
                _ => None,
            },
        }
    }

    /// Its name in files that are little-endian, as all are that are written.
    pub fn descr(self) -> String {
        match self {
            Self::U8 => "|u1".into(),
            Self::I32 { .. } => "<i4".into(),
            Self::I64 { .. } => "<i8".into(),
            Self::F32 { .. } => "<f4".into(),
            Self::F64 { .. } => "<f8".into(),
            Self::Text { len } => format!("<U{len}"),
        }
    }

    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I32 { .. } | Self::F32 { .. } => 4,
            Self::I64 { .. } | Self::F64 { .. } => 8,
            Self::Text { len } => len.saturating_mul(4),
        }
    }

    /// Appends the numbers in `bytes`, a whole number of them; text gives none.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut Vec<f64>) {
        fn numbers<const N: usize>(
            bytes: &[u8],
            big_endian: bool,
            convert: impl Fn([u8; N]) -> f64,
        ) -> impl Iterator<Item = f64> {
            bytes.as_chunks::<N>().0.iter().map(move |&chunk| {
                let mut chunk = chunk;
                if big_endian {
                    chunk.reverse();
                }
                convert(chunk)
            })
        }
        match self {
            Self::U8 => out.extend(bytes.iter().map(|&byte| f64::from(byte))),
            Self::I32 { big_endian } => {
                out.extend(numbers(bytes, big_endian, |b| f64::from(i32::from_le_bytes(b))));
            }
            Self::I64 { big_endian } => {
                out.extend(numbers(bytes, big_endian, |b| i64::from_le_bytes(b) as f64));
            }
            Self::F32 { big_endian } => {
                out.extend(numbers(bytes, big_endian, |b| f64::from(f32::from_le_bytes(b))));
            }
            Self::F64 { big_endian } => out.extend(numbers(bytes, big_endian, f64::from_le_bytes)),
            Self::Text { .. } => {}
        }
    }
}

/// An array's type and shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// What its elements are.
    pub element: Element,
    /// Whether the first dimension, rather than the last, is fastest in memory.
    pub fortran_order: bool,
    /// Length of each dimension.
    pub shape: Vec<usize>,
}

impl Header {
    /// Number of elements, if that many can be.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &len| product.checked_mul(len))
    }

    /// Bytes of all elements, if that many can be.
    pub fn bytes(&self) -> Option<u64> {
        self.elements()?.checked_mul(self.element.size()).map(|bytes| bytes as u64)
    }

    /// Reads a header (format versions 1 to 3), and says how many bytes it has. `path` is for messages.
    ///
    /// # Errors
    /// [`NumpyError`] with the place, if it is cut short or not understood.
    pub fn read(mut reader: impl Read, path: &Path) -> Result<(Self, u64), NumpyError> {
        let format = |offset: usize, reason: String| NumpyError::format(path, offset as u64, reason);
        let mut take = |offset: usize, len: usize| -> Result<Vec<u8>, NumpyError> {
            let mut bytes = Vec::new();
            let read = (&mut reader).take(len as u64).read_to_end(&mut bytes);
            let read = read.map_err(|error| NumpyError::content(path, offset as u64, error))?;
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
        let header = Self::parse(&header).map_err(|reason| format(header_start, reason))?;
        Ok((header, (header_start + header_len) as u64))
    }

    /// The dictionary in the header: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
    fn parse(header: &str) -> Result<Self, String> {
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
        let element = Element::parse(&descr).ok_or_else(|| {
            format!("elements of type `{descr}`, which are not read: those are u1, i4, i8, f4 and f8")
        })?;
        let fortran_order = field("fortran_order")?.starts_with("True");
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
        Ok(Self { element, fortran_order, shape })
    }

    /// The bytes of a header (version 1) that the numbers, little-endian and in C order, follow.
    pub fn encode(element: Element, shape: &[usize]) -> Vec<u8> {
        let lengths: Vec<String> = shape.iter().map(|len| format!("{len},")).collect();
        let mut header = format!(
            "{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
            element.descr(),
            lengths.join(" ")
        );
        // The numbers start at a multiple of 64 bytes; a newline ends the header.
        let unpadded = MAGIC.len() + 4 + header.len() + 1;
        header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
        header.push('\n');
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes
    }
}
