//! How far long work is, told to whoever waits for it.

use crate::error::CodecError;
use std::ops::ControlFlow;

/// Called often with (done, total) in units of the work; breaks to stop it.
pub type Watch<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Takes an image, given by its number and its elements; refuses to end the work.
pub type Take<'a, T> = &'a mut dyn FnMut(usize, &[T]) -> Result<(), CodecError>;

/// The state that a [`Watch`] is told.
pub(crate) struct Progress<'a> {
    watch: Watch<'a>,
    done: u64,
    total: u64,
}

impl<'a> Progress<'a> {
    /// Work of unknown length.
    pub fn new(watch: Watch<'a>) -> Self {
        Self { watch, done: 0, total: 0 }
    }

    /// Says how much there is to do.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
    }

    /// Says how much is done, which may be less than before.
    pub fn set_done(&mut self, done: u64) {
        self.done = done;
    }

    /// Tells, and passes on the answer.
    pub fn tell(&mut self) -> ControlFlow<()> {
        (self.watch)(self.done, self.total)
    }

    /// Notes that so much more is done.
    pub fn add(&mut self, done: u64) {
        self.done += done;
    }

    /// Tells, and asks whether to go on.
    ///
    /// # Errors
    /// [`CodecError::Stopped`].
    pub fn proceed(&mut self) -> Result<(), CodecError> {
        match self.tell() {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CodecError::Stopped),
        }
    }
}
