//! The CUDA backend: NVIDIA's libraries for products, kernels of our own for the rest, everything loaded at run time.
//!
//! [`Cuda`] is the same backend over two devices (`device.rs`): a real GPU (`nvidia.rs`), and with the
//! feature `emulation` one that runs the kernels' source, compiled as C++, on the CPU. So launches, offsets
//! and kernels are tested without a GPU; cuDNN plans its convolutions for devices that are only described to
//! it, and the calls of all libraries go to a stand-in (`tests/fake_nvidia`).
//!
//! - `steps.rs`: each [`Kernel`] as launches. All are supported; what is too large is refused when a session is made.
//! - `convolution.rs`, `attention.rs`, `group_norm.rs`: those that take several.
//! - `kernels/*.cu`: the kernels, compiled at start for the device (`compiler.rs`). No sum uses atomics, so
//!   the same bits come out each time.
//! - `cudnn.rs`, `cublas.rs`: the libraries, by [`Algorithms`]. What they do not take goes to
//!   `kernels/product.cu`, and the report says so.
//! - `transfer.rs`, `staging.rs`: what crosses between host and device.
//! - `library.rs`: what is missing is found out before it is called.
//!
//! A list of steps that is run again is recorded as a CUDA graph in its second run, and replayed from then
//! on; what changes between runs (the seed and number of the first sample) lies in device memory.
//!
//! With [`Precision::Bf16`] activations and their gradients are bf16 in the same arena, which is planned for
//! half the words ([`Storage`]): the kernels are compiled with another `Element` (`kernels/prelude.cu`),
//! filters are brought to bf16 where they are prepared, from the `f32` weights. Arithmetic, sums, statistics,
//! parameters and their gradients stay `f32`.

mod attention;
mod bf16;
mod compiler;
mod convolution;
mod cublas;
mod cudnn;
mod device;
#[cfg(feature = "emulation")]
mod emulation;
mod error;
mod group_norm;
mod kernels;
mod library;
mod nvidia;
mod queue;
mod staging;
mod steps;
mod transfer;

pub use error::CudaError;

use crate::backend::{Backend, BackendError};
use crate::hardware::{Algorithms, Precision};
use crate::kernel::{Kernel, Run, Scratch, Slot, Step, Storage, View};
use crate::optimizer::AdamStep;
use crate::profile::Profile;
use crate::shape::Shape;
use device::{Address, Argument, Device, Recording};
use queue::{Queue, SLOTS, WORD, slot_index};
use std::cell::{Cell, RefCell};
use std::time::Instant;

/// What a [`Cuda`] is made with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CudaOptions {
    /// Number of the device, from 0.
    pub index: usize,
    /// How products are computed.
    pub precision: Precision,
    /// How the libraries' algorithms are chosen.
    pub algorithms: Algorithms,
    /// Whether our own kernels compute everything, for comparisons: slower.
    pub own_kernels: bool,
}

/// Blocks that share the gradient's norm: fixed, so that its sum has one order.
const NORM_BLOCKS: usize = 1024;
/// Bytes for the norm's parts and result, and for a run's numbers.
const NUMBERS: usize = (NORM_BLOCKS + 1) * size_of::<f64>() + size_of::<[u64; 2]>();

/// Memory of one slot.
#[derive(Clone, Copy, Default)]
struct Buffer {
    address: Address,
    len: usize,
}

/// Steps that have been run, and their recording once there is one.
struct Recorded {
    steps: Vec<Step>,
    prepare: bool,
    recording: Option<Box<dyn Recording>>,
}

/// An NVIDIA GPU as a backend.
pub struct Cuda {
    storage: Storage,
    // Recordings and memory are given back before the device goes.
    recorded: Vec<Recorded>,
    records: bool,
    /// Why steps are not recorded, where that was tried.
    not_recorded: Option<CudaError>,
    buffers: [Buffer; SLOTS],
    numbers: Address,
    /// Of the steps checked: all, and those left to our own kernels, which are slow.
    convolutions: Cell<[usize; 2]>,
    device: Box<dyn Device>,
    /// The first failure; nothing is done after it.
    failure: RefCell<Option<CudaError>>,
    profile: Option<Profile>,
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.recorded.clear();
        for address in self.buffers.iter().map(|buffer| buffer.address).chain([self.numbers]) {
            if address != 0 {
                // SAFETY: it is from `allocate`, and used no more.
                unsafe { self.device.free(address) };
            }
        }
    }
}

