//! JSON files: read with a bound on their size, and key by key so that none is overlooked.

use crate::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Longest JSON file read, in bytes: a scheduler with the β of the longest process fits.
const MAX_JSON_BYTES: u64 = 8 << 20;

/// Parses the JSON file at `path`.
///
/// # Errors
/// If it cannot be read, is longer than 8 MiB, or is not what `T` asks for.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let file = File::open(path).map_err(Error::read(path))?;
    let mut text = Vec::new();
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut text).map_err(Error::read(path))?;
    if text.len() as u64 > MAX_JSON_BYTES {
        return Err(Error::damaged(
            path,
            format!("longer than {MAX_JSON_BYTES} bytes; not a file of a model"),
        ));
    }
    serde_json::from_slice(&text).map_err(|source| Error::damaged(path, format!("not as expected: {source}")))
}

/// The text of the JSON file `path` that holds `value`: indented, with a final newline.
pub(crate) fn text(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| Error::write(path)(error.into()))?;
    text.push(b'\n');
    Ok(text)
}

/// The keys of a configuration object, taken one by one; [`Fields::finish`] complains about those left over.
pub(crate) struct Fields {
    path: PathBuf,
    object: Map<String, Value>,
}

impl Fields {
    /// Reads the object in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), object: read(path)? })
    }

    /// The value of `key`, or `default` when it is left out.
    pub fn take(&mut self, key: &str, default: impl Into<Value>) -> Value {
        self.object.remove(key).unwrap_or_else(|| default.into())
    }

    /// The value of a key that has no default.
    pub fn required(&mut self, key: &str) -> Result<Value, Error> {
        let missing = || Error::MissingKey { path: self.path.clone(), key: key.to_owned() };
        self.object.remove(key).ok_or_else(missing)
    }

    /// Accepts `key` only with the value `supported`; left out, it has the value `default`.
    pub fn only(
        &mut self,
        key: &str,
        default: impl Into<Value>,
        supported: impl Into<Value>,
    ) -> Result<(), Error> {
        let (value, supported) = (self.take(key, default), supported.into());
        // 1 and 1.0 are one value here, two in JSON.
        let number = value.as_f64();
        if value == supported || (number.is_some() && number == supported.as_f64()) {
            return Ok(());
        }
        Err(self.unsupported(key, &value, format!("only {supported} is supported")))
    }

    /// A whole number in `range`, or the error that says so.
    pub fn integer(&self, key: &str, value: &Value, range: RangeInclusive<usize>) -> Result<usize, Error> {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let expected = format!("must be a whole number from {} to {}", range.start(), range.end());
            self.unsupported(key, value, expected)
        })
    }

    /// A finite number, or the error that says so.
    pub fn number(&self, key: &str, value: &Value) -> Result<f64, Error> {
        value.as_f64().ok_or_else(|| self.unsupported(key, value, "must be a number"))
    }

    /// A list, or the error that says so.
    pub fn list<'a>(&self, key: &str, value: &'a Value) -> Result<&'a [Value], Error> {
        let list = value.as_array().map(Vec::as_slice);
        list.ok_or_else(|| self.unsupported(key, value, "must be a list"))
    }

    /// The error for a value that is not supported.
    pub fn unsupported(&self, key: &str, value: &Value, supported: impl Into<String>) -> Error {
        Error::Unsupported {
            path: self.path.clone(),
            key: key.to_owned(),
            value: brief(value),
            supported: supported.into(),
        }
    }

    /// Complains about the first key that was not taken.
    ///
    /// Keys that begin with `_` are diffusers' bookkeeping, and a null means that the feature is not in use.
    pub fn finish(self) -> Result<(), Error> {
        let left = self.object.into_iter().find(|(key, value)| !key.starts_with('_') && !value.is_null());
        match left {
            None => Ok(()),
            Some((key, value)) => Err(Error::UnknownKey { path: self.path, key, value: brief(&value) }),
        }
    }
}

/// `value` as JSON, cut to what fits in a message.
pub(crate) fn brief(value: &Value) -> String {
    const MAX_CHARS: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
