//! What `ddpm compress` and `ddpm decompress` have in common.

use crate::failure::Failure;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{ConvName, Global};
use codec::{CodecError, Model};
use diffusion::{Denoiser, GaussianDiffusion};
use engine::{Device, Hardware};
use std::ops::ControlFlow;

/// The number by which a file says how its convolutions were computed, on which bits depend.
///
/// # Errors
/// If not every machine can compute them that way.
fn variant(conv: ConvName) -> Result<u8, Failure> {
    match conv {
        ConvName::Direct => Ok(1),
        ConvName::Fast => Ok(2),
        ConvName::Bf16x3 => Err(Failure::input(
            "compressed files must be readable on every machine, and few have the matrix unit: leave out --conv bf16x3",
        )),
    }
}

/// The inverse of [`variant`].
///
/// # Errors
/// If this program does not write the number.
pub fn conv(variant: u8) -> Result<ConvName, Failure> {
    match variant {
        // Winograd's way with the filter's transform scaled, as it was at first.
        0 => Err(Failure::input(
            "it was made with `--conv fast` of an earlier program, of other bits: use the program it was written by",
        )),
        1 => Ok(ConvName::Direct),
        2 => Ok(ConvName::Fast),
        _ => Err(Failure::input(CodecError::HeaderDamaged("it was made in a way that is not known here"))),
    }
}

/// What the codec computes networks on: the CPU, whose bits are the same on any machine.
///
/// # Errors
/// If the call asks for another device, or for a way to compute that not every machine has.
pub fn hardware(global: &Global) -> Result<Hardware, Failure> {
    variant(global.conv)?;
    match global.device {
        Device::Auto | Device::Cpu => Ok(global.cpu().into()),
        Device::Cuda(_) => Err(Failure::input(
            "compressed files need the same bits on every machine, which only the CPU computes: leave out --device",
        )),
    }
}

/// A model as the codec wants it.
///
/// # Errors
/// If it cannot be used for coding.
pub fn model<'a>(
    process: &'a GaussianDiffusion,
    denoiser: &'a mut dyn Denoiser,
    fingerprint: &str,
    conv: ConvName,
) -> Result<Model<'a>, Failure> {
    Model::new(process, denoiser, fingerprint, variant(conv)?).map_err(failure)
}

/// The codec's error as the program's failure.
pub fn failure(error: CodecError) -> Failure {
    match error.is_input() {
        true => Failure::input(error),
        false => Failure::work(error),
    }
}

/// Shows how far the work is, from when that is known, and says whether to go on.
pub fn show(
    progress: &mut Option<Progress>,
    what: &str,
    done: u64,
    total: u64,
    quiet: bool,
    signals: &Signals,
) -> ControlFlow<()> {
    if total > 0 {
        progress.get_or_insert_with(|| Progress::new(what, 0, total, quiet)).update(done, "");
    }
    match signals.stopped() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_its_own_number_and_no_other_is_read() {
        let mut numbers = Vec::new();
        for way in [ConvName::Fast, ConvName::Direct] {
            let number = variant(way).unwrap_or_else(|failure| panic!("{}", failure.message));
            assert!(conv(number).is_ok_and(|read| read == way));
            numbers.push(number);
        }
        assert!(variant(ConvName::Bf16x3).is_err());
        for other in (0..8).filter(|other| !numbers.contains(other)) {
            assert!(conv(other).is_err_and(|failure| !failure.message.is_empty()), "{other}");
        }
        assert!(conv(0).is_err_and(|failure| failure.message.contains("use the program it was written by")));
    }
}
