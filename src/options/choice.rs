//! What stands for a choice on the command line and in reports.

use zqc_formats::{ActivationFormat, FactorFormat, WeightFormat};
use zqc_passes::{HessianSource, LowRankMetric, TokenWeights};
use zqc_solvers::{Order, ScaleConstraint, ScaleSearch, Snap};

use super::{Head, Method};

/// A type each of whose values has a word.
pub trait Choice: Copy + PartialEq + Send + Sync + 'static {
    /// The values with their words.
    const CHOICES: &'static [(&'static str, Self)];

    /// The word for this value; empty for a value that cannot be chosen.
    fn word(self) -> &'static str {
        Self::CHOICES.iter().find(|(_, choice)| *choice == self).map_or("", |(word, _)| word)
    }

    /// The value that a word stands for.
    fn of_word(word: &str) -> Option<Self> {
        Self::CHOICES.iter().find(|(known, _)| *known == word).map(|(_, choice)| *choice)
    }
}

impl Choice for Method {
    const CHOICES: &'static [(&'static str, Self)] = &[("gptq", Self::Gptq), ("rtn", Self::Rtn)];
}

impl Choice for Head {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("int8", Self::Int8), ("fp8", Self::Fp8), ("fp4", Self::Fp4), ("float", Self::Float)];
}

impl Choice for Order {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("natural", Self::Natural), ("activation", Self::Activation)];
}

impl Choice for ScaleSearch {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("max", Self::Max), ("mse", Self::Mse), ("hessian", Self::Hessian)];
}

impl Choice for ScaleConstraint {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("m1", Self::M1(Snap::Search)),
        ("m1-ceil", Self::M1(Snap::Ceil)),
        ("m1-floor", Self::M1(Snap::Floor)),
        ("m1-round", Self::M1(Snap::Round)),
        ("m2", Self::M2(Snap::Search)),
        ("m2-ceil", Self::M2(Snap::Ceil)),
        ("m2-floor", Self::M2(Snap::Floor)),
        ("m2-round", Self::M2(Snap::Round)),
        ("m3", Self::M3),
        ("m8", Self::M8),
    ];
}

impl Choice for WeightFormat {
    const CHOICES: &'static [(&'static str, Self)] = &Self::NAMED;
}

impl Choice for Option<ActivationFormat> {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("fp8", Some(ActivationFormat::E4M3)),
        ("e5m2", Some(ActivationFormat::E5M2)),
        ("int8", Some(ActivationFormat::Int8)),
        ("none", None),
    ];
}

impl Choice for LowRankMetric {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("plain", Self::Plain), ("activation", Self::Activation)];
}

impl Choice for FactorFormat {
    const CHOICES: &'static [(&'static str, Self)] = &[("fp8", Self::E4M3), ("bf16", Self::Bf16)];
}

impl Choice for TokenWeights {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("uniform", Self::Uniform), ("gradient", Self::Gradient)];
}

impl Choice for HessianSource {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("quantized", Self::Quantized), ("float", Self::Float)];
}
