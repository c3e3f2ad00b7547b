//! MNIST (LeCun, Cortes, Burges): 28×28 gray digits in idx files, plain or gzip. Sets of the same form
//! (Fashion-MNIST, KMNIST) are read alike.

use crate::bounded::{open_unpacked, read_all};
use crate::source::check_index;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec, Split, converted};
use engine::ImageShape;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "mnist",
    form: "mnist:DIR[:train|:test]",
    about: "MNIST's idx files, plain or .gz; at size 32 padded with black",
    takes_path: true,
    takes_split: true,
    open,
};

fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    let margin = if options.size == Some(SIDE + 2 * MARGIN) { MARGIN } else { 0 };
    let source = Mnist::open(spec.required_path()?, spec.split(), margin)?;
    Ok(converted::convert(Arc::new(source), options))
}

const SIDE: usize = 28;
const IMAGE: usize = SIDE * SIDE;
/// Black pixels on each side that make 28 into 32, a size that can be halved often enough.
const MARGIN: usize = 2;
/// MNIST has 60,000 images; so many are accepted.
const MAX_IMAGES: u64 = 1 << 20;

const IMAGES_MAGIC: [u8; 4] = [0, 0, 8, 3];
const LABELS_MAGIC: [u8; 4] = [0, 0, 8, 1];
const REMEDY: &str =
    "get the four idx files (train-images-idx3-ubyte.gz and so on) of MNIST, as `ddpm data fetch mnist` does";

/// A split of MNIST, held in memory (47 MB for the 60,000 training images).
#[derive(Debug)]
pub struct Mnist {
    /// [`IMAGE`] bytes an image.
    pixels: Vec<u8>,
    labels: Option<Vec<u8>>,
    margin: usize,
    origin: PathBuf,
    split: Split,
}

impl Mnist {
    /// Opens the files in `folder`, in its subfolder `raw` or in `MNIST/raw`, and surrounds every image by
    /// `margin` black pixels. Labels are optional.
    ///
    /// # Errors
    /// If the images' file is missing, or a file is unreadable, truncated or not what it should be.
    pub fn open(folder: &Path, split: Split, margin: usize) -> Result<Self, DataError> {
        let part = match split {
            Split::Train => "train",
            Split::Test => "t10k",
        };
        let origin = find(folder, part, "images", "idx3").ok_or_else(|| DataError::Missing {
            path: folder.into(),
            what: format!("MNIST's {split} images ({part}-images-idx3-ubyte or .gz) are not there"),
            remedy: REMEDY.into(),
        })?;
        let pixels = read_images(&origin)?;
        let labels = match find(folder, part, "labels", "idx1") {
            Some(path) => Some(read_labels(&path, pixels.len() / IMAGE)?),
            None => None,
        };
        Ok(Self { pixels, labels, margin, origin, split })
    }

    fn side(&self) -> usize {
        SIDE + 2 * self.margin
    }
}

impl ImageSource for Mnist {
    fn len(&self) -> u64 {
        (self.pixels.len() / IMAGE) as u64
    }

    fn shape(&self) -> ImageShape {
        ImageShape::new(self.side(), self.side(), 1)
    }

    fn read(&self, index: u64, pixels: &mut [u8]) -> Result<(), DataError> {
        let number = check_index(self, index)?;
        let image = &self.pixels[number * IMAGE..][..IMAGE];
        assert_eq!(pixels.len(), self.shape().len());
        pixels.fill(0);
        let rows = pixels.chunks_exact_mut(self.side()).skip(self.margin);
        for (out, row) in rows.zip(image.chunks_exact(SIDE)) {
            out[self.margin..][..SIDE].copy_from_slice(row);
        }
        Ok(())
    }

    fn label(&self, index: u64) -> Option<u32> {
        let labels = self.labels.as_ref()?;
        labels.get(usize::try_from(index).ok()?).map(|&label| label.into())
    }

