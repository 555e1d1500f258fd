//! Plots as SVG, in user units of about a CSS pixel: frames, axes, and paths.

use std::fmt::Write;

use maud::{Markup, html};

/// An axis: which values it spans, and where it is labelled.
#[derive(Clone)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

/// Ticks that an axis should about have.
const TICKS: f64 = 4.0;

impl Axis {
    /// A linear axis from `low` to `high`, with ticks at these values.
    pub fn new(low: f64, high: f64, ticks: Vec<(f64, String)>) -> Self {
        Self { low, high, logarithmic: false, ticks }
    }

    /// A linear axis from 0 to the first tick that is not below `high`; to 1 when `high` is 0.
    pub fn up_to(high: f64, label: fn(f64) -> String) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let step = round_step(high / TICKS);
        let count = (high / step).ceil();
        let ticks = (0..=count as usize).map(|i| i as f64 * step).map(|value| (value, label(value)));
        Self::new(0.0, count * step, ticks.collect())
    }

    /// A linear axis from `-limit` to `limit`, with ticks inside.
    pub fn around_zero(limit: f64, label: fn(f64) -> String) -> Self {
        let step = round_step(limit / TICKS);
        let last = (limit / step).ceil() as i32 - 1;
        let ticks = (-last..=last).map(|i| f64::from(i) * step).map(|value| (value, label(value)));
        Self::new(-limit, limit, ticks.collect())
    }

    /// A logarithmic axis of whole decades that hold `low` and `high`, both above 0.
    pub fn decades(low: f64, high: f64, label: fn(f64) -> String) -> Self {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let last = last.max(first + 1);
        let step = (f64::from(last - first) / TICKS).ceil() as usize;
        let ticks = (first..=last).step_by(step).map(|exponent| 10f64.powi(exponent));
        Self {
            low: 10f64.powi(first),
            high: 10f64.powi(last),
            logarithmic: true,
            ticks: ticks.map(|value| (value, label(value))).collect(),
        }
    }

    /// An axis for positive `values`: of decades where they spread widely, else from 0.
    pub fn for_values(values: impl Iterator<Item = f64> + Clone, label: fn(f64) -> String) -> Self {
        const WIDE: f64 = 30.0;
        let high = values.clone().fold(0.0, f64::max);
        let low = values.filter(|&value| value > 0.0).fold(high, f64::min);
        if high > WIDE * low { Self::decades(low, high, label) } else { Self::up_to(high, label) }
    }

    /// An axis of the numbers 1 to `count`, each of which has a place of width 1.
    pub fn numbers(count: usize) -> Self {
        let step = (round_step(count as f64 / TICKS) as usize).max(1);
        let numbers = std::iter::once(1).chain((step..=count).step_by(step).filter(|&number| number > 1));
        let ticks = numbers.map(|number| (number as f64, number.to_string()));
        Self::new(0.5, count as f64 + 0.5, ticks.collect())
    }

    /// Where `value` lies between the ends, 0 to 1; what lies outside is drawn at the end.
    fn place(&self, value: f64) -> f64 {
        let at = |value: f64| if self.logarithmic { value.ln() } else { value };
        ((at(value.max(self.low)) - at(self.low)) / (at(self.high) - at(self.low))).clamp(0.0, 1.0)
    }
}

/// 1, 2 or 5 times a power of ten, the least that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powi(step.log10().floor() as i32);
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&round| round >= step)
        .unwrap_or(step)
}

/// A number without needless digits.
pub(super) fn number(value: f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6).replace('-', "−")
}

/// A power as it is written: 10⁻³.
pub(super) fn power(base: u32, exponent: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let sign = if exponent < 0 { "⁻" } else { "" };
    let digits = exponent.unsigned_abs().to_string();
    let digits: String = digits.bytes().map(|digit| DIGITS[usize::from(digit - b'0')]).collect();
    format!("{base}{sign}{digits}")
}

/// A part of 1 in percent, without needless digits.
pub(super) fn percent(value: f64) -> String {
    format!("{} %", number(100.0 * value))
}

/// A plot's area and axes.
pub(super) struct Frame {
    width: f64,
    height: f64,
    x: Axis,
    y: Axis,
}

/// Space for the labels of the axes, and for half a label beyond their ends.
const LEFT: f64 = 34.0;
const BOTTOM: f64 = 16.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 6.0;

impl Frame {
    /// One of many plots side by side: a phone shows two in a row.
    pub fn small(x: Axis, y: Axis) -> Self {
        Self { width: 180.0, height: 120.0, x, y }
    }

    /// A plot that has a row for itself.
    pub fn wide(x: Axis, y: Axis) -> Self {
        Self { width: 400.0, height: 190.0, x, y }
    }

    /// Where `value` lies across.
    pub fn x(&self, value: f64) -> f64 {
        rounded(LEFT + self.x.place(value) * (self.width - LEFT - RIGHT))
    }

    /// Where `value` lies, from the top down.
    pub fn y(&self, value: f64) -> f64 {
        rounded(self.height - BOTTOM - self.y.place(value) * (self.height - BOTTOM - TOP))
    }

