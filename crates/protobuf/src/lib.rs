//! Protocol Buffers' wire format, and the checksums that stand beside it in TensorFlow's files.
//!
//! What is read here are a handful of small messages (`tf.train.Example`, the entries of tensor bundles)
//! whose schemas have not changed since 2015: a generator of code would be more than the code.
//!
//! ```
//! use protobuf::{Fields, Value, push_bytes, push_number};
//! let mut message = Vec::new();
//! push_bytes(&mut message, 1, b"name");
//! push_number(&mut message, 2, 300);
//! let mut fields = Fields::new(&message);
//! assert_eq!(fields.next_field(), Ok(Some((1, Value::Bytes(b"name")))));
//! assert_eq!(fields.next_field(), Ok(Some((2, Value::Varint(300)))));
//! assert_eq!(fields.next_field(), Ok(None));
//! ```

#![forbid(unsafe_code)]

/// A field's number and its value.
pub type Field<'a> = (u64, Value<'a>);

/// A field's value as it lies in a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// A whole number, a truth value or an enum's.
    Varint(u64),
    /// A string, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// 32 fixed bits, little-endian.
    Fixed32(u32),
    /// 64 fixed bits.
    Fixed64(u64),
}

/// The fields of a message, one after the other.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of `message`.
    pub fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// Whether the message is at its end.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next field; `None` at the end of the message.
    ///
    /// # Errors
    /// In words, if the message is malformed.
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => Value::Bytes(self.bytes()?),
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err("a field of an unknown wire type"),
        };
        Ok(Some((key >> 3, value)))
    }

    /// A number of 7 bits a byte, the lowest first.
    ///
    /// # Errors
    /// If it is cut short or has more than 64 bits.
    pub fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            // Of the tenth byte one bit is left of 64.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits")
    }

    /// Bytes that their number stands before.
    ///
    /// # Errors
    /// If they are more than the message has.
    pub fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let len = self.varint()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// If they are more than the message has.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("a field longer than its message")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

/// Appends field `number` with a string or message.
pub fn push_bytes(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    push_varint(message, number << 3 | 2);
    push_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// Appends field `number` with a whole number, a truth value or an enum's.
pub fn push_number(message: &mut Vec<u8>, number: u64, value: u64) {
    push_varint(message, number << 3);
    push_varint(message, value);
}

/// Appends field `number` with a `float`.
pub fn push_f32(message: &mut Vec<u8>, number: u64, value: f32) {
    push_varint(message, number << 3 | 5);
    message.extend_from_slice(&value.to_le_bytes());
}

/// Appends field `number` with a `double`.
pub fn push_f64(message: &mut Vec<u8>, number: u64, value: f64) {
    push_varint(message, number << 3 | 1);
    message.extend_from_slice(&value.to_le_bytes());
}

/// Appends a number, 7 bits a byte, the lowest first; no field's key stands before it.
pub fn push_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// CRC-32C (Castagnoli) of `parts` one after the other, rotated right by 15 bits and offset, as TensorFlow
/// and LevelDB store it ("masked").
pub fn masked_crc(parts: &[&[u8]]) -> u32 {
    let crc = parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Appends a record of a TFRecord file with `content`: its length in bytes (8 bytes, little-endian), their
/// masked CRC, `content` and its masked CRC.
pub fn push_record(file: &mut Vec<u8>, content: &[u8]) {
    let length = (content.len() as u64).to_le_bytes();
    file.reserve(content.len() + 16);
    file.extend_from_slice(&length);
    file.extend_from_slice(&masked_crc(&[&length]).to_le_bytes());
    file.extend_from_slice(content);
    file.extend_from_slice(&masked_crc(&[content]).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn crcs_are_masked_as_tensorflow_masks_them() {
        // CRC-32C's published check value.
        let expected = 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_crc(&[b"123456789"]), expected);
        assert_eq!(masked_crc(&[b"1234", b"", b"56789"]), expected);
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_an_error() {
        let tenth = |last: &[u8]| Fields::new(&[&[0xff; 9][..], last].concat()).varint();
        assert_eq!(tenth(&[0x01]), Ok(u64::MAX));
        for last in [&[0x02][..], &[0x7f], &[0x81, 0x00], &[0x80, 0x01]] {
            assert_eq!(tenth(last), Err("a number of more than 64 bits"), "{last:x?}");
        }
    }

    #[test]
    fn records_are_framed_as_tensorflow_frames_them() {
        // What tensorboard 2.21's `RecordWriter` writes for the `Event` that an event file begins with.
        let mut event = Vec::new();
        push_f64(&mut event, 1, 1234.5);
        push_number(&mut event, 2, 301);
        push_bytes(&mut event, 7, &[8, 1]);
        let mut file = b"before".to_vec();
        push_record(&mut file, &event);
        let hex: String = file[6..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "100000000000000095fbfe180900000000004a934010ad023a020801c02893a5");
    }

    #[test]
    fn what_is_appended_is_read_again() {
        let mut message = Vec::new();
        push_f32(&mut message, 2, 0.125);
        push_f64(&mut message, 300, -1.5);
        push_number(&mut message, 3, u64::MAX);
        let mut fields = Fields::new(&message);
        assert_eq!(fields.next_field(), Ok(Some((2, Value::Fixed32(0.125f32.to_bits())))));
        assert_eq!(fields.next_field(), Ok(Some((300, Value::Fixed64((-1.5f64).to_bits())))));
        assert_eq!(fields.next_field(), Ok(Some((3, Value::Varint(u64::MAX)))));
        assert_eq!(fields.next_field(), Ok(None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn numbers_survive(value: u64) {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            prop_assert_eq!(Fields::new(&bytes).varint(), Ok(value));
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut fields = Fields::new(&bytes);
            while let Ok(Some(_)) = fields.next_field() {}
        }
    }
}
