//! Tar shards of images with their classes, as WebDataset has them: `0001.png`, `0001.cls`, ….

use crate::fitted::{self, PictureSet, Place};
use crate::image_folder::has_image_extension;
use crate::picture::{DECODING, MAX_FILE_BYTES, Picture};
use crate::positioned::{FileCursor, PositionedFile};
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec, bounded, shards};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::EntryType;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "tar",
    form: "tar:FILE|DIR[:train|:test]",
    about: "tar shards of image files (WebDataset), one file or a folder of them; classes in .cls files",
    takes_path: true,
    takes_split: true,
    open,
};

fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    let is_shard = |name: &str| name.ends_with(".tar");
    let files = shards::list(spec.required_path()?, spec.split(), is_shard, "*.tar file")?;
    fitted::open(TarShards::open(&files)?, options, Some(3))
}

/// Bytes of a member's name in an extension header.
const MAX_NAME_BYTES: u64 = 1 << 16;
/// Bytes of a `.cls` file.
const MAX_CLASS_BYTES: u64 = 64;

/// An image in a shard: 24 bytes of memory each.
#[derive(Clone, Copy, Debug)]
struct Member {
    offset: u64,
    bytes: u32,
    shard: u32,
    label: Option<u32>,
}

/// The images of all shards, in the order in which they lie there.
#[derive(Debug)]
struct TarShards {
    shards: Vec<Arc<PositionedFile>>,
    members: Vec<Member>,
}

impl TarShards {
    /// Reads the headers of all members, not the images.
    fn open(files: &[PathBuf]) -> Result<Self, DataError> {
        let (mut shards, mut members) = (Vec::new(), Vec::new());
        for path in files {
            let file = Arc::new(PositionedFile::open(path)?);
            index(&file, shards.len() as u32, &mut members)?;
            shards.push(file);
        }
        Ok(Self { shards, members })
    }
}

impl PictureSet for TarShards {
    fn len(&self) -> u64 {
        self.members.len() as u64
    }

    fn picture(&self, index: u64) -> Result<Picture, DataError> {
        let member = self.members[index as usize];
        let shard = &self.shards[member.shard as usize];
        let bytes = shard.bytes_at(member.offset, member.bytes.into())?;
        Picture::decode(&bytes, shard.path(), member.offset)
    }

    fn place(&self, index: u64) -> Place<'_> {
        let member = self.members[index as usize];
        Place { path: self.shards[member.shard as usize].path().into(), offset: Some(member.offset) }
    }

    fn label(&self, index: u64) -> Option<u32> {
        self.members[index as usize].label
    }

    fn description(&self) -> String {
        let first = self.shards.first().map_or(Path::new(""), |shard| shard.path());
        let more = shards::and_more(self.shards.len(), "shards");
        format!("{} images from {}{more}, {DECODING}", self.members.len(), first.display())
    }
}

/// Adds the images of a shard to `members`.
fn index(file: &Arc<PositionedFile>, shard: u32, members: &mut Vec<Member>) -> Result<(), DataError> {
    let path = file.path();
    let error = |error| bounded::content_error(path, None, error);
    if matches!(file.bytes_at(0, 2.min(file.len()))?[..], [0x1f, 0x8b]) {
        let remedy = "unpack it: images in a compressed archive cannot be read one by one";
        return Err(DataError::malformed(path, 0, "the archive is compressed by gzip", remedy));
    }
    let mut archive = tar::Archive::new(FileCursor::new(file.clone(), 0));
    let mut long_name = None;
    let mut sample = Sample { key: Vec::new(), first: members.len(), class: None };
    // Raw: extension headers, which may claim any length, are read here within limits.
    for entry in archive.entries_with_seek().map_err(error)?.raw(true) {
        let mut entry = entry.map_err(error)?;
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::GNULongName | EntryType::XHeader) {
            let mut bytes = Vec::new();
            entry.take(MAX_NAME_BYTES).read_to_end(&mut bytes).map_err(error)?;
            long_name = match kind {
                EntryType::GNULongName => Some(bytes.split(|&b| b == 0).next().unwrap_or_default().to_vec()),
                _ => pax_path(&bytes).or(long_name),
            };
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        if !kind.is_file() && kind != EntryType::Continuous {
            continue;
        }
        if offset.saturating_add(size) > file.len() {
            return Err(DataError::damaged(path, offset, "the archive ends in the middle of a file"));
        }
        let base_start = name.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        if name[base_start..].starts_with(b".") {
            continue;
        }
        let dot = name[base_start..].iter().position(|&b| b == b'.').map(|dot| base_start + dot);
        let key = &name[..dot.unwrap_or(name.len())];
        if sample.key != key {
            sample = Sample { key: key.to_vec(), first: members.len(), class: None };
        }
        let text = String::from_utf8_lossy(&name);
        if has_image_extension(Path::new(&*text)) {
            let bytes = u32::try_from(size).ok().filter(|_| size <= MAX_FILE_BYTES).ok_or_else(|| {
                DataError::damaged(path, offset, format!("an image file of {size} bytes is far too large"))
            })?;
            members.push(Member { offset, bytes, shard, label: None });
        } else if name.ends_with(b".cls") && size <= MAX_CLASS_BYTES {
            let mut class = String::new();
            entry.read_to_string(&mut class).map_err(error)?;
            sample.class = class.trim().parse().ok();
        }
        // The class may stand before its image or after it.
        members[sample.first..].iter_mut().for_each(|member| member.label = sample.class);
    }
    Ok(())
}

/// The files of one sample stand together and share the name up to its first dot.
struct Sample {
    key: Vec<u8>,
    /// Its first image.
    first: usize,
    class: Option<u32>,
}

/// The `path` of a pax extension header: lines of `LENGTH KEY=VALUE`.
fn pax_path(header: &[u8]) -> Option<Vec<u8>> {
    let lines = header.split(|&byte| byte == b'\n');
    let mut values = lines.filter_map(|line| {
        let space = line.iter().position(|&byte| byte == b' ')?;
        line[space + 1..].strip_prefix(b"path=")
    });
    values.next_back().map(<[u8]>::to_vec)
}
