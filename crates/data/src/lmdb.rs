//! LMDB databases whose values are image files: LSUN as published, and what other programs export alike.

use crate::error::member_path;
use crate::fitted::{self, PictureSet, Place};
use crate::lmdb_tree::Tree;
use crate::picture::{DECODING, Picture};
use crate::positioned::PositionedFile;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec};
use std::path::Path;
use std::sync::Arc;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "lmdb",
    form: "lmdb:DIR",
    about: "an LMDB database of image files, such as LSUN's exports; resize = lanczos prepares them as StyleGAN's tool does",
    takes_path: true,
    takes_split: false,
    open,
};

fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    fitted::open(LmdbImages::open(spec.required_path()?)?, options, Some(3))
}

const DATA_FILE: &str = "data.mdb";

/// The values of a database in the order of their keys. Neither writes nor locks anything: the database must
/// not change meanwhile.
#[derive(Debug)]
struct LmdbImages {
    tree: Tree,
}

impl LmdbImages {
    /// Opens the folder of a database, or its file.
    fn open(path: &Path) -> Result<Self, DataError> {
        let inside = path.join(DATA_FILE);
        if path.is_dir() && !inside.is_file() {
            return Err(DataError::Missing {
                path: path.into(),
                what: format!("there is no {DATA_FILE} in the folder"),
                remedy: "give the folder of an LMDB database (of LSUN: what the downloaded zip unpacks to)"
                    .into(),
            });
        }
        let file = if path.is_dir() { inside } else { path.to_owned() };
        Ok(Self { tree: Tree::open(PositionedFile::open(&file)?)? })
    }
}

impl PictureSet for LmdbImages {
    fn len(&self) -> u64 {
        self.tree.len()
    }

    fn picture(&self, index: u64) -> Result<Picture, DataError> {
        let entry = self.tree.entry(index)?;
        let bytes = self.tree.file().bytes_at(entry.offset, entry.len)?;
        // The key says more than the place.
        let path = member_path(self.tree.file().path(), &String::from_utf8_lossy(&entry.key));
        Picture::decode(&bytes, &path, entry.offset)
    }

    fn place(&self, index: u64) -> Place<'_> {
        let offset = self.tree.entry(index).ok().map(|entry| entry.offset);
        Place { path: self.tree.file().path().into(), offset }
    }

    fn description(&self) -> String {
        format!("{} images from {} (LMDB), {DECODING}", self.tree.len(), self.tree.file().path().display())
    }
}
