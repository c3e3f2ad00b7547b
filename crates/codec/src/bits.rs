//! Numbers of a given width in a string of bits, the highest bit first.

/// Bits being written; the last byte is filled with zeros.
#[derive(Clone, Default, Debug)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    len: usize,
}

impl BitWriter {
    /// Appends the low `bits` bits of `value`.
    pub fn push(&mut self, value: u32, bits: u32) {
        for bit in (0..bits).rev() {
            if self.len.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (7 - self.len % 8);
            }
            self.len += 1;
        }
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Bits being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bits that are left.
    pub fn left(&self) -> usize {
        self.bytes.len() * 8 - self.position
    }

    /// The next `bits` bits, if they are there.
    pub fn next(&mut self, bits: u32) -> Option<u32> {
        if bits as usize > self.left() {
            return None;
        }
        let mut value = 0;
        for _ in 0..bits {
            let byte = self.bytes[self.position / 8];
            value = value << 1 | u32::from(byte >> (7 - self.position % 8) & 1);
            self.position += 1;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_until_the_bytes_end() {
        let numbers = [(5, 3), (0, 1), (0x3_FFFF, 18), (1, 9), (0, 0), (u32::MAX, 32), (2, 2)];
        let mut writer = BitWriter::default();
        numbers.iter().for_each(|&(value, bits)| writer.push(value, bits));
        let bytes = writer.into_bytes();
        assert_eq!(bytes.len(), 65usize.div_ceil(8));
        assert_eq!(bytes[0], 0b1010_1111);
        let mut reader = BitReader::new(&bytes);
        for (value, bits) in numbers {
            assert_eq!(reader.next(bits), Some(value));
        }
        assert_eq!(reader.next(8), None);
        assert_eq!(reader.next(7), Some(0));
        assert_eq!(reader.next(1), None);
    }
}
