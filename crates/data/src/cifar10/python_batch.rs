//! A batch of the Python version: the pickle of a dictionary with `data`, a numpy array of bytes, and `labels`.

use crate::DataError;
use pickle::{Id, Pickle, Rules, Value};
use std::path::Path;

/// What makes up a numpy array.
const RECONSTRUCT: [&str; 2] = ["numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"];
const DTYPE: &str = "numpy dtype";
const RULES: Rules = Rules {
    callables: &[RECONSTRUCT[0], RECONSTRUCT[1], DTYPE],
    // A published batch has some 20,000.
    max_values: 1 << 20,
};

/// A batch as it lies in its file.
#[derive(Debug)]
pub(super) struct PythonBatch<'a> {
    pub data: ByteMatrix<'a>,
    pub labels: Vec<i64>,
}

/// A two-dimensional array of bytes.
#[derive(Debug)]
pub(super) struct ByteMatrix<'a> {
    pub rows: usize,
    pub columns: usize,
    /// Whether columns, rather than rows, are contiguous.
    pub fortran_order: bool,
    pub bytes: &'a [u8],
    /// Where the bytes begin in the file.
    pub offset: usize,
}

/// Reads a batch; `path` is for messages.
pub(super) fn read<'a>(content: &'a [u8], path: &Path) -> Result<PythonBatch<'a>, DataError> {
    let (pickle, _) = pickle::read(content, &RULES)
        .map_err(|error| DataError::damaged(path, error.offset as u64, error.what))?;
    let damaged = |what: String| DataError::damaged(path, None, what);
    let root = pickle.root();
    if !matches!(pickle.value(root), Value::Dict(_)) {
        return Err(damaged("the pickle is not a dictionary".into()));
    }
    let entry = |key: &str| {
        pickle.entry(root, key).ok_or_else(|| damaged(format!("the dictionary has no key `{key}`")))
    };
    let data = byte_matrix(&pickle, entry("data")?)
        .ok_or_else(|| damaged("`data` is not a two-dimensional numpy array of uint8".into()))?;
    let Value::List(items) = pickle.value(entry("labels")?) else {
        return Err(damaged("`labels` is not a list".into()));
    };
    let integer = |&id: &Id| match pickle.value(id) {
        Value::Int(value) => Ok(*value),
        _ => Err(damaged("`labels` holds something else than integers".into())),
    };
    Ok(PythonBatch { data, labels: items.iter().map(integer).collect::<Result<_, _>>()? })
}

/// The array that `_reconstruct` and the state set on it, (version, shape, type, Fortran order, bytes), would
/// have made.
fn byte_matrix<'a>(pickle: &Pickle<'a>, array: Id) -> Option<ByteMatrix<'a>> {
    let Value::Call { name, state: Some(state), .. } = pickle.value(array) else { return None };
    let [_version, shape, dtype, fortran, data] = *pickle.tuple(*state)? else { return None };
    let [rows, columns] = pickle.sizes(shape)?[..] else { return None };
    let Value::Call { name: of_dtype, arguments, .. } = pickle.value(dtype) else { return None };
    let element = pickle.text(*pickle.tuple(*arguments)?.first()?)?;
    let Value::Bool(fortran_order) = *pickle.value(fortran) else { return None };
    let bytes = pickle.bytes(data)?;
    let is_array = RECONSTRUCT.contains(&name.as_str()) && of_dtype == DTYPE && element == "u1";
    (is_array && rows.checked_mul(columns) == Some(bytes.len())).then_some(ByteMatrix {
        rows,
        columns,
        fortran_order,
        bytes,
        offset: pickle.range(data)?.start,
    })
}
