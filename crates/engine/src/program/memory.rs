//! Places for tensors with known lifetimes: those that never live at the same time may share memory.

/// When a tensor is in use, in instruction numbers (both included), and how large it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lifetime {
    pub first: usize,
    pub last: usize,
    pub len: usize,
}

impl Lifetime {
    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn duration(&self) -> usize {
        self.last - self.first + 1
    }
}

/// Tensors start at multiples of this many elements: a cache line.
const ALIGNMENT: usize = 16;

/// Offsets for all tensors beside those of `fixed`, whose offsets are given in ascending order, and the
/// length of the arena that holds all.
///
/// Each tensor has the lowest offset that is free during its life, the largest one first (Pisarchyk & Lee
/// 2020, "greedy by size"), or the longest-lived, or what is most of both: whichever takes least.
pub(super) fn place(lifetimes: &[Lifetime], fixed: &[(usize, Lifetime)]) -> (Vec<usize>, usize) {
    let weights: [fn(&Lifetime) -> usize; 3] =
        [|tensor| tensor.len, Lifetime::duration, |tensor| tensor.len * tensor.duration()];
    let [first, others @ ..] = weights.map(|weight| place_heaviest_first(lifetimes, fixed, weight));
    others.into_iter().fold(first, |best, other| if other.1 < best.1 { other } else { best })
}

fn place_heaviest_first(
    lifetimes: &[Lifetime],
    fixed: &[(usize, Lifetime)],
    weight: fn(&Lifetime) -> usize,
) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lifetimes.len()).filter(|&index| lifetimes[index].len > 0).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(weight(&lifetimes[index])), index));
    let mut offsets = vec![0; lifetimes.len()];
    // Placed tensors, by offset.
    let mut placed = fixed.to_vec();
    let mut arena_len = fixed.iter().map(|(offset, lifetime)| offset + lifetime.len).max().unwrap_or(0);
    for index in order {
        let lifetime = lifetimes[index];
        let mut offset = 0;
        for (other_offset, other) in &placed {
            if !lifetime.overlaps(other) {
                continue;
            }
            if offset + lifetime.len <= *other_offset {
                break;
            }
            offset = offset.max((other_offset + other.len).next_multiple_of(ALIGNMENT));
        }
        offsets[index] = offset;
        arena_len = arena_len.max(offset + lifetime.len);
        let position = placed.partition_point(|(other, _)| *other <= offset);
        placed.insert(position, (offset, lifetime));
    }
    (offsets, arena_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    #[test]
    fn tensors_alive_together_never_overlap() {
        let stream = Stream::new(1, Purpose::Test, 0, 0);
        let lifetimes: Vec<_> = (0..300)
            .map(|i| {
                let first = stream.below(3 * i, 200) as usize;
                let last = first + stream.below(3 * i + 1, 20) as usize;
                Lifetime { first, last, len: 1 + stream.below(3 * i + 2, 500) as usize }
            })
            .collect();
        // One after the other, the later ones needed sooner, as gradients are.
        let mut fixed: Vec<(usize, Lifetime)> = Vec::new();
        for i in 0..20 {
            let offset = fixed.last().map_or(0, |(offset, lifetime)| offset + lifetime.len);
            let len = 1 + stream.below(1000 + i, 300) as usize;
            fixed.push((offset, Lifetime { first: 200 - 5 * i as usize, last: usize::MAX, len }));
        }
        let mut arena_lens = Vec::new();
        for fixed in [&[][..], &fixed] {
            let (offsets, arena_len) = place(&lifetimes, fixed);
            assert!(offsets.iter().all(|offset| offset.is_multiple_of(ALIGNMENT)));
            let placed: Vec<_> = offsets.into_iter().zip(lifetimes.clone()).chain(fixed.to_vec()).collect();
            for (i, (offset, a)) in placed.iter().enumerate() {
                assert!(offset + a.len <= arena_len);
                for (j, (other, b)) in placed.iter().enumerate().skip(i + 1) {
                    let apart = offset + a.len <= *other || other + b.len <= *offset;
                    assert!(apart || !a.overlaps(b), "{i} and {j}");
                }
            }
            arena_lens.push(arena_len);
        }
        let [alone, with_fixed] = arena_lens[..] else { unreachable!() };
        let total: usize = lifetimes.iter().map(|l| l.len).sum();
        assert!(alone * 4 < total, "memory is not reused: {alone} of {total}");
        let fixed: usize = fixed.iter().map(|(_, lifetime)| lifetime.len).sum();
        assert!(with_fixed < alone + fixed, "what is needed later is not used before: {with_fixed}");
    }
}
