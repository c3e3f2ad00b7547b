//! Plans of convolutions: what is computed as a graph of operations, the engines that cuDNN's heuristics name
//! for it, and those of them that compute it as precisely and as reproducibly as is wanted.

use super::descriptor::{Descriptor, Kind, Name};
use crate::cuda::convolution::Direction;
use crate::cuda::kernels::Convolution;
use crate::hardware::{Algorithms, Precision};
use crate::shape::Shape;
use cudarc::cudnn::result::CudnnError;
use cudarc::cudnn::sys;
use std::ffi::{c_int, c_void};

/// Bytes of workspace that a plan may want where no other wants less. In `f32` and NHWC some want copies of
/// the image.
const MOST_WORKSPACE: i64 = 2 << 30;
/// Bytes that it may want in any case.
const MODEST_WORKSPACE: usize = 128 << 20;
/// Bytes to which all tensors are aligned, at least.
const ALIGNMENT: i64 = 16;

/// The tensors' names in a graph: image, filter, result, bias, the result before the bias.
const X: i64 = 1;
const W: i64 = 2;
const Y: i64 = 3;
const BIAS: i64 = 4;
const BEFORE_BIAS: i64 = 5;

/// For which device plans are made.
pub(super) enum Target<'a> {
    /// The handle's.
    Handle(sys::cudnnHandle_t),
    /// One that is described: for tests, where there is none.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests need no device"))]
    Described(&'a Descriptor),
}

/// What plans are made by.
pub(super) struct Planner<'a> {
    pub target: Target<'a>,
    pub precision: Precision,
    pub algorithms: Algorithms,
}

/// A convolution that can be executed.
pub(super) struct Plan {
    execution: Descriptor,
    /// Bytes.
    pub workspace: usize,
    /// Whether it adds the bias.
    pub adds_bias: bool,
}

/// The addresses of a convolution's tensors.
#[derive(Clone, Copy)]
pub(super) struct Tensors {
    pub x: *mut c_void,
    pub w: *mut c_void,
    pub y: *mut c_void,
    pub bias: *mut c_void,
}

impl Plan {
    /// # Safety
    /// The tensors have the shapes that the plan was made for, the workspace its size.
    pub unsafe fn execute(
        &self,
        handle: sys::cudnnHandle_t,
        tensors: Tensors,
        workspace: *mut c_void,
    ) -> Result<(), CudnnError> {
        let Tensors { x, w, y, bias } = tensors;
        let count = if self.adds_bias { 4 } else { 3 };
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .integers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &[X, W, Y, BIAS][..count])?
            .addresses(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &[x, w, y, bias][..count])?
            .addresses(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace])?
            .finish()?;
        // SAFETY: as the caller says.
        unsafe { self.execution.execute(handle, &pack) }
    }
}

