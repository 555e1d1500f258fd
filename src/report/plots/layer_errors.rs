//! What quantization did to each layer.

use maud::{Markup, html};

use super::side_by_side;
use crate::report::LayerReport;
use crate::report::kinds::by_kind;
use crate::report::svg::{Axis, Frame, Mark, percent};

/// A layer's errors.
struct Point<'a> {
    number: usize,
    layer: &'a str,
    /// Without the low-rank branch, when there is one.
    before: Option<f64>,
    after: f64,
}

impl Point<'_> {
    fn draw(&self, frame: &Frame) -> Markup {
        let Self { number, layer, before, after } = self;
        let x = *number as f64;
        html! {
            @if let Some(before) = before {
                path.thin d=(frame.vertical(x, [*before, *after])) {}
                @let text = format!("{number}: {layer}, codes alone: {:.2} %", 100.0 * before);
                (Mark::Ring.at(frame, [x, *before], &text))
            }
            (Mark::Disc.at(frame, [x, *after], &format!("{number}: {layer}: {:.2} %", 100.0 * after)))
        }
    }
}

/// The error of the outputs; of the weights when there was no calibration data.
pub(super) fn section(layers: &[LayerReport]) -> Markup {
    let of_outputs = layers.iter().any(|layer| layer.output_error.is_some());
    let points = layers.iter().enumerate().filter_map(|(at, layer)| {
        let (before, after) = match of_outputs {
            true => (layer.output_error_before, layer.output_error?),
            false => (layer.weight_error_before, layer.weight_error),
        };
        Some(Point { number: at + 1, layer: &layer.layer, before, after })
    });
    let points: Vec<Point> = points.collect();
    let errors = points.iter().flat_map(|point| point.before.into_iter().chain([point.after]));
    let y = Axis::for_values(errors, percent);
    let plots = by_kind(&points, |point| vec![point.layer]).into_iter().map(|(kind, points)| {
        let frame = Frame::small(Axis::numbers(layers.len()), y.clone());
        let marks = html! { @for point in points { (point.draw(&frame)) } };
        let svg = frame.draw(&format!("error of the {kind} layers in the order of the model"), &marks);
        (kind, svg)
    });
    html! {
        section {
            @if of_outputs {
                h2 { "Output error" }
                p {
                    "How far the output of each layer on the calibration data is from that of the weight it was solved for: "
                    span.formula { "|X(T − Ŵ)ᵀ| / |X Tᵀ|" } ", where " span.formula { "T" } " is the float weight, moved by "
                    "what the layer makes up for of the errors of earlier layers."
                }
            } @else {
                h2 { "Weight error" }
                p {
                    "How far each weight is from the float weight: " span.formula { "|W − Ŵ| / |W|" } ". "
                    "There was no calibration data."
                }
            }
            p {
                "Across: the layer’s number in the table below. "
                @if points.iter().any(|point| point.before.is_some()) {
                    (Mark::Ring.means("the codes alone,")) " " (Mark::Disc.means("with the low-rank branch."))
                }
            }
            (side_by_side(plots))
        }
    }
}
