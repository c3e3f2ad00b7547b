//! The sender.

use crate::bits::BitWriter;
use crate::chain::{Walker, chunks};
use crate::error::CodecError;
use crate::error_curve::ErrorCurve;
use crate::header::{self, Header, Kind, push_varint};
use crate::itinerary::{Event, LARGEST_CHANGE, Order, Place};
use crate::jump::Jump;
use crate::measured_curve::{MEASURED_IMAGES, measure, squared_error};
use crate::model::Model;
use crate::progress::{Progress, Watch};
use crate::schedule::{Schedule, gear};
use std::f64::consts::LN_2;

/// A gear is changed when it is off by more than this.
const GEAR_TOLERANCE: f64 = 0.6;

/// Gears are chosen so much below the error's. A chunk that is too small sends all that its bits can say, and
/// the next ones say the rest; what a chunk is too large by is lost. (Of 0, 0.3 and 0.6 the last has the
/// smallest files for the same error below 0.9 bits/dim.)
const GEAR_BEHIND: f64 = 0.6;

/// Where a file ends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// With all that the process can say: at x_t of its first step.
    None,
    /// At this many bits for each number of the images, headers included.
    BitsPerDim(f64),
    /// When the mean squared error of x̂0 over all images gives this peak signal-to-noise ratio, in dB (255 being the
    /// peak).
    Psnr(f64),
}

/// A progressive file, and what it cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Encoded {
    /// The file.
    pub bytes: Vec<u8>,
    /// Σ D_KL(q || p) of these steps, in bits: what no code of their samples goes below on the average.
    pub divergence_bits: f64,
    /// Bytes of the header.
    pub header_bytes: usize,
    /// Mean squared error of x̂0 at the end, on the [-1, 1] scale.
    pub squared_error: f64,
    /// Whether the limit was reached; if not, the file has all that the process can say.
    pub limit_reached: bool,
    /// After each step in the file's order: bytes needed to decode it, Σ D_KL so far in bits, mean squared
    /// error of x̂0.
    pub curve: Vec<CurvePoint>,
}

/// What a prefix of a file is worth.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CurvePoint {
    /// Bytes of the prefix.
    pub bytes: usize,
    /// Σ D_KL(q || p) of its steps, in bits.
    pub divergence_bits: f64,
    /// Mean squared error of x̂0 over all images, on the [-1, 1] scale.
    pub squared_error: f64,
}

/// A step taken by the sender.
struct Sent {
    event: Event,
    divergence_bits: f64,
    /// Squared error of x̂0 before it.
    error: f64,
}

/// One image being sent.
struct Traveller {
    walker: Walker,
    place: Place,
    sent: Vec<Sent>,
    /// Squared error of x̂0 where the image is, once it is known.
    error: Option<f64>,
}

/// Codes images `x_start`, `[n, height, width, channels]` in [-1, 1].
///
/// # Errors
/// [`CodecError::Images`], [`CodecError::Request`], [`CodecError::Stopped`] when `watch` says so, and the network's.
pub fn encode(
    model: &mut Model,
    x_start: &[f32],
    seed: u64,
    limit: Limit,
    watch: Watch,
) -> Result<Encoded, CodecError> {
    let len = model.image_len();
    let images = model.images_in(x_start.len())?;
    if let Limit::BitsPerDim(value) | Limit::Psnr(value) = limit
        && !(value > 0.0 && value.is_finite())
    {
        return Err(CodecError::Request(format!("a target is a number above 0, not {value}")));
    }
    let mut progress = Progress::new(watch);
    let measured = &x_start[..images.min(MEASURED_IMAGES) * len];
    let curve = measure(model, measured, seed, &mut || progress.proceed())?;
    let header =
        Header { kind: Kind::Progressive, variant: model.variant, seed, model: model.identity, images };
    let mut sender = Sender::new(model, x_start, header, curve);
    progress.set_total((images * sender.schedule.first_t()) as u64);
    loop {
        sender.sweep(&mut progress)?;
        if let Some(file) = sender.file(limit)? {
            return Ok(file);
        }
    }
}

