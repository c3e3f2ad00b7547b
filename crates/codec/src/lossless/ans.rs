//! A stack of bits with asymmetric numeral systems (Duda 2009): what is pushed last is popped first, and popping by a
//! distribution what was never pushed by it draws a sample of it.

/// Probabilities are multiples of 2^-32.
pub(crate) const PRECISION: u32 = 32;
/// The state is at least this.
const LEAST: u128 = 1 << 64;

/// The order of slots for drawing: slot s has the place `SHUFFLE`·s + `SHUFFLE_SHIFT` modulo 2^32.
const SHUFFLE: u32 = 0x9E37_79B1;
/// The inverse of [`SHUFFLE`] modulo 2^32.
const SHUFFLE_BACK: u32 = {
    // Each of Newton's steps doubles the bits that are right.
    let (mut inverse, mut step) = (SHUFFLE, 0);
    while step < 5 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(SHUFFLE.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
};
/// The place of slot 0, so that neither end of the slots stays at an end.
const SHUFFLE_SHIFT: u32 = 0x6A09_E667;

/// A symbol's share of the 2^32 slots: the first, and how many.
pub(crate) type Share = (u64, u64);

/// The stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stack {
    /// In [2^64, 2^128): the top of the stack. Wide enough that rounding costs less than 2^-30 of a bit a symbol.
    state: u128,
    /// The rest, the bottom first.
    words: Vec<u64>,
}

/// The stack has no bits left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Empty;

impl Stack {
    /// A stack of words, the bottom first. With none, it can only be pushed to.
    pub fn new(words: Vec<u64>) -> Self {
        Self { state: LEAST, words }
    }

    /// Its words, if it is one of [`Self::new`].
    pub fn into_words(self) -> Option<Vec<u64>> {
        (self.state == LEAST).then_some(self.words)
    }

    /// The words below the top, the bottom first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Bits on the stack.
    pub fn bits(&self) -> usize {
        64 * self.words.len() + (127 - self.state.leading_zeros() as usize) - 64
    }

    /// Pushes a symbol.
    pub fn push(&mut self, share: Share) {
        self.push_in(share, |slot| slot);
    }

    /// Pops a symbol: `locate` gives the symbol that a slot belongs to, and its share.
    pub fn pop<S>(&mut self, locate: impl FnOnce(u64) -> (S, Share)) -> Result<S, Empty> {
        self.pop_in(locate, |slot| slot)
    }

    /// As [`Self::pop`], with slots in another order. Without that, what is drawn next would have the place in its
    /// distribution that the symbol pushed last has in its own, and an outlier would be followed by outliers.
    pub fn draw<S>(&mut self, locate: impl FnOnce(u64) -> (S, Share)) -> Result<S, Empty> {
        self.pop_in(locate, |slot| slot.wrapping_sub(SHUFFLE_SHIFT).wrapping_mul(SHUFFLE_BACK))
    }

    /// The inverse of [`Self::draw`].
    pub fn undraw(&mut self, share: Share) {
        self.push_in(share, |slot| slot.wrapping_mul(SHUFFLE).wrapping_add(SHUFFLE_SHIFT));
    }

    fn push_in(&mut self, (first, count): Share, place: impl FnOnce(u32) -> u32) {
        debug_assert!(count > 0 && first + count <= 1 << PRECISION);
        let count = u128::from(count);
        if self.state >= count << (128 - PRECISION) {
            self.words.push(self.state as u64);
            self.state >>= 64;
        }
        let slot = (self.state % count) as u64 + first;
        self.state = (self.state / count) << PRECISION | u128::from(place(slot as u32));
    }

    fn pop_in<S>(
        &mut self,
        locate: impl FnOnce(u64) -> (S, Share),
        slot_at: impl FnOnce(u32) -> u32,
    ) -> Result<S, Empty> {
        let slot = u64::from(slot_at(self.state as u32));
        let (symbol, (first, count)) = locate(slot);
        self.state = u128::from(count) * (self.state >> PRECISION) + u128::from(slot - first);
        if self.state < LEAST {
            let word = self.words.pop().ok_or(Empty)?;
            self.state = self.state << 64 | u128::from(word);
        }
        Ok(symbol)
    }

    /// The stack as bytes: words from the bottom, then the state without its leading zero bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let state = self.state.to_le_bytes();
        let used = 16 - self.state.leading_zeros() as usize / 8;
        self.words.iter().flat_map(|word| word.to_le_bytes()).chain(state[..used].iter().copied()).collect()
    }

    /// The inverse of [`Self::to_bytes`]; none for bytes that it does not give.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        // A state has 9 to 16 bytes.
        let words = bytes.len().checked_sub(9)? / 8;
        let (words, state) = bytes.split_at(8 * words);
        let mut padded = [0; 16];
        padded[..state.len()].copy_from_slice(state);
        let state = u128::from_le_bytes(padded);
        let words = words.as_chunks::<8>().0.iter().map(|&word| u64::from_le_bytes(word)).collect();
        let stack = Self { state, words };
        (stack.state >= LEAST && stack.to_bytes() == bytes).then_some(stack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A distribution of 5 symbols.
    const SHARES: [Share; 5] = {
        let all = 1 << PRECISION;
        [
            (0, 1),
            (1, 6),
            (7, 1 << 20),
            (7 + (1 << 20), 1 << 31),
            ((1 << 31) + 7 + (1 << 20), all - (1 << 31) - 7 - (1 << 20)),
        ]
    };

    fn locate(slot: u64) -> (usize, Share) {
        let symbol = SHARES.iter().rposition(|share| share.0 <= slot).unwrap();
        (symbol, SHARES[symbol])
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_popped_and_the_other_way_round(
            words in proptest::collection::vec(any::<u64>(), 0..9),
            symbols in proptest::collection::vec(0usize..5, 0..200),
        ) {
            let start = Stack::new(words.clone());
            let mut stack = start.clone();
            symbols.iter().for_each(|&symbol| stack.push(SHARES[symbol]));
            let mut back = Stack::from_bytes(&stack.to_bytes()).unwrap();
            prop_assert_eq!(&back, &stack);
            for &symbol in symbols.iter().rev() {
                prop_assert_eq!(back.pop(locate), Ok(symbol));
            }
            prop_assert_eq!(back.clone(), start.clone());
            prop_assert_eq!(back.into_words(), Some(words));
            // Drawn symbols, pushed back, leave the stack as it was.
            let mut stack = start.clone();
            let mut drawn = Vec::new();
            while let Ok(symbol) = { let mut next = stack.clone(); next.draw(locate).inspect(|_| stack = next) } {
                drawn.push(symbol);
            }
            drawn.iter().rev().for_each(|&symbol| stack.undraw(SHARES[symbol]));
            prop_assert_eq!(stack, start);
        }
    }

    #[test]
    fn symbols_take_their_information() {
        let mut stack = Stack::new(Vec::new());
        for _ in 0..1000 {
            stack.push((1 << 30, 3 << 29));
        }
        let information = 1000.0 * (8.0f64 / 3.0).log2();
        assert!((stack.bits() as f64 - information).abs() < 2.0, "{} {information}", stack.bits());
    }
}
