//! The order in which a progressive file codes the steps of its images, and the gears that adapt each image's
//! steps to it. Sender and receiver keep the same books; no network is needed for it.

use crate::bits::{BitReader, BitWriter};
use crate::schedule::{CodedStep, LAST_GEAR, Schedule};

/// A change of gear is coded before the first step, and when so many bits have been sent since the last.
const BITS_PER_GEAR: usize = 32;
/// Largest change of gear at once.
pub(crate) const LARGEST_CHANGE: i32 = 3;

/// One image's place in the file.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Place {
    /// t of the x_t that has been reached; 0 when all steps are coded.
    pub t: usize,
    gear: i32,
    owed: f64,
    bits_since_gear: usize,
}

/// What is coded for a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    /// The change of gear before the step, where one is due.
    pub change: Option<i32>,
    /// The number of the chosen candidate of each chunk.
    pub indices: Vec<u32>,
    pub coded: CodedStep,
}

impl Place {
    /// The beginning.
    pub fn new(schedule: &Schedule) -> Self {
        Self { t: schedule.first_t(), gear: 0, owed: 0.0, bits_since_gear: BITS_PER_GEAR }
    }

    /// Whether a change of gear is coded before the next step.
    pub fn gear_is_due(&self) -> bool {
        self.bits_since_gear >= BITS_PER_GEAR
    }

    /// The gear of the steps.
    pub fn gear(&self) -> i32 {
        self.gear
    }

    /// Plans the next step, after the change of gear if one is due, and goes to its end. Not for an image at t = 0.
    pub fn advance(&mut self, schedule: &mut Schedule, change: Option<i32>) -> CodedStep {
        if let Some(change) = change {
            self.gear = (self.gear + change).clamp(-LAST_GEAR, LAST_GEAR);
            self.bits_since_gear = 0;
        }
        let (coded, owed) = schedule.step(self.t, self.gear, self.owed);
        self.owed = owed;
        self.t = coded.to;
        self.bits_since_gear += coded.total_bits();
        coded
    }
}

/// Whose step comes next: the noisiest image's, the first of several.
pub(crate) struct Order {
    /// For each t, who is there; only ever lower ones are added while t is worked on.
    waiting: Vec<Vec<u32>>,
    t: usize,
    next: usize,
}

impl Order {
    /// `images` images at `first_t`.
    pub fn new(images: usize, first_t: usize) -> Self {
        let mut waiting = vec![Vec::new(); first_t + 1];
        waiting[first_t] = (0..images as u32).collect();
        Self { waiting, t: first_t, next: 0 }
    }

    /// The image whose step is next, if any has one.
    pub fn next(&mut self) -> Option<usize> {
        while self.t > 0 {
            if let Some(&image) = self.waiting[self.t].get(self.next) {
                self.next += 1;
                return Some(image as usize);
            }
            self.waiting[self.t] = Vec::new();
            self.t -= 1;
            self.next = 0;
            self.waiting[self.t].sort_unstable();
        }
        None
    }

    /// Says that `image`, which was next, is now at `t`.
    pub fn moved(&mut self, image: usize, t: usize) {
        self.waiting[t].push(image as u32);
    }
}

impl Event {
    /// Bits that it takes.
    pub fn bits(&self) -> usize {
        self.change.map_or(0, change_bits) + self.coded.total_bits()
    }

    /// Appends it.
    pub fn write(&self, writer: &mut BitWriter) {
        match self.change {
            None => {}
            Some(0) => writer.push(0, 1),
            Some(change @ -1..=1) => writer.push(0b100 | u32::from(change < 0), 3),
            Some(change) => {
                writer
                    .push(0b1100 | u32::from(change < 0) << 1 | u32::from(change.abs() == LARGEST_CHANGE), 4);
            }
        }
        for &index in &self.indices {
            writer.push(index, self.coded.bits);
        }
    }

