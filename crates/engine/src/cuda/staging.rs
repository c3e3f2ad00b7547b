//! Memory of the host that a device copies by itself ("pinned"): a large copy from any other is made twice by the driver, on
//! one thread, and holds up the queue.

use super::device::{Address, Fill, Take};
use super::error::CudaError;
use super::nvidia::{cannot_start, failed};
use super::transfer::parts;
use cudarc::driver::{CudaContext, result, sys};
use std::ffi::c_void;
use std::sync::Arc;

/// What crosses at once.
const BYTES: usize = 4 << 20;
/// Up to here the driver takes a copy at once and sends it along with the call.
const SMALL: usize = 1 << 14;

/// The memory, and when what is in it has been copied.
pub(super) struct Staging {
    memory: *mut c_void,
    copied: sys::CUevent,
    context: Arc<CudaContext>,
}

impl Staging {
    /// Takes the memory; the context must be current.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, CudaError> {
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let copied = result::event::create(flags).map_err(cannot_start("cuEventCreate"))?;
        let mut staging = Self { memory: std::ptr::null_mut(), copied, context: context.clone() };
        // SAFETY: it is freed once, when this is dropped.
        staging.memory = unsafe { result::malloc_host(BYTES, 0) }.map_err(cannot_start("cuMemHostAlloc"))?;
        // SAFETY: there are so many bytes; from now on they hold something.
        unsafe { staging.memory.cast::<u8>().write_bytes(0, BYTES) };
        Ok(staging)
    }

    /// As `Device::upload`.
    ///
    /// # Safety
    /// There is memory for it; the stream is of this context, which is current.
    pub unsafe fn upload(
        &mut self,
        stream: sys::CUstream,
        to: Address,
        bytes: usize,
        fill: &Fill,
    ) -> Result<(), CudaError> {
        let copy = |to, data: &[u8]| {
            // SAFETY: there is memory for it, as the caller says; `data` is either ordinary memory, which has been read when
            // the call returns, or stays as it is until the event.
            unsafe { result::memcpy_htod_async(to, data, stream) }.map_err(failed("cuMemcpyHtoDAsync"))
        };
        if bytes <= SMALL {
            let mut data = vec![0; bytes];
            fill(0, &mut data);
            return copy(to, &data);
        }
        for part in parts(bytes, BYTES) {
            // SAFETY: the event is there; if nothing has been recorded there is nothing to wait for.
            unsafe { result::event::synchronize(self.copied) }.map_err(failed("cuEventSynchronize"))?;
            let data = &mut self.bytes()[..part.len()];
            fill(part.start, data);
            copy(to + part.start as Address, data)?;
            // SAFETY: the event and the stream are there.
            unsafe { result::event::record(self.copied, stream) }.map_err(failed("cuEventRecord"))?;
        }
        Ok(())
    }

    /// As `Device::download`.
    ///
    /// # Safety
    /// The memory is there; the stream is of this context, which is current.
    pub unsafe fn download(
        &mut self,
        stream: sys::CUstream,
        from: Address,
        bytes: usize,
        take: &mut Take,
    ) -> Result<(), CudaError> {
        for part in parts(bytes, BYTES) {
            let data = &mut self.bytes()[..part.len()];
            // SAFETY: the memory is there, as the caller says. What was uploaded from here before is copied first, and
            // nothing is read before the copy is done.
            unsafe { result::memcpy_dtoh_async(data, from + part.start as Address, stream) }
                .map_err(failed("cuMemcpyDtoHAsync"))?;
            // SAFETY: the stream is there.
            unsafe { result::stream::synchronize(stream) }.map_err(failed("cuStreamSynchronize"))?;
            take(part.start, data);
        }
        Ok(())
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: there are so many, and they were written when they were taken.
        unsafe { std::slice::from_raw_parts_mut(self.memory.cast(), BYTES) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_err() {
            return;
        }
        // SAFETY: both are from `new`, and given back once. The device may still be copying what was sent last. Nothing
        // could be done about a failure.
        unsafe {
            let _ = result::ctx::synchronize();
            if !self.memory.is_null() {
                let _ = result::free_host(self.memory);
            }
            let _ = result::event::destroy(self.copied);
        }
    }
}
