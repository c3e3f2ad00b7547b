//! `ddpm completions`: scripts that complete commands and options in a shell.

use crate::failure::Failure;
use crate::report::Report;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

/// Print a script that completes ddpm's commands and options in a shell
///
/// For example in bash: source <(ddpm completions bash)
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args) -> Result<Report, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "ddpm", &mut script);
    let script = String::from_utf8(script).map_err(Failure::work)?;
    let json = json!({ "shell": args.shell.to_string(), "script": script });
    Ok(Report::new(script, json))
}
