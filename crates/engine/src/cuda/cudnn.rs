//! Convolutions by cuDNN, NHWC, with deterministic algorithms only.

use super::convolution::Direction;
use super::device::Address;
use super::error::CudaError;
use super::kernels::Convolution;
use crate::hardware::Precision;
use cudarc::cudnn::{result, sys};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};

/// Bytes of workspace that an algorithm may want.
const MOST_WORKSPACE: usize = 1 << 30;

/// An algorithm of one of the three directions.
#[derive(Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    InputGradient(sys::cudnnConvolutionBwdDataAlgo_t),
    WeightGradient(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// Descriptors of a convolution's tensors, destroyed with it.
struct Descriptors {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    filter: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: they were created, and are destroyed once. Nothing could be done about a failure.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.x);
            let _ = result::destroy_tensor_descriptor(self.y);
            let _ = result::destroy_filter_descriptor(self.filter);
            let _ = result::destroy_convolution_descriptor(self.convolution);
        }
    }
}

struct Plan {
    descriptors: Descriptors,
    algorithm: Algorithm,
    workspace: usize,
}

/// A handle, and what was found out about each convolution.
pub(super) struct Cudnn {
    handle: sys::cudnnHandle_t,
    precision: Precision,
    /// `None` where no algorithm will do.
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
    pub unsafe fn new(stream: *mut c_void, precision: Precision) -> Result<Self, CudaError> {
        let handle = result::create_handle().map_err(failed("cudnnCreate"))?;
        let cudnn = Self { handle, precision, plans: RefCell::default() };
        // SAFETY: as the caller says.
        unsafe { result::set_stream(handle, stream.cast()) }.map_err(failed("cudnnSetStream"))?;
        Ok(cudnn)
    }

    /// The workspace of a convolution, `None` if cuDNN has no deterministic algorithm for it.
    pub fn workspace(&self, direction: Direction, geometry: &Convolution) -> Option<usize> {
        let mut plans = self.plans.borrow_mut();
        let plan = plans
            .entry((direction, *geometry))
            // What cuDNN does not take, whatever its reason, is computed by our own kernels.
            .or_insert_with(|| self.plan(direction, geometry).ok().flatten());
        plan.as_ref().map(|plan| plan.workspace)
    }

    fn plan(&self, direction: Direction, geometry: &Convolution) -> Result<Option<Plan>, result::CudnnError> {
        let descriptors = self.describe(geometry)?;
        let Descriptors { x, y, filter, convolution } = descriptors;
        let handle = self.handle;
        // SAFETY: the descriptors are set; there is room for the results asked for; those returned are set.
        unsafe {
            let (algorithm, math) = match direction {
                Direction::Forward => {
                    let found = search(|most, found, out| {
                        result::get_convolution_forward_algorithm(
                            handle,
                            x,
                            filter,
                            convolution,
                            y,
                            most,
                            found,
                            out,
                        )
                    })?;
                    let best = found
                        .iter()
                        .find(|perf| self.accepts(perf.status, perf.determinism, perf.mathType, perf.memory));
                    let Some(best) = best else { return Ok(None) };
                    (Algorithm::Forward(best.algo), best.mathType)
                }
                Direction::InputGradient => {
                    let found = search(|most, found, out| {
                        result::get_convolution_backward_data_algorithm(
                            handle,
                            filter,
                            y,
                            convolution,
                            x,
                            most,
                            found,
                            out,
                        )
                    })?;
                    let best = found
                        .iter()
                        .find(|perf| self.accepts(perf.status, perf.determinism, perf.mathType, perf.memory));
                    let Some(best) = best else { return Ok(None) };
                    (Algorithm::InputGradient(best.algo), best.mathType)
                }
                Direction::WeightGradient => {
                    let found = search(|most, found, out| {
                        result::get_convolution_backward_filter_algorithm(
                            handle,
                            x,
                            y,
                            convolution,
                            filter,
                            most,
                            found,
                            out,
                        )
                    })?;
                    let best = found
                        .iter()
                        .find(|perf| self.accepts(perf.status, perf.determinism, perf.mathType, perf.memory));
                    let Some(best) = best else { return Ok(None) };
                    (Algorithm::WeightGradient(best.algo), best.mathType)
                }
            };
            // What may use tensor cores would, of floats.
            let math = if self.precision == Precision::F32 { self.math() } else { math };
            result::set_convolution_math_type(convolution, math)?;
            let workspace = match algorithm {
                Algorithm::Forward(algo) => {
                    result::get_convolution_forward_workspace_size(handle, x, filter, convolution, y, algo)?
                }
                Algorithm::InputGradient(algo) => result::get_convolution_backward_data_workspace_size(
                    handle,
                    filter,
                    y,
                    convolution,
                    x,
                    algo,
                )?,
                Algorithm::WeightGradient(algo) => result::get_convolution_backward_filter_workspace_size(
                    handle,
                    x,
                    y,
                    convolution,
                    filter,
                    algo,
                )?,
            };
            Ok(Some(Plan { descriptors, algorithm, workspace }))
        }
    }

