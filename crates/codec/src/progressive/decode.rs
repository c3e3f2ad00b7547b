//! The receiver.

use crate::bits::BitReader;
use crate::chain::Walker;
use crate::error::CodecError;
use crate::header::{self, Cursor, Header, Kind};
use crate::itinerary::{Event, Order, Place};
use crate::model::Model;
use crate::progress::{Progress, Take, Watch};
use crate::progressive::reconstruct::{Reconstruction, reconstruct};
use crate::schedule::Schedule;

/// How much of a file there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All of it, which its checksum proves.
    Whole,
    /// A prefix, or all. Damage is not noticed.
    Prefix,
}

/// What was decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Images.
    pub images: usize,
    /// Coded steps that were there, of all images.
    pub steps: usize,
    /// Coded steps of the whole file.
    pub all_steps: usize,
    /// t of the x_t that the first and the last image of the file came to.
    pub reached: (usize, usize),
}

/// Decodes a progressive file or a prefix of it, and gives each image, [-1, 1] in the network's shape, to `take` with its
/// number.
///
/// # Errors
/// Everything that a [`CodecError`] says about files, [`CodecError::Stopped`] when `watch` says so, and the network's.
/// No network is asked, and no image given out, before the whole file has been checked.
pub fn decode(
    model: &mut Model,
    bytes: &[u8],
    extent: Extent,
    how: Reconstruction,
    watch: Watch,
    take: Take<f32>,
) -> Result<Decoded, CodecError> {
    let Contents { header, schedule, events, all_steps } = Contents::read(model, bytes, extent)?;
    let len = model.image_len();
    let first_t = schedule.first_t();
    let mut of_image: Vec<Vec<&Event>> = vec![Vec::new(); header.images];
    events.iter().for_each(|(image, event)| of_image[*image].push(event));

    let mut progress = Progress::new(watch);
    progress.set_total((events.len() + header.images) as u64);
    let mut reached = Vec::with_capacity(header.images);
    let numbers: Vec<usize> = (0..header.images).collect();
    for batch in numbers.chunks(model.batch) {
        let walkers =
            batch.iter().map(|&image| Walker::new(header.seed, image as u64, first_t, len)).collect();
        let walkers = walk(model, walkers, &of_image, &mut progress)?;
        let t: Vec<usize> = walkers.iter().map(|walker| walker.t).collect();
        let x_t = walkers.into_iter().flat_map(|walker| walker.x).collect();
        let images = reconstruct(model, x_t, &t, how, &mut || progress.proceed())?;
        for (&number, image) in batch.iter().zip(images.chunks_exact(len)) {
            take(number, image)?;
            progress.add(1);
        }
        reached.extend(t);
    }
    progress.proceed()?;
    let reached = (reached[0], reached[reached.len() - 1]);
    Ok(Decoded { images: header.images, steps: events.len(), all_steps, reached })
}

/// Walks a batch of images along the events of each, as far as they go.
pub(crate) fn walk(
    model: &mut Model,
    mut walkers: Vec<Walker>,
    of_image: &[Vec<&Event>],
    progress: &mut Progress,
) -> Result<Vec<Walker>, CodecError> {
    let len = model.image_len();
    loop {
        progress.proceed()?;
        let mut active: Vec<&mut Walker> =
            walkers.iter_mut().filter(|walker| walker.step < of_image[walker.image as usize].len()).collect();
        if active.is_empty() {
            return Ok(walkers);
        }
        let x_t: Vec<f32> = active.iter().flat_map(|walker| walker.x.iter().copied()).collect();
        let t: Vec<usize> = active.iter().map(|walker| walker.t).collect();
        let predicted = model.predict(&x_t, &t)?;
        for (walker, predicted) in active.iter_mut().zip(predicted.x_start.chunks_exact(len)) {
            let event = of_image[walker.image as usize][walker.step];
            walker.advance(model.process, &event.coded, predicted, &event.indices);
            progress.add(1);
        }
    }
}

/// A file taken apart, and checked as far as it can be.
struct Contents {
    header: Header,
    schedule: Schedule,
    /// In the file's order, with the number of the image.
    events: Vec<(usize, Event)>,
    /// Steps of the whole file.
    all_steps: usize,
}

impl Contents {
    fn read(model: &Model, bytes: &[u8], extent: Extent) -> Result<Self, CodecError> {
        let mut cursor = Cursor { bytes, position: 0 };
        let header = Header::expect(&mut cursor, Kind::Progressive, model)?;
        let curve = cursor.curve()?;
        let all_steps = cursor.varint()?;
        let mut schedule = Schedule::new(model.process, &curve, model.image_len());
        let most = header.images as u64 * schedule.first_t() as u64;
        let all_steps = usize::try_from(all_steps).ok().filter(|&steps| steps as u64 <= most);
        let all_steps =
            all_steps.ok_or(CodecError::HeaderDamaged("it announces more steps than its images can have"))?;

        let mut reader = BitReader::new(cursor.rest());
        let events = read_events(&mut reader, &mut schedule, header.images, all_steps);
        if events.len() < all_steps && schedule_ended(&events, header.images) {
            return Err(CodecError::HeaderDamaged("it announces more steps than its images have"));
        }
        let is_cut = events.len() < all_steps;
        if extent == Extent::Whole {
            if is_cut {
                return Err(CodecError::Truncated { found: events.len(), expected: all_steps });
            }
            if reader.left() >= 8 {
                return Err(CodecError::TrailingBytes { extra: reader.left() / 8 });
            }
            if !header::is_intact(bytes) {
                return Err(CodecError::Checksum);
            }
        }
        Ok(Self { header, schedule, events, all_steps })
    }
}

/// Whether all images have come to t = 0.
fn schedule_ended(events: &[(usize, Event)], images: usize) -> bool {
    events.iter().filter(|(_, event)| event.coded.to == 0).count() == images
}

/// Reads at most so many events, each with the number of its image; fewer if the bits end or all images are at t = 0.
pub(crate) fn read_events(
    reader: &mut BitReader,
    schedule: &mut Schedule,
    images: usize,
    most: usize,
) -> Vec<(usize, Event)> {
    let mut order = Order::new(images, schedule.first_t());
    let mut places = vec![Place::new(schedule); images];
    let mut events = Vec::new();
    while events.len() < most
        && let Some(image) = order.next()
        && let Some(event) = Event::read(reader, &mut places[image], schedule)
    {
        order.moved(image, event.coded.to);
        events.push((image, event));
    }
    events
}