impl Cuda {
    /// The device that the options say.
    ///
    /// # Errors
    /// [`CudaError`]: there is no driver, library or device, or one is too old.
    pub fn new(options: CudaOptions) -> Result<Self, CudaError> {
        Self::on(Box::new(nvidia::Nvidia::new(options)?), options.precision)
    }

    /// No GPU, but the same kernels and launches on the CPU, slowly: for tests. Without `own_kernels`,
    /// products go the ways that they go to NVIDIA's libraries, to stand-ins.
    ///
    /// # Errors
    /// What the C++ compiler said.
    #[cfg(feature = "emulation")]
    pub fn emulated(options: CudaOptions) -> Result<Self, CudaError> {
        let CudaOptions { precision, own_kernels, .. } = options;
        Self::on(Box::new(emulation::Emulation::new(precision.storage(), !own_kernels)?), precision)
    }

    fn on(device: Box<dyn Device>, precision: Precision) -> Result<Self, CudaError> {
        let mut cuda = Self {
            storage: precision.storage(),
            recorded: Vec::new(),
            records: true,
            not_recorded: None,
            buffers: [Buffer::default(); SLOTS],
            numbers: 0,
            convolutions: Cell::default(),
            device,
            failure: RefCell::default(),
            profile: None,
        };
        cuda.numbers = cuda.memory(NUMBERS, "a run's numbers")?;
        Ok(cuda)
    }

    /// What device number `index` is, if all that is needed to use it is there.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn find(index: usize) -> Result<String, CudaError> {
        nvidia::Found::new(index).map(|found| found.description)
    }

    /// What the device is, for people.
    pub fn description(&self) -> String {
        self.device.description()
    }

    fn memory(&self, bytes: usize, what: &'static str) -> Result<Address, CudaError> {
        let address = self.device.allocate(bytes)?;
        address.ok_or_else(|| {
            let free = self.device.free_memory().unwrap_or(0);
            CudaError::OutOfMemory { bytes, free, what }
        })
    }

    /// The gradients of all parameters: the beginning of the arena.
    fn gradients(&self) -> Buffer {
        let len = self.buffers[slot_index(Slot::Params)].len;
        Buffer { len, ..self.buffers[slot_index(Slot::Grads)] }
    }

    fn queue(&self) -> Queue<'_> {
        Queue {
            device: &*self.device,
            storage: self.storage,
            slots: self.buffers.map(|buffer| buffer.address),
            run: self.run_numbers(),
        }
    }

    fn norm_result(&self) -> Address {
        self.numbers + (NORM_BLOCKS * size_of::<f64>()) as Address
    }

    fn run_numbers(&self) -> Address {
        self.norm_result() + size_of::<f64>() as Address
    }

    /// Does something unless the device has failed; keeps its failure.
    fn attempt<T>(&self, work: impl FnOnce(&Self) -> Result<T, CudaError>) -> Option<T> {
        if self.failure.borrow().is_some() {
            return None;
        }
        work(self).map_err(|error| *self.failure.borrow_mut() = Some(error)).ok()
    }

    /// Where a tensor lies, which lies within its slot.
    fn place(&self, view: View) -> Address {
        let buffer = self.buffers[slot_index(view.slot)];
        let words = view.storage.words(view.shape.len());
        assert!(view.offset + words <= buffer.len, "{view:?} is not in a slot of {}", buffer.len);
        self.queue().address(view)
    }

    fn launch_all(&self, steps: &[Step], prepare: bool) -> Result<(), CudaError> {
        let queue = self.queue();
        for step in steps {
            if prepare {
                queue.prepare_convolution(step)?;
            }
            queue.execute(step)?;
        }
        Ok(())
    }

    /// As [`Self::launch_all`], each step timed.
    fn launch_timed(&mut self, steps: &[Step], prepare: bool) -> Result<(), CudaError> {
        for step in steps {
            self.device.synchronize()?;
            let start = Instant::now();
            self.launch_all(std::slice::from_ref(step), prepare)?;
            self.device.synchronize()?;
            if let Some(profile) = &mut self.profile {
                profile.add(step, start.elapsed());
            }
        }
        Ok(())
    }

    fn run_steps(&mut self, steps: &[Step], run: &Run, prepare: bool) -> Result<(), CudaError> {
        let numbers = [run.seed, run.first_sample].map(u64::to_ne_bytes);
        let numbers = numbers.as_flattened();
        let fill = |byte: usize, part: &mut [u8]| part.copy_from_slice(&numbers[byte..byte + part.len()]);
        // SAFETY: there is room for the two numbers.
        unsafe { self.device.upload(self.run_numbers(), numbers.len(), &fill)? };
        if self.profile.is_some() {
            return self.launch_timed(steps, prepare);
        }
        if !self.records {
            return self.launch_all(steps, prepare);
        }
        let known = self.recorded.iter().position(|known| known.prepare == prepare && known.steps == steps);
        let Some(index) = known else {
            // The first run is an ordinary one: libraries load code and choose algorithms.
            self.recorded.push(Recorded { steps: steps.to_vec(), prepare, recording: None });
            return self.launch_all(steps, prepare);
        };
        if self.recorded[index].recording.is_none() {
            match self.record(steps, prepare) {
                Ok(recording) => self.recorded[index].recording = recording,
                // What cannot be recorded can still be run.
                Err(error) => self.not_recorded = Some(error),
            }
        }
        match &self.recorded[index].recording {
            Some(recording) => recording.replay(),
            None => {
                self.records = false;
                self.launch_all(steps, prepare)
            }
        }
    }

    /// A recording of the steps; `None` where there can be none.
    fn record(&self, steps: &[Step], prepare: bool) -> Result<Option<Box<dyn Recording>>, CudaError> {
        if !self.device.begin_recording()? {
            return Ok(None);
        }
        let launched = self.launch_all(steps, prepare);
        // It must end in any case.
        let recording = self.device.end_recording();
        launched?;
        recording
    }
}

