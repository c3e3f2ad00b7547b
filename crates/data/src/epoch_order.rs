//! In which order a data set is gone through.

use engine::random::{Purpose, Stream};

/// The order of images: in each epoch another permutation of `0..len`, a function of the seed and the epoch alone.
#[derive(Debug)]
pub struct EpochOrder {
    seed: u64,
    len: u32,
    epoch: Option<u64>,
    permutation: Vec<u32>,
}

impl EpochOrder {
    /// The orders of `len` images, which is not 0. They take 4 bytes an image.
    pub fn new(seed: u64, len: u32) -> Self {
        Self { seed, len, epoch: None, permutation: Vec::new() }
    }

    /// The epoch of sample `position` of a run, and the image drawn for it.
    pub fn at(&mut self, position: u64) -> (u64, u64) {
        let len = u64::from(self.len);
        let (epoch, place) = (position / len, position % len);
        if self.epoch != Some(epoch) {
            self.shuffle(epoch);
        }
        (epoch, self.permutation[place as usize].into())
    }

    /// Fisher and Yates's shuffle, in Durstenfeld's form: every permutation is equally likely.
    fn shuffle(&mut self, epoch: u64) {
        let stream = Stream::new(self.seed, Purpose::Shuffle, epoch as u32, epoch >> 32);
        self.permutation.clear();
        self.permutation.extend(0..self.len);
        for last in (1..self.len).rev() {
            let other = stream.below(last, u64::from(last) + 1);
            self.permutation.swap(last as usize, other as usize);
        }
        self.epoch = Some(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(seed: u64, len: u32, number: u64) -> Vec<u64> {
        let mut order = EpochOrder::new(seed, len);
        let start = number * u64::from(len);
        (start..start + u64::from(len)).map(|position| order.at(position).1).collect()
    }

    #[test]
    fn every_epoch_is_another_permutation() {
        let mut seen = Vec::new();
        for number in 0..4 {
            let order = epoch(7, 100, number);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..100).collect::<Vec<_>>());
            assert!(!seen.contains(&order));
            seen.push(order);
        }
        assert_ne!(epoch(8, 100, 0), seen[0]);
    }

    #[test]
    fn going_back_and_forth_gives_the_same_order() {
        let mut order = EpochOrder::new(3, 10);
        let forward: Vec<_> = (0..40).map(|position| order.at(position)).collect();
        for position in (0..40).rev() {
            assert_eq!(order.at(position), forward[position as usize]);
        }
        assert_eq!(forward[25].0, 2);
    }

    #[test]
    fn permutations_are_equally_likely() {
        // 6 permutations of 3 over 6000 epochs: each 1000 ± 29.
        let mut counts = std::collections::HashMap::new();
        for number in 0..6000 {
            *counts.entry(epoch(1, 3, number)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (870..1130).contains(count)), "{counts:?}");
    }

    #[test]
    fn one_image_is_drawn_over_and_over() {
        let mut order = EpochOrder::new(0, 1);
        assert_eq!((order.at(0), order.at(u64::MAX)), ((0, 0), (u64::MAX, 0)));
    }
}
