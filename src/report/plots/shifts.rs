//! The steps between the scales of groups and of rows.

use maud::{Markup, html};

use super::{largest, shares, side_by_side};
use crate::report::kinds::by_kind;
use crate::report::svg::{Axis, Frame, number, percent};
use crate::report::{LayerReport, Shift};

/// How often each shift is used, over all layers and in each kind.
pub(super) fn section(layers: &[LayerReport]) -> Markup {
    let longest: &[Shift] =
        layers.iter().map(|layer| &layer.shifts[..]).max_by_key(|s| s.len()).unwrap_or(&[]);
    let factors: Vec<String> = longest.iter().map(|shift| number(shift.factor.into())).collect();
    let all = ("all layers".to_string(), layers.iter().collect());
    let kinds = by_kind(layers, |layer| vec![&layer.layer]);
    let plots = std::iter::once(all).chain(kinds).map(|(kind, layers)| {
        let plot = histogram(&layers, longest.len(), &kind);
        (kind, plot)
    });
    html! {
        section {
            h2 { "Group shifts" }
            p {
                "The part of the groups that has each shift. Shifts 0, 1, 2 … stand for a scale of "
                (factors.join(", ")) " times that of the row."
            }
            (side_by_side(plots))
        }
    }
}

/// The part of the groups of `layers` that has each of `count` shifts.
fn histogram(layers: &[&LayerReport], count: usize, what: &str) -> Markup {
    let groups: Vec<Vec<u64>> =
        layers.iter().map(|layer| layer.shifts.iter().map(|shift| shift.groups).collect()).collect();
    let shares = shares(groups.iter().map(Vec::as_slice));
    let ticks = (0..count).step_by(count / 8 + 1).map(|shift| (shift as f64, shift.to_string()));
    let frame = Frame::small(
        Axis::new(-0.5, count as f64 - 0.5, ticks.collect()),
        Axis::up_to(largest(&shares), percent),
    );
    let bars = shares.iter().enumerate();
    let bars = bars.map(|(shift, &share)| ([shift as f64 - 0.4, shift as f64 + 0.4], [0.0, share]));
    frame.draw(&format!("shifts of the groups of {what}"), &html! { path.fill d=(frame.bars(bars)) {} })
}
