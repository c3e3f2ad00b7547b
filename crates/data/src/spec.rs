//! The names of sources, `cifar10:DIR:test` and the like, and how they are opened.

use crate::{
    DataError, ImageOptions, ImageSource, array_file, cifar10, image_folder, lmdb, memory, mnist, parquet,
    shapes32, tar_shards, tfrecord, zip_archive,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Opens a source whose name has been understood.
type OpenSource = fn(&SourceSpec, &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError>;

/// A kind of source: its name, the form of its spec, and its reader.
#[derive(Debug)]
pub struct SourceKind {
    /// What stands before the colon.
    pub name: &'static str,
    /// The whole form (`mnist:DIR[:train|:test]`).
    pub form: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Whether a path follows the name.
    pub(crate) takes_path: bool,
    /// Whether `:train` or `:test` may end the spec.
    pub(crate) takes_split: bool,
    pub(crate) open: OpenSource,
}

/// All kinds of sources.
pub static SOURCE_KINDS: &[&SourceKind] = &[
    &cifar10::KIND,
    &mnist::KIND,
    &image_folder::KIND,
    &lmdb::KIND,
    &tfrecord::KIND,
    &parquet::KIND,
    &zip_archive::KIND,
    &tar_shards::KIND,
    &array_file::NPZ,
    &array_file::NPY,
    &shapes32::KIND,
    &memory::KIND,
];

/// The part of a published data set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Split {
    /// What models are trained on.
    #[default]
    Train,
    /// What is held out.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// Which source is meant: a kind, and where its files are. Reads from and writes to a string.
///
/// ```
/// use data::{SourceSpec, Split};
/// let spec: SourceSpec = "cifar10:data/cifar:test".parse()?;
/// assert_eq!(spec.path(), Some("data/cifar".as_ref()));
/// assert_eq!(spec.split(), Split::Test);
/// assert_eq!(spec.to_string(), "cifar10:data/cifar:test");
/// assert!("cifar100:data".parse::<SourceSpec>().is_err());
/// # Ok::<(), data::DataError>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceSpec {
    kind: &'static SourceKind,
    path: Option<PathBuf>,
    split: Option<Split>,
}

impl SourceSpec {
    /// The kind of source.
    pub fn kind(&self) -> &'static SourceKind {
        self.kind
    }

    /// The file or folder, for kinds that have one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The split; [`Split::Train`] where none was named.
    pub fn split(&self) -> Split {
        self.split.unwrap_or_default()
    }

    /// The split's name, of kinds that have splits: `train` or `test`.
    pub fn split_name(&self) -> Option<&'static str> {
        self.kind.takes_split.then(|| match self.split() {
            Split::Train => "train",
            Split::Test => "test",
        })
    }

    /// Both splits, if the kind has them and none was named; else this spec alone.
    pub fn splits(&self) -> Vec<Self> {
        if !self.kind.takes_split || self.split.is_some() {
            return vec![self.clone()];
        }
        vec![self.with_split(Split::Train), self.with_split(Split::Test)]
    }

    /// This source with the split `split`, whatever was named; of kinds without splits, the same source.
    pub fn with_split(&self, split: Split) -> Self {
        let split = if self.kind.takes_split { Some(split) } else { None };
        Self { split, ..self.clone() }
    }

    /// The same source with `path` made absolute or re-rooted by `change`.
    pub fn map_path(&self, change: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self { path: self.path.as_deref().map(change), ..self.clone() }
    }

    /// The path of a kind that takes one; parsing has seen to it that it is there.
    pub(crate) fn required_path(&self) -> Result<&Path, DataError> {
        self.path().ok_or_else(|| wrong(self.kind.name, "the path is missing", self.kind.form))
    }
}

impl PartialEq for SourceSpec {
    fn eq(&self, other: &Self) -> bool {
        self.kind.name == other.kind.name && self.path == other.path && self.split == other.split
    }
}

impl Eq for SourceSpec {}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name)?;
        if let Some(path) = &self.path {
            write!(f, ":{}", path.display())?;
        }
        if let Some(split) = &self.split {
            write!(f, ":{split}")?;
        }
        Ok(())
    }
}

fn wrong(spec: &str, what: impl Into<String>, form: &str) -> DataError {
    DataError::Spec { spec: spec.into(), what: what.into(), remedy: format!("the form is {form}") }
}

/// What may be meant by a spec that is the path of something, in words; else nothing.
fn meant(text: &str) -> String {
    let path = Path::new(text);
    let has = |extension: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
    let kind = match path.exists() {
        false => return String::new(),
        true if has("npz") => array_file::NPZ.name,
        true if has("npy") => array_file::NPY.name,
        true if has("parquet") => parquet::KIND.name,
        true if has("zip") => zip_archive::KIND.name,
        true => image_folder::KIND.name,
    };
    format!("did you mean {kind}:{text}? ")
}