    fn accepts(
        &self,
        status: sys::cudnnStatus_t,
        determinism: sys::cudnnDeterminism_t,
        math: sys::cudnnMathType_t,
        memory: usize,
    ) -> bool {
        let exact =
            matches!(math, sys::cudnnMathType_t::CUDNN_FMA_MATH | sys::cudnnMathType_t::CUDNN_DEFAULT_MATH);
        // Factors are never rounded further than the precision says.
        let halves = math == sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION;
        status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
            && determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
            && memory <= MOST_WORKSPACE
            && !halves
            && (exact || self.precision != Precision::F32)
    }

    /// The math that the heuristics are to look for.
    fn math(&self) -> sys::cudnnMathType_t {
        match self.precision {
            Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            Precision::Tf32 | Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        }
    }

    fn describe(&self, g: &Convolution) -> Result<Descriptors, result::CudnnError> {
        const FLOAT: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        const NHWC: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let elements = match self.precision {
            Precision::F32 | Precision::Tf32 => FLOAT,
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let sizes = |sizes: [u32; 4]| sizes.map(u32::cast_signed);
        let [top, left, stride] = [g.top, g.left, g.stride].map(u32::cast_signed);
        let descriptors = Descriptors {
            x: result::create_tensor_descriptor()?,
            y: result::create_tensor_descriptor()?,
            filter: result::create_filter_descriptor()?,
            convolution: result::create_convolution_descriptor()?,
        };
        // SAFETY: the descriptors were just created.
        unsafe {
            result::set_tensor4d_descriptor(
                descriptors.x,
                NHWC,
                elements,
                sizes([g.n, g.input, g.x_h, g.x_w]),
            )?;
            result::set_tensor4d_descriptor(
                descriptors.y,
                NHWC,
                elements,
                sizes([g.n, g.output, g.y_h, g.y_w]),
            )?;
            let filter = sizes([g.output, g.input, g.kernel_h, g.kernel_w]);
            result::set_filter4d_descriptor(descriptors.filter, elements, NHWC, filter)?;
            result::set_convolution2d_descriptor(
                descriptors.convolution,
                top,
                left,
                stride,
                stride,
                1,
                1,
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                FLOAT,
            )?;
            result::set_convolution_math_type(descriptors.convolution, self.math())?;
        }
        Ok(descriptors)
    }

    /// Computes a convolution that [`Self::workspace`] took.
    ///
    /// # Safety
    /// The tensors have the geometry's shapes, the workspace its size.
    pub unsafe fn convolve(
        &self,
        direction: Direction,
        geometry: &Convolution,
        [first, second]: [Address; 2],
        out: Address,
        workspace: Address,
    ) -> Result<(), CudaError> {
        let plans = self.plans.borrow();
        let Some(Some(plan)) = plans.get(&(direction, *geometry)) else {
            return Err(CudaError::Call { call: "a convolution", status: "no plan".to_owned() });
        };
        let (one, zero) = (1.0f32, 0.0f32);
        let (one, zero): (*const c_void, *const c_void) = ((&raw const one).cast(), (&raw const zero).cast());
        let (first, second) = (first as *const c_void, second as *const c_void);
        let (out, workspace) = (out as *mut c_void, workspace as *mut c_void);
        let Descriptors { x, y, filter, convolution } = plan.descriptors;
        let (handle, len) = (self.handle, plan.workspace);
        // SAFETY: as the caller says; the plan's descriptors are those of the geometry.
        unsafe {
            match plan.algorithm {
                Algorithm::Forward(algo) => result::convolution_forward(
                    handle,
                    one,
                    x,
                    first,
                    filter,
                    second,
                    convolution,
                    algo,
                    workspace,
                    len,
                    zero,
                    y,
                    out,
                )
                .map_err(failed("cudnnConvolutionForward")),
                Algorithm::InputGradient(algo) => result::convolution_backward_data(
                    handle,
                    one,
                    filter,
                    first,
                    y,
                    second,
                    convolution,
                    algo,
                    workspace,
                    len,
                    zero,
                    x,
                    out,
                )
                .map_err(failed("cudnnConvolutionBackwardData")),
                Algorithm::WeightGradient(algo) => result::convolution_backward_filter(
                    handle,
                    one,
                    x,
                    first,
                    y,
                    second,
                    convolution,
                    algo,
                    workspace,
                    len,
                    zero,
                    filter,
                    out,
                )
                .map_err(failed("cudnnConvolutionBackwardFilter")),
            }
        }
    }
}

/// The results of a heuristic, best first.
///
/// # Safety
/// `ask(most, found, out)` writes at most `most` results to `out`, and their number to `found`.
unsafe fn search<T>(
    ask: impl FnOnce(c_int, *mut c_int, *mut T) -> Result<(), result::CudnnError>,
) -> Result<Vec<T>, result::CudnnError> {
    const MOST: usize = 16;
    let mut results: Vec<T> = Vec::with_capacity(MOST);
    let mut found = 0;
    ask(MOST as c_int, &raw mut found, results.as_mut_ptr())?;
    let found = usize::try_from(found).unwrap_or(0).min(MOST);
    // SAFETY: so many were written, as the caller says.
    unsafe { results.set_len(found) };
    Ok(results)
}

fn failed(call: &'static str) -> impl Fn(result::CudnnError) -> CudaError {
    move |error| CudaError::Call { call, status: format!("{:?}", error.0) }
}
