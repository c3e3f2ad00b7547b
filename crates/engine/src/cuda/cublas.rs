//! Products of matrices by cuBLASLt.
//!
//! It has columns where we have rows: `c = a b` is computed as `cᵀ = bᵀ aᵀ`, in which nothing moves.

use super::device::Address;
use super::error::CudaError;
use super::kernels::{Operands, Product};
use crate::hardware::{Algorithms, Precision};
use cudarc::cublaslt::{result, sys};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;

/// What a plan depends on: sizes, how factors are stored, batch, alignments.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    operands: Operands,
    sizes: [u32; 3],
    transposed: [bool; 2],
    batch: usize,
    alignments: [u32; 3],
}

/// Descriptors and the algorithm of one kind of product.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    layouts: Vec<sys::cublasLtMatrixLayout_t>,
    algorithm: Option<sys::cublasLtMatmulAlgo_t>,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: they were created, and are destroyed once. Nothing could be done about a failure.
        unsafe {
            for &layout in &self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.description);
        }
    }
}

/// A handle, its workspace, and what was found out about each kind of product.
pub(super) struct Cublas {
    handle: sys::cublasLtHandle_t,
    stream: *mut c_void,
    precision: Precision,
    algorithms: Algorithms,
    workspace: (Address, usize),
    plans: RefCell<HashMap<Key, Plan>>,
}

impl Drop for Cublas {
    fn drop(&mut self) {
        self.plans.borrow_mut().clear();
        // SAFETY: it was created, and is destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Cublas {
    /// # Safety
    /// A context is current; `stream` and the workspace (address, bytes) are of it, and outlive this.
    pub unsafe fn new(
        stream: *mut c_void,
        workspace: (Address, usize),
        precision: Precision,
        algorithms: Algorithms,
    ) -> Result<Self, CudaError> {
        let handle = result::create_handle().map_err(failed("cublasLtCreate"))?;
        Ok(Self { handle, stream, precision, algorithms, workspace, plans: RefCell::default() })
    }

    /// Computes `batch` products; `false` if there is no algorithm for them.
    ///
    /// # Safety
    /// The matrices are there.
    pub unsafe fn multiply(
        &self,
        operands: Operands,
        product: &Product,
        batch: usize,
        [a, b]: [Address; 2],
        c: Address,
    ) -> Result<bool, CudaError> {
        let key = Key {
            operands,
            sizes: [product.m, product.n, product.depth],
            // A column of one element is neither: its stride does not matter.
            transposed: [product.a_column != 1, product.b_column != 1],
            batch,
            alignments: [a, b, c].map(alignment),
        };
        let mut plans = self.plans.borrow_mut();
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(self.plan(&key, product).map_err(failed("cublasLtMatmulAlgoGetHeuristic"))?)
            }
        };
        let Some(algorithm) = &plan.algorithm else { return Ok(false) };
        let beta = if product.accumulate == 1 { 1.0f32 } else { 0.0 };
        let [left, right, out] = [b, a, c].map(|address| address as *mut c_void);
        // SAFETY: the matrices are there, as the caller says; descriptors and workspace live as long as this.
        unsafe {
            result::matmul(
                self.handle,
                plan.description,
                (&raw const product.alpha).cast(),
                (&raw const beta).cast(),
                left,
                plan.layouts[0],
                right,
                plan.layouts[1],
                out,
                plan.layouts[2],
                out,
                plan.layouts[2],
                &raw const *algorithm,
                self.workspace.0 as *mut c_void,
                self.workspace.1,
                self.stream.cast(),
            )
        }
        .map_err(failed("cublasLtMatmul"))?;
        Ok(true)
    }

    fn plan(&self, key: &Key, product: &Product) -> Result<Plan, result::CublasError> {
        let mut plan = Plan::new(self.precision, key, product)?;
        let preference = Preference::new(self.algorithms, self.workspace.1, key.alignments)?;
        let [left, right, out] = [0, 1, 2].map(|index| plan.layouts[index]);
        // SAFETY: all of them were made for this product.
        let found = unsafe {
            let (handle, description) = (self.handle, plan.description);
            result::get_matmul_algo_heuristic(handle, description, left, right, out, out, preference.0)
        };
        plan.algorithm = match found {
            Ok(found) => Some(found.algo),
            Err(result::CublasError(
                sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
                | sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE,
            )) => None,
            Err(error) => return Err(error),
        };
        Ok(plan)
    }
}