impl FromStr for SourceSpec {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let (name, rest) = match text.split_once(':') {
            Some((name, rest)) => (name, Some(rest)),
            None => (text, None),
        };
        let Some(&kind) = SOURCE_KINDS.iter().find(|kind| kind.name == name) else {
            let forms: Vec<_> = SOURCE_KINDS.iter().map(|kind| kind.form).collect();
            return Err(DataError::Spec {
                spec: text.into(),
                what: format!("there is no kind of source called `{name}`"),
                remedy: format!("{}the kinds are {}", meant(text), forms.join(", ")),
            });
        };
        let Some(rest) = rest else {
            if kind.takes_path {
                return Err(wrong(text, "the path is missing", kind.form));
            }
            return Ok(Self { kind, path: None, split: None });
        };
        if !kind.takes_path {
            return Err(wrong(text, "nothing may follow the name", kind.form));
        }
        // Only a known split at the very end is cut off: paths may hold colons (`C:\data`).
        let (path, split) = match rest.rsplit_once(':') {
            Some((path, "train")) if kind.takes_split => (path, Some(Split::Train)),
            Some((path, "test")) if kind.takes_split => (path, Some(Split::Test)),
            _ => (rest, None),
        };
        if path.is_empty() {
            return Err(wrong(text, "the path is missing", kind.form));
        }
        Ok(Self { kind, path: Some(path.into()), split })
    }
}

impl TryFrom<String> for SourceSpec {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<SourceSpec> for String {
    fn from(spec: SourceSpec) -> Self {
        spec.to_string()
    }
}

/// Opens a source, its images in the shape that `options` ask for.
///
/// # Errors
/// If files are missing, unreadable or malformed, if there is no image, or for impossible `options`.
pub fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    options.validate()?;
    let source = (spec.kind.open)(spec, options)?;
    if source.is_empty() {
        return Err(DataError::Empty {
            origin: spec.to_string(),
            remedy: "give a source that has some".into(),
        });
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_survive_writing_and_reading() {
        for text in [
            "cifar10:data",
            "cifar10:a/b:train",
            "cifar10:C:\\data:test",
            "mnist:m:test",
            "images:photos",
            "images:photos:test",
            "shapes32",
        ] {
            let spec: SourceSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
            assert_eq!(spec.to_string().parse::<SourceSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn a_split_is_cut_off_only_where_there_are_splits() {
        let spec: SourceSpec = "images:photos:test".parse().unwrap();
        assert_eq!(spec.path(), Some(Path::new("photos:test")));
        let spec: SourceSpec = "mnist:C:\\m".parse().unwrap();
        assert_eq!((spec.path(), spec.split()), (Some(Path::new("C:\\m")), Split::Train));
    }

    #[test]
    fn both_splits_are_meant_where_none_is_named() {
        let splits = |text: &str| -> Vec<String> {
            text.parse::<SourceSpec>().unwrap().splits().iter().map(ToString::to_string).collect()
        };
        assert_eq!(splits("mnist:m"), ["mnist:m:train", "mnist:m:test"]);
        assert_eq!(splits("mnist:m:test"), ["mnist:m:test"]);
        assert_eq!(splits("images:photos"), ["images:photos"]);
        assert_eq!(splits("shapes32"), ["shapes32"]);
        let test = |text: &str| text.parse::<SourceSpec>().unwrap().with_split(Split::Test).to_string();
        assert_eq!((test("mnist:m:train"), test("shapes32")), ("mnist:m:test".into(), "shapes32".into()));
        let name = |text: &str| text.parse::<SourceSpec>().unwrap().split_name();
        assert_eq!(
            (name("mnist:m:test"), name("mnist:m"), name("shapes32")),
            (Some("test"), Some("train"), None)
        );
    }

    #[test]
    fn wrong_specs_say_what_would_be_right() {
        for (text, hint) in [
            ("cifar", "cifar10:DIR[:train|:test]"),
            ("", "shapes32"),
            ("cifar10", "cifar10:DIR"),
            ("cifar10:", "the path is missing"),
            ("mnist::test", "the path is missing"),
            ("shapes32:x", "nothing may follow"),
        ] {
            let message = text.parse::<SourceSpec>().unwrap_err().to_string();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }

    #[test]
    fn a_path_without_a_kind_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| path.to_str().unwrap().parse::<SourceSpec>().unwrap_err().to_string();
        assert!(!message(&dir.path().join("nothing")).contains("did you mean"));
        let folder = dir.path().to_str().unwrap();
        assert!(message(dir.path()).contains(&format!("did you mean images:{folder}?")));
        let archive = dir.path().join("a.ZIP");
        std::fs::write(&archive, "").unwrap();
        assert!(message(&archive).contains(&format!("did you mean zip:{}?", archive.display())));
    }

    #[test]
    fn impossible_options_are_refused() {
        let spec: SourceSpec = "shapes32".parse().unwrap();
        for options in [
            ImageOptions { size: Some(0), ..Default::default() },
            ImageOptions { size: Some(100_000), ..Default::default() },
            ImageOptions { channels: Some(2), ..Default::default() },
        ] {
            assert!(matches!(open(&spec, &options), Err(DataError::Option { .. })));
        }
    }
}
