//! Data sets in several files: which of a folder's files are meant.

use crate::{DataError, Split};
use std::path::{Path, PathBuf};

/// Words in file names that say which part of a set is in a file.
const PARTS: [&str; 5] = ["train", "test", "validation", "val", "eval"];

/// `path` itself if it is a file; of a folder the files that `is_shard` knows by name, in the order of their
/// names. Where names speak of parts (`cifar10-train.tfrecord-00000-of-00001`), those of `split`.
pub(crate) fn list(
    path: &Path,
    split: Split,
    is_shard: impl Fn(&str) -> bool,
    what: &str,
) -> Result<Vec<PathBuf>, DataError> {
    if !path.is_dir() {
        if !path.exists() {
            let what = "there is no such file or folder".into();
            let remedy = "give the data set's file or the folder of its files".into();
            return Err(DataError::Missing { path: path.into(), what, remedy });
        }
        return Ok(vec![path.into()]);
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| DataError::io(path, "listed", e))? {
        let entry = entry.map_err(|e| DataError::io(path, "listed", e))?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
            && is_shard(&name)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    if names.iter().any(|name| PARTS.iter().any(|part| has_word(name, part))) {
        names.retain(|name| has_word(name, &split.to_string()));
    }
    if names.is_empty() {
        let what = format!("no {what} of the {split} split is in the folder");
        let remedy = "give the folder that has them, or one file".into();
        return Err(DataError::Missing { path: path.into(), what, remedy });
    }
    Ok(names.into_iter().map(|name| path.join(name)).collect())
}

fn has_word(name: &str, word: &str) -> bool {
    name.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part.eq_ignore_ascii_case(word))
}

/// What a description says behind the first of `count` shards, which are called `what`.
pub(crate) fn and_more(count: usize, what: &str) -> String {
    match count {
        0 | 1 => String::new(),
        count => format!(" and {} more {what}", count - 1),
    }
}

/// The shard that image `index` is in, and its number there; `ends` are the running totals of images.
pub(crate) fn locate(ends: &[u64], index: u64) -> (usize, u64) {
    let shard = ends.partition_point(|&end| end <= index);
    let start = if shard == 0 { 0 } else { ends[shard - 1] };
    (shard, index - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_the_kind_and_the_split_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b-train-1.x", "a-train-0.x", "a-test.x", "a-train.y", ".hidden-train.x", "trainer.x"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names = |split| {
            let found = list(dir.path(), split, |name| name.ends_with(".x"), "shard");
            found.map(|paths| {
                paths.iter().map(|path| path.file_name().unwrap().to_owned()).collect::<Vec<_>>()
            })
        };
        assert_eq!(names(Split::Train).unwrap(), ["a-train-0.x", "b-train-1.x"]);
        assert_eq!(names(Split::Test).unwrap(), ["a-test.x"]);
        std::fs::remove_file(dir.path().join("a-test.x")).unwrap();
        assert!(names(Split::Test).unwrap_err().to_string().contains("test split"));
        let file = dir.path().join("a-train.y");
        assert_eq!(list(&file, Split::Test, |_| false, "shard").unwrap(), [file]);
    }

    #[test]
    fn images_are_counted_through_shards_that_may_be_empty() {
        let ends = [3, 3, 5];
        let places: Vec<_> = (0..5).map(|index| locate(&ends, index)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]);
    }
}