impl Backend for Cuda {
    fn check(&self, steps: &[Step]) -> Result<(), BackendError> {
        steps.iter().try_for_each(|step| steps::check(step, self.storage))?;
        let libraries = self.device.libraries();
        let [mut all, mut own] = self.convolutions.get();
        for is_own in steps.iter().filter_map(|step| convolution::is_own(libraries, step)) {
            all += 1;
            own += usize::from(is_own);
        }
        self.convolutions.set([all, own]);
        Ok(())
    }

    fn failure(&self) -> Option<BackendError> {
        self.failure.borrow().clone().map(BackendError::Cuda)
    }

    fn storage(&self) -> Storage {
        self.storage
    }

    fn fuses_dropout(&self) -> bool {
        true
    }

    fn report(&self) -> Option<String> {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let arena = self.buffers[slot_index(Slot::Arena)].len * WORD;
        let all = self.buffers.iter().map(|buffer| buffer.len * WORD).sum::<usize>() + NUMBERS;
        let [convolutions, own] = self.convolutions.get();
        let slow = match own {
            0 => String::new(),
            own => format!(
                "; {own} of {convolutions} convolutions are left to kernels of our own, which are slow: cuDNN has none for them"
            ),
        };
        let launched = match &self.not_recorded {
            None => String::new(),
            Some(error) => format!("; steps are launched one by one, since they cannot be recorded: {error}"),
        };
        Some(format!(
            "{}, {} MiB of its memory taken: {} for activations and gradients in one arena, {} for parameters and what goes with them{slow}{launched}",
            self.device.description(),
            mib(all),
            mib(arena),
            mib(all - arena)
        ))
    }

    fn allocate(&mut self, slot: Slot, len: usize) -> Result<(), BackendError> {
        let what = slot.purpose();
        // What was recorded has the old addresses.
        self.recorded.clear();
        let old = std::mem::take(&mut self.buffers[slot_index(slot)]);
        if old.address != 0 {
            // SAFETY: it is from `allocate`, and used no more.
            unsafe { self.device.free(old.address) };
        }
        let bytes = len.max(1) * WORD;
        let address = self.memory(bytes, what)?;
        self.buffers[slot_index(slot)] = Buffer { address, len };
        // SAFETY: there are so many bytes.
        unsafe { self.device.clear(address, bytes)? };
        Ok(())
    }

