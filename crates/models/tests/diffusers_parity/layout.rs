//! PyTorch's memory orders and ours.

/// The elements of a row-major array of `shape` with its axes reordered: axis `k` of the result is axis `axes[k]`.
fn transpose<const N: usize>(values: &[f32], shape: [usize; N], axes: [usize; N]) -> Vec<f32> {
    let mut strides = [1; N];
    for axis in (0..N - 1).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    assert_eq!(values.len(), strides[0] * shape[0]);
    let mut out = Vec::with_capacity(values.len());
    let mut index = [0; N];
    for _ in 0..values.len() {
        out.push(values[(0..N).map(|k| index[k] * strides[axes[k]]).sum::<usize>()]);
        for k in (0..N).rev() {
            index[k] += 1;
            if index[k] < shape[axes[k]] {
                break;
            }
            index[k] = 0;
        }
    }
    out
}

/// `shape` is `[n, c, h, w]`.
pub fn nchw_to_nhwc(values: &[f32], shape: [usize; 4]) -> Vec<f32> {
    transpose(values, shape, [0, 2, 3, 1])
}

/// `shape` is `[n, h, w, c]`.
pub fn nhwc_to_nchw(values: &[f32], shape: [usize; 4]) -> Vec<f32> {
    transpose(values, shape, [0, 3, 1, 2])
}

/// The PyTorch shape of a parameter of ours: `[kh, kw, in, out]` is `[out, in, kh, kw]`, `[in, out]` is `[out, in]`.
pub fn pytorch_shape(ours: &[usize]) -> Vec<usize> {
    match *ours {
        [kh, kw, input, output] => vec![output, input, kh, kw],
        [input, output] => vec![output, input],
        [len] => vec![len],
        _ => panic!("no parameter has the shape {ours:?}"),
    }
}

/// A parameter of ours of shape `ours`, in PyTorch's order.
pub fn parameter_to_pytorch(values: &[f32], ours: &[usize]) -> Vec<f32> {
    match *ours {
        [kh, kw, input, output] => transpose(values, [kh, kw, input, output], [3, 2, 0, 1]),
        [input, output] => transpose(values, [input, output], [1, 0]),
        _ => values.to_vec(),
    }
}

/// The inverse of [`parameter_to_pytorch`]; `ours` is still our shape.
pub fn parameter_from_pytorch(values: &[f32], ours: &[usize]) -> Vec<f32> {
    match *ours {
        [kh, kw, input, output] => transpose(values, [output, input, kh, kw], [2, 3, 1, 0]),
        [input, output] => transpose(values, [output, input], [1, 0]),
        _ => values.to_vec(),
    }
}
