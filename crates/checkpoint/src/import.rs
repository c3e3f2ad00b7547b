//! Models that other programs keep in one file, without a word on the network: PyTorch state dictionaries and
//! TensorFlow checkpoints. The network is told from the tensors.

mod network;

use crate::Error;
use crate::diffusers::{ParameterMismatch, file_shape, is_shape_of, load_parameter};
use crate::key_map::{DIFFUSERS, Depth, KeyMap, Order};
use crate::model_dir::Weights;
use crate::weights_file::WeightsFile;
use diffusion::Variance;
use engine::{ParamLayout, ParamSpec};
use models::{Conventions, Unet, UnetConfig};
use network::Stored;
use std::collections::HashSet;
use std::path::Path;

/// What TensorFlow's moving averages are called behind the variable's own name.
const EMA_SUFFIX: &str = "/ExponentialMovingAverage";
/// Longest table of the time embedding, in numbers.
const MAX_TABLE: usize = 1 << 22;
/// What the time embedding goes through first.
const TIME_LAYER: &str = "time_embedding.linear_1.weight";

/// Keys that tell networks of another kind, whose they are, and why they cannot be read.
const FOREIGN: [(&str, &str); 2] = [
    (
        "init_conv.weight",
        "lucidrains' denoising-diffusion-pytorch, another network: linear attention, other normalisation",
    ),
    ("down_blocks.0.attentions.0.transformer_blocks.0.norm1.weight", "a text-to-image network of diffusers"),
];

/// What is wanted of a file, and what it does not say.
#[derive(Clone, Copy, Default, Debug)]
pub struct ImportOptions {
    /// The kind of weights; `None`: the averaged ones where there are both.
    pub weights: Option<Weights>,
    /// Height and width of the images, in pixels; `None`: what puts attention at the feature maps that
    /// usually have it.
    pub image_size: Option<usize>,
    /// Heads of attention; `None`: as many as the program has by default.
    pub heads: Option<Heads>,
    /// How one layer of queries, keys and values is ordered, in programs that have one.
    pub qkv_order: QkvOrder,
}

/// How many heads attention has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heads {
    /// The same number everywhere.
    Number(usize),
    /// As many as there are times so many channels.
    OfChannels(usize),
}

/// The order of the outputs of one layer that gives queries, keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum QkvOrder {
    /// For each head its queries, keys and values.
    #[default]
    ByHead,
    /// The queries of all heads, then all keys, then all values: guided-diffusion's `use_new_attention_order`.
    Thirds,
}

/// A model found in a file.
#[derive(Debug)]
pub struct ForeignModel {
    /// The program whose names the tensors have.
    pub program: &'static str,
    /// The network, but for its dropout, which leaves no trace.
    pub unet: UnetConfig,
    /// Which weights are read, where the file says.
    pub weights: Option<Weights>,
    /// Whether the file has the other kind, too.
    pub has_both: bool,
    /// Training steps done, where the file says.
    pub step: Option<u64>,
    /// Steps of the diffusion process, where the file says.
    pub timesteps: Option<usize>,
    /// The variance, if the network gives one.
    pub learned_variance: Variance,
    /// The number of steps that t is scaled to, whatever their number, if the program does that.
    pub rescaled_timesteps: Option<usize>,
    /// Whether the number of heads was not said, and the program's default taken.
    pub heads_are_assumed: bool,
    /// Tensors that are not part of these weights: the optimiser's, the other kind's.
    pub ignored: Vec<String>,
    file: WeightsFile,
    map: KeyMap,
    prefix: String,
    suffix: &'static str,
    qkv_order: QkvOrder,
}

/// One set of weights in a file: what stands before and behind the program's own names.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Candidate {
    prefix: String,
    suffix: &'static str,
    weights: Option<Weights>,
}