    fn upload(&mut self, to: View, data: &[f32]) {
        assert_eq!(data.len(), to.shape.len());
        let (address, size) = (self.place(to), transfer::size(to.storage));
        let fill = |byte: usize, part: &mut [u8]| transfer::store(to.storage, data, byte / size, part);
        // SAFETY: `place` has made sure that they fit.
        self.attempt(|cuda| unsafe { cuda.device.upload(address, data.len() * size, &fill) });
    }

    fn download(&self, from: View, out: &mut [f32]) {
        assert_eq!(out.len(), from.shape.len());
        let (address, size) = (self.place(from), transfer::size(from.storage));
        let bytes = out.len() * size;
        let mut take = |byte: usize, part: &[u8]| transfer::restore(from.storage, part, byte / size, out);
        // SAFETY: `place` has made sure that they are there.
        let done = self.attempt(|cuda| unsafe { cuda.device.download(address, bytes, &mut take) });
        if done.is_none() {
            out.fill(f32::NAN);
        }
    }

    fn clear_gradients(&mut self) {
        let gradients = self.gradients();
        // SAFETY: there are so many bytes.
        self.attempt(|cuda| unsafe { cuda.device.clear(gradients.address, gradients.len * WORD) });
    }

    fn scratch(&self, kernel: &Kernel, inputs: &[Shape], outputs: &[Shape], _: bool) -> Scratch {
        steps::scratch(self.device.libraries(), self.storage, kernel, inputs, outputs)
    }

    fn prepare(&mut self, steps: &[Step]) {
        self.attempt(|cuda| {
            let queue = cuda.queue();
            steps.iter().try_for_each(|step| queue.prepare_convolution(step))
        });
    }

    fn run(&mut self, steps: &[Step], run: &Run, prepare: bool) {
        if self.failure.borrow().is_none()
            && let Err(error) = self.run_steps(steps, run, prepare)
        {
            *self.failure.borrow_mut() = Some(error);
        }
    }

    fn gradient_norm(&mut self) -> f64 {
        let gradients = self.gradients();
        let norm = self.attempt(|cuda| {
            let queue = cuda.queue();
            let parts = Argument::Address(cuda.numbers);
            queue.grid(
                "squares",
                [kernels::count(NORM_BLOCKS), 1, 1],
                &[Argument::Size(gradients.len), Argument::Address(gradients.address), parts],
            )?;
            queue.grid(
                "fold_squares",
                [1, 1, 1],
                &[Argument::U32(kernels::count(NORM_BLOCKS)), parts, Argument::Address(cuda.norm_result())],
            )?;
            let mut square = [0; size_of::<f64>()];
            let mut take = |byte: usize, part: &[u8]| square[byte..byte + part.len()].copy_from_slice(part);
            // SAFETY: the result is there.
            unsafe { cuda.device.download(cuda.norm_result(), size_of::<f64>(), &mut take)? };
            Ok(f64::from_ne_bytes(square).sqrt())
        });
        norm.unwrap_or(f64::NAN)
    }

    fn update(&mut self, step: &AdamStep, gradient_scale: f32, clears: bool) {
        let [_, params, first, second, ema] = self.buffers;
        let gradients = self.gradients();
        let (rate, root) = step.corrected();
        self.attempt(|cuda| {
            let numbers = [gradient_scale, step.beta1, step.beta2, rate, root, step.epsilon, step.ema_decay];
            let mut arguments = vec![Argument::Size(params.len)];
            arguments.extend(numbers.map(Argument::F32));
            arguments.push(Argument::U32(u32::from(clears)));
            arguments.extend(
                [gradients, params, first, second, ema].map(|buffer| Argument::Address(buffer.address)),
            );
            cuda.queue().spread("adam", params.len, &arguments)
        });
    }

    fn start_profile(&mut self) {
        self.profile = Some(Profile::default());
    }

    fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }
}
