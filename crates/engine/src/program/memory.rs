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
}

/// Tensors start at multiples of this many elements: a cache line.
const ALIGNMENT: usize = 16;

/// Offsets for all tensors, and the length of the arena that holds them.
///
/// Largest first, each at the lowest offset that is free during its life (Pisarchyk & Lee 2020, "greedy by size").
pub(super) fn place(lifetimes: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lifetimes.len()).filter(|&index| lifetimes[index].len > 0).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(lifetimes[index].len), index));
    let mut offsets = vec![0; lifetimes.len()];
    // Placed tensors, by offset.
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    let mut arena_len = 0;
    for index in order {
        let len = lifetimes[index].len.next_multiple_of(ALIGNMENT);
        let mut offset = 0;
        for &other in &placed {
            if !lifetimes[index].overlaps(&lifetimes[other]) {
                continue;
            }
            if offset + len <= offsets[other] {
                break;
            }
            offset = offset.max(offsets[other] + lifetimes[other].len.next_multiple_of(ALIGNMENT));
        }
        offsets[index] = offset;
        arena_len = arena_len.max(offset + len);
        let position = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(position, index);
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
        let (offsets, arena_len) = place(&lifetimes);
        for (i, a) in lifetimes.iter().enumerate() {
            assert!(offsets[i] + a.len <= arena_len);
            assert!(offsets[i].is_multiple_of(ALIGNMENT));
            for (j, b) in lifetimes.iter().enumerate().skip(i + 1) {
                let apart = offsets[i] + a.len <= offsets[j] || offsets[j] + b.len <= offsets[i];
                assert!(apart || !a.overlaps(b), "{i} and {j}");
            }
        }
        let total: usize = lifetimes.iter().map(|l| l.len).sum();
        assert!(arena_len * 4 < total, "memory is not reused: {arena_len} of {total}");
    }
}