impl ForeignModel {
    /// Opens a PyTorch file (`.bin`, `.ckpt`, `.pt`, `.pth`), a safetensors file or a TensorFlow checkpoint
    /// (its name with or without `.index`), and finds the network in it.
    ///
    /// # Errors
    /// If the file is damaged, the network is of another kind, the weights are not there, or it takes options
    /// to tell what the network is.
    pub fn open(path: &Path, options: &ImportOptions) -> Result<Self, Error> {
        let wanted = options.weights;
        let file = WeightsFile::open(path)?;
        let names: Vec<String> = file.tensors().into_iter().map(|tensor| tensor.name).collect();
        let maps = match &file {
            WeightsFile::Bundle(_) => vec![KeyMap::tensorflow()],
            WeightsFile::Safetensors(_) | WeightsFile::Torch(_) => {
                vec![
                    KeyMap::pytorch_diffusion(),
                    KeyMap::pytorch_ddpm(),
                    KeyMap::openai(),
                    KeyMap::diffusers(),
                ]
            }
        };
        let found = maps.into_iter().find_map(|map| {
            let candidates = candidates(&map, &names, path);
            (!candidates.is_empty()).then_some((map, candidates))
        });
        let Some((map, candidates)) = found else { return Err(unknown(path, &names)) };
        let refusal = map.refusals.iter().find(|(end, _)| names.iter().any(|name| name.ends_with(end)));
        if let Some((_, why)) = refusal {
            let problem = format!("a model of {}, but {why}; it cannot be read here", map.program);
            return Err(Error::NoModel { path: path.to_owned(), problem });
        }
        let has = |kind| candidates.iter().any(|candidate| candidate.weights == Some(kind));
        let has_both = has(Weights::Ema) && has(Weights::Raw);
        let preferred = wanted.or(has(Weights::Ema).then_some(Weights::Ema));
        let chosen =
            candidates.iter().find(|candidate| preferred.is_none() || candidate.weights == preferred);
        // What is asked for may be in a file that does not say what it has.
        let chosen = chosen.or_else(|| candidates.iter().find(|candidate| candidate.weights.is_none()));
        let Some(chosen) = chosen.cloned() else {
            let wanted = wanted.unwrap_or(Weights::Ema);
            let found = "the file has the other kind".to_owned();
            return Err(Error::WeightsNotThere { path: path.to_owned(), wanted, found });
        };
        let Candidate { prefix, suffix, weights } = chosen;
        let step = match &file {
            WeightsFile::Bundle(bundle) => bundle.read_integer("global_step")?,
            WeightsFile::Safetensors(_) | WeightsFile::Torch(_) => None,
        };
        let step = step.and_then(|step| step.try_into().ok());
        let stored = Stored { path, file: &file, map: &map, affixes: [&prefix, suffix] };
        let unet = stored.network(options.image_size)?;
        let unet = match options.heads.unwrap_or(Heads::Number(map.heads())) {
            Heads::Number(heads) => unet.with_heads(heads.max(1)),
            Heads::OfChannels(channels) => {
                let conventions = Conventions { head_channels: Some(channels), ..unet.conventions };
                UnetConfig { conventions, ..unet }
            }
        };
        unet.validate()
            .map_err(|error| Error::damaged(path, format!("its tensors make no network: {error}")))?;
        let layout = Unet::layout(&unet);
        file.check_holds(layout.len())?;
        let mut model = Self {
            program: map.program,
            unet,
            weights: weights.or(wanted),
            has_both,
            step,
            timesteps: None,
            learned_variance: map.learned_variance(),
            rescaled_timesteps: map.rescaled_timesteps(),
            heads_are_assumed: options.heads.is_none() && map.heads() > 1,
            ignored: Vec::new(),
            file,
            map,
            prefix,
            suffix,
            qkv_order: options.qkv_order,
        };
        let used: HashSet<String> = model.match_names(path, &layout)?.into_iter().collect();
        if let Some(table) = model.time_table() {
            model.timesteps = model.check_time_table(path, &table)?;
        }
        model.ignored = names.into_iter().filter(|name| !used.contains(name)).collect();
        Ok(model)
    }

    /// Whether the names are diffusers' own, by which networks of any process go.
    pub fn is_of_any_process(&self) -> bool {
        self.map.program == DIFFUSERS
    }

