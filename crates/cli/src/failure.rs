//! Why a command did not do what it was asked, and the exit status that says so.

use serde_json::{Value, json};
use std::fmt;

/// What a command ends with when it did not finish.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    /// 1 the work failed, 2 the call or the input was wrong, 130 and 143 stopped by a signal.
    pub status: u8,
    /// What, where, and what to do.
    pub message: String,
    /// The same for programs.
    pub json: Value,
}

impl Failure {
    /// The call or the input was wrong.
    pub fn input(error: impl fmt::Display) -> Self {
        Self::new(2, error)
    }

    /// The work failed.
    pub fn work(error: impl fmt::Display) -> Self {
        Self::new(1, error)
    }

    /// A signal stopped the work; `json` says what was done until then.
    pub fn stopped(status: u8, message: impl fmt::Display, json: Value) -> Self {
        Self { status, message: message.to_string(), json }
    }

    fn new(status: u8, error: impl fmt::Display) -> Self {
        let message = error.to_string();
        let json = json!({ "error": message, "status": status });
        Self { status, message, json }
    }
}
