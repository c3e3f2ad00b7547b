//! `.npz` files: a zip archive of arrays, each a member `NAME.npy`, stored or deflated.

use crate::{Element, Header, NumpyError};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Bytes read and converted at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// An open archive.
#[derive(Debug)]
pub struct NpzFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

impl NpzFile {
    /// Opens an archive and reads its directory, no array.
    ///
    /// # Errors
    /// If the file cannot be read or is no zip archive.
    pub fn open(path: &Path) -> Result<Self, NumpyError> {
        let file = File::open(path).map_err(NumpyError::read(path))?;
        let archive = ZipArchive::new(BufReader::new(file)).map_err(archive_error(path))?;
        Ok(Self { path: path.to_owned(), archive })
    }

    /// The arrays' names, in the order of the archive.
    pub fn names(&self) -> Vec<String> {
        // A name that is not text cannot be asked for.
        let names = self.archive.file_names().flatten();
        names.map(|name| name.strip_suffix(".npy").unwrap_or(&name).to_owned()).collect()
    }

    /// Whether there is an array called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.archive.index_for_name(&format!("{name}.npy")).is_some()
    }

    /// The array called `name`, ready to be read from its first element on.
    ///
    /// # Errors
    /// If there is none, it is compressed by another method than deflate, or its header is not an array's.
    pub fn member(&mut self, name: &str) -> Result<Member, NumpyError> {
        let path = &self.path;
        let Some(index) = self.archive.index_for_name(&format!("{name}.npy")) else {
            let found = self.names().join(", ");
            return Err(NumpyError::Missing { path: path.clone(), name: name.to_owned(), found });
        };
        let entry = self.archive.by_index_raw(index).map_err(archive_error(path))?;
        let (start, packed, crc) = (entry.data_start(), entry.compressed_size(), entry.crc32());
        let (method, encrypted) = (entry.compression(), entry.encrypted());
        drop(entry);
        let broken = |reason: String| NumpyError::Archive { path: path.clone(), reason };
        let start = start.ok_or_else(|| broken(format!("`{name}` has no place in it")))?;
        let mut file = File::open(path).map_err(NumpyError::read(path))?;
        file.seek(SeekFrom::Start(start)).map_err(NumpyError::read(path))?;
        let packed = BufReader::with_capacity(CHUNK_BYTES, file.take(packed));
        let content: Box<dyn Read + Send> = match method {
            _ if encrypted => return Err(broken(format!("`{name}` is encrypted"))),
            CompressionMethod::Stored => Box::new(packed),
            CompressionMethod::Deflated => Box::new(DeflateDecoder::new(packed)),
            other => return Err(broken(format!("`{name}` is compressed by {other:?}; use numpy.savez"))),
        };
        // A name that begins like an absolute path would stand alone.
        let member_path = path.join(format!("{}.npy", name.trim_start_matches('/')));
        let mut content = Checked { inner: content, crc: Crc::new(), expected: crc };
        let (header, offset) = Header::read(&mut content, &member_path)?;
        Ok(Member { header, path: member_path, content, offset })
    }
}

fn archive_error(path: &Path) -> impl FnOnce(zip::result::ZipError) -> NumpyError + '_ {
    move |error| match error {
        zip::result::ZipError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            NumpyError::Read { path: path.to_owned(), source }
        }
        other => NumpyError::Archive { path: path.to_owned(), reason: other.to_string() },
    }
}

/// Compares a member's checksum when its end is reached.
struct Checked {
    inner: Box<dyn Read + Send>,
    crc: Crc,
    expected: u32,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.crc.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong"));
        }
        Ok(count)
    }
}

/// One array of an archive, read forwards.
pub struct Member {
    header: Header,
    path: PathBuf,
    content: Checked,
    offset: u64,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("path", &self.path).field("header", &self.header).finish()
    }
}