    /// Reads the parameters in the layout's order.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged, or a weight is NaN or infinite.
    pub fn read_parameters(&mut self, layout: &ParamLayout) -> Result<Vec<f32>, Error> {
        let names = self.match_names(self.file.path(), layout)?;
        let mut parameters = vec![0.0; layout.len()];
        let mut stored = Vec::new();
        for (spec, name) in layout.specs().iter().zip(names) {
            let out = &mut parameters[spec.range()];
            match self.map.order {
                Order::Hwio => self.file.read(&name, out)?,
                Order::Oihw => {
                    let third = self.map.third(&spec.name);
                    stored.resize(spec.len() * if third.is_some() { 3 } else { 1 }, 0.0);
                    self.file.read(&name, &mut stored)?;
                    match third {
                        Some(third) => load_parameter(spec, &self.third_of(&stored, spec, third), out),
                        None => load_parameter(spec, &stored, out),
                    }
                }
            }
            if spec.name == TIME_LAYER && self.map.is_interleaved() {
                part_sines(out, self.unet.channels);
            }
        }
        Ok(parameters)
    }

    /// The rows of a layer of queries, keys and values that are those of `spec`.
    fn third_of(&self, stored: &[f32], spec: &ParamSpec, third: usize) -> Vec<f32> {
        let channels = spec.shape[spec.shape.len() - 1];
        let row_len = spec.len() / channels;
        let head = match self.qkv_order {
            QkvOrder::ByHead => channels / self.unet.conventions.heads_of(channels),
            QkvOrder::Thirds => channels,
        };
        let place = |row: usize| (row / head * 3 + third) * head + row % head;
        (0..channels).flat_map(|row| &stored[place(row) * row_len..][..row_len]).copied().collect()
    }

    /// What the parameter `name` is called in the file.
    fn key(&self, name: &str, depth: Depth) -> Option<String> {
        network::key(&self.map, [&self.prefix, self.suffix], name, depth)
    }

    /// What the table of the time embedding is called in the file, if the program saves one.
    fn time_table(&self) -> Option<String> {
        Some(format!("{}{}{}", self.prefix, self.map.time_table()?, self.suffix))
    }

    /// Compares the table of the time embedding in the file, if there is one, with that of the network; its
    /// length is the number of steps.
    fn check_time_table(&mut self, path: &Path, name: &str) -> Result<Option<usize>, Error> {
        let (steps, width) = match self.file.shape(name) {
            None => return Ok(None),
            Some(&[steps, width]) if width == self.unet.channels && steps <= MAX_TABLE / width => {
                (steps, width)
            }
            Some(shape) => {
                return Err(Error::damaged(
                    path,
                    format!("`{name}` of shape {shape:?} is no table of steps"),
                ));
            }
        };
        let mut table = vec![0.0; steps * width];
        self.file.read(name, &mut table)?;
        let is_embedding = |(index, &value): (usize, &f32)| {
            let (t, channel) = (index / width, index % width);
            let frequency = 1e4f64.powf(-((channel - channel % 2) as f64) / width as f64);
            let angle = t as f64 * frequency;
            let expected = if channel % 2 == 0 { angle.sin() } else { angle.cos() };
            // The program computes the table in single precision.
            (f64::from(value) - expected).abs() < 1e-3
        };
        if !table.iter().enumerate().all(is_embedding) {
            return Err(Error::damaged(
                path,
                format!("`{name}` is not the time embedding of {}", self.program),
            ));
        }
        Ok(Some(steps))
    }

    /// The name in the file of each parameter, in the layout's order.
    fn match_names(&self, path: &Path, layout: &ParamLayout) -> Result<Vec<String>, Error> {
        let (mut mismatch, mut names) = (ParameterMismatch::default(), Vec::new());
        let depth = Depth::of(&self.unet);
        for spec in layout.specs() {
            let name = self.key(&spec.name, depth).unwrap_or_else(|| spec.name.clone());
            match self.file.shape(&name) {
                None => mismatch.missing.push(name.clone()),
                Some(shape) if !self.is_shape_of(spec, shape) => {
                    let expected = match self.map.order {
                        Order::Hwio => spec.shape.clone(),
                        Order::Oihw => file_shape(&self.stored_spec(spec)),
                    };
                    mismatch.misshapen.push((name.clone(), shape.to_vec(), expected));
                }
                Some(_) => {}
            }
            names.push(name);
        }
        // Part of the same weights, and of no use to the network: it is not quite this one.
        let table = self.time_table();
        let known: HashSet<&str> = names.iter().chain(&table).map(String::as_str).collect();
        let is_part = |name: &String| {
            let own = name.strip_prefix(&self.prefix).and_then(|rest| rest.strip_suffix(self.suffix));
            let is_weight = own.is_some_and(|own| match self.map.order {
                Order::Oihw => own.ends_with(".weight") || own.ends_with(".bias"),
                Order::Hwio => {
                    own.starts_with("model/")
                        && ["W", "b", "gamma", "beta"].contains(&own.rsplit('/').next().unwrap_or(""))
                }
            });
            let is_elsewhere = self.prefix.is_empty()
                && self.map.order == Order::Oihw
                && own.is_some_and(|own| {
                    own.split('.').next().is_some_and(|part| part.contains("ema") || part.contains("optim"))
                });
            is_weight && !is_elsewhere && !known.contains(name.as_str())
        };
        mismatch.unexpected =
            self.file.tensors().into_iter().map(|tensor| tensor.name).filter(is_part).collect();
        if mismatch == ParameterMismatch::default() {
            return Ok(names);
        }
        Err(Error::Parameters { path: path.to_owned(), mismatch: Box::new(mismatch) })
    }

