//! Charts: lines with confidence bands, in panels side by side, as SVG and as PNG.

mod draw;

use crate::estimate::Estimate;
use plotters::prelude::{BitMapBackend, IntoDrawingArea, SVGBackend};
use plotters::style::{FontStyle, register_font};
use std::fmt::Display;
use std::sync::Once;

/// Width and height of a panel, in pixels of the SVG.
const PANEL: (u32, u32) = (440, 340);
/// Pixels of the PNG per pixel of the SVG.
const PNG_SCALE: u32 = 2;
/// Most panels in a row, and rows.
const MAX_PANELS: usize = 16;

/// How numbers are laid out along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scale {
    /// Equal distances are equal differences.
    #[default]
    Linear,
    /// Equal distances are equal ratios. Numbers that are not positive are left out.
    Log,
}

/// An axis of a chart.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Axis {
    /// What is shown, with its unit.
    pub label: String,
    /// How.
    pub scale: Scale,
    /// Includes 0 (of a linear axis).
    pub from_zero: bool,
}

/// A line of a chart.
#[derive(Clone, PartialEq, Debug)]
pub struct Series {
    /// What it is, for the legend; no legend if all are empty.
    pub name: String,
    /// x and y, in the order in which they are joined. Points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Lower and upper end of each point's confidence interval; empty: none.
    pub band: Vec<(f64, f64)>,
    /// Whether points are marked by dots.
    pub dots: bool,
}

impl Series {
    /// The means of `estimates`, by x, with their confidence intervals as the band, where all have one.
    pub fn estimates(name: &str, estimates: &[(f64, Estimate)], dots: bool) -> Self {
        let intervals: Option<Vec<_>> = estimates.iter().map(|(_, e)| Some((e.low?, e.high?))).collect();
        Self {
            name: name.to_owned(),
            points: estimates.iter().map(|(x, estimate)| (*x, estimate.mean)).collect(),
            band: intervals.unwrap_or_default(),
            dots,
        }
    }
}

/// One panel.
#[derive(Clone, PartialEq, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines; each has its own colour.
    pub series: Vec<Series>,
}

/// Panels in rows.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// The panels, row by row.
    pub charts: Vec<Chart>,
    /// Panels in a row.
    pub columns: usize,
}

/// A figure that cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[error("a figure cannot be drawn: {0}")]
pub struct ChartError(String);

impl ChartError {
    fn new(error: impl Display) -> Self {
        Self(error.to_string())
    }
}

impl Figure {
    /// The figure as an SVG document. Text is text, in the reader's sans-serif font.
    ///
    /// # Errors
    /// If it has no panel, or too many.
    pub fn svg(&self) -> Result<String, ChartError> {
        let (width, height) = self.size()?;
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        draw::figure(&area, self, 1)?;
        area.present().map_err(ChartError::new)?;
        drop(area);
        Ok(text)
    }

    /// The figure as a PNG file's bytes, twice as many pixels wide and high as the SVG.
    ///
    /// # Errors
    /// If it has no panel, or too many.
    pub fn png(&self) -> Result<Vec<u8>, ChartError> {
        let (width, height) = self.size()?;
        let (width, height) = (width * PNG_SCALE, height * PNG_SCALE);
        let mut pixels = vec![255; width as usize * height as usize * 3];
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        draw::figure(&area, self, PNG_SCALE)?;
        area.present().map_err(ChartError::new)?;
        drop(area);
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        image::ImageEncoder::write_image(encoder, &pixels, width, height, image::ExtendedColorType::Rgb8)
            .map_err(ChartError::new)?;
        Ok(bytes)
    }

    fn rows_and_columns(&self) -> (usize, usize) {
        let columns = self.columns.clamp(1, self.charts.len().max(1));
        (self.charts.len().div_ceil(columns), columns)
    }

    fn size(&self) -> Result<(u32, u32), ChartError> {
        load_font();
        let (rows, columns) = self.rows_and_columns();
        if self.charts.is_empty() || rows > MAX_PANELS || columns > MAX_PANELS {
            return Err(ChartError(format!("{rows} rows of {columns} panels are not 1 to {MAX_PANELS}")));
        }
        Ok((PANEL.0 * columns as u32, PANEL.1 * rows as u32))
    }
}

/// Makes the embedded font known to plotters, which measures text by it and draws it into PNGs.
fn load_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The font is part of the program; that it can be read is tested.
        let _ = register_font("sans-serif", FontStyle::Normal, include_bytes!("font/DejaVuSans-subset.ttf"));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_is_drawn_where_every_point_has_one() {
        let known =
            Estimate { mean: 2.0, standard_error: Some(0.5), low: Some(1.0), high: Some(3.0), count: 4 };
        let single = Estimate { standard_error: None, low: None, high: None, count: 1, ..known };
        let series = Series::estimates("n", &[(0.0, known), (1.0, known)], true);
        assert_eq!((&series.points[1], &series.band[..]), (&(1.0, 2.0), &[(1.0, 3.0); 2][..]));
        assert_eq!(Series::estimates("n", &[(0.0, known), (1.0, single)], true).band, []);
    }

    fn figure() -> Figure {
        let axis = |label: &str, scale| Axis { label: label.into(), scale, from_zero: false };
        let points: Vec<_> = (1..40).map(|i| (f64::from(i), 100.0 / f64::from(i))).collect();
        let band = points.iter().map(|&(_, y)| (0.8 * y, 1.2 * y)).collect();
        let series = |name: &str, points: &[(f64, f64)]| Series {
            name: name.into(),
            points: points.to_vec(),
            band: Vec::new(),
            dots: true,
        };
        let chart = |title: &str, y| Chart {
            title: title.into(),
            x: axis("σ of ε", Scale::Linear),
            y,
            series: vec![
                Series { band: Clone::clone(&band), ..series("test <1>", &points) },
                series("train", &[(3.0, 5.0), (f64::NAN, 1.0), (30.0, -4.0), (35.0, 20.0)]),
            ],
        };
        Figure {
            charts: vec![chart("Linear", axis("y", Scale::Linear)), chart("Log", axis("L_t", Scale::Log))],
            columns: 2,
        }
    }

    #[test]
    fn an_svg_is_well_formed_and_has_its_words() {
        let svg = figure().svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for word in ["σ of ε", "L_t", "test &lt;1&gt;", "train", "Linear", "0.1%"] {
            assert_eq!(svg.contains(word), word != "0.1%", "{word}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_png_has_text_lines_and_bands() {
        let png = image::load_from_memory(&figure().png().unwrap()).unwrap().to_rgb8();
        assert_eq!(png.dimensions(), (1760, 680));
        let count = |wanted: &dyn Fn([u8; 3]) -> bool| png.pixels().filter(|pixel| wanted(pixel.0)).count();
        // Words are dark gray; the first series is blue.
        assert!(count(&|[r, g, b]| r < 90 && g < 90 && b < 90) > 2000);
        assert!(count(&|[r, _, b]| r < 80 && b > 150) > 1000);
        assert!(count(&|[r, _, b]| (150..240).contains(&r) && b > 230) > 3000);
    }

    #[test]
    fn figures_without_panels_or_points_are_no_panic() {
        assert!(Figure { charts: Vec::new(), columns: 1 }.svg().is_err());
        let mut empty = figure();
        for chart in &mut empty.charts {
            chart.series.clear();
        }
        empty.png().unwrap();
        let mut one = figure();
        for chart in &mut one.charts {
            chart.series =
                vec![Series { name: String::new(), points: vec![(1.0, 1.0)], band: Vec::new(), dots: true }];
        }
        one.svg().unwrap();
    }
}
