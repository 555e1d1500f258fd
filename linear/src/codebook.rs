//! The values of codes of 4 bits, as vectors look them up.

use zqc_numerics::{Format, Ladder};

/// Values of 16 codes, and what follows from them. All are exact in bfloat16.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Codebook {
    /// The values.
    pub values: [f32; 16],
    /// The low bytes of the values in bfloat16.
    pub low: [u8; 16],
    /// The high bytes of the values in bfloat16.
    pub high: [u8; 16],
    /// The values in bfloat16.
    pub halves: [u16; 16],
    /// The values times the first three factors of a ladder, in bfloat16.
    pub products: [[u16; 16]; 3],
    /// The values as multiples of the unit.
    pub multiples: [i8; 16],
    /// The least magnitude but 0: a power of two that divides all values.
    pub unit: f32,
}

impl Codebook {
    /// Of codes that there are none of.
    pub(crate) const NONE: Self = Self {
        values: [0.0; 16],
        low: [0; 16],
        high: [0; 16],
        halves: [0; 16],
        products: [[0; 16]; 3],
        multiples: [0; 16],
        unit: 1.0,
    };

    /// Of a format of 4 bits whose values are multiplied by the factors of a ladder, if there is one.
    pub(crate) fn new(format: Format, ladder: Option<Ladder>) -> Self {
        let values: [f32; 16] = std::array::from_fn(|code| format.decode(code as u8));
        let halves = |values: [f32; 16]| values.map(|value| (value.to_bits() >> 16) as u16);
        let octave = ladder.map_or(&[][..], Ladder::octave);
        // Adding 0 turns -0 into it.
        let times = |at: usize| values.map(|value| value * octave.get(at).unwrap_or(&1.0) + 0.0);
        let magnitudes = values.iter().map(|value| value.abs()).filter(|value| *value > 0.0);
        let unit = magnitudes.fold(f32::INFINITY, f32::min);
        Self {
            values,
            low: halves(values).map(|half| half as u8),
            high: halves(values).map(|half| (half >> 8) as u8),
            halves: halves(values),
            products: [0, 1, 2].map(|at| halves(times(at))),
            multiples: values.map(|value| (value / unit) as i8),
            unit,
        }
    }
}
