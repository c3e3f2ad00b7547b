//! `ddpm data list`: the kinds of sources, and what can be fetched.

use super::published::PUBLISHED;
use crate::failure::Failure;
use crate::report::Report;
use data::SOURCE_KINDS;
use data::target::writable_kinds;
use serde_json::json;

/// Show the kinds of data sets that are read and written, and those that can be fetched
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_: &Args) -> Result<Report, Failure> {
    let mut words = String::from("read:\n");
    for kind in SOURCE_KINDS {
        words += &format!("  {:<34}{}\n", kind.form, kind.about);
    }
    words += "written (ddpm data convert):\n ";
    for name in writable_kinds() {
        words += &format!(" {name}:PATH");
    }
    words += "\nfetched (ddpm data fetch):\n";
    for set in PUBLISHED {
        words += &format!("  {:<12}{} ({:.1} MB)\n", set.name, set.about, set.bytes() as f64 / 1e6);
    }
    let read: Vec<_> = SOURCE_KINDS
        .iter()
        .map(|kind| json!({ "kind": kind.name, "form": kind.form, "about": kind.about }))
        .collect();
    let fetched: Vec<_> = PUBLISHED
        .iter()
        .map(|set| json!({ "name": set.name, "about": set.about, "bytes": set.bytes() }))
        .collect();
    let json = json!({ "read": read, "written": writable_kinds().collect::<Vec<_>>(), "fetched": fetched });
    Ok(Report::new(words, json))
}
