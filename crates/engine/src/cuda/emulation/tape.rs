//! Recordings of the emulated device: work that is kept instead of done, and done when it is replayed.

use crate::cuda::device::Recording;
use crate::cuda::error::CudaError;
use std::sync::{Arc, Mutex, PoisonError};

type Work = Box<dyn Fn() -> Result<(), CudaError> + Send>;

/// Where work goes: it is done at once, or kept while something is recorded.
#[derive(Clone, Default)]
pub(super) struct Tape(Arc<Mutex<Option<Vec<Work>>>>);

impl Tape {
    /// Does work or keeps it.
    pub fn take(&self, work: impl Fn() -> Result<(), CudaError> + Send + 'static) -> Result<(), CudaError> {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *recorded {
            Some(recorded) => recorded.push(Box::new(work)),
            None => {
                drop(recorded);
                work()?;
            }
        }
        Ok(())
    }

    /// Refuses what a device cannot do while it records.
    pub fn refuse(&self, call: &'static str) -> Result<(), CudaError> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Err(CudaError::Call { call, status: "not while something is recorded".to_owned() }),
            None => Ok(()),
        }
    }

    pub fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    pub fn end(&self) -> Option<Box<dyn Recording>> {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        recorded.map(|recorded| Box::new(Recorded(recorded)) as Box<dyn Recording>)
    }
}

struct Recorded(Vec<Work>);

impl Recording for Recorded {
    fn replay(&self) -> Result<(), CudaError> {
        self.0.iter().try_for_each(|work| work())
    }
}