pub(crate) struct Sender<'a, 'm> {
    model: &'a mut Model<'m>,
    x_start: &'a [f32],
    len: usize,
    schedule: Schedule,
    travellers: Vec<Traveller>,
    header: Header,
    curve: ErrorCurve,
}

impl<'a, 'm> Sender<'a, 'm> {
    /// All images at the beginning.
    pub fn new(model: &'a mut Model<'m>, x_start: &'a [f32], header: Header, curve: ErrorCurve) -> Self {
        let len = model.image_len();
        let schedule = Schedule::new(model.process, &curve, len);
        let traveller = |image| Traveller {
            walker: Walker::new(header.seed, image as u64, schedule.first_t(), len),
            place: Place::new(&schedule),
            sent: Vec::new(),
            error: None,
        };
        let travellers = (0..x_start.len() / len).map(traveller).collect();
        Self { model, x_start, len, schedule, travellers, header, curve }
    }

    /// Sends all images to the end: the bits of all steps, and x_t of t = 0 of every image.
    pub fn finish(mut self, progress: &mut Progress) -> Result<(Vec<u8>, Vec<f32>), CodecError> {
        while self.travellers.iter().any(|traveller| traveller.error.is_none()) {
            self.sweep(progress)?;
        }
        let mut order = Order::new(self.travellers.len(), self.schedule.first_t());
        let mut taken = vec![0; self.travellers.len()];
        let mut writer = BitWriter::default();
        while let Some(image) = order.next() {
            let event = &self.travellers[image].sent[taken[image]].event;
            event.write(&mut writer);
            taken[image] += 1;
            order.moved(image, event.coded.to);
        }
        let ends = self.travellers.into_iter().flat_map(|traveller| traveller.walker.x).collect();
        Ok((writer.into_bytes(), ends))
    }

    /// Takes one step with every image that is not at its end, and looks at those that have just come there.
    fn sweep(&mut self, progress: &mut Progress) -> Result<(), CodecError> {
        let active: Vec<usize> =
            (0..self.travellers.len()).filter(|&image| self.travellers[image].error.is_none()).collect();
        for batch in active.chunks(self.model.batch) {
            progress.proceed()?;
            let walkers = || batch.iter().map(|&image| &self.travellers[image].walker);
            let x_t: Vec<f32> = walkers().flat_map(|walker| walker.x.iter().copied()).collect();
            let t: Vec<usize> = walkers().map(|walker| walker.t).collect();
            let predicted = self.model.predict(&x_t, &t)?;
            for (&image, predicted) in batch.iter().zip(predicted.x_start.chunks_exact(self.len)) {
                let x_start = &self.x_start[image * self.len..][..self.len];
                let traveller = &mut self.travellers[image];
                let from = traveller.walker.t;
                traveller.step(self.model, &mut self.schedule, x_start, predicted);
                progress.add((from - traveller.walker.t) as u64);
            }
        }
        Ok(())
    }