    /// Reads the next event of an image at `place`, which goes to its end; none if the bits end before. Not
    /// for an image at t = 0.
    pub fn read(reader: &mut BitReader, place: &mut Place, schedule: &mut Schedule) -> Option<Self> {
        let change = match place.gear_is_due() {
            true => Some(read_change(reader)?),
            false => None,
        };
        let coded = place.advance(schedule, change);
        if reader.left() < coded.total_bits() {
            return None;
        }
        let indices = (0..coded.chunks).map(|_| reader.next(coded.bits)).collect::<Option<_>>()?;
        Some(Self { change, indices, coded })
    }
}

/// The events of one image, as bits: a file's worth of them takes the memory of the file, however short their
/// steps are.
#[derive(Clone, Default, Debug)]
pub(crate) struct ImageEvents {
    bits: BitWriter,
    count: usize,
}

impl ImageEvents {
    /// Adds the image's next event.
    pub fn push(&mut self, event: &Event) {
        event.write(&mut self.bits);
        self.count += 1;
    }

    /// The events, each with its coded step planned anew, from the first.
    pub fn walk(&self, schedule: &Schedule) -> EventReader<'_> {
        EventReader {
            reader: BitReader::new(self.bits.bytes()),
            place: Place::new(schedule),
            left: self.count,
        }
    }
}

/// Where somebody is in an image's events.
pub(crate) struct EventReader<'a> {
    reader: BitReader<'a>,
    place: Place,
    left: usize,
}

impl EventReader<'_> {
    /// Whether an event follows.
    pub fn has_next(&self) -> bool {
        self.left > 0
    }

    /// The next event, if one follows.
    pub fn next(&mut self, schedule: &mut Schedule) -> Option<Event> {
        self.left = self.left.checked_sub(1)?;
        Event::read(&mut self.reader, &mut self.place, schedule)
    }
}

/// What [`read_events`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Events.
    pub events: usize,
    /// Images that came to t = 0.
    pub arrived: usize,
}

/// Reads at most so many events, and shows each to `visit` with the number of its image; fewer if the bits
/// end or all images are at t = 0.
pub(crate) fn read_events(
    reader: &mut BitReader,
    schedule: &mut Schedule,
    images: usize,
    most: usize,
    mut visit: impl FnMut(usize, &Event),
) -> Found {
    let mut order = Order::new(images, schedule.first_t());
    let mut places = vec![Place::new(schedule); images];
    let mut found = Found { events: 0, arrived: 0 };
    while found.events < most
        && let Some(image) = order.next()
        && let Some(event) = Event::read(reader, &mut places[image], schedule)
    {
        order.moved(image, event.coded.to);
        visit(image, &event);
        found.events += 1;
        found.arrived += usize::from(event.coded.to == 0);
    }
    found
}

fn change_bits(change: i32) -> usize {
    match change.abs() {
        0 => 1,
        1 => 3,
        _ => 4,
    }
}

fn read_change(reader: &mut BitReader) -> Option<i32> {
    if reader.next(1)? == 0 {
        return Some(0);
    }
    let size = match reader.next(1)? {
        0 => return Some(if reader.next(1)? == 1 { -1 } else { 1 }),
        _ => reader.next(2)?,
    };
    let amount = 2 + (size & 1) as i32;
    Some(if size & 2 != 0 { -amount } else { amount })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_gear_come_back() {
        let coded = CodedStep { from: 2, to: 1, chunks: 0, bits: 1 };
        for change in -LARGEST_CHANGE..=LARGEST_CHANGE {
            let mut writer = BitWriter::default();
            let event = Event { change: Some(change), indices: Vec::new(), coded };
            event.write(&mut writer);
            let bytes = writer.into_bytes();
            let mut reader = BitReader::new(&bytes);
            assert_eq!(read_change(&mut reader), Some(change));
            assert_eq!(8 - reader.left(), event.bits());
        }
    }

    #[test]
    fn the_noisiest_image_is_next() {
        let mut order = Order::new(3, 9);
        let mut seen = Vec::new();
        let mut t = [9, 9, 9];
        while let Some(image) = order.next() {
            seen.push((t[image], image));
            t[image] -= [4, 9, 2][image].min(t[image]);
            order.moved(image, t[image]);
        }
        let expected = [(9, 0), (9, 1), (9, 2), (7, 2), (5, 0), (5, 2), (3, 2), (1, 0), (1, 2)];
        assert_eq!(seen, expected);
    }
}
