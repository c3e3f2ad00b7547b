//! How many images of a source are taken, and whether it has them.

use crate::failure::Failure;
use data::ImageSource;
use std::fmt::Display;

/// How many images there are; `None` if they have no end.
pub fn available(source: &dyn ImageSource) -> Option<u64> {
    (!source.is_endless()).then(|| source.len())
}

/// `wanted` images of `source`, which the call names `name`, asked for by the option `option`.
///
/// # Errors
/// If there are fewer.
pub fn at_most(
    option: &str,
    wanted: u64,
    name: &dyn Display,
    source: &dyn ImageSource,
) -> Result<u64, Failure> {
    match available(source) {
        Some(all) if wanted > all => {
            Err(Failure::input(format!("{option} {wanted}: {name} has only {all} images")))
        }
        _ => Ok(wanted),
    }
}

/// As [`at_most`]; all images if the option was not given.
///
/// # Errors
/// If there are fewer, or all are wanted of a source without end.
pub fn or_all(
    option: &str,
    wanted: Option<u64>,
    name: &dyn Display,
    source: &dyn ImageSource,
) -> Result<u64, Failure> {
    match (wanted, available(source)) {
        (Some(wanted), _) => at_most(option, wanted, name, source),
        (None, Some(all)) => Ok(all),
        (None, None) => Err(Failure::input(format!("{name} has no end: say how many images by {option}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::{ImageOptions, MemoryImages, SourceSpec, open};
    use engine::ImageShape;

    #[test]
    fn a_source_gives_what_it_has() {
        let name = "shapes32";
        let spec: SourceSpec = name.parse().unwrap_or_else(|error| panic!("{error}"));
        let endless = open(&spec, &ImageOptions::default()).unwrap_or_else(|error| panic!("{error}"));
        let refused = |count: Result<u64, Failure>| count.map_err(|failure| failure.message);
        assert_eq!(refused(or_all("--n", Some(u64::MAX), &name, &*endless)), Ok(u64::MAX));
        let words = "shapes32 has no end: say how many images by --n";
        assert_eq!(refused(or_all("--n", None, &name, &*endless)), Err(words.into()));
        let images = (0..3).map(|_| [0; 4]);
        let three =
            MemoryImages::new(ImageShape::new(2, 2, 1), images).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(refused(or_all("--n", None, &name, &three)), Ok(3));
        assert_eq!(refused(at_most("--n", 3, &name, &three)), Ok(3));
        let words = "--n 4: shapes32 has only 3 images";
        assert_eq!(refused(or_all("--n", Some(4), &name, &three)), Err(words.into()));
    }
}