    /// The file, if all that it needs is known.
    fn file(&self, limit: Limit) -> Result<Option<Encoded>, CodecError> {
        let images = self.travellers.len();
        let numbers = (images * self.len) as f64;
        let budget = match limit {
            Limit::BitsPerDim(rate) => (rate * numbers) as usize,
            Limit::None | Limit::Psnr(_) => usize::MAX,
        };
        let enough = match limit {
            // The peak is 2 on this scale.
            Limit::Psnr(decibels) => 4.0 / libm::pow(10.0, decibels / 10.0),
            Limit::None | Limit::BitsPerDim(_) => 0.0,
        };
        let header_bits = |steps: usize| 8 * header::write(&self.header, &self.parameters(steps), &[]).len();
        if header_bits(0) > budget {
            let problem = format!(
                "{} bits are asked for, and the header alone takes {}: ask for a higher rate, or put more images in a file",
                budget,
                header_bits(0)
            );
            return Err(CodecError::Request(problem));
        }

        let mut order = Order::new(images, self.schedule.first_t());
        let mut taken = vec![0; images];
        let mut error: f64 = self.travellers.iter().filter_map(|traveller| traveller.error_before(0)).sum();
        let (mut bits, mut divergence_bits) = (0, 0.0);
        let (mut writer, mut curve) = (BitWriter::default(), Vec::new());
        let limit_reached = loop {
            if error <= enough * numbers {
                break true;
            }
            let Some(image) = order.next() else {
                break false;
            };
            let (traveller, step) = (&self.travellers[image], taken[image]);
            let Some(sent) = traveller.sent.get(step) else {
                return Ok(None);
            };
            if header_bits(curve.len() + 1) + bits + sent.event.bits() > budget {
                break true;
            }
            let Some(error_after) = traveller.error_before(step + 1) else {
                return Ok(None);
            };
            sent.event.write(&mut writer);
            bits += sent.event.bits();
            divergence_bits += sent.divergence_bits;
            error += error_after - sent.error;
            taken[image] += 1;
            order.moved(image, sent.event.coded.to);
            curve.push(CurvePoint {
                bytes: bits.div_ceil(8),
                divergence_bits,
                squared_error: error / numbers,
            });
        };
        let bytes = header::write(&self.header, &self.parameters(curve.len()), &writer.into_bytes());
        let header_bytes = bytes.len() - bits.div_ceil(8);
        curve.iter_mut().for_each(|point| point.bytes += header_bytes);
        let squared_error = error / numbers;
        Ok(Some(Encoded { bytes, header_bytes, divergence_bits, squared_error, limit_reached, curve }))
    }

    fn parameters(&self, steps: usize) -> Vec<u8> {
        let mut bytes = self.curve.to_bytes().to_vec();
        push_varint(&mut bytes, steps as u64);
        bytes
    }
}

impl Traveller {
    /// Squared error of x̂0 after so many steps, where it is known.
    fn error_before(&self, step: usize) -> Option<f64> {
        match self.sent.get(step) {
            Some(sent) => Some(sent.error),
            None if step == self.sent.len() => self.error,
            None => None,
        }
    }

    /// Takes a step, if there is one, towards `x_start`, of which the network has just said `predicted`.
    fn step(&mut self, model: &Model, schedule: &mut Schedule, x_start: &[f32], predicted: &[f32]) {
        let error = squared_error(x_start, predicted);
        let t = self.walker.t;
        if t == 0 {
            self.error = Some(error);
            return;
        }
        let change = self.place.gear_is_due().then(|| {
            let off = gear(error / schedule.usual_error(t)) - GEAR_BEHIND - f64::from(self.place.gear());
            let change = if off.abs() > GEAR_TOLERANCE { off.round() as i32 } else { 0 };
            change.clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
        });
        let coded = self.place.advance(schedule, change);
        let jump = Jump::new(model.process, coded.from, coded.to);
        let wanted: Vec<f32> =
            x_start.iter().zip(predicted).map(|(x, predicted)| jump.gain * (x - predicted)).collect();
        let divergence_bits = 0.5 * f64::from(jump.gain) * f64::from(jump.gain) * error / LN_2;
        let rotated = self.walker.rotation().rotate(&wanted);
        let indices: Vec<u32> = chunks(rotated.len(), coded.chunks)
            .enumerate()
            .map(|(chunk, range)| {
                let candidates = self.walker.candidates(chunk, range.len());
                candidates.closest(model.level, &rotated[range], coded.bits)
            })
            .collect();
        self.walker.advance(model.process, &coded, predicted, &indices);
        self.sent.push(Sent { event: Event { change, indices, coded }, divergence_bits, error });
    }
}
