//! What some backends do in one: a group normalisation and the dropout after it, and the gradients of both.

use super::{Draft, Instruction, Place, values};
use crate::kernel::Kernel;

/// Joins dropouts to the normalisations before them, in the forward instructions and in those of the gradient, where nothing else
/// reads what is between them and it is not one of `kept`. Returns how many instructions are forward then.
pub(super) fn fuse_dropout(draft: &mut Draft, forward_len: usize, kept: &[usize]) -> usize {
    let mut uses = vec![0usize; draft.values.len()];
    for instruction in &draft.instructions {
        for value in values(&instruction.reads).chain(values(&instruction.writes)) {
            uses[value] += 1;
        }
    }
    // Written by one and read by the other.
    let is_between = |place: Place| match place {
        Place::Value(value) => uses[value] == 2 && !kept.contains(&value),
        Place::Param(_) | Place::Grad(_) | Place::Grads { .. } => false,
    };
    let (mut joined, mut forward) = (Vec::with_capacity(draft.instructions.len()), forward_len);
    let mut instructions = std::mem::take(&mut draft.instructions).into_iter().enumerate().peekable();
    while let Some((index, first)) = instructions.next() {
        let next = instructions.peek().filter(|(next, _)| *next != forward_len);
        let both = next.and_then(|(_, second)| join(&first, second, is_between));
        if both.is_some() {
            instructions.next();
            forward -= usize::from(index < forward_len);
        }
        joined.push(both.unwrap_or(first));
    }
    draft.instructions = joined;
    forward
}

/// Two instructions as one, if they are such.
fn join(
    first: &Instruction,
    second: &Instruction,
    is_between: impl Fn(Place) -> bool,
) -> Option<Instruction> {
    let between = first.writes[0];
    // What the second writes to is its own from then on.
    if !is_between(between) && !second.writes.contains(&between) {
        return None;
    }
    match (&first.kernel, &second.kernel) {
        (&Kernel::GroupNorm(norm), &Kernel::Dropout(dropout)) if second.reads == [between] => {
            Some(Instruction {
                kernel: Kernel::GroupNormDropout(norm, dropout),
                reads: first.reads.clone(),
                writes: vec![second.writes[0], first.writes[1]],
            })
        }
        (&Kernel::GroupNormAgain(norm), &Kernel::Dropout(dropout)) if second.reads == [between] => {
            Some(Instruction {
                kernel: Kernel::GroupNormDropoutAgain(norm, dropout),
                reads: first.reads.clone(),
                writes: second.writes.clone(),
            })
        }
        (&Kernel::Dropout(dropout), &Kernel::GroupNormGrad(norm))
            if second.reads.last() == Some(&between) =>
        {
            let (_, others) = second.reads.split_last()?;
            Some(Instruction {
                kernel: Kernel::GroupNormDropoutGrad(norm, dropout),
                reads: others.iter().chain(&first.reads).copied().collect(),
                writes: second.writes.clone(),
            })
        }
        _ => None,
    }
}
