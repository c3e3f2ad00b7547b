//! Configurations that come with the program: the paper's runs, and small ones for a CPU.

/// A configuration embedded in the program.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Preset {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Its TOML text. The comment in its first line says what it is.
    pub text: &'static str,
}

impl Preset {
    /// What it is, in a line.
    pub fn summary(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(Preset { name: $name, text: include_str!(concat!("presets/", $name, ".toml")) }),*]
    };
}

/// All presets: those for a CPU first.
pub const ALL: &[Preset] = presets![
    "shapes32",
    "mnist32",
    "cifar10_small",
    "cifar10",
    "celebahq256",
    "lsun_bedroom",
    "lsun_bedroom_large",
    "lsun_cat",
    "lsun_church",
];

/// The preset called `name`.
pub fn find(name: &str) -> Option<&'static Preset> {
    ALL.iter().find(|preset| preset.name == name)
}
