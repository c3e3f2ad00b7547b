//! Batches for training: shuffled, flipped, scaled, and ready before they are asked for.

use crate::epoch_order::EpochOrder;
use crate::{DataError, ImageSource};
use engine::random::{Purpose, Stream};
use engine::{ImageShape, Shape};
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::{self, JoinHandle};

/// What batches are drawn, and from where on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoaderOptions {
    /// Images in a batch, at least 1.
    pub batch_size: usize,
    /// Seed of the order and of the flips.
    pub seed: u64,
    /// Whether each image is mirrored left to right with probability ½.
    pub flip: bool,
    /// Samples already consumed; the first batch begins with this sample.
    pub start: u64,
    /// Batches kept ready, beside the one that is being read and the one in use.
    pub prefetch: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { batch_size: 1, seed: 0, flip: false, start: 0, prefetch: 2 }
    }
}

/// Images for the network: `f32`, NHWC, in [-1, 1].
///
/// Dropping it gives its buffer back to the loader.
#[derive(Debug)]
pub struct Batch {
    first_sample: u64,
    shape: Shape,
    images: Vec<f32>,
    home: Sender<Vec<f32>>,
}

impl Batch {
    /// The number of the first sample in the run: how many came before it, epochs and all.
    pub fn first_sample(&self) -> u64 {
        self.first_sample
    }

    /// `[n, height, width, channels]`.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The pixels, x / 127.5 - 1.
    pub fn images(&self) -> &[f32] {
        &self.images
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Refused once the loader is gone; then the buffer is just freed.
        let _ = self.home.send(std::mem::take(&mut self.images));
    }
}

/// An endless sequence of batches from a source.
///
/// Samples are numbered through the whole run. Sample p is image π_e(p mod n) of epoch e = ⌊p/n⌋, π_e being the
/// epoch's permutation; an endless source gives each epoch images of its own. A sample depends on the seed and its
/// number only, so a run resumed at p goes on with the same bits, whatever the batch size. Every batch is full;
/// a batch may span two epochs.
///
/// A background thread reads ahead (decoding in parallel) and ends when the loader is dropped.
#[derive(Debug)]
pub struct Loader {
    /// `None` only while dropping.
    batches: Option<Receiver<Result<Batch, DataError>>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// Asks for a batch again that could not be read. `None` only while dropping.
    retry: Option<Sender<()>>,
    /// Whether the last batch could not be read.
    failed: bool,
    position: u64,
}

impl Loader {
    /// Starts reading `source`.
    ///
    /// # Errors
    /// If the source is empty or has more than 2³² - 1 images, the batch size is 0 or beyond all memory, or
    /// the thread cannot be started.
    pub fn new(source: Arc<dyn ImageSource>, options: LoaderOptions) -> Result<Self, DataError> {
        let shape = source.shape();
        let len = match u32::try_from(source.len()) {
            Ok(len) if len > 0 && !shape.is_empty() => len,
            Ok(_) => {
                let remedy = "give a source that has some".into();
                return Err(DataError::Empty { origin: source.description(), remedy });
            }
            Err(_) => {
                return Err(DataError::Option {
                    option: "data source",
                    what: format!("{} images are more than an order can be kept of", source.len()),
                    remedy: format!("give at most {}", u32::MAX),
                });
            }
        };
        if options.batch_size == 0 {
            let what = "a batch cannot be empty".into();
            return Err(DataError::Option { option: "batch size", what, remedy: "give 1 or more".into() });
        }
        let buffer_len =
            options.batch_size.checked_mul(shape.len()).ok_or_else(|| too_large(&options, shape))?;

        let stop = Arc::new(AtomicBool::new(false));
        let (sender, batches) = mpsc::sync_channel(options.prefetch);
        let (home, returned) = mpsc::channel();
        let samples = Samples { source, seed: options.seed, flip: options.flip, stop: stop.clone() };
        let order = EpochOrder::new(options.seed, len);
        let (retry, retries) = mpsc::channel();
        let reader = Reader { samples, options, order, buffer_len, home, returned, retries };
        let thread = thread::Builder::new()
            .name("ddpm-loader".into())
            .spawn(move || reader.run(&sender))
            .map_err(|e| DataError::io("the loader's thread", "started", e))?;
        Ok(Self {
            batches: Some(batches),
            thread: Some(thread),
            stop,
            retry: Some(retry),
            failed: false,
            position: options.start,
        })
    }

    /// The next batch, as soon as it is ready.
    ///
    /// # Errors
    /// What reading an image of the batch met with, naming the file. The batch is not skipped: the next call tries it
    /// again, and not before, so that a passing trouble (of a network drive) can be waited out.
    pub fn next_batch(&mut self) -> Result<Batch, DataError> {
        if self.failed
            && let Some(retry) = &self.retry
        {
            // Refused once the thread has ended, which the next line says.
            let _ = retry.send(());
        }
        let stopped = DataError::LoaderStopped { position: self.position };
        let result = self.batches.as_ref().and_then(|batches| batches.recv().ok()).ok_or(stopped)?;
        self.failed = result.is_err();
        let batch = result?;
        self.position = batch.first_sample.wrapping_add(batch.shape.n as u64);
        Ok(batch)
    }