impl Plan {
    /// A product without its algorithm.
    fn new(precision: Precision, key: &Key, product: &Product) -> Result<Self, result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Description;
        const FLOAT: sys::cudaDataType = sys::cudaDataType_t::CUDA_R_32F;
        let compute = match precision {
            Precision::F32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            Precision::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            // Of bf16 factors; sums are f32.
            Precision::Bf16 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let activations = match precision {
            Precision::F32 | Precision::Tf32 => FLOAT,
            Precision::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        let result_type = if key.operands == Operands::Gradient { FLOAT } else { activations };
        let mut plan = Plan {
            description: result::create_matmul_desc(compute, FLOAT)?,
            layouts: Vec::with_capacity(3),
            algorithm: None,
        };
        let [m, n, depth] = key.sizes.map(u64::from);
        let [a_transposed, b_transposed] = key.transposed;
        // As stored, in columns: b is [n, depth] (or that transposed), a [depth, m], c [n, m].
        let turned = |rows, columns, transposed| if transposed { (columns, rows) } else { (rows, columns) };
        let matrices = [
            (activations, turned(n, depth, b_transposed), product.b_batch),
            (activations, turned(depth, m, a_transposed), product.a_batch),
            (result_type, (n, m), product.c_batch),
        ];
        for (elements, (rows, columns), stride) in matrices {
            let layout = result::create_matrix_layout(elements, rows, columns, rows.cast_signed())?;
            plan.layouts.push(layout);
            if key.batch > 1 {
                use sys::cublasLtMatrixLayoutAttribute_t as Layout;
                let (count, stride) = (key.batch as i32, stride.cast_signed());
                // SAFETY: the layout was just created; the values have the attributes' types.
                unsafe {
                    set(
                        |value, size| {
                            result::set_matrix_layout_attribute(
                                layout,
                                Layout::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                value,
                                size,
                            )
                        },
                        &count,
                    )?;
                    set(
                        |value, size| {
                            result::set_matrix_layout_attribute(
                                layout,
                                Layout::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                value,
                                size,
                            )
                        },
                        &stride,
                    )?;
                }
            }
        }
        let description = plan.description;
        let transposes = [
            (Description::CUBLASLT_MATMUL_DESC_TRANSA, b_transposed),
            (Description::CUBLASLT_MATMUL_DESC_TRANSB, a_transposed),
        ];
        for (attribute, transposed) in transposes {
            // SAFETY: the description was just created; CUBLAS_OP_N is 0, CUBLAS_OP_T 1, both of 4 bytes.
            unsafe {
                set(
                    |value, size| result::set_matmul_desc_attribute(description, attribute, value, size),
                    &i32::from(transposed),
                )?;
            }
        }
        Ok(plan)
    }
}

/// What algorithms may do.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it was created, and is destroyed once. Nothing could be done about a failure.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl Preference {
    /// `workspace`: bytes; `alignments`: of a, b and c.
    fn new(
        algorithms: Algorithms,
        workspace: usize,
        [a, b, c]: [u32; 3],
    ) -> Result<Self, result::CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Name;
        let preference = Self(result::create_matmul_pref()?);
        let reductions = match algorithms {
            // Sums divided among blocks are added in a fixed order, never in place.
            Algorithms::Reproducible => {
                sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
            }
            Algorithms::Fastest => sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_MASK,
        } as u32;
        let numbers = [
            (Name::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions),
            (Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
            (Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
            (Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
            (Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
        ];
        // SAFETY: the preference was just created; the values have the attributes' types.
        unsafe {
            let most = Name::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            set(
                |value, size| result::set_matmul_pref_attribute(preference.0, most, value, size),
                &workspace,
            )?;
            for (name, number) in numbers {
                set(
                    |value, size| result::set_matmul_pref_attribute(preference.0, name, value, size),
                    &number,
                )?;
            }
        }
        Ok(preference)
    }
}

/// Calls `set` with a value's place and size.
fn set<T>(
    set: impl FnOnce(*const c_void, usize) -> Result<(), result::CublasError>,
    value: &T,
) -> Result<(), result::CublasError> {
    set((&raw const *value).cast(), size_of::<T>())
}

/// Bytes to which an address is aligned, as far as it matters: to more than loads read at once it does not,
/// and the same product is to be computed alike wherever it lies.
fn alignment(address: Address) -> u32 {
    const MOST: u32 = 16;
    1 << address.trailing_zeros().min(MOST.ilog2())
}

fn failed(call: &'static str) -> impl Fn(result::CublasError) -> CudaError {
    move |error| CudaError::Call { call, status: format!("{:?}", error.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::kernels::Side;
    use crate::cuda::library;

    /// Describing products needs no GPU.
    #[test]
    fn products_can_be_described() {
        if !library::load_without_driver("products are not described") {
            return;
        }
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            for operands in [Operands::Activations, Operands::Weights, Operands::Gradient] {
                for (batch, a, b) in [
                    (1, Side::Plain, Side::Plain),
                    (128, Side::Plain, Side::Transposed),
                    (3, Side::Transposed, Side::Plain),
                ] {
                    let product = Product::new([256, 130, 64], a, b);
                    let key = Key {
                        operands,
                        sizes: [product.m, product.n, product.depth],
                        transposed: [product.a_column != 1, product.b_column != 1],
                        batch,
                        alignments: [16, 4, 2],
                    };
                    Plan::new(precision, &key, &product).unwrap();
                    for algorithms in [Algorithms::Reproducible, Algorithms::Fastest] {
                        Preference::new(algorithms, 32 << 20, key.alignments).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn an_alignment_matters_up_to_sixteen_bytes() {
        assert_eq!([0x7F00, 0x7F08, 0x7F04, 0x7F02].map(alignment), [16, 8, 4, 2]);
    }
}
