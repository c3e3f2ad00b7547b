//! Panels, drawn on whatever plotters draws on.

use super::{Axis, Chart, ChartError, Figure, Scale, Series};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::{
    Cartesian2d, ChartBuilder, ChartContext, Circle, Color, DrawingArea, DrawingBackend, IntoFont,
    IntoLogRange, LineSeries, PathElement, Polygon, RGBColor, SeriesLabelPosition, WHITE,
};
use std::ops::Range;

/// Colours that remain distinct for colour-blind readers (Okabe and Ito 2008), in the order of series.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];
const TEXT: RGBColor = RGBColor(51, 51, 51);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// Draws the panels, with `scale` pixels for one of the SVG.
pub(super) fn figure<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    figure: &Figure,
    scale: u32,
) -> Result<(), ChartError> {
    area.fill(&WHITE).map_err(ChartError::new)?;
    for (area, chart) in area.split_evenly(figure.rows_and_columns()).iter().zip(&figure.charts) {
        panel(area, chart, scale)?;
    }
    Ok(())
}

fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    chart: &Chart,
    scale: u32,
) -> Result<(), ChartError> {
    let mut builder = ChartBuilder::on(area);
    let title = ("sans-serif", 15 * scale).into_font().color(&TEXT);
    builder
        .caption(&chart.title, title)
        .margin(12 * scale)
        .x_label_area_size(42 * scale)
        .y_label_area_size(58 * scale);
    let points = || chart.series.iter().flat_map(|series| series.points.iter().copied());
    let bands =
        chart.series.iter().flat_map(|series| series.band.iter().flat_map(|&(low, high)| [low, high]));
    let x = range(points().map(|(x, _)| x), &chart.x);
    let y = range(points().map(|(_, y)| y).chain(bands), &chart.y);
    let style = Style { chart, scale };
    let (log_x, log_y) = (x.clone().log_scale(), y.clone().log_scale());
    match (chart.x.scale, chart.y.scale) {
        (Scale::Linear, Scale::Linear) => style.draw(builder.build_cartesian_2d(x, y)),
        (Scale::Linear, Scale::Log) => style.draw(builder.build_cartesian_2d(x, log_y)),
        (Scale::Log, Scale::Linear) => style.draw(builder.build_cartesian_2d(log_x, y)),
        (Scale::Log, Scale::Log) => style.draw(builder.build_cartesian_2d(log_x, log_y)),
    }
}

/// Whether a number can be shown on an axis.
fn shown(value: f64, scale: Scale) -> bool {
    value.is_finite() && (scale == Scale::Linear || value > 0.0)
}

/// What an axis shows: all values, and a little more.
fn range(values: impl Iterator<Item = f64>, axis: &Axis) -> Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|&value| shown(value, axis.scale)) {
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        (low, high) = (1.0, 2.0);
    }
    match axis.scale {
        Scale::Log => low / 1.5..high * 1.5,
        Scale::Linear => {
            if axis.from_zero {
                (low, high) = (low.min(0.0), high.max(0.0));
            }
            let margin = if low < high { 0.04 * (high - low) } else { 0.5 * low.abs().max(1.0) };
            let bottom = if axis.from_zero && low == 0.0 { 0.0 } else { low - margin };
            bottom..high + margin
        }
    }
}

struct Style<'a> {
    chart: &'a Chart,
    scale: u32,
}

