//! The Inception network's weights: where they are found, that they are the published ones, and how they become ours.
//!
//! They are the user's file: pytorch-fid's `.pth`, or a safetensors file with the same keys. One that ends
//! after `Mixed_6e` gives the features of 64, 192 and 768 dimensions.

use crate::MeasureError;
use crate::cache_folder::{cache_folder, user_cache};
use checkpoint::WeightsFile;
use engine::ParamLayout;
use models::inception::{Classifier, Inception, NormalisedConv, Tap, fold_batch_norm};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The environment variable that names the file.
pub const VARIABLE: &str = "DDPM_INCEPTION";
/// The published file, as pytorch-fid names it.
pub const FILE_NAME: &str = "pt_inception-2015-12-05-6726825d.pth";
/// The same file, as torch-fidelity names it.
const OTHER_FILE_NAME: &str = "weights-inception-2015-12-05-6726825d.pth";
/// The SHA-256 of the published file (95,628,359 bytes).
pub const PUBLISHED_SHA256: &str = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
/// Where the published file is.
pub const URL: &str = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth";

/// How to get the file.
pub(crate) const REMEDY: &str = "`ddpm data fetch inception` gets them; or get https://github.com/mseitzer/pytorch-fid/releases/\
download/fid_weights/pt_inception-2015-12-05-6726825d.pth (95.6 MB, SHA-256 \
6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2), and put it there, or name it by --inception FILE or the \
environment variable DDPM_INCEPTION";

/// Where the weights are: `given`, else what the variable names, else the first that is there of [`search_path`].
///
/// # Errors
/// [`MeasureError::WeightsNotFound`] with every place that was looked at.
pub fn locate(given: Option<&Path>) -> Result<PathBuf, MeasureError> {
    let named = given
        .map(Path::to_owned)
        .or_else(|| std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from));
    let candidates = named.map_or_else(search_path, |path| vec![path]);
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(MeasureError::WeightsNotFound { looked_for: candidates }),
    }
}

/// Where the weights are looked for when nobody says: this program's cache folder, then the cache of
/// PyTorch's hub, where pytorch-fid and torch-fidelity keep them.
pub fn search_path() -> Vec<PathBuf> {
    let ours = cache_folder()
        .into_iter()
        .flat_map(|folder| [folder.join(FILE_NAME), folder.join("inception-2015-12-05.safetensors")]);
    let hub = user_cache().into_iter().flat_map(|folder| {
        let folder = folder.join("torch").join("hub").join("checkpoints");
        [folder.join(FILE_NAME), folder.join(OTHER_FILE_NAME)]
    });
    ours.chain(hub).collect()
}

/// An open weights file.
#[derive(Debug)]
pub struct InceptionWeights {
    path: PathBuf,
    sha256: String,
    file: WeightsFile,
}

