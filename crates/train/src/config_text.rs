//! From text to a [`Config`]: presets and files, `--set` overrides, and what is said about mistakes in them.

use crate::config::Config;
use crate::presets;
use crate::sampling;
use crate::validate::{Problem, validate};
use serde::Deserialize;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Bytes of a configuration file: the longest that has every key takes some thousand.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is too large to be a configuration.
    #[error(
        "{}: it is larger than {MAX_FILE_BYTES} bytes, which no configuration is; give a TOML file or a preset's name (images are named by --set data.source=KIND:PATH)",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Neither a preset nor a file has this name.
    #[error(
        "there is no preset and no file called {name:?}{}; the presets are {presets}",
        did_you_mean(suggestion)
    )]
    NoSuchConfig {
        /// What was asked for.
        name: String,
        /// The preset with the nearest name.
        suggestion: Option<String>,
        /// All presets, for the message.
        presets: String,
    },
    /// The text is not TOML, or a value has the wrong type. The message shows line and column.
    #[error("{origin}: {message}")]
    Toml {
        /// The file or preset.
        origin: String,
        /// What the TOML reader says, with the line shown.
        message: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key {key}{}; {valid}", did_you_mean(suggestion))]
    UnknownKey {
        /// The file with line and column, or the override.
        origin: String,
        /// The dotted key.
        key: String,
        /// The nearest key that exists.
        suggestion: Option<String>,
        /// What keys there are, for the message.
        valid: String,
    },
    /// An override that is not `SECTION.KEY=VALUE`.
    #[error("--set {text}: {reason}; write --set SECTION.KEY=VALUE, for example --set train.steps=1000")]
    Override {
        /// The override.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A source of images that there is not.
    #[error("{origin}: data.source: {source}")]
    Source {
        /// The file, preset or override that the value comes from.
        origin: String,
        /// What is wrong with it.
        source: data::DataError,
    },
    /// A diffusion process that cannot be.
    #[error("{origin}: {source}")]
    Diffusion {
        /// The file, preset or override that the value comes from.
        origin: String,
        /// What is wrong with it.
        source: diffusion::DiffusionError,
    },
    /// Grids that cannot be sampled while training.
    #[error("{origin}: log.sample_steps: {source} (log.sample_every = 0 does without samples)")]
    Preview {
        /// The file, preset or override that the value comes from.
        origin: String,
        /// What is wrong with it.
        source: diffusion::DiffusionError,
    },
    /// A value outside its range.
    #[error("{origin}: {key} = {value}: {reason}")]
    Invalid {
        /// The file, preset or override that the value comes from.
        origin: String,
        /// The dotted key.
        key: String,
        /// The value.
        value: String,
        /// What it must be instead.
        reason: String,
    },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
}

/// Reads the configuration called `name`, the name of a preset or the path of a TOML file, puts the `overrides`
/// (`SECTION.KEY=VALUE`, later ones win) over it and checks every value.
///
/// # Errors
/// [`ConfigError`] with the file, the key and the remedy.
pub fn load(name: &str, overrides: &[String]) -> Result<Config, ConfigError> {
    let path = Path::new(name);
    match presets::find(name) {
        // A file that happens to bear a preset's name is reached as ./NAME.
        Some(preset) => parse(preset.text, &format!("preset {name}"), overrides),
        None if path.exists() || name.contains(['/', '\\']) || name.ends_with(".toml") => {
            let text = read_text(path)?;
            parse(&text, &path.display().to_string(), overrides)
        }
        None => Err(ConfigError::NoSuchConfig {
            name: name.to_owned(),
            suggestion: nearest(name, presets::ALL.iter().map(|preset| preset.name)).map(str::to_owned),
            presets: presets::ALL.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// The text of the file at `path`. Of one that is no configuration, a data set by mistake, little is read.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let read_error = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(read_error)?;
    let mut text = Vec::new();
    // Not by the length that the system tells, for a pipe has none.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(read_error)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(text)
        .map_err(|_| read_error(io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8")))
}

/// Reads a configuration from TOML text; `origin` is what its mistakes are said to be in.
///
/// # Errors
/// [`ConfigError`], except `Read`, `TooLarge` and `NoSuchConfig`.
pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Config, ConfigError> {
    refuse_unknown_keys(text, origin)?;
    let toml_error = |error: toml::de::Error| ConfigError::Toml {
        origin: origin.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    };
    let mut config: Config = toml::from_str(text).map_err(toml_error)?;
    let mut table: Table = toml::from_str(text).map_err(toml_error)?;
    for text in overrides {
        config = apply_override(&mut table, text)?;
    }
    find_mistake(&config).map_err(|mistake| mistake.explain(origin, overrides))?;
    Ok(config)
}

/// Checks every value of a configuration that was put together in code, as [`parse`] checks one from text;
/// `origin` is what its mistakes are said to be in.
///
/// # Errors
/// [`ConfigError::Invalid`], `Source`, `Diffusion` or `Preview`.
pub fn check(config: &Config, origin: &str) -> Result<(), ConfigError> {
    find_mistake(config).map_err(|mistake| mistake.explain(origin, &[]))
}

/// Renders a configuration as TOML, every key written out.
pub fn render(config: &Config) -> Result<String, ConfigError> {
    toml::to_string(config)
        .map_err(|error| ConfigError::Toml { origin: "configuration".into(), message: error.to_string() })
}

/// A mistake in the values, not yet traced to the text that it comes from.
enum Mistake {
    Value(Problem),
    Source(data::DataError),
    Diffusion(diffusion::DiffusionError),
    Preview(diffusion::DiffusionError),
}

fn find_mistake(config: &Config) -> Result<(), Mistake> {
    validate(config).map_err(Mistake::Value)?;
    config.data.source.parse::<data::SourceSpec>().map_err(Mistake::Source)?;
    let process = diffusion::GaussianDiffusion::new(&config.diffusion).map_err(Mistake::Diffusion)?;
    if config.log.sample_every > 0 {
        let preview = sampling::sampling_in(config.log.sample_steps, process.timesteps());
        let sampler = preview.sampler(&process, config.unet().image_shape(), 0, 0, 0);
        sampler.map_err(Mistake::Preview)?;
    }
    Ok(())
}

impl Mistake {
    fn explain(self, origin: &str, overrides: &[String]) -> ConfigError {
        let keys = match &self {
            Self::Value(problem) => problem.key,
            Self::Source(_) => "data.source",
            Self::Diffusion(_) => "diffusion.",
            Self::Preview(_) => "log.sample_steps",
        };
        let from_override = overrides
            .iter()
            .rev()
            .find(|text| text.trim_start().starts_with(keys))
            .map(|text| format!("--set {text}"));
        let origin = from_override.unwrap_or_else(|| origin.to_owned());
        match self {
            Self::Value(Problem { key, value, reason }) => {
                ConfigError::Invalid { origin, key: key.to_owned(), value, reason }
            }
            Self::Source(source) => ConfigError::Source { origin, source },
            Self::Diffusion(source) => ConfigError::Diffusion { origin, source },
            Self::Preview(source) => ConfigError::Preview { origin, source },
        }
    }
}

/// Puts `SECTION.KEY=VALUE` over `table` and reads the result.
fn apply_override(table: &mut Table, text: &str) -> Result<Config, ConfigError> {
    let fail = |reason: &str| ConfigError::Override { text: text.to_owned(), reason: reason.to_owned() };
    let (key, value) = text.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
    let (key, value) = (key.trim(), value.trim());
    let valid = valid_keys();
    let (section, name) = match key.split_once('.') {
        Some((section, name)) if valid.contains(&(section.to_owned(), name.to_owned())) => (section, name),
        _ => {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            return Err(unknown_key(format!("--set {text}"), section, name, &valid));
        }
    };
    // What is not a TOML value is a string without its quotes.
    let value: Value = value.parse().unwrap_or_else(|_| Value::String(value.to_owned()));
    let section_table = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section_table) = section_table {
        section_table.insert(name.to_owned(), value);
    }
    Config::deserialize(table.clone())
        .map_err(|error| fail(error.to_string().lines().next().unwrap_or("the value has the wrong type")))
}

/// Every (section, key) there is, in the order of the documentation.
fn valid_keys() -> Vec<(String, String)> {
    let Ok(Value::Table(sections)) = Value::try_from(Config::default()) else { return Vec::new() };
    sections
        .iter()
        .filter_map(|(section, keys)| keys.as_table().map(|keys| (section, keys)))
        .flat_map(|(section, keys)| keys.keys().map(move |key| (section.clone(), key.clone())))
        .collect()
}

/// Serde would refuse unknown keys too, but knows no near ones and stops at its own section's.
fn refuse_unknown_keys(text: &str, origin: &str) -> Result<(), ConfigError> {
    // Text that isn't TOML is reported by the typed reading that follows.
    let Ok(document) = toml::de::DeTable::parse(text) else { return Ok(()) };
    let valid = valid_keys();
    for (section, value) in document.get_ref() {
        let place = |start: usize| {
            let (line, column) = line_and_column(text, start);
            format!("{origin}, line {line}, column {column}")
        };
        let known_section = valid.iter().any(|(known, _)| known == section.get_ref());
        match value.get_ref().as_table() {
            Some(keys) if known_section => {
                for key in keys.keys() {
                    let (section, name) = (section.get_ref().as_ref(), key.get_ref().as_ref());
                    if !valid.iter().any(|(s, k)| s == section && k == name) {
                        return Err(unknown_key(place(key.span().start), section, name, &valid));
                    }
                }
            }
            None if known_section => {} // a wrong type, reported by the typed reading
            Some(_) => {
                let sections = section_names(&valid);
                let suggestion = nearest(section.get_ref(), sections.iter().map(String::as_str));
                return Err(ConfigError::UnknownKey {
                    origin: place(section.span().start),
                    key: format!("[{}]", section.get_ref()),
                    suggestion: suggestion.map(|name| format!("[{name}]")),
                    valid: format!("the sections are [{}]", sections.join("], [")),
                });
            }
            None => return Err(unknown_key(place(section.span().start), "", section.get_ref(), &valid)),
        }
    }
    Ok(())
}

fn section_names(valid: &[(String, String)]) -> Vec<String> {
    let mut sections: Vec<String> = valid.iter().map(|(section, _)| section.clone()).collect();
    sections.dedup();
    sections
}

fn unknown_key(origin: String, section: &str, name: &str, valid: &[(String, String)]) -> ConfigError {
    let dotted = |(section, key): &(String, String)| format!("{section}.{key}");
    let in_section: Vec<_> = valid.iter().filter(|(known, _)| known == section).cloned().collect();
    // The same name in another section, else a near name in the same section, else one in another.
    let suggestion = valid
        .iter()
        .find(|(_, key)| key == name)
        .map(dotted)
        .or_else(|| {
            let near = nearest(name, in_section.iter().map(|(_, key)| key.as_str()))?;
            Some(format!("{section}.{near}"))
        })
        .or_else(|| {
            let near = nearest(name, valid.iter().map(|(_, key)| key.as_str()))?;
            valid.iter().find(|(_, key)| key == near).map(dotted)
        });
    let valid_text = if in_section.is_empty() {
        format!("the sections are [{}]", section_names(valid).join("], ["))
    } else {
        let keys: Vec<&str> = in_section.iter().map(|(_, key)| key.as_str()).collect();
        format!("[{section}] has {}", keys.join(", "))
    };
    let key = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    ConfigError::UnknownKey { origin, key, suggestion, valid: valid_text }
}

/// The candidate nearest to `name`, if one is near at all: by Jaro–Winkler similarity above 0.7, as clap has it for
/// flags, or for holding `name` (`mult` for `channel_mult`).
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |candidate: &str| {
        let within = name.len() >= 3 && candidate.contains(name);
        strsim::jaro_winkler(name, candidate).max(if within { 0.75 } else { 0.0 })
    };
    candidates
        .map(|candidate| (similarity(candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// Line and column, both from 1, of a byte in `text`.
fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
