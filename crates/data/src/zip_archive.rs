//! A zip of images, as StyleGAN2-ADA's and StyleGAN3's dataset tool writes it (`dataset.json` has the labels).

use crate::bounded::{Bounded, content_error, read_all};
use crate::error::member_path;
use crate::fitted::{self, PictureSet, Place};
use crate::image_folder::{has_image_extension, is_hidden};
use crate::picture::{DECODING, MAX_FILE_BYTES, Picture};
use crate::positioned::{FileCursor, PositionedFile};
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zip::ZipArchive;
use zip::result::ZipError;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "zip",
    form: "zip:FILE",
    about: "a zip of image files; labels in dataset.json, as StyleGAN2-ADA has them",
    takes_path: true,
    takes_split: false,
    open,
};

fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    fitted::open(ZippedImages::open(spec.required_path()?)?, options, Some(3))
}

const LABELS: &str = "dataset.json";
const MAX_LABELS_BYTES: u64 = 256 << 20;

/// `dataset.json`.
#[derive(Deserialize)]
struct Labels {
    labels: Option<Vec<(String, Label)>>,
}

/// A class, where the label is one. There are also lists of attributes, which are passed over without being kept.
struct Label(Option<u32>);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelVisitor).map(Self)
    }
}

struct LabelVisitor;

impl<'de> Visitor<'de> for LabelVisitor {
    type Value = Option<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a label")
    }

    fn visit_u64<E>(self, class: u64) -> Result<Self::Value, E> {
        Ok(class.try_into().ok())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// The image files in a zip, in the order of their names; those whose own names begin with a dot are ignored.
#[derive(Debug)]
struct ZippedImages {
    archive: ZipArchive<FileCursor>,
    path: PathBuf,
    /// Numbers in the archive.
    entries: Vec<usize>,
    labels: Option<Vec<Option<u32>>>,
}

impl ZippedImages {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = Arc::new(PositionedFile::open(path)?);
        let archive = ZipArchive::new(FileCursor::new(file, 0)).map_err(|e| zip_error(path, e))?;
        let mut named = Vec::new();
        for number in 0..archive.len() {
            let Some(name) = archive.name_for_index(number) else { continue };
            let name = name.map_err(|e| zip_error(path, e))?;
            // macOS's archiver puts a hidden member (`__MACOSX/._photo.png`) beside every image; some write `\`.
            if has_image_extension(Path::new(&*name)) && !is_hidden(Path::new(&name.replace('\\', "/"))) {
                named.push((name.into_owned(), number));
            }
        }
        named.sort_unstable();
        let entries = named.iter().map(|(_, number)| *number).collect();
        let labels = match archive.index_for_name(LABELS) {
            None => None,
            Some(number) => {
                let origin = member_path(path, LABELS);
                let text = read_entry(&archive, number, &origin, MAX_LABELS_BYTES)?;
                let parsed: Labels = serde_json::from_slice(&text)
                    .map_err(|error| DataError::damaged(&origin, None, error.to_string()))?;
                parsed.labels.map(|labels| {
                    let by_name: HashMap<String, Label> = labels.into_iter().collect();
                    let label = |name: &str| by_name.get(name)?.0;
                    named.iter().map(|(name, _)| label(name)).collect()
                })
            }
        };
        Ok(Self { path: path.into(), entries, labels, archive })
    }

    fn name(&self, index: u64) -> PathBuf {
        let name = self.archive.name_for_index(self.entries[index as usize]).and_then(Result::ok);
        member_path(&self.path, &name.unwrap_or_default())
    }
}

impl PictureSet for ZippedImages {
    fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    fn picture(&self, index: u64) -> Result<Picture, DataError> {
        let origin = self.name(index);
        let bytes = read_entry(&self.archive, self.entries[index as usize], &origin, MAX_FILE_BYTES)?;
        Picture::decode(&bytes, &origin, None)
    }

    fn place(&self, index: u64) -> Place<'_> {
        Place { path: self.name(index).into(), offset: None }
    }

    fn label(&self, index: u64) -> Option<u32> {
        *self.labels.as_ref()?.get(index as usize)?
    }

    fn description(&self) -> String {
        format!("{} images from {}, {DECODING}", self.entries.len(), self.path.display())
    }
}

/// Unpacks an entry; its checksum is checked on the way.
fn read_entry(
    archive: &ZipArchive<FileCursor>,
    number: usize,
    origin: &Path,
    limit: u64,
) -> Result<Vec<u8>, DataError> {
    // The clone has the table of contents in common and a position of its own.
    let mut archive = archive.clone();
    let entry = archive.by_index(number).map_err(|e| zip_error(origin, e))?;
    read_all(&mut Bounded::new(entry, limit), origin)
}

fn zip_error(path: &Path, error: ZipError) -> DataError {
    match error {
        ZipError::Io(error) => content_error(path, None, error),
        other => DataError::damaged(path, None, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_are_no_classes_are_passed_over() {
        let text = r#"{"labels": [["a", 7], ["b", [0.5, {"x": []}]], ["c", {"k": 1}], ["d", -1], ["e", null], ["f", "g"],
            ["h", 4294967296], ["i", 0.5], ["j", true]], "more": 1}"#;
        let labels = serde_json::from_str::<Labels>(text).unwrap().labels.unwrap();
        let classes: Vec<Option<u32>> = labels.into_iter().map(|(_, label)| label.0).collect();
        assert_eq!(classes, [Some(7), None, None, None, None, None, None, None, None]);
        assert!(serde_json::from_str::<Labels>(r#"{"labels": null}"#).unwrap().labels.is_none());
    }
}