    /// Samples consumed: the number of the next batch's first sample, to start from when resuming.
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes a thread that waits for room, or for being asked again.
        self.batches = None;
        self.retry = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by `next_batch` already.
            let _ = thread.join();
        }
    }
}

fn too_large(options: &LoaderOptions, shape: ImageShape) -> DataError {
    DataError::Option {
        option: "batch size",
        what: format!("{} images of {shape} do not fit in memory", options.batch_size),
        remedy: "give fewer or smaller ones".into(),
    }
}

/// The background thread's side.
struct Reader {
    samples: Samples,
    options: LoaderOptions,
    order: EpochOrder,
    /// Elements of a batch.
    buffer_len: usize,
    home: Sender<Vec<f32>>,
    returned: Receiver<Vec<f32>>,
    /// Has something in it when a batch that could not be read is asked for again.
    retries: Receiver<()>,
}

impl Reader {
    fn run(mut self, batches: &SyncSender<Result<Batch, DataError>>) {
        let mut position = self.options.start;
        let mut indices = Vec::new();
        while !self.samples.stop.load(Ordering::Relaxed) {
            let result = self.read_batch(position, &mut indices);
            let failed = result.is_err();
            if batches.send(result).is_err() {
                return;
            }
            if !failed {
                position = position.wrapping_add(self.options.batch_size as u64);
            } else if self.retries.recv().is_err() {
                // Tried at once, the channel would be full of errors from before the trouble had passed.
                return;
            }
        }
    }

    fn read_batch(&mut self, first_sample: u64, indices: &mut Vec<u64>) -> Result<Batch, DataError> {
        let image = self.samples.source.shape();
        let images = self.buffer()?;
        let shape = Shape::new(self.options.batch_size, image.height, image.width, image.channels);
        let mut batch = Batch { first_sample, shape, images, home: self.home.clone() };

        indices.clear();
        indices.extend((0..shape.n as u64).map(|k| self.image_of(first_sample.wrapping_add(k))));

        let samples = &self.samples;
        let error = batch
            .images
            .par_chunks_exact_mut(image.len())
            .zip(&*indices)
            .enumerate()
            .map_init(
                || vec![0; image.len()],
                |pixels, (k, (out, &index))| {
                    samples.read(first_sample.wrapping_add(k as u64), index, pixels, out)
                },
            )
            .find_map_first(Result::err);
        match error {
            Some(error) => Err(error),
            None => Ok(batch),
        }
    }

    /// A buffer for a batch: one that has come back, or a new one.
    fn buffer(&self) -> Result<Vec<f32>, DataError> {
        if let Ok(buffer) = self.returned.try_recv() {
            return Ok(buffer);
        }
        let mut buffer = Vec::new();
        buffer
            .try_reserve_exact(self.buffer_len)
            .map_err(|_| too_large(&self.options, self.samples.source.shape()))?;
        buffer.resize(self.buffer_len, 0.0);
        Ok(buffer)
    }

    /// The number of the image that is sample `sample`.
    fn image_of(&mut self, sample: u64) -> u64 {
        let (epoch, index) = self.order.at(sample);
        let source = &self.samples.source;
        if source.is_endless() { epoch.wrapping_mul(source.len()).wrapping_add(index) } else { index }
    }
}

/// What turns an image into a sample, on any thread.
struct Samples {
    source: Arc<dyn ImageSource>,
    seed: u64,
    flip: bool,
    stop: Arc<AtomicBool>,
}

impl Samples {
    /// Writes image `index`, as sample `sample`, to `out`; `pixels` is scratch.
    fn read(&self, sample: u64, index: u64, pixels: &mut [u8], out: &mut [f32]) -> Result<(), DataError> {
        if self.stop.load(Ordering::Relaxed) {
            // Nobody will see the batch.
            return Ok(());
        }
        self.source.read(index, pixels)?;
        if self.flip && self.is_flipped(sample) {
            let ImageShape { width, channels, .. } = self.source.shape();
            mirror(pixels, width, channels);
        }
        for (value, &pixel) in out.iter_mut().zip(&*pixels) {
            *value = f32::from(pixel) / 127.5 - 1.0;
        }
        Ok(())
    }

    /// Whether sample `sample` of the run is mirrored.
    fn is_flipped(&self, sample: u64) -> bool {
        Stream::new(self.seed, Purpose::Flip, 0, sample).word(0) & 1 == 1
    }
}

/// Mirrors an image left to right.
fn mirror(pixels: &mut [u8], width: usize, channels: usize) {
    for row in pixels.chunks_exact_mut(width * channels) {
        for x in 0..width / 2 {
            let (left, right) = row.split_at_mut((width - 1 - x) * channels);
            left[x * channels..][..channels].swap_with_slice(&mut right[..channels]);
        }
    }
}
