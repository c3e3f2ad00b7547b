//! Writes the first images of a source as one PNG, to see what a model will be trained on.
//!
//! `cargo run --release -p ddpm-data --example contact_sheet -- SOURCE SHEET.png [COLUMNS [ROWS [SIZE]]]`

use data::{ImageOptions, SourceSpec, open};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, sheet, numbers @ ..] = arguments.as_slice() else {
        return Err("usage: contact_sheet SOURCE SHEET.png [COLUMNS [ROWS [SIZE]]]".into());
    };
    let number = |index: usize| numbers.get(index).map(|text| text.parse::<usize>()).transpose();
    let (columns, rows) = (number(0)?.unwrap_or(16), number(1)?.unwrap_or(10));
    let options = ImageOptions { size: number(2)?, channels: Some(3), ..Default::default() };
    let source = open(&source.parse::<SourceSpec>()?, &options)?;
    println!("{}", source.description());

    let shape = source.shape();
    let gap = 2;
    let (width, height) = ((shape.width + gap) * columns, (shape.height + gap) * rows);
    let mut canvas = vec![255; width * height * 3];
    let mut pixels = vec![0; shape.len()];
    for cell in 0..(columns * rows).min(usize::try_from(source.len())?) {
        source.read(cell as u64, &mut pixels)?;
        let (left, top) = (cell % columns * (shape.width + gap), cell / columns * (shape.height + gap));
        for (y, row) in pixels.chunks_exact(shape.width * 3).enumerate() {
            canvas[((top + y) * width + left) * 3..][..row.len()].copy_from_slice(row);
        }
    }
    image::save_buffer(sheet, &canvas, width as u32, height as u32, image::ExtendedColorType::Rgb8)?;
    Ok(())
}
