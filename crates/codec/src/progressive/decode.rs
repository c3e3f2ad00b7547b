//! The receiver.

use crate::bits::BitReader;
use crate::chain::Walker;
use crate::error::CodecError;
use crate::header::{self, Cursor, Header, Kind};
use crate::itinerary::{EventReader, ImageEvents, read_events};
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

/// Decodes a progressive file or a prefix of it, and gives each image, [-1, 1] in the network's shape, to
/// `take` with its number.
///
/// # Errors
/// Everything that a [`CodecError`] says about files, [`CodecError::Stopped`] when `watch` says so, and the
/// network's. No network is asked, and no image given out, before the whole file has been checked.
pub fn decode(
    model: &mut Model,
    bytes: &[u8],
    extent: Extent,
    how: Reconstruction,
    watch: Watch,
    take: Take<f32>,
) -> Result<Decoded, CodecError> {
    let Contents { header, mut schedule, of_image, steps, all_steps } = Contents::read(model, bytes, extent)?;
    let len = model.image_len();
    let first_t = schedule.first_t();
    let mut progress = Progress::new(watch);
    progress.set_total((steps + header.images) as u64);
    let mut reached = Vec::with_capacity(header.images);
    let numbers: Vec<usize> = (0..header.images).collect();
    for batch in numbers.chunks(model.batch) {
        let walkers =
            batch.iter().map(|&image| Walker::new(header.seed, image as u64, first_t, len)).collect();
        let walkers = walk(model, &mut schedule, walkers, &of_image, &mut progress)?;
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
    Ok(Decoded { images: header.images, steps, all_steps, reached })
}

/// Walks a batch of images along the events of each, as far as they go.
pub(crate) fn walk(
    model: &mut Model,
    schedule: &mut Schedule,
    mut walkers: Vec<Walker>,
    of_image: &[ImageEvents],
    progress: &mut Progress,
) -> Result<Vec<Walker>, CodecError> {
    let len = model.image_len();
    let mut events: Vec<EventReader> =
        walkers.iter().map(|walker| of_image[walker.image as usize].walk(schedule)).collect();
    loop {
        progress.proceed()?;
        let mut active: Vec<(&mut Walker, &mut EventReader)> =
            walkers.iter_mut().zip(&mut events).filter(|(_, events)| events.has_next()).collect();
        if active.is_empty() {
            return Ok(walkers);
        }
        let x_t: Vec<f32> = active.iter().flat_map(|(walker, _)| walker.x.iter().copied()).collect();
        let t: Vec<usize> = active.iter().map(|(walker, _)| walker.t).collect();
        let predicted = model.predict(&x_t, &t)?;
        for ((walker, events), predicted) in active.iter_mut().zip(predicted.x_start.chunks_exact(len)) {
            if let Some(event) = events.next(schedule) {
                walker.advance(model.process, &event.coded, predicted, &event.indices);
                progress.add(1);
            }
        }
    }
}

/// A file taken apart, and checked as far as it can be.
struct Contents {
    header: Header,
    schedule: Schedule,
    /// The events of each image.
    of_image: Vec<ImageEvents>,
    /// Steps that are there.
    steps: usize,
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

        // Of a damaged file nothing is kept: it is read on only to say what is wrong with it.
        let is_sound = extent == Extent::Prefix || header::is_intact(bytes);
        let mut reader = BitReader::new(cursor.rest());
        let mut of_image = vec![ImageEvents::default(); header.images];
        let found = read_events(&mut reader, &mut schedule, header.images, all_steps, |image, event| {
            if is_sound {
                of_image[image].push(event);
            }
        });
        let steps = found.events;
        let is_cut = steps < all_steps;
        if is_cut && found.arrived == header.images {
            return Err(CodecError::HeaderDamaged("it announces more steps than its images have"));
        }
        if extent == Extent::Whole {
            if is_cut {
                return Err(CodecError::Truncated { found: steps, expected: all_steps });
            }
            if reader.left() >= 8 {
                return Err(CodecError::TrailingBytes { extra: reader.left() / 8 });
            }
            if !is_sound {
                return Err(CodecError::Checksum);
            }
        }
        Ok(Self { header, schedule, of_image, steps, all_steps })
    }
}