    fn is_shape_of(&self, spec: &ParamSpec, stored: &[usize]) -> bool {
        match self.map.order {
            // A convolution of one pixel also comes as the matrix it is.
            Order::Hwio => {
                stored == spec.shape
                    || matches!(spec.shape[..], [1, 1, inputs, outputs] if *stored == [inputs, outputs])
            }
            Order::Oihw => is_shape_of(&self.stored_spec(spec), stored),
        }
    }

    /// The parameter as it lies in the file: with two others, where one layer has three.
    fn stored_spec(&self, spec: &ParamSpec) -> ParamSpec {
        let mut spec = spec.clone();
        if self.map.third(&spec.name).is_some()
            && let Some(outputs) = spec.shape.last_mut()
        {
            *outputs *= 3;
        }
        spec
    }
}

/// The sets of weights in a file, told by the first convolution and a layer that only this program names so.
fn candidates(map: &KeyMap, names: &[String], path: &Path) -> Vec<Candidate> {
    let all: HashSet<&str> = names.iter().map(String::as_str).collect();
    let key = |name| map.key(name, Depth::down(0)).unwrap_or_default();
    let (first, typical) = (key("conv_in.weight"), key(TIME_LAYER));
    let mut found = Vec::new();
    for suffix in ["", EMA_SUFFIX] {
        for name in names {
            let Some(prefix) = name.strip_suffix(suffix).and_then(|own| own.strip_suffix(&first)) else {
                continue;
            };
            if !all.contains(format!("{prefix}{typical}{suffix}").as_str()) {
                continue;
            }
            let weights = match (map.order, suffix) {
                (Order::Hwio, EMA_SUFFIX) => Some(Weights::Ema),
                (Order::Hwio, _) => Some(Weights::Raw),
                (Order::Oihw, _) => {
                    let file = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
                    let is_ema =
                        prefix.to_lowercase().contains("ema") || prefix.is_empty() && file.contains("ema");
                    is_ema.then_some(Weights::Ema)
                }
            };
            found.push(Candidate { prefix: prefix.to_owned(), suffix, weights });
        }
    }
    // Beside averaged weights, others are raw.
    if found.iter().any(|candidate| candidate.weights == Some(Weights::Ema)) {
        for candidate in &mut found {
            candidate.weights = candidate.weights.or(Some(Weights::Raw));
        }
    }
    found
}

/// Puts the rows of the layer above the time embedding, `[channels][outputs]`, in the order of sines before
/// cosines, from that of a sine and a cosine in turn.
fn part_sines(layer: &mut [f32], channels: usize) {
    let outputs = layer.len() / channels;
    let interleaved = layer.to_vec();
    for (row, values) in interleaved.chunks_exact(outputs).enumerate() {
        let place = row / 2 + row % 2 * (channels / 2);
        layer[place * outputs..][..outputs].copy_from_slice(values);
    }
}

/// Why there is no model for us in the file.
fn unknown(path: &Path, names: &[String]) -> Error {
    let foreign = FOREIGN.iter().find(|(key, _)| names.iter().any(|name| name.ends_with(key)));
    let problem = match foreign {
        Some((_, whose)) => format!("a model of {whose}; it cannot be read here"),
        None => {
            let shown: Vec<&str> = names.iter().take(4).map(String::as_str).collect();
            format!("no network of this family among its {} tensors ({}, …)", names.len(), shown.join(", "))
        }
    };
    Error::NoModel { path: path.to_owned(), problem }
}
