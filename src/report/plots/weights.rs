//! How the weights lie on the grid of their number format.

use maud::{Markup, html};
use zqc_formats::Format;

use super::{largest, shares, side_by_side};
use crate::report::kinds::by_kind;
use crate::report::svg::{Axis, Frame, number, percent};
use crate::report::{LayerReport, WeightHistogram};

/// Values that weights are rounded to, in units of the scale.
struct Grid<'a> {
    name: &'a str,
    values: Vec<f64>,
}

impl Grid<'_> {
    /// INT4, stretched to where the values of a format end whose histogram ends at `limit`.
    fn integers(limit: f64) -> Self {
        let largest = Format::Int4.max() as i32;
        let values = (-largest..=largest).map(|value| 0.75 * limit * f64::from(value) / f64::from(largest));
        Grid { name: "int4", values: values.collect() }
    }
}

/// Where weights of all layers and of each kind lie in units of their scales.
pub(super) fn section(layers: &[LayerReport]) -> Markup {
    let LayerReport { format, weights: WeightHistogram { grid, limit, .. }, .. } = &layers[0];
    let limit = f64::from(*limit);
    let grid = Grid { name: format, values: grid.iter().map(|&value| value.into()).collect() };
    let beyond: u64 = layers.iter().map(|layer| layer.weights.beyond).sum();
    let all: Vec<&LayerReport> = layers.iter().collect();
    let plots = by_kind(layers, |layer| vec![&layer.layer]).into_iter().map(|(kind, layers)| {
        let plot = histogram(Frame::small, &layers, limit, &[&grid], &kind);
        (kind, plot)
    });
    let float = format.parse().is_ok_and(|format: Format| !format.is_integer());
    let compared = if float && !grid.values.is_empty() { vec![Grid::integers(limit)] } else { Vec::new() };
    let grids: Vec<&Grid> = compared.iter().chain([&grid]).collect();
    html! {
        section {
            h2 { "Weights on the grid" }
            p {
                "Weights in units of their group’s scale"
                @if !grid.values.is_empty() { ". The lines above are the values that they are rounded to" }
                @if !compared.is_empty() {
                    ", and those of INT4 stretched to the same range: weights crowd around 0, and so do the values "
                    "of a floating-point format, while integers are evenly spaced"
                }
                "."
            }
            figure.wide {
                figcaption { "all layers" }
                (histogram(Frame::wide, &all, limit, &grids, "all layers"))
            }
            (side_by_side(plots))
            @if beyond > 0 {
                p {
                    (beyond) " weights lie further out than the plots show. "
                    "What lies beyond the last value becomes that value."
                }
            }
        }
    }
}

/// The distribution of the weights of `layers`, and above it the values of `grids`, the last at the top.
fn histogram(
    frame: fn(Axis, Axis) -> Frame,
    layers: &[&LayerReport],
    limit: f64,
    grids: &[&Grid],
    what: &str,
) -> Markup {
    const ROW: f64 = 0.15;
    let shares = shares(layers.iter().map(|layer| layer.weights.counts.as_slice()));
    let top = largest(&shares);
    let up = Axis::up_to(top * (1.0 + ROW * grids.len() as f64), percent);
    let frame = frame(Axis::around_zero(limit, number), up);
    let edge = |bin: usize| limit * (2.0 * bin as f64 / shares.len() as f64 - 1.0);
    let bars = shares.iter().enumerate().map(|(bin, &share)| ([edge(bin), edge(bin + 1)], [0.0, share]));
    let marks = html! {
        path.fill d=(frame.bars(bars)) {}
        @for (row, grid) in grids.iter().enumerate() {
            @let [bottom, label, high] = [0.3, 0.45, 0.9].map(|part| top * (1.0 + ROW * (row as f64 + part)));
            @let lines = grid.values.iter().map(|&value| frame.vertical(value, [bottom, high]));
            path.mark d=(lines.collect::<String>()) {}
            @if grids.len() > 1 { text x=(frame.x(-limit)) y=(frame.y(label)) { (grid.name) } }
        }
    };
    frame.draw(&format!("distribution of the weights of {what}"), &marks)
}
