//! The plots of a report: each a section with a heading, what it shows, and one plot for each kind of layer.

mod activations;
mod layer_errors;
mod shifts;
mod stages;
mod weights;

use maud::{Markup, html};

use crate::report::Report;

/// All plots that the report has data for.
pub(super) fn plots(report: &Report) -> Markup {
    let Report { layers, activations, stages, .. } = report;
    html! {
        @if !layers.is_empty() {
            (layer_errors::section(layers))
            (weights::section(layers))
        }
        @if activations.iter().any(|activation| activation.tokens > 0) {
            (activations::section(activations))
        }
        @if layers.iter().any(|layer| !layer.shifts.is_empty()) {
            (shifts::section(layers))
        }
        @if !stages.is_empty() {
            (stages::section(stages, layers))
        }
    }
}

/// Small plots side by side, each with its title.
fn side_by_side(plots: impl IntoIterator<Item = (String, Markup)>) -> Markup {
    html! {
        div.panels {
            @for (title, plot) in plots {
                figure { figcaption { (title) } (plot) }
            }
        }
    }
}

/// The sums of rows of counts, as parts of the sum of all.
fn shares<'a>(rows: impl IntoIterator<Item = &'a [u64]>) -> Vec<f64> {
    let mut sums: Vec<u64> = Vec::new();
    for row in rows {
        sums.resize(sums.len().max(row.len()), 0);
        sums.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
    }
    let total = sums.iter().sum::<u64>().max(1);
    sums.iter().map(|&count| count as f64 / total as f64).collect()
}

/// The largest of some shares.
fn largest(shares: &[f64]) -> f64 {
    shares.iter().copied().fold(0.0, f64::max)
}