    /// The path of bars `([left, right], [bottom, top])`.
    pub fn bars(&self, bars: impl IntoIterator<Item = ([f64; 2], [f64; 2])>) -> String {
        let mut path = String::new();
        for (x, y) in bars {
            let ([left, right], [bottom, top]) = (x.map(|x| self.x(x)), y.map(|y| self.y(y)));
            let _ = write!(path, "M{left} {bottom}V{top}H{right}V{bottom}Z");
        }
        path
    }

    /// The path of a vertical line.
    pub fn vertical(&self, x: f64, [bottom, top]: [f64; 2]) -> String {
        format!("M{} {}V{}", self.x(x), self.y(bottom), self.y(top))
    }

    /// The path of a horizontal line through all of the plot.
    pub fn horizontal(&self, y: f64) -> String {
        format!("M{LEFT} {}H{}", self.y(y), self.width - RIGHT)
    }

    /// The plot with `marks` on its axes; `description` is for those who do not see it.
    pub fn draw(&self, description: &str, marks: &Markup) -> Markup {
        let (width, height, bottom) = (self.width, self.height, self.height - BOTTOM);
        html! {
            svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(description) {
                @for (value, label) in &self.y.ticks {
                    path.grid d=(self.horizontal(*value)) {}
                    text.up x=(LEFT - 4.0) y=(self.y(*value) + 3.5) { (label) }
                }
                (marks)
                path.axis d={ "M" (LEFT) " " (bottom) "H" (width - RIGHT) } {}
                @for (value, label) in &self.x.ticks {
                    text.across x=(self.x(*value)) y=(height - 4.0) { (label) }
                }
            }
        }
    }
}

/// How a point is marked: told apart without colour.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    /// A filled circle.
    Disc,
    /// An empty circle.
    Ring,
    /// A cross.
    Cross,
}

impl Mark {
    /// The mark of a point, with a text for the pointer.
    pub fn at(self, frame: &Frame, [x, y]: [f64; 2], text: &str) -> Markup {
        html! { g { title { (text) } (self.draw(frame.x(x), frame.y(y))) } }
    }

    fn draw(self, x: f64, y: f64) -> Markup {
        html! {
            @match self {
                Self::Disc => circle.disc cx=(x) cy=(y) r="2" {},
                Self::Ring => circle.ring cx=(x) cy=(y) r="2" {},
                Self::Cross => path.cross d={ "M" (x) " " (y) "m-2 -2l4 4m0 -4l-4 4" } {},
            }
        }
    }

    /// What the mark means, as part of a sentence.
    pub fn means(self, text: &str) -> Markup {
        key(&self.draw(4.0, 4.0), text)
    }
}

/// What bars of `class` mean, as part of a sentence.
pub(super) fn bars_mean(class: &str, text: &str) -> Markup {
    key(&html! { rect class=(class) width="8" height="8" {} }, text)
}

fn key(mark: &Markup, text: &str) -> Markup {
    html! { span.key { svg viewBox="0 0 8 8" aria-hidden="true" { (mark) } " " (text) } }
}

/// To a hundredth of a user unit.
fn rounded(place: f64) -> f64 {
    (place * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn linear_axes_end_at_a_round_number() {
        assert_eq!(labels(&Axis::up_to(0.123, percent)), ["0 %", "5 %", "10 %", "15 %"]);
        assert_eq!(labels(&Axis::up_to(0.4, number)), ["0", "0.1", "0.2", "0.3", "0.4"]);
        assert_eq!(labels(&Axis::up_to(0.0, number)).last(), Some(&"1"));
    }

    #[test]
    fn axes_around_zero_are_symmetric() {
        assert_eq!(labels(&Axis::around_zero(8.0, number)), ["−6", "−4", "−2", "0", "2", "4", "6"]);
        assert_eq!(labels(&Axis::around_zero(28.0 / 3.0, number)), ["−5", "0", "5"]);
    }

    #[test]
    fn values_that_spread_widely_get_a_logarithmic_axis() {
        let [narrow, wide] = [[0.02, 0.08], [0.0012, 0.08]]
            .map(|values: [f64; 2]| Axis::for_values(values.into_iter(), percent));
        assert_eq!(labels(&narrow), ["0 %", "2 %", "4 %", "6 %", "8 %"]);
        assert_eq!(labels(&wide), ["0.1 %", "1 %", "10 %"]);
        assert_eq!([wide.place(0.001), wide.place(0.01), wide.place(0.1)], [0.0, 0.5, 1.0]);
    }

    #[test]
    fn numbers_begin_at_one() {
        assert_eq!(labels(&Axis::numbers(1)), ["1"]);
        assert_eq!(labels(&Axis::numbers(35)), ["1", "10", "20", "30"]);
        assert_eq!(labels(&Axis::numbers(210)), ["1", "100", "200"]);
    }

    #[test]
    fn what_lies_outside_an_axis_is_drawn_at_its_end() {
        let axis = Axis::up_to(0.4, number);
        assert_eq!([axis.place(-1.0), axis.place(7.0), axis.place(f64::NAN)], [0.0, 1.0, 0.0]);
    }

    #[test]
    fn powers_are_written_with_superscripts() {
        assert_eq!([power(10, -13), power(2, 0), power(2, 5)], ["10⁻¹³", "2⁰", "2⁵"]);
    }
}