impl Planner<'_> {
    /// Plans for a convolution, those first that are expected to be fastest; at most `most`. `with_bias`:
    /// forward, the bias is added.
    pub fn plans(
        &self,
        direction: Direction,
        geometry: &Convolution,
        with_bias: bool,
        most: usize,
    ) -> Result<Vec<Plan>, CudnnError> {
        use sys::cudnnBackendHeurMode_t::{CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
        let graph = self.graph(direction, geometry, with_bias)?;
        let (mut plans, mut large) = (Vec::new(), Vec::new());
        for mode in [CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK] {
            // That a heuristic knows nothing may be an error of its own.
            for configuration in self.configurations(&graph, mode).unwrap_or_default() {
                if plans.len() == most {
                    return Ok(plans);
                }
                // What an engine does not take after all, the next may.
                let Ok(Some(plan)) = self.plan(&configuration, with_bias) else { continue };
                let list = if plan.workspace <= MODEST_WORKSPACE { &mut plans } else { &mut large };
                list.push(plan);
            }
        }
        large.truncate(most);
        Ok(if plans.is_empty() { large } else { plans })
    }

    fn configurations(
        &self,
        graph: &Descriptor,
        mode: sys::cudnnBackendHeurMode_t,
    ) -> Result<Vec<Descriptor>, CudnnError> {
        let heuristic = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
            .descriptors(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph])?
            .heuristic(Name::CUDNN_ATTR_ENGINEHEUR_MODE, mode)?;
        let heuristic = match self.target {
            Target::Handle(_) => heuristic,
            Target::Described(device) => {
                heuristic.descriptors(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[device])?
            }
        };
        heuristic
            .finish()?
            .parts(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
    }

    /// The plan of an engine, if it is one that will do.
    fn plan(&self, configuration: &Descriptor, adds_bias: bool) -> Result<Option<Plan>, CudnnError> {
        let engine =
            configuration.part(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        let numerical = engine.notes(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE)?;
        let behaviour = engine.notes(Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE)?;
        if !self.accepts(&numerical, &behaviour) {
            return Ok(None);
        }
        let execution = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[configuration])?;
        let execution = match self.target {
            Target::Handle(handle) => execution.handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)?,
            Target::Described(device) => {
                execution.descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[device])?
            }
        };
        let execution = execution.finish()?;
        let workspace = execution.integer(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        let fits = (0..=MOST_WORKSPACE).contains(&workspace);
        Ok(fits.then_some(Plan { execution, workspace: workspace as usize, adds_bias }))
    }

    /// Whether an engine with these notes computes as wanted.
    fn accepts(&self, numerical: &[c_int], behaviour: &[c_int]) -> bool {
        use sys::cudnnBackendBehaviorNote_t::CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
        use sys::cudnnBackendNumericalNote_t as Note;
        let has = |note: Note| numerical.contains(&(note as c_int));
        let rounds = has(Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)
            || has(Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION);
        let transforms = has(Note::CUDNN_NUMERICAL_NOTE_FFT) || has(Note::CUDNN_NUMERICAL_NOTE_WINOGRAD);
        let varies =
            has(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) && self.algorithms == Algorithms::Reproducible;
        // Of floats, they multiply tf32.
        let shortens = has(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE) && self.precision == Precision::F32;
        // Compiling takes seconds for each.
        let compiles = behaviour.contains(&(CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION as c_int));
        ![rounds, transforms, varies, shortens, compiles].contains(&true)
    }

    /// The graph of one convolution: forward perhaps with a bias after it.
    fn graph(
        &self,
        direction: Direction,
        g: &Convolution,
        with_bias: bool,
    ) -> Result<Descriptor, CudnnError> {
        let sizes = |shape: Shape| [shape.n, shape.c, shape.h, shape.w].map(|size| size as i64);
        let filter = [g.output, g.input, g.kernel_h, g.kernel_w].map(i64::from);
        let x = self.tensor(X, sizes(g.x()))?;
        let w = self.tensor(W, filter)?;
        let y = self.tensor(Y, sizes(g.y()))?;
        let convolution = convolution(g)?;
        let mut operations = Vec::with_capacity(2);
        if with_bias {
            let before = unfinished_tensor(BEFORE_BIAS, sizes(g.y()))?
                .data_type(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, sys::cudnnDataType_t::CUDNN_DATA_FLOAT)?
                .flag(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, true)?
                .finish()?;
            let bias = self.tensor(BIAS, [1, i64::from(g.output), 1, 1])?;
            operations.push(operation(Direction::Forward, &convolution, [&x, &w, &before])?);
            operations.push(sum(&before, &bias, &y)?);
        } else {
            operations.push(operation(direction, &convolution, [&x, &w, &y])?);
        }
        let operations: Vec<_> = operations.iter().collect();
        let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
            .descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operations)?;
        let graph = match self.target {
            Target::Handle(handle) => graph.handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle)?,
            Target::Described(_) => graph,
        };
        graph.finish()
    }

    /// A tensor of the graph's, stored as activations are.
    fn tensor(&self, name: i64, sizes: [i64; 4]) -> Result<Descriptor, CudnnError> {
        let elements = match self.precision {
            Precision::F32 | Precision::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        unfinished_tensor(name, sizes)?.data_type(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, elements)?.finish()
    }
}

