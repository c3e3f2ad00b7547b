//! Measures how fast a source can be turned into batches.
//!
//! `cargo run --release -p ddpm-data --example loader_speed -- SOURCE [SIZE [SECONDS]]`

use data::{ImageOptions, Loader, LoaderOptions, SourceSpec, open};
use std::error::Error;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, rest @ ..] = arguments.as_slice() else {
        return Err("usage: loader_speed SOURCE [SIZE [SECONDS]]".into());
    };
    let options =
        ImageOptions { size: rest.first().map(|text| text.parse()).transpose()?, ..Default::default() };
    let seconds = rest.get(1).map(|text| text.parse()).transpose()?.unwrap_or(3);

    let opening = Instant::now();
    let source = open(&source.parse::<SourceSpec>()?, &options)?;
    println!("{}", source.description());
    println!("opened in {:.2?}", opening.elapsed());

    let mut loader = Loader::new(source, LoaderOptions { batch_size: 64, flip: true, ..Default::default() })?;
    loader.next_batch()?;
    let (start, first) = (Instant::now(), loader.position());
    while start.elapsed() < Duration::from_secs(seconds) {
        loader.next_batch()?;
    }
    let images = (loader.position() - first) as f64;
    println!("{:.0} images/s", images / start.elapsed().as_secs_f64());
    Ok(())
}
