//! Where the time went.

use maud::{Markup, html};

use crate::report::svg::{Axis, Frame, bars_mean, number};
use crate::report::{LayerReport, StageReport};

/// The time of each stage: the solver, and all else.
pub(super) fn section(stages: &[StageReport], layers: &[LayerReport]) -> Markup {
    let solver = |stage: usize| -> f64 {
        layers.iter().filter(|layer| layer.stage == stage).map(|layer| layer.seconds).sum()
    };
    let longest = stages.iter().map(|stage| stage.seconds).fold(0.0, f64::max);
    let seconds = |value: f64| format!("{} s", number(value));
    let frame = Frame::wide(Axis::numbers(stages.len()), Axis::up_to(longest, seconds));
    let place = |stage: usize| [stage as f64 + 0.6, stage as f64 + 1.4];
    let solving = (0..stages.len()).map(|stage| (place(stage), [0.0, solver(stage)]));
    let running = stages.iter().enumerate().map(|(at, stage)| (place(at), [solver(at), stage.seconds]));
    let marks = html! {
        path.fill d=(frame.bars(solving)) {}
        path.band-3 d=(frame.bars(running)) {}
    };
    html! {
        section {
            h2 { "Time per stage" }
            p {
                (bars_mean("fill", "in the solver,")) " "
                (bars_mean("band-3", "running the model on the calibration data"))
                " and gathering the Hessians. Across: the number of the stage."
            }
            figure.wide { (frame.draw("time of each stage", &marks)) }
        }
    }
}
