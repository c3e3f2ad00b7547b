//! Convolutions by cuDNN, NHWC, through its graph API: what it takes, the plan for each, its execution.

mod descriptor;
mod plan;

use super::convolution::Direction;
use super::device::{Address, Convolved, Support};
use super::error::CudaError;
use super::kernels::Convolution;
use crate::hardware::{Algorithms, Precision};
use crate::kernel::Storage;
use cudarc::cudnn::{result, sys};
use cudarc::driver;
use plan::{Plan, Planner, Target, Tensors};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::time::{Duration, Instant};

/// A handle, and what was found out about each convolution.
pub(super) struct Cudnn {
    handle: sys::cudnnHandle_t,
    stream: *mut c_void,
    precision: Precision,
    algorithms: Algorithms,
    /// `None` where no engine will do.
    plans: RefCell<HashMap<(Direction, Convolution), Option<Plan>>>,
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        self.plans.borrow_mut().clear();
        // SAFETY: it was created, and is destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Cudnn {
    /// # Safety
    /// A context is current, `stream` is one of its.
    pub unsafe fn new(
        stream: *mut c_void,
        precision: Precision,
        algorithms: Algorithms,
    ) -> Result<Self, CudaError> {
        let handle = result::create_handle().map_err(failed("cudnnCreate"))?;
        let cudnn = Self { handle, stream, precision, algorithms, plans: RefCell::default() };
        // SAFETY: as the caller says.
        unsafe { result::set_stream(handle, stream.cast()) }.map_err(failed("cudnnSetStream"))?;
        Ok(cudnn)
    }

    /// What cuDNN does for a convolution and needs for it, `None` if it has no engine that will do.
    pub fn support(&self, direction: Direction, geometry: &Convolution) -> Option<Support> {
        let mut plans = self.plans.borrow_mut();
        let plan = plans.entry((direction, *geometry)).or_insert_with(|| self.plan(direction, geometry));
        plan.as_ref().map(|plan| Support { workspace: plan.workspace, adds_bias: plan.adds_bias })
    }

    /// The plan for a convolution. What cuDNN does not take, whatever its reason, is computed by our own kernels.
    fn plan(&self, direction: Direction, geometry: &Convolution) -> Option<Plan> {
        /// Plans that are timed.
        const TIMED: usize = 12;
        let Self { handle, precision, algorithms, .. } = *self;
        let planner = Planner { target: Target::Handle(handle), precision, algorithms };
        let most = if algorithms == Algorithms::Fastest { TIMED } else { 1 };
        let plans = |with_bias| planner.plans(direction, geometry, with_bias, most).unwrap_or_default();
        let mut plans = match direction {
            Direction::Forward => Some(plans(true)).filter(|found| !found.is_empty()),
            _ => None,
        }
        .unwrap_or_else(|| plans(false));
        if plans.len() > 1 {
            let fastest = self.fastest(&plans, geometry).unwrap_or(0);
            return Some(plans.swap_remove(fastest));
        }
        plans.pop()
    }

    /// Which plan takes least time; `None` if there is no memory to find out.
    fn fastest(&self, plans: &[Plan], geometry: &Convolution) -> Option<usize> {
        let width = match self.precision.storage() {
            Storage::F32 => 4,
            Storage::Bf16 => 2,
        };
        let lens = [
            geometry.x().len() * width,
            geometry.filter_len() * width,
            geometry.y().len() * width,
            geometry.output as usize * width,
            plans.iter().map(|plan| plan.workspace).max()?,
        ];
        let mut memory = Vec::with_capacity(lens.len());
        for len in lens {
            memory.push(Memory::new(len, self.stream)?);
        }
        let [x, w, y, bias, workspace] = [0, 1, 2, 3, 4].map(|index| memory[index].0 as *mut c_void);
        let tensors = Tensors { x, w, y, bias };
        let times = plans.iter().map(|plan| self.time(plan, tensors, workspace).unwrap_or(Duration::MAX));
        times.enumerate().min_by_key(|&(_, time)| time).map(|(index, _)| index)
    }

    /// How long a plan takes.
    fn time(&self, plan: &Plan, tensors: Tensors, workspace: *mut c_void) -> Option<Duration> {
        const REPEATS: u32 = 10;
        // SAFETY: the stream is there; the tensors have the plan's sizes.
        let run = || unsafe { plan.execute(self.handle, tensors, workspace).ok() };
        // SAFETY: as above.
        let wait = || unsafe { driver::result::stream::synchronize(self.stream.cast()).ok() };
        // The first loads code.
        run()?;
        wait()?;
        let start = Instant::now();
        for _ in 0..REPEATS {
            run()?;
        }
        wait()?;
        Some(start.elapsed())
    }

    /// Computes a convolution that [`Self::support`] took.
    ///
    /// # Safety
    /// The tensors have the geometry's shapes, the workspace its size.
    pub unsafe fn convolve(
        &self,
        direction: Direction,
        geometry: &Convolution,
        convolved: Convolved,
        workspace: Address,
    ) -> Result<(), CudaError> {
        let plans = self.plans.borrow();
        let Some(Some(plan)) = plans.get(&(direction, *geometry)) else {
            return Err(CudaError::Call { call: "a convolution", status: "no plan".to_owned() });
        };
        let Convolved { x, w, y, bias } = convolved;
        let [x, w, y, bias] = [x, w, y, bias].map(|address| address as *mut c_void);
        // SAFETY: as the caller says.
        unsafe { plan.execute(self.handle, Tensors { x, w, y, bias }, workspace as *mut c_void) }
            .map_err(failed("cudnnBackendExecute"))
    }
}

/// Memory for a while, full of small numbers.
struct Memory(Address);

impl Memory {
    fn new(bytes: usize, stream: *mut c_void) -> Option<Self> {
        /// Of it consist 0.046 in `f32` and in bf16.
        const BYTE: u8 = 0x3D;
        // SAFETY: a context is current; the memory is this one's.
        unsafe {
            let memory = Self(driver::result::malloc_sync(bytes.max(1)).ok()?);
            driver::result::memset_d8_async(memory.0, BYTE, bytes.max(1), stream.cast()).ok()?;
            Some(memory)
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated, and is freed once; what uses it has been waited for.
        let _ = unsafe { driver::result::free_sync(self.0) };
    }
}

fn failed(call: &'static str) -> impl Fn(result::CudnnError) -> CudaError {
    move |error| CudaError::Call { call, status: format!("{:?}", error.0) }
}
