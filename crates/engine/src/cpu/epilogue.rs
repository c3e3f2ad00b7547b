//! What follows a convolution, done to each part of its result as it is stored.

use super::parallel::Shared;

/// What is done to a convolution's result.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    Nothing,
    /// It is rectified.
    Relu,
    /// A tensor of its shape is added.
    Add(&'a [f32]),
    /// Each sample's vector is added to all its pixels.
    AddPerSample(&'a [f32]),
}

impl Epilogue<'_> {
    /// The same for rows anywhere in `result`.
    ///
    /// # Panics
    /// If it is [`Self::AddPerSample`]: [`super::convolutions::Convolutions::fuses`] offers it for tiles of
    /// pixels alone.
    pub fn of_rows(&self, result: Shared) -> RowEpilogue {
        let result = result.pointer(0).cast_const();
        match *self {
            Self::Nothing => RowEpilogue::Nothing,
            Self::Relu => RowEpilogue::Relu,
            Self::Add(tensor) => RowEpilogue::Add { tensor: tensor.as_ptr(), result },
            Self::AddPerSample(_) => unreachable!("planned for tiles of pixels alone"),
        }
    }
}

/// What is done to rows of a result.
#[derive(Clone, Copy)]
pub(crate) enum RowEpilogue {
    Nothing,
    Relu,
    /// What lies in `tensor` where the row lies in `result` is added.
    Add {
        tensor: *const f32,
        result: *const f32,
    },
}

impl RowEpilogue {
    /// Where what is added to the element at `target` lies, if anything is.
    #[inline(always)]
    pub fn added(self, target: *const f32) -> *const f32 {
        match self {
            Self::Add { tensor, result } => {
                tensor.wrapping_byte_add(target.addr().wrapping_sub(result.addr()))
            }
            Self::Nothing | Self::Relu => target,
        }
    }
}
