//! Whether a JPEG goes on to its end: the decoder makes gray of what is missing, and says nothing.

use std::io::{self, BufRead, ErrorKind, Seek};

/// What every JPEG begins with; the third byte begins the marker that follows.
const BEGINNING: [u8; 3] = [0xff, 0xd8, 0xff];
/// The code of the marker that ends an image.
const END_OF_IMAGE: u8 = 0xd9;

/// Reads `file` to the end of its image if it is a JPEG, and goes back to its beginning. What lies behind the
/// image (many cameras append something) is not looked at.
///
/// # Errors
/// [`ErrorKind::UnexpectedEof`] for a JPEG that ends, or is overwritten, before the marker that ends it; and what
/// the system says.
pub(crate) fn check_end(mut file: impl BufRead + Seek) -> io::Result<()> {
    let mut beginning = [0; BEGINNING.len()];
    match file.read_exact(&mut beginning) {
        Ok(()) if beginning == BEGINNING => {
            file.rewind()?;
            pass_image(&mut file)?;
        }
        // Other formats end so early, or not at all: their decoders say what is wrong.
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    file.rewind()
}

/// Goes from marker to marker, past the content of segments, in which there may be whole images (thumbnails).
/// Compressed data, of one scan or many, has no markers but those of restarts.
fn pass_image(file: &mut impl BufRead) -> io::Result<()> {
    loop {
        match next_code(file)? {
            END_OF_IMAGE => return Ok(()),
            // 0 is a byte 255 of compressed data; the others are markers without a segment: the image's
            // beginning, restarts, and one without a meaning.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let length = u16::from_be_bytes([next_byte(file)?, next_byte(file)?]);
                skip(file, usize::from(length.saturating_sub(2)))?;
            }
        }
    }
}

/// The byte after the next one that is 255, of which there may be several in a row.
fn next_code(file: &mut impl BufRead) -> io::Result<u8> {
    loop {
        let buffer = filled(file)?;
        match buffer.iter().position(|&byte| byte == 0xff) {
            Some(place) => {
                file.consume(place + 1);
                break;
            }
            None => {
                let len = buffer.len();
                file.consume(len);
            }
        }
    }
    loop {
        match next_byte(file)? {
            0xff => {}
            code => return Ok(code),
        }
    }
}

fn next_byte(file: &mut impl BufRead) -> io::Result<u8> {
    let byte = filled(file)?[0];
    file.consume(1);
    Ok(byte)
}

fn skip(file: &mut impl BufRead, mut count: usize) -> io::Result<()> {
    while count > 0 {
        let step = filled(file)?.len().min(count);
        file.consume(step);
        count -= step;
    }
    Ok(())
}

/// What lies ready to be read, at least one byte.
fn filled(file: &mut impl BufRead) -> io::Result<&[u8]> {
    match file.fill_buf()? {
        [] => Err(ErrorKind::UnexpectedEof.into()),
        buffer => Ok(buffer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor};

    fn ends(bytes: &[u8]) -> bool {
        // A buffer of three bytes, so that everything lies across its end once.
        let results = [3, 1 << 12].map(|capacity| {
            let mut file = BufReader::with_capacity(capacity, Cursor::new(bytes));
            let result = check_end(&mut file);
            assert!(result.is_err() || file.stream_position().unwrap() == 0);
            result.is_ok()
        });
        assert_eq!(results[0], results[1]);
        results[0]
    }

    #[test]
    fn the_end_is_a_marker_outside_of_segments() {
        let begin = [0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xd9];
        let scan = [0xff, 0xda, 0, 3, 9, 7, 0xff, 0, 0xd9, 0xff, 0xd3, 7];
        let end = [0xff, 0xff, 0xd9];
        let whole = [&begin[..], &scan, &scan, &end].concat();
        assert!(ends(&whole));
        assert!(ends(&[&whole[..], b"behind the image"].concat()));
        for len in BEGINNING.len()..whole.len() {
            assert!(!ends(&whole[..len]), "{len}");
        }
    }

    #[test]
    fn other_files_are_none_of_its_business() {
        for bytes in [&b""[..], &[0xff, 0xd8], b"\x89PNG, it says", &[0; 20]] {
            assert!(ends(bytes), "{bytes:?}");
        }
    }
}
