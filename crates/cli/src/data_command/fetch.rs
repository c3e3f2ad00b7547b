//! `ddpm data fetch`: published files, checked.

use super::download::{Interruption, download};
use super::published::{PUBLISHED, Published};
use crate::Global;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use clap::builder::PossibleValuesParser;
use serde_json::json;
use std::path::PathBuf;

/// Download a data set or weights, and check their size and checksum
///
/// An interrupted download continues when called again. Proxies are those of the environment (https_proxy and so on).
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm data fetch cifar10                      into data/cifar10: train with --set data.source=cifar10:data/cifar10
  ddpm data fetch inception                    into the cache, where `ddpm fid` looks for it
  ddpm data fetch mnist --from http://mirror.example/mnist/")]
pub struct Args {
    /// What to fetch
    #[arg(value_parser = PossibleValuesParser::new(PUBLISHED.iter().map(|set| set.name)))]
    name: String,

    /// Folder for the files [default: data/NAME; for weights the cache folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Take the files from another address: what stands before their names
    #[arg(long, value_name = "URL")]
    from: Option<String>,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let Some(set) = PUBLISHED.iter().find(|set| set.name == args.name) else {
        return Err(Failure::input(format!("nothing called {} can be fetched", args.name)));
    };
    let folder = folder(args, set)?;
    std::fs::create_dir_all(&folder).map_err(|error| {
        Failure::input(format!("{}: cannot make the folder: {error}; choose another --out", folder.display()))
    })?;
    let mut progress = Progress::new("fetching", 0, set.bytes(), global.quiet);
    let (mut before, mut paths) = (0, Vec::new());
    for file in set.files {
        let base = args
            .from
            .as_deref()
            .map_or_else(|| file.base.to_owned(), |base| format!("{}/", base.trim_end_matches('/')));
        let result = download(file, &base, &folder, |have| {
            progress.update((before + have).min(set.bytes()), file.name);
            signals.stopped()
        });
        match result {
            Ok(path) => paths.push(path),
            Err(interruption) => {
                progress.finish();
                return Err(match interruption {
                    Interruption::Failed(failure) => failure,
                    Interruption::Stopped => {
                        let message = "stopped; what has come is kept, the same call goes on";
                        Failure::stopped(signals.exit_status(), message, json!({ "status": "stopped" }))
                    }
                });
            }
        }
        before += file.bytes.unwrap_or(0);
    }
    progress.finish();
    let spec = set.kind.map(|kind| format!("{kind}:{}", folder.display()));
    let use_it = spec.as_ref().map_or_else(String::new, |spec| format!("; it is now {spec}"));
    let words = format!("{} in {}, sizes and checksums are right{use_it}", set.name, folder.display());
    Ok(Report::new(words, json!({ "name": set.name, "folder": folder, "files": paths, "source": spec })))
}

fn folder(args: &Args, set: &Published) -> Result<PathBuf, Failure> {
    match (&args.out, set.kind) {
        (Some(out), _) => Ok(out.clone()),
        (None, Some(_)) => Ok(PathBuf::from("data").join(set.name)),
        (None, None) => eval::cache_folder::cache_folder()
            .ok_or_else(|| Failure::input("neither XDG_CACHE_HOME nor HOME is set; give a folder by --out")),
    }
}