/// A tensor of `[n, c, h, w]` elements, which lie as `[n, h, w, c]`.
fn unfinished_tensor(name: i64, sizes: [i64; 4]) -> Result<Descriptor, CudnnError> {
    let [_, c, h, w] = sizes;
    Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .integers(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[name])?
        .integers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &sizes)?
        .integers(Name::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * c, 1, w * c, c])?
        .integers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT])
}

/// A convolution's attributes; products are summed in `f32`.
fn convolution(g: &Convolution) -> Result<Descriptor, CudnnError> {
    Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
        .data_type(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, sys::cudnnDataType_t::CUDNN_DATA_FLOAT)?
        .convolution_mode(
            Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
            sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
        )?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &[g.top, g.left].map(i64::from))?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &g.padding_after().map(i64::from))?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &[i64::from(g.stride); 2])?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1, 1])?
        .finish()
}

/// One of a convolution's three directions, of image, filter and result; what is computed replaces what was there.
fn operation(
    direction: Direction,
    convolution: &Descriptor,
    [x, w, y]: [&Descriptor; 3],
) -> Result<Descriptor, CudnnError> {
    let (kind, [alpha, beta, attributes, x_name, w_name, y_name]) = match direction {
        Direction::Forward => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
            ],
        ),
        Direction::InputGradient => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
            ],
        ),
        Direction::WeightGradient => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
            ],
        ),
    };
    Descriptor::new(kind)?
        .number(alpha, 1.0)?
        .number(beta, 0.0)?
        .descriptors(attributes, &[convolution])?
        .descriptors(x_name, &[x])?
        .descriptors(w_name, &[w])?
        .descriptors(y_name, &[y])?
        .finish()
}