impl InceptionWeights {
    /// Opens the file at `path` and takes its SHA-256. A file named like the published one must have its content.
    ///
    /// # Errors
    /// If it cannot be read, is no file of tensors, or is not what its name says.
    pub fn open(path: &Path) -> Result<Self, MeasureError> {
        let sha256 = sha256(path)?;
        let name = path.file_name().unwrap_or_default();
        if (name == FILE_NAME || name == OTHER_FILE_NAME) && sha256 != PUBLISHED_SHA256 {
            return Err(MeasureError::WrongWeights {
                path: path.to_owned(),
                found: sha256,
                expected: PUBLISHED_SHA256,
            });
        }
        let file = WeightsFile::open(path).map_err(|source| unreadable(source, &sha256))?;
        Ok(Self { path: path.to_owned(), sha256, file })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's SHA-256, as 64 hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Whether it is the published file.
    pub fn is_published(&self) -> bool {
        self.sha256 == PUBLISHED_SHA256
    }

    /// The deepest tap whose layers are all there.
    pub fn deepest_tap(&self) -> Option<Tap> {
        Tap::ALL.into_iter().rev().find(|&tap| self.first_missing(&Inception::layout(tap)).is_none())
    }

    /// The network's weights up to `tap`, in the order of [`Inception::layout`].
    ///
    /// # Errors
    /// [`MeasureError::PartialWeights`] if the file ends before; else if it is damaged or of another network.
    pub fn features(&mut self, tap: Tap) -> Result<Vec<f32>, MeasureError> {
        let layout = Inception::layout(tap);
        if let Some(missing) = self.first_missing(&layout) {
            let wanted = match tap {
                Tap::Pool1 => "--dims 64",
                Tap::Pool2 => "--dims 192",
                Tap::Mixed6 => "--dims 768",
                Tap::Pool3 => "--dims 2048",
            };
            return Err(self.partial(missing, wanted));
        }
        let mut buffer = vec![0.0; layout.len()];
        for spec in layout.specs() {
            let Some(layer) = spec.name.strip_suffix(".weight") else { continue };
            let [kernel_h, kernel_w, input, output] = spec.shape[..] else { continue };
            let read = |file: &mut WeightsFile, key: String, shape: &[usize]| {
                read_tensor(file, &self.path, &key, shape).map_err(|source| unreadable(source, &self.sha256))
            };
            let conv = NormalisedConv {
                weight: read(
                    &mut self.file,
                    format!("{layer}.conv.weight"),
                    &[output, input, kernel_h, kernel_w],
                )?,
                scale: read(&mut self.file, format!("{layer}.bn.weight"), &[output])?,
                shift: read(&mut self.file, format!("{layer}.bn.bias"), &[output])?,
                mean: read(&mut self.file, format!("{layer}.bn.running_mean"), &[output])?,
                variance: read(&mut self.file, format!("{layer}.bn.running_var"), &[output])?,
            };
            let (weight, bias) = fold_batch_norm(&conv, kernel_h * kernel_w);
            buffer[spec.range()].copy_from_slice(&weight);
            if let Some(spec) = layout.find(&format!("{layer}.bias")) {
                buffer[spec.range()].copy_from_slice(&bias);
            }
        }
        Ok(buffer)
    }

    /// The classifier's weights, in the order of [`Classifier::layout`], with the bias left out as the
    /// Inception Score has it.
    ///
    /// # Errors
    /// [`MeasureError::PartialWeights`] if the file has none; else if it is damaged or of another network.
    pub fn classifier(&mut self) -> Result<Vec<f32>, MeasureError> {
        const KEY: &str = "fc.weight";
        if self.file.shape(KEY).is_none() {
            return Err(self.partial(KEY.to_owned(), "the Inception Score"));
        }
        let layout = Classifier::layout();
        let mut buffer = vec![0.0; layout.len()];
        if let Some(spec) = layout.find(KEY)
            && let [input, output] = spec.shape[..]
        {
            let values = read_tensor(&mut self.file, &self.path, KEY, &[output, input])
                .map_err(|source| unreadable(source, &self.sha256))?;
            let weight = &mut buffer[spec.range()];
            for (o, row) in values.chunks_exact(input).enumerate() {
                for (i, &value) in row.iter().enumerate() {
                    weight[i * output + o] = value;
                }
            }
        }
        Ok(buffer)
    }

    fn first_missing(&self, layout: &ParamLayout) -> Option<String> {
        let layers = layout.specs().iter().filter_map(|spec| spec.name.strip_suffix(".weight"));
        let keys = layers.map(|layer| format!("{layer}.conv.weight"));
        keys.into_iter().find(|key| self.file.shape(key).is_none())
    }

    fn partial(&self, missing: String, wanted: &'static str) -> MeasureError {
        let remedy = match self.deepest_tap() {
            Some(tap) => {
                format!("this file gives up to --dims {}; the published file ({URL}) gives all", tap.dims())
            }
            None => format!("it is not an Inception network's file; the published one is {URL}"),
        };
        MeasureError::PartialWeights { path: self.path.clone(), missing, wanted, remedy }
    }
}

fn unreadable(source: checkpoint::Error, sha256: &str) -> MeasureError {
    MeasureError::UnreadableWeights {
        source: Box::new(source),
        found: sha256.to_owned(),
        expected: PUBLISHED_SHA256,
    }
}

fn read_tensor(
    file: &mut WeightsFile,
    path: &Path,
    key: &str,
    shape: &[usize],
) -> Result<Vec<f32>, checkpoint::Error> {
    match file.shape(key) {
        Some(found) if found != shape => Err(checkpoint::Error::Damaged {
            path: path.to_owned(),
            problem: format!("tensor `{key}` is {found:?} instead of {shape:?}: another network's weights"),
        }),
        _ => {
            let mut values = vec![0.0; shape.iter().product()];
            file.read(key, &mut values).map(|()| values)
        }
    }
}

/// The SHA-256 of a file's bytes, as hexadecimal digits.
///
/// # Errors
/// If it cannot be read.
pub fn sha256(path: &Path) -> Result<String, MeasureError> {
    let mut file = File::open(path).map_err(MeasureError::io(path, "read"))?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut chunk).map_err(MeasureError::io(path, "read"))? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&chunk[..count]),
        }
    }
}
