//! What a command has to say when it is done.

use crate::failure::Failure;
use serde_json::Value;
use std::io::{ErrorKind, Write};

/// A result, in words and as JSON.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    words: String,
    json: Value,
}

impl Report {
    /// A result in `words` (lines) and as the object `json`.
    pub fn new(words: impl Into<String>, json: Value) -> Self {
        Self { words: words.into(), json }
    }

    /// Writes the words, or the object, to standard output.
    ///
    /// # Errors
    /// If standard output cannot be written. A reader that has gone (`| head`) is none.
    pub fn print(&self, json: bool) -> Result<(), Failure> {
        let text = if json { self.json.to_string() } else { self.words.trim_end().to_owned() };
        if text.is_empty() {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::work(format!("cannot write to standard output: {error}")))
            }
            _ => Ok(()),
        }
    }
}