/// y = a + b.
fn sum(a: &Descriptor, b: &Descriptor, y: &Descriptor) -> Result<Descriptor, CudnnError> {
    let addition = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
        .pointwise_mode(Name::CUDNN_ATTR_POINTWISE_MODE, sys::cudnnPointwiseMode_t::CUDNN_POINTWISE_ADD)?
        .data_type(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, sys::cudnnDataType_t::CUDNN_DATA_FLOAT)?
        .finish()?;
    Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?
        .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[&addition])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[a])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[b])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[y])?
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::library;
    use std::time::Instant;

    /// A device in cuDNN's words: compute capability, multiprocessors, shared memory, second-level cache and memory.
    fn described(capability: u32, multiprocessors: u32, shared: u32, cache: u32, memory: u64) -> Descriptor {
        let text = format!(
            r#"{{"deviceVer": {capability}, "multiProcessorCount": {multiprocessors}, "driverVer": 13000,
            "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
            "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "l2CacheSize": {cache}, "warpSize": 32,
            "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": {shared}, "reservedSharedMemoryPerBlock": 1024,
            "maxRegistersPerSM": 65536, "pciDeviceId": 0, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048,
            "isTccDriver": 0, "supportCoopLaunch": 1, "totalGlobalMem": {memory}, "cudaDeviceId": 0, "deviceName": "described"}}"#
        );
        Descriptor::new(Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)
            .and_then(|device| device.text(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, &text)?.finish())
            .unwrap()
    }

    /// Of the paper's networks: samples, side, channels in and out, stride; those of stride 2 are padded
    /// below and to the right.
    const CONVOLUTIONS: [[u32; 5]; 22] = [
        [128, 32, 3, 128, 1],
        [128, 32, 128, 128, 1],
        [128, 32, 128, 128, 2],
        [128, 16, 128, 256, 1],
        [128, 16, 256, 256, 1],
        [128, 16, 512, 256, 1],
        [128, 16, 256, 256, 2],
        [128, 8, 256, 256, 1],
        [128, 4, 256, 256, 1],
        [128, 4, 512, 256, 1],
        [128, 32, 384, 128, 1],
        [128, 32, 256, 128, 1],
        [128, 32, 128, 3, 1],
        [1, 32, 128, 128, 1],
        [256, 32, 128, 128, 1],
        [16, 256, 3, 128, 1],
        [16, 256, 128, 128, 1],
        [16, 256, 128, 128, 2],
        [16, 256, 256, 128, 1],
        [16, 256, 128, 3, 1],
        [16, 8, 1024, 512, 1],
        [3, 9, 5, 7, 1],
    ];

    /// Planning needs no GPU.
    #[test]
    fn there_is_a_plan_for_every_convolution() {
        if !library::load_without_driver("convolutions are not planned for GPUs") {
            return;
        }
        let devices = [
            ("A100", described(800, 108, 166_912, 40 << 20, 80 << 30)),
            ("H100", described(900, 132, 232_448, 50 << 20, 80 << 30)),
            ("B200", described(1000, 148, 232_448, 126 << 20, 180 << 30)),
        ];
        for (name, device) in &devices {
            for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
                for algorithms in [Algorithms::Reproducible, Algorithms::Fastest] {
                    let start = Instant::now();
                    let planner = Planner { target: Target::Described(device), precision, algorithms };
                    let (mut workspace, mut biases) = (0, 0);
                    for [n, side, input, output, stride] in CONVOLUTIONS {
                        let pad = 2 - stride;
                        let y = side / stride;
                        let geometry = Convolution {
                            n,
                            x_h: side,
                            x_w: side,
                            input,
                            y_h: y,
                            y_w: y,
                            output,
                            kernel_h: 3,
                            kernel_w: 3,
                            stride,
                            top: pad,
                            left: pad,
                        };
                        assert_eq!(geometry.padding_after(), [1, 1]);
                        let what = format!("{geometry:?}, {precision:?}, {algorithms:?} on {name}");
                        for direction in
                            [Direction::Forward, Direction::InputGradient, Direction::WeightGradient]
                        {
                            let plans = planner.plans(direction, &geometry, false, 1).unwrap();
                            let plan =
                                plans.first().unwrap_or_else(|| panic!("no plan {direction:?}: {what}"));
                            workspace = workspace.max(plan.workspace);
                        }
                        let plans = planner.plans(Direction::Forward, &geometry, true, 1).unwrap();
                        biases += plans.len();
                        assert!(plans.iter().all(|plan| plan.adds_bias));
                        assert!(
                            !plans.is_empty() || precision != Precision::Bf16,
                            "no plan with a bias: {what}"
                        );
                    }
                    println!(
                        "{name}, {precision:?}, {algorithms:?}: {biases} of {} with their bias, {} MiB of workspace at most, {:?}",
                        CONVOLUTIONS.len(),
                        workspace >> 20,
                        start.elapsed()
                    );
                }
            }
        }
    }

    #[test]
    fn engines_are_taken_by_what_they_do_to_the_numbers() {
        let planner = |precision, algorithms| Planner {
            // It is not looked at.
            target: Target::Handle(std::ptr::null_mut()),
            precision,
            algorithms,
        };
        let (tensor_core, down_convert, reduced, fft, varies, winograd) = (0, 1, 2, 3, 4, 5);
        let exact = planner(Precision::F32, Algorithms::Reproducible);
        assert!(exact.accepts(&[], &[]));
        for note in [tensor_core, down_convert, reduced, fft, varies, winograd] {
            assert!(!exact.accepts(&[note], &[]), "{note}");
        }
        assert!(!exact.accepts(&[], &[0]));
        for precision in [Precision::Tf32, Precision::Bf16] {
            let reproducible = planner(precision, Algorithms::Reproducible);
            assert!(reproducible.accepts(&[tensor_core], &[1]));
            assert!(!reproducible.accepts(&[tensor_core, varies], &[]));
            let fastest = planner(precision, Algorithms::Fastest);
            assert!(fastest.accepts(&[tensor_core, varies], &[]));
            assert!(!fastest.accepts(&[tensor_core, down_convert], &[]));
        }
        assert!(!planner(Precision::F32, Algorithms::Fastest).accepts(&[tensor_core], &[]));
    }
}