    fn description(&self) -> String {
        let mut text = format!(
            "MNIST {}: {} images {SIDE}x{SIDE}x1 from {}",
            self.split,
            self.len(),
            self.origin.display()
        );
        if self.margin > 0 {
            let (margin, side) = (self.margin, self.side());
            text.push_str(&format!(", padded by {margin} black pixels on each side to {side}x{side}"));
        }
        if self.labels.is_none() {
            text.push_str(", without labels");
        }
        text
    }
}

/// The file of `part` (`train`, `t10k`) in one of the places and under one of the names it is known by.
fn find(folder: &Path, part: &str, content: &str, rank: &str) -> Option<PathBuf> {
    let places = [folder.to_path_buf(), folder.join("raw"), folder.join("MNIST").join("raw")];
    let names = [
        format!("{part}-{content}-{rank}-ubyte"),
        format!("{part}-{content}-{rank}-ubyte.gz"),
        format!("{part}-{content}.{rank}-ubyte"),
        format!("{part}-{content}.{rank}-ubyte.gz"),
    ];
    places.iter().flat_map(|place| names.iter().map(|name| place.join(name))).find(|path| path.is_file())
}

fn read_images(path: &Path) -> Result<Vec<u8>, DataError> {
    let ([count, height, width], mut content) = open_idx(path, IMAGES_MAGIC, "images")?;
    if (height, width) != (SIDE as u32, SIDE as u32) {
        let what = format!("images of {height}x{width} pixels instead of {SIDE}x{SIDE}");
        return Err(DataError::damaged(path, 8, what));
    }
    read_exactly(&mut content, u64::from(count) * IMAGE as u64, 16, path)
}

fn read_labels(path: &Path, images: usize) -> Result<Vec<u8>, DataError> {
    let ([count], mut content) = open_idx(path, LABELS_MAGIC, "labels")?;
    if count as usize != images {
        return Err(DataError::damaged(path, 4, format!("{count} labels for {images} images")));
    }
    read_exactly(&mut content, count.into(), 8, path)
}

/// Opens an idx file and reads its header: the magic number, then `N` big-endian dimensions.
fn open_idx<const N: usize>(
    path: &Path,
    magic: [u8; 4],
    content: &str,
) -> Result<([u32; N], impl Read + use<N>), DataError> {
    let mut file = open_unpacked(path, MAX_IMAGES * IMAGE as u64)?;
    let header = read_all(&mut file.by_ref().take(4 + 4 * N as u64), path)?;
    let Some((found, dimensions)) = header.split_first_chunk::<4>() else {
        return Err(DataError::damaged(path, header.len() as u64, "it ends within the idx header"));
    };
    if *found != magic {
        let what =
            format!("it begins with {found:02x?} instead of {magic:02x?}: not an idx file of {content}");
        return Err(DataError::damaged(path, 0, what));
    }
    let (dimensions, _) = dimensions.as_chunks::<4>();
    let dimensions: [[u8; 4]; N] = dimensions
        .try_into()
        .map_err(|_| DataError::damaged(path, header.len() as u64, "it ends within the idx header"))?;
    let dimensions = dimensions.map(u32::from_be_bytes);
    if u64::from(dimensions[0]) > MAX_IMAGES {
        let what = format!("{} {content} are declared, more than the {MAX_IMAGES} accepted", dimensions[0]);
        return Err(DataError::damaged(path, 4, what));
    }
    Ok((dimensions, file))
}

/// The rest of `content`, which must be `len` bytes; `header` bytes came before.
fn read_exactly(content: &mut impl Read, len: u64, header: u64, path: &Path) -> Result<Vec<u8>, DataError> {
    // One byte more: to notice a surplus, and to reach gzip's checksum at the end.
    let bytes = read_all(&mut content.take(len + 1), path)?;
    let found = bytes.len() as u64;
    if found < len {
        let what = format!("it ends after {found} of the {len} bytes that its header declares");
        return Err(DataError::damaged(path, header + found, what));
    }
    if found > len {
        let what = format!("it goes on after the {len} bytes that its header declares");
        return Err(DataError::damaged(path, header + len, what));
    }
    Ok(bytes)
}