impl Style<'_> {
    fn draw<'a, DB, X, Y, E>(
        &self,
        context: Result<ChartContext<'a, DB, Cartesian2d<X, Y>>, E>,
    ) -> Result<(), ChartError>
    where
        DB: DrawingBackend + 'a,
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
        E: std::fmt::Display,
    {
        let mut context = context.map_err(ChartError::new)?;
        let Self { chart, scale } = *self;
        let label = || ("sans-serif", 12 * scale).into_font().color(&TEXT);
        context
            .configure_mesh()
            .x_labels(8)
            .y_labels(7)
            .max_light_lines(0)
            .bold_line_style(GRID.stroke_width(scale))
            .axis_style(TEXT.stroke_width(scale))
            .label_style(label())
            .axis_desc_style(("sans-serif", 13 * scale).into_font().color(&TEXT))
            .x_desc(&chart.x.label)
            .y_desc(&chart.y.label)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()
            .map_err(ChartError::new)?;
        for (series, colour) in chart.series.iter().zip(COLOURS.iter().cycle()) {
            self.series(&mut context, series, *colour)?;
        }
        if chart.series.iter().any(|series| !series.name.is_empty()) {
            context
                .configure_series_labels()
                .position(self.free_corner())
                .margin(8 * scale)
                .legend_area_size(24 * scale)
                .label_font(label())
                .background_style(WHITE.mix(0.8))
                .border_style(GRID.stroke_width(scale))
                .draw()
                .map_err(ChartError::new)?;
        }
        Ok(())
    }

    fn series<DB, X, Y>(
        &self,
        context: &mut ChartContext<'_, DB, Cartesian2d<X, Y>>,
        series: &Series,
        colour: RGBColor,
    ) -> Result<(), ChartError>
    where
        DB: DrawingBackend,
        X: Ranged<ValueType = f64>,
        Y: Ranged<ValueType = f64>,
    {
        let Self { chart, scale } = *self;
        let visible = |x, y| shown(x, chart.x.scale) && shown(y, chart.y.scale);
        let band: Vec<_> = (series.points.iter().zip(&series.band))
            .filter(|((x, y), (low, high))| visible(*x, *y) && visible(*x, *low) && visible(*x, *high))
            .map(|(&(x, _), &ends)| (x, ends))
            .collect();
        if band.len() > 1 {
            let lower = band.iter().map(|&(x, (low, _))| (x, low));
            let upper = band.iter().rev().map(|&(x, (_, high))| (x, high));
            let outline: Vec<_> = lower.chain(upper).collect();
            context
                .draw_series(std::iter::once(Polygon::new(outline, colour.mix(0.18))))
                .map_err(ChartError::new)?;
        }
        let points: Vec<_> = series.points.iter().copied().filter(|&(x, y)| visible(x, y)).collect();
        let line = context
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2 * scale)))
            .map_err(ChartError::new)?;
        if !series.name.is_empty() {
            let length = 18 * scale as i32;
            line.label(&series.name).legend(move |(x, y)| {
                PathElement::new(vec![(x, y), (x + length, y)], colour.stroke_width(2 * scale))
            });
        }
        if series.dots {
            let dots = points.iter().map(|&point| Circle::new(point, 3 * scale, colour.filled()));
            context.draw_series(dots).map_err(ChartError::new)?;
        }
        Ok(())
    }

    /// The upper corner with fewer points beneath it.
    fn free_corner(&self) -> SeriesLabelPosition {
        let place = |value: f64, range: &Range<f64>, scale: Scale| match scale {
            Scale::Linear => (value - range.start) / (range.end - range.start),
            Scale::Log => (value / range.start).ln() / (range.end / range.start).ln(),
        };
        let points = || self.chart.series.iter().flat_map(|series| series.points.iter().copied());
        let (x, y) = (&self.chart.x, &self.chart.y);
        let (x_range, y_range) = (range(points().map(|p| p.0), x), range(points().map(|p| p.1), y));
        let (mut left, mut right) = (0, 0);
        for (px, py) in points() {
            if place(py, &y_range, y.scale) > 0.7 {
                let at = place(px, &x_range, x.scale);
                left += usize::from(at < 0.4);
                right += usize::from(at > 0.6);
            }
        }
        if left < right { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::UpperRight }
    }
}

/// A number at a tick: short, and with an exponent where it is very large or very small.
fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        return format!("{value:e}").replace("e-", "e−");
    }
    // Ticks are round numbers, but for the rounding of their sums.
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.replace('-', "−") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_ticks_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (-12.5, "−12.5"),
            (1000.0, "1000"),
            (1e-5, "1e−5"),
            (2e6, "2e6"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn an_axis_shows_all_values() {
        let axis = |scale, from_zero| Axis { label: String::new(), scale, from_zero };
        let values = || [3.0, f64::NAN, 5.0, -1.0].into_iter();
        let linear = range(values(), &axis(Scale::Linear, false));
        assert!(linear.start < -1.0 && linear.end > 5.0);
        assert_eq!(range([3.0, 5.0].into_iter(), &axis(Scale::Linear, true)).start, 0.0);
        let log = range(values(), &axis(Scale::Log, false));
        assert!(log.start > 0.0 && log.start < 3.0 && log.end > 5.0);
        for scale in [Scale::Linear, Scale::Log] {
            let empty = range(std::iter::empty(), &axis(scale, true));
            assert!(empty.start < empty.end);
        }
    }
}
