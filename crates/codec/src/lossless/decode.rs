//! The receiver.

use super::ans::{Empty, Stack};
use super::chain::LatentChain;
use super::encode::words;
use super::{pop, undraw, values};
use crate::bits::BitReader;
use crate::chain::Walker;
use crate::error::CodecError;
use crate::header::{self, Cursor, Header, Kind};
use crate::itinerary::{ImageEvents, read_events};
use crate::model::Model;
use crate::progress::{Progress, Take, Watch};
use crate::progressive::walk;
use crate::schedule::Schedule;

/// Decodes a lossless file, and gives the pixels of each image, from the last to the first, to `take` with
/// its number. Says how many there were.
///
/// # Errors
/// Everything that a [`CodecError`] says about files, [`CodecError::Stopped`] when `watch` says so, and the
/// network's. No network is asked before the file has been checked.
pub fn decode(model: &mut Model, bytes: &[u8], watch: Watch, take: Take<u8>) -> Result<usize, CodecError> {
    let mut cursor = Cursor { bytes, position: 0 };
    let header = Header::expect(&mut cursor, Kind::Lossless, model)?;
    if !header::is_intact(bytes) {
        return Err(CodecError::Checksum);
    }
    let curve = cursor.curve()?;
    let damaged = || CodecError::HeaderDamaged("what it says of the first images cannot be");
    let forerunners = usize::try_from(cursor.varint()?).map_err(|_| damaged())?;
    let sent = usize::try_from(cursor.varint()?).map_err(|_| damaged())?;
    if !(1..=header.images).contains(&forerunners) || sent > bytes.len() {
        return Err(damaged());
    }
    let mut stack = Stack::from_bytes(cursor.rest()).ok_or_else(damaged)?;
    let mut schedule = Schedule::new(model.process, &curve, model.image_len());
    let chain = LatentChain::new(model, &schedule)?;

    let len = model.image_len();
    let mut progress = Progress::new(watch);
    progress.set_total((header.images * chain.steps()) as u64);
    for image in (forerunners..header.images).rev() {
        progress.proceed()?;
        let pixels = pop_image(&mut stack, model, &chain)?.map_err(|Empty| CodecError::Body)?;
        take(image, &pixels)?;
        progress.add(chain.steps() as u64);
    }

    let below: Vec<u8> = stack.words().iter().flat_map(|word| word.to_le_bytes()).take(sent).collect();
    let mut reader = BitReader::new(&below);
    let mut of_image = vec![ImageEvents::default(); forerunners];
    let keep = |image: usize, event: &_| of_image[image].push(event);
    let found = read_events(&mut reader, &mut schedule, forerunners, usize::MAX, keep);
    if found.arrived < forerunners {
        return Err(CodecError::Body);
    }
    let first_t = schedule.first_t();
    let numbers: Vec<u64> = (0..forerunners as u64).collect();
    let mut ends = Vec::new();
    for batch in numbers.chunks(model.batch) {
        let walkers = batch.iter().map(|&image| Walker::new(header.seed, image, first_t, len)).collect();
        let walkers =
            walk(model, &mut schedule, walkers, &of_image, &mut Progress::new(&mut |_, _| progress.tell()))?;
        ends.extend(walkers.into_iter().map(|walker| walker.x));
    }
    for (image, end) in ends.iter().enumerate().rev() {
        let x_0: Vec<f64> = end.iter().map(|&x| f64::from(x)).collect();
        let p = chain.reverse(model, 0, &x_0)?;
        let cells = pop(&mut stack, chain.pixels(), &p).map_err(|Empty| CodecError::Body)?;
        take(image, &bytes_of(&cells))?;
        progress.add(chain.steps() as u64);
    }
    progress.proceed()?;
    match stack.into_words() {
        Some(left) if left == words(&below) => Ok(header.images),
        _ => Err(CodecError::Body),
    }
}

fn bytes_of(cells: &[u32]) -> Vec<u8> {
    cells.iter().map(|&cell| cell as u8).collect()
}

/// Pops an image.
fn pop_image(
    stack: &mut Stack,
    model: &mut Model,
    chain: &LatentChain,
) -> Result<Result<Vec<u8>, Empty>, CodecError> {
    let last = chain.steps() - 1;
    let Ok(mut drawn) = pop(stack, chain.grid(last), &chain.prior()) else {
        return Ok(Err(Empty));
    };
    for k in (0..=last).rev() {
        let x_k = values(chain.grid(k), &drawn);
        let p = chain.reverse(model, k, &x_k)?;
        let grid = if k > 0 { chain.grid(k - 1) } else { chain.pixels() };
        let Ok(cells) = pop(stack, grid, &p) else {
            return Ok(Err(Empty));
        };
        let q = chain.forward(k, &values(grid, &cells));
        if undraw(stack, chain.grid(k), &drawn, &q).is_err() {
            return Ok(Err(Empty));
        }
        drawn = cells;
    }
    Ok(Ok(bytes_of(&drawn)))
}