impl Member {
    /// The array's type and shape.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The member, as a path inside the archive.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next bytes of the array's elements.
    ///
    /// # Errors
    /// If they cannot be read or the archive is damaged.
    pub fn read_bytes(&mut self, out: &mut [u8]) -> Result<(), NumpyError> {
        self.content.read_exact(out).map_err(|error| NumpyError::content(&self.path, self.offset, error))?;
        self.offset += out.len() as u64;
        Ok(())
    }

    /// Passes over elements.
    ///
    /// # Errors
    /// As [`Self::read_bytes`].
    pub fn skip_bytes(&mut self, mut count: u64) -> Result<(), NumpyError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while count > 0 {
            let step = count.min(CHUNK_BYTES as u64) as usize;
            self.read_bytes(&mut chunk[..step])?;
            count -= step as u64;
        }
        Ok(())
    }

    /// Checks that nothing follows the elements that were read, and the checksum.
    ///
    /// # Errors
    /// If something does, or the checksum is another.
    pub fn finish(mut self) -> Result<(), NumpyError> {
        match self.content.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => {
                let shape = &self.header.shape;
                Err(NumpyError::format(
                    &self.path,
                    self.offset,
                    format!("more numbers than fill the shape {shape:?}"),
                ))
            }
            Err(error) => Err(NumpyError::content(&self.path, self.offset, error)),
        }
    }

    /// All numbers of the array, the last dimension fastest, in whichever order they lie in the file.
    ///
    /// # Errors
    /// If they are text, cannot be read, or are not as many as the shape says.
    pub fn read_f64(mut self) -> Result<Vec<f64>, NumpyError> {
        let element = self.header.element;
        if let Element::Text { .. } = element {
            return Err(NumpyError::format(&self.path, 0, "the array holds text, not numbers"));
        }
        let bytes = self.header.bytes().ok_or_else(|| {
            NumpyError::format(&self.path, 0, format!("a shape {:?} cannot be", self.header.shape))
        })?;
        let (mut values, mut left) = (Vec::new(), bytes);
        let mut chunk = vec![0; CHUNK_BYTES];
        while left > 0 {
            let step = left.min(CHUNK_BYTES as u64) as usize;
            self.read_bytes(&mut chunk[..step])?;
            element.decode(&chunk[..step], &mut values);
            left -= step as u64;
        }
        let Header { fortran_order, shape, .. } = self.header.clone();
        self.finish()?;
        Ok(if fortran_order { in_c_order(&values, &shape) } else { values })
    }

    /// The text of an array without dimensions, as `numpy.savez(…, name="text")` writes it.
    ///
    /// # Errors
    /// If it is something else, longer than 64 KiB, or cannot be read.
    pub fn read_text(mut self) -> Result<String, NumpyError> {
        let fault = |reason: &str| NumpyError::format(&self.path, 0, reason);
        let Header { element: Element::Text { .. }, shape, .. } = &self.header else {
            return Err(fault("the array holds numbers, not text"));
        };
        let bytes = self.header.bytes().filter(|&bytes| shape.is_empty() && bytes <= 4 * CHUNK_BYTES as u64);
        let bytes = bytes.ok_or_else(|| fault("not one text of at most 64 KiB"))?;
        let mut content = vec![0; bytes as usize];
        self.read_bytes(&mut content)?;
        let characters = content.as_chunks().0.iter().map(|&word| char::from_u32(u32::from_le_bytes(word)));
        let text: Option<String> = characters.collect();
        let text = text.ok_or_else(|| NumpyError::format(&self.path, 0, "not text"))?;
        self.finish()?;
        Ok(text.trim_end_matches('\0').to_owned())
    }
}

/// The elements of an array whose first dimension is fastest in `values`, the last one fastest.
fn in_c_order(values: &[f64], shape: &[usize]) -> Vec<f64> {
    let mut place = vec![0; shape.len()];
    let mut ordered = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        let index = place.iter().zip(shape).rfold(0, |index, (&at, &len)| index * len + at);
        ordered.push(values[index]);
        for (at, &len) in place.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < len {
                break;
            }
            *at = 0;
        }
    }
    ordered
}

