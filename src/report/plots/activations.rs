//! How skewed the tokens are that layers read, and what that costs each number format.

use maud::{Markup, html};

use super::{largest, shares, side_by_side};
use crate::report::kinds::by_kind;
use crate::report::svg::{Axis, Frame, Mark, bars_mean, percent, power};
use crate::report::{ActivationReport, Octave};

/// The activations of one kind, with its name.
type Kind<'a> = (String, Vec<&'a ActivationReport>);

/// The classes of the bands between two quantiles, and which these are.
const BANDS: [(&str, &str); 4] = [
    ("band-1", "from the median to 90 % of the values,"),
    ("band-2", "to 99 %,"),
    ("band-3", "to 99.9 %,"),
    ("band-4", "to the largest."),
];

/// Magnitudes below this part of a token's largest are less than half a step of INT8, which spans twice the largest by
/// 255 steps.
const HALF_STEP_OF_INT8: f64 = 1.0 / 255.0;

/// The spread within tokens, what rounding costs, and the largest value of the tokens.
pub(super) fn section(activations: &[ActivationReport]) -> Markup {
    let kinds = by_kind(activations, |activation| activation.layers.iter().map(String::as_str).collect());
    html! {
        section {
            h2 { "Activations within a token" }
            p {
                "Magnitudes relative to the largest of the token, over the tokens of each activation that layers "
                "read: "
                @for (class, text) in BANDS { (bars_mean(class, text)) " " }
                "Across: the activations of one kind in the order of the model."
            }
            p {
                "What lies below the dashed line is less than half a step of symmetric INT8, which makes it 0. "
                "FP8 (E4M3) keeps its relative precision down to 3.5 · 10⁻⁵."
            }
            (skews(&kinds))
        }
        section {
            h2 { "Rounding of the activations" }
            p {
                "The error of rounding the same tokens with one scale a token, "
                span.formula { "|X − X̂| / |X|" } ": "
                (Mark::Disc.means("E4M3,")) " " (Mark::Cross.means("E5M2,")) " "
                (Mark::Ring.means("INT8 with a zero point.")) " "
                "That of INT8 grows with the skew of the tokens, that of floating point does not."
            }
            (rounding_errors(&kinds))
        }
        section {
            h2 { "Largest value of a token" }
            p { "How the tokens’ largest magnitudes are spread; a bar is a factor of two." }
            (token_maxima(&kinds))
        }
    }
}

/// The bands of each activation, one above the other.
fn skews(kinds: &[Kind]) -> Markup {
    const LEAST: f64 = 1e-6;
    let quantiles = kinds.iter().flat_map(|(_, members)| members).flat_map(|member| &member.quantiles);
    let least = quantiles.map(|quantile| f64::from(quantile.at_most)).fold(HALF_STEP_OF_INT8, f64::min);
    let up = Axis::decades(least.max(LEAST), 1.0, |value| power(10, value.log10().round() as i32));
    side_by_side(kinds.iter().map(|(kind, members)| {
        let frame = Frame::small(Axis::numbers(members.len()), up.clone());
        let band = |band: usize| {
            let bars = (1..).zip(members).filter_map(move |(number, member)| {
                let quantile = |at: usize| member.quantiles.get(at).map(|quantile| quantile.at_most.into());
                let height = [quantile(band)?, quantile(band + 1).unwrap_or(1.0)];
                Some(([f64::from(number) - 0.45, f64::from(number) + 0.45], height))
            });
            frame.bars(bars)
        };
        let marks = html! {
            @for (at, (class, _)) in BANDS.iter().enumerate() { path class=(class) d=(band(at)) {} }
            path.limit d=(frame.horizontal(HALF_STEP_OF_INT8)) {}
        };
        let plot = frame.draw(&format!("magnitudes within the tokens that {kind} read"), &marks);
        (kind.clone(), plot)
    }))
}

fn rounding_errors(kinds: &[Kind]) -> Markup {
    let all = kinds.iter().flat_map(|(_, members)| members).flat_map(|member| &member.rounding_errors);
    let up = Axis::for_values(all.map(|rounding| rounding.error), percent);
    side_by_side(kinds.iter().map(|(kind, members)| {
        let frame = Frame::small(Axis::numbers(members.len()), up.clone());
        let marks = html! {
            @for (number, member) in (1..).zip(members) {
                @for rounding in &member.rounding_errors {
                    @let error = 100.0 * rounding.error;
                    @let text = format!("{} in {}: {error:.2} %", member.value, rounding.format);
                    (mark(&rounding.format).at(&frame, [f64::from(number), rounding.error], &text))
                }
            }
        };
        let plot = frame.draw(&format!("rounding errors of the tokens that {kind} read"), &marks);
        (kind.clone(), plot)
    }))
}

fn mark(format: &str) -> Mark {
    match format {
        "e4m3" => Mark::Disc,
        "e5m2" => Mark::Cross,
        _ => Mark::Ring,
    }
}

fn token_maxima(kinds: &[Kind]) -> Markup {
    let all = kinds.iter().flat_map(|(_, members)| members).flat_map(|member| &member.token_max);
    let exponents = || all.clone().filter_map(exponent);
    let (first, last) = (exponents().min().unwrap_or(0), exponents().max().unwrap_or(0));
    let step = (last - first + 1) as usize / 4 + 1;
    let ticks = (first..=last + 1).step_by(step).map(|exponent| (exponent.into(), power(2, exponent)));
    let across = Axis::new(first.into(), f64::from(last + 1), ticks.collect());
    let counts = |member: &ActivationReport| {
        let mut counts = vec![0; (last - first + 1) as usize];
        for octave in &member.token_max {
            if let Some(exponent) = exponent(octave) {
                counts[(exponent - first) as usize] += octave.tokens;
            }
        }
        counts
    };
    side_by_side(kinds.iter().map(|(kind, members)| {
        let counts: Vec<Vec<u64>> = members.iter().map(|member| counts(member)).collect();
        let shares = shares(counts.iter().map(Vec::as_slice));
        let frame = Frame::small(across.clone(), Axis::up_to(largest(&shares), percent));
        let place = |exponent: i32| [0.05, 0.95].map(|part| f64::from(exponent) + part);
        let bars = (first..).zip(&shares).map(|(exponent, &share)| (place(exponent), [0.0, share]));
        let marks = html! { path.fill d=(frame.bars(bars)) {} };
        let plot = frame.draw(&format!("largest values of the tokens that {kind} read"), &marks);
        (kind.clone(), plot)
    }))
}

/// The exponent of the power of two; tokens of zeros have none.
fn exponent(octave: &Octave) -> Option<i32> {
    (octave.at_least > 0.0).then(|| octave.at_least.log2().round() as i32)
}
