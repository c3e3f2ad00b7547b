//! What stands before the coded bits. `docs/format.md` is the specification.

use crate::error::CodecError;
use crate::error_curve::ErrorCurve;
use crate::model::Model;

/// The first two bytes of every file.
const MAGIC: [u8; 2] = [0xDD, b'p'];
/// The version that is written and read.
const VERSION: u8 = 1;
/// Images of a file, at most.
pub const MAX_IMAGES: usize = 65_536;
/// Bytes before the checked part: magic, version and kind, checksum.
const UNCHECKED: usize = 7;
/// CRC-32 as in zip and PNG.
pub(crate) const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Images that become better with each byte.
    Progressive,
    /// Images to the last bit.
    Lossless,
}

/// The fixed part of the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the file holds.
    pub kind: Kind,
    /// Which of its model's ways to compute the file was made with, 0 to 7; the caller's.
    pub variant: u8,
    /// The seed of everything shared.
    pub seed: u64,
    /// The identity of the model.
    pub model: u32,
    /// Number of images.
    pub images: usize,
}

/// The bytes of a whole file: this header, what `more` its kind has there, and the `body`; with the checksum
/// of all that.
pub(crate) fn write(header: &Header, more: &[u8], body: &[u8]) -> Vec<u8> {
    let lossless = u8::from(header.kind == Kind::Lossless);
    let seeded = u8::from(header.seed != 0);
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION << 5 | header.variant << 2 | seeded << 1 | lossless);
    bytes.extend([0; 4]);
    bytes.extend(header.model.to_le_bytes());
    push_varint(&mut bytes, header.images as u64);
    if header.seed != 0 {
        push_varint(&mut bytes, header.seed);
    }
    bytes.extend(more);
    bytes.extend(body);
    let checksum = checksum(&bytes);
    bytes[3..UNCHECKED].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&bytes[..3]);
    digest.update(&bytes[UNCHECKED..]);
    digest.finalize()
}

/// Whether the checksum holds, which it only does for a whole file.
pub(crate) fn is_intact(bytes: &[u8]) -> bool {
    bytes.len() >= UNCHECKED && bytes[3..UNCHECKED] == checksum(bytes).to_le_bytes()
}

impl Header {
    /// Reads the fixed part of a file's header.
    ///
    /// # Errors
    /// [`CodecError::NotAFile`], [`CodecError::Version`], [`CodecError::HeaderCut`], [`CodecError::HeaderDamaged`].
    pub fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::parse(&mut Cursor { bytes, position: 0 })
    }

    /// Reads the fixed part of the header of a file of this kind, made with this model, computed the same
    /// way.
    ///
    /// # Errors
    /// As [`Self::read`]; [`CodecError::OtherKind`], [`CodecError::WrongModel`],
    /// [`CodecError::OtherVariant`].
    pub(crate) fn expect(cursor: &mut Cursor, kind: Kind, model: &Model) -> Result<Self, CodecError> {
        let header = Self::parse(cursor)?;
        if header.kind != kind {
            return Err(CodecError::OtherKind);
        }
        if header.model != model.identity {
            return Err(CodecError::WrongModel { in_file: header.model, given: model.identity });
        }
        if header.variant != model.variant {
            return Err(CodecError::OtherVariant { in_file: header.variant, given: model.variant });
        }
        Ok(header)
    }

    pub(crate) fn parse(cursor: &mut Cursor) -> Result<Self, CodecError> {
        // Of what is too short for a header, what is there must still be right.
        if !MAGIC.starts_with(&cursor.bytes[..cursor.bytes.len().min(MAGIC.len())]) || cursor.bytes.is_empty()
        {
            return Err(CodecError::NotAFile);
        }
        let [.., flags] = cursor.take::<3>()?;
        if flags >> 5 != VERSION {
            return Err(CodecError::Version { found: flags >> 5, known: VERSION });
        }
        cursor.take::<4>()?;
        let model = u32::from_le_bytes(cursor.take()?);
        let images = cursor.varint()?;
        let images = usize::try_from(images).ok().filter(|images| (1..=MAX_IMAGES).contains(images));
        let images = images.ok_or(CodecError::HeaderDamaged("it announces no image, or more than 65536"))?;
        let seed = if flags & 2 != 0 { cursor.varint()? } else { 0 };
        let kind = if flags & 1 != 0 { Kind::Lossless } else { Kind::Progressive };
        Ok(Self { kind, variant: flags >> 2 & 7, seed, model, images })
    }
}

/// Appends `value`, seven bits a byte from the lowest, the high bit set in all bytes but the last.
pub(crate) fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Bytes of a header being read.
pub(crate) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub position: usize,
}

impl<'a> Cursor<'a> {
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let cut = CodecError::HeaderCut { found: self.bytes.len() };
        let taken = self.bytes.get(self.position..self.position + N).and_then(|taken| taken.try_into().ok());
        self.position += N;
        taken.ok_or(cut)
    }

    pub fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0;
        for place in 0..10 {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 127);
            let shifted = bits << (7 * place);
            if shifted >> (7 * place) != bits || (place > 0 && byte == 0) {
                break;
            }
            value |= shifted;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(CodecError::HeaderDamaged("a number in it is not one that an encoder writes"))
    }

    pub fn curve(&mut self) -> Result<ErrorCurve, CodecError> {
        Ok(ErrorCurve::from_bytes(self.take()?))
    }

    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        let header =
            Header { kind: Kind::Lossless, variant: 5, seed: 1 << 63, model: 0xdead_beef, images: 300 };
        for header in [header, Header { kind: Kind::Progressive, variant: 0, seed: 0, model: 1, images: 1 }] {
            let bytes = write(&header, &[1, 2], &[3]);
            assert!(is_intact(&bytes));
            let mut cursor = Cursor { bytes: &bytes, position: 0 };
            assert_eq!(Header::parse(&mut cursor).unwrap(), header);
            assert_eq!(cursor.rest(), [1, 2, 3]);
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_intact(&damaged));
            }
            for len in 1..12 {
                assert!(matches!(Header::read(&bytes[..len]), Err(CodecError::HeaderCut { .. })));
            }
        }
        assert!(matches!(Header::read(b"\x89PNG"), Err(CodecError::NotAFile)));
        assert!(matches!(Header::read(b""), Err(CodecError::NotAFile)));
    }

    #[test]
    fn numbers_have_one_form() {
        for value in [0, 127, 128, 65_536, u64::MAX] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            assert_eq!(Cursor { bytes: &bytes, position: 0 }.varint().unwrap(), value);
        }
        for bytes in [&[128, 0][..], &[255; 10], &[128; 12]] {
            assert!(matches!(Cursor { bytes, position: 0 }.varint(), Err(CodecError::HeaderDamaged(_))));
        }
    }
}