/// An archive being written; its arrays are stored, not compressed. The same arrays give the same bytes.
#[derive(Debug)]
pub struct NpzWriter<W: Write> {
    archive: ZipWriter<zip::write::StreamWriter<W>>,
}

impl<W: Write> NpzWriter<W> {
    /// An empty archive on `out`.
    pub fn new(out: W) -> Self {
        Self { archive: ZipWriter::new_stream(out) }
    }

    /// Adds an array of doubles.
    ///
    /// # Errors
    /// If `out` cannot be written.
    ///
    /// # Panics
    /// If there are not as many values as `shape` says.
    pub fn add_f64(&mut self, name: &str, shape: &[usize], values: &[f64]) -> io::Result<()> {
        self.add(name, Element::F64 { big_endian: false }, shape, values, |value| value.to_le_bytes())
    }

    /// Adds an array of single precision.
    ///
    /// # Errors
    /// If `out` cannot be written.
    ///
    /// # Panics
    /// If there are not as many values as `shape` says.
    pub fn add_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> io::Result<()> {
        self.add(name, Element::F32 { big_endian: false }, shape, values, |value| value.to_le_bytes())
    }

    fn add<T: Copy, const N: usize>(
        &mut self,
        name: &str,
        element: Element,
        shape: &[usize],
        values: &[T],
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> io::Result<()> {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        self.start(name, element, shape)?;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        for values in values.chunks(CHUNK_BYTES / N) {
            chunk.clear();
            chunk.extend(values.iter().flat_map(|&value| to_bytes(value)));
            self.archive.write_all(&chunk)?;
        }
        Ok(())
    }

    /// Adds a text as an array without dimensions.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn add_text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let characters: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        self.start(name, Element::Text { len: characters.len() / 4 }, &[])?;
        self.archive.write_all(&characters)
    }

    /// Writes the archive's directory.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn finish(self) -> io::Result<()> {
        self.archive.finish().map_err(io::Error::other)?.into_inner().flush()
    }

    fn start(&mut self, name: &str, element: Element, shape: &[usize]) -> io::Result<()> {
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        self.archive.start_file(format!("{name}.npy"), options).map_err(io::Error::other)?;
        self.archive.write_all(&Header::encode(element, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = NpzWriter::new(&mut bytes);
        writer.add_f64("mu", &[3], &[1.0, -2.5, f64::MIN_POSITIVE]).unwrap();
        writer.add_f64("sigma", &[2, 2], &[1.0, 0.5, 0.5, 4.0]).unwrap();
        writer.add_text("about", "größer").unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn open(bytes: &[u8]) -> Result<(NpzFile, tempfile::NamedTempFile), NumpyError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Ok((NpzFile::open(file.path())?, file))
    }

    /// An archive of one member, as other programs may write it.
    fn archive(name: &str, method: CompressionMethod, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut archive = ZipWriter::new(io::Cursor::new(&mut bytes));
        archive.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(content).unwrap();
        archive.finish().unwrap();
        bytes
    }

    #[test]
    fn arrays_and_text_survive() {
        let (mut npz, _file) = open(&written()).unwrap();
        assert_eq!(npz.names(), ["mu", "sigma", "about"]);
        assert_eq!(npz.member("mu").unwrap().read_f64().unwrap(), [1.0, -2.5, f64::MIN_POSITIVE]);
        let sigma = npz.member("sigma").unwrap();
        assert_eq!(sigma.header().shape, [2, 2]);
        assert_eq!(sigma.read_f64().unwrap(), [1.0, 0.5, 0.5, 4.0]);
        assert_eq!(npz.member("about").unwrap().read_text().unwrap(), "größer");
        assert_eq!(written(), written());
        let message = npz.member("nu").unwrap_err().to_string();
        assert!(message.contains("no array `nu`") && message.contains("mu, sigma, about"), "{message}");
        assert!(npz.member("about").unwrap().read_f64().unwrap_err().to_string().contains("text"));
        assert!(npz.member("mu").unwrap().read_text().is_err());
    }

    #[test]
    fn deflated_arrays_are_read_piece_by_piece() {
        let content: Vec<u8> = (0..7000).map(|i| (i / 70) as u8).collect();
        let member = [Header::encode(Element::U8, &[1000, 7]), content.clone()].concat();
        let bytes = archive("arr_0.npy", CompressionMethod::Deflated, &member);
        let (mut npz, _file) = open(&bytes).unwrap();
        let mut member = npz.member("arr_0").unwrap();
        assert_eq!(
            member.header(),
            &Header { element: Element::U8, fortran_order: false, shape: vec![1000, 7] }
        );
        member.skip_bytes(700).unwrap();
        let mut piece = [0; 71];
        member.read_bytes(&mut piece).unwrap();
        assert_eq!(piece[..], content[700..771]);
        member.skip_bytes(7000 - 771).unwrap();
        member.finish().unwrap();
    }

    #[test]
    fn arrays_in_fortran_order_are_put_in_order() {
        // numpy.savez(path, x=numpy.asfortranarray(numpy.arange(12.0).reshape(2, 3, 2)))
        let header = Header::encode(Element::F64 { big_endian: false }, &[2, 3, 2]);
        let header = String::from_utf8_lossy(&header[10..]).replace("False,", "True, ");
        let values = [0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11].map(|value| f64::from(value).to_le_bytes());
        let member = [b"\x93NUMPY\x01\x00\x76\x00", header.as_bytes(), values.as_flattened()].concat();
        let bytes = archive("x.npy", CompressionMethod::Stored, &member);
        let (mut npz, _file) = open(&bytes).unwrap();
        let member = npz.member("x").unwrap();
        assert!(member.header().fortran_order);
        assert_eq!(member.read_f64().unwrap(), (0..12).map(f64::from).collect::<Vec<_>>());
    }

    #[test]
    fn damage_is_found() {
        let whole = written();
        let message = open(b"no archive").unwrap_err().to_string();
        assert!(message.contains("not an .npz archive"), "{message}");
        assert!(open(&whole[..whole.len() / 2]).is_err());
        // A changed number has another checksum.
        let number = whole.windows(8).position(|bytes| bytes == (-2.5f64).to_le_bytes()).unwrap();
        let mut changed = whole.clone();
        changed[number] ^= 1;
        let (mut npz, _file) = open(&changed).unwrap();
        let message = npz.member("mu").unwrap().read_f64().unwrap_err().to_string();
        assert!(message.contains("mu.npy") && message.contains("checksum"), "{message}");
        assert!(npz.member("sigma").unwrap().read_f64().is_ok());
    }

    #[test]
    fn an_array_called_like_an_absolute_path_is_still_inside_its_archive() {
        let mut bytes = Vec::new();
        let mut writer = NpzWriter::new(&mut bytes);
        writer.add_f64("/etc/x", &[1], &[1.0]).unwrap();
        writer.finish().unwrap();
        let (mut npz, file) = open(&bytes).unwrap();
        assert_eq!(npz.names(), ["/etc/x"]);
        let member = npz.member("/etc/x").unwrap();
        assert_eq!(member.path(), file.path().join("etc/x.npy"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn mutated_archives_never_panic(at in 0usize..1200, byte in any::<u8>(), cut in 0usize..1200) {
            let mut bytes = written();
            let (at, cut) = (at % bytes.len(), cut % bytes.len());
            bytes[at] = byte;
            for bytes in [&bytes[..], &bytes[..cut]] {
                if let Ok((mut npz, _file)) = open(bytes) {
                    for name in npz.names() {
                        let _ = npz.member(&name).and_then(Member::read_f64);
                        let _ = npz.member(&name).and_then(Member::read_text);
                    }
                }
            }
        }
    }
}
