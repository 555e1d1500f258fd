//! The functions of domain `ai.zqc` by name: what a compiled model calls, and what a kernel library answers to.
//!
//! A layer is one call, of `W4A8Linear`, `W4A8Linear_M3_LowRank`, `W8A16Linear_Int8` ... The name says what the layer
//! consists of. `W4` or `W8` are the bits of the weight, `A8` those of the activation, `A16` stands for one in float, of
//! whatever width. What follows `Linear`, each after an underscore and in this order, is what differs from E2M1 or E4M3
//! weights with a scale for every group, E4M3 activations and no low-rank branch:
//!
//! | part | |
//! |---|---|
//! | `E3M0` `E5M2` `Int4` `Int8` `Lut4` | format of the weight |
//! | `M2` `M3` `M8` | groups lie steps of that ladder below the scale of the row |
//! | `ZeroPoints` | every group has a zero point |
//! | `ActE5M2` `ActInt8` | format of the activation |
//! | `LowRank` `LowRankBf16` | low-rank branch with E4M3 or bfloat16 factors |
//! | `TransB` | the operands lie row by row, `[N, ...]`, as ONNX's `Gemm` calls it: those of a table |
//!
//! A table, from which `GatherInt8` and `GatherE4M3` look rows up, lies row by row, as do the operands of a
//! language-model head that is tied to it. ONNX's `Gather` knows no FP8: there, E4M3 codes are the bytes of a `uint8` tensor.
//!
//! Its 8-bit activation is what `QuantizeActivationE4M3`, `QuantizeActivationE5M2` or `QuantizeActivationInt8` yields.

use crate::{ActivationFormat, FactorFormat, Format, Ladder};

/// The domain of the functions.
pub const FUNCTION_DOMAIN: &str = "ai.zqc";

/// Its version: what a function computes under a version never changes.
pub const FUNCTION_VERSION: i64 = 1;

/// The attribute of a layer that holds how many weights share a scale, along K.
pub const GROUP_SIZE: &str = "group_size";

/// The attribute of a layer that holds the element type of its output, a `TensorProto.DataType`.
pub const OUTPUT_TYPE: &str = "output_type";

/// What names append where operands lie row by row.
const TRANS_B: &str = "_TransB";

/// What a weight consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WeightKind {
    /// Format of the codes.
    pub format: Format,
    /// What its groups have besides a scale.
    pub extra: Option<Extra>,
}

/// What the groups of a weight can have besides a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extra {
    /// Steps of a ladder below the scale of the row.
    Shifts(Ladder),
    /// Zero points.
    ZeroPoints,
}

/// What a layer reads besides its activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The codes of the weight.
    Weight,
    /// Its scales.
    Scales,
    /// How many steps of the ladder the scale of a group lies below that of its row.
    Shifts,
    /// The zero points of its groups.
    ZeroPoints,
    /// `V` of the low-rank branch.
    LowRankDown,
    /// `U` of the low-rank branch.
    LowRankUp,
    /// The scales between both.
    LowRankScales,
}

impl Operand {
    /// Its name among the inputs of a function.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weight => "Wq",
            Self::Scales => "Ws",
            Self::Shifts => "We",
            Self::ZeroPoints => "Wz",
            Self::LowRankDown => "V",
            Self::LowRankUp => "U",
            Self::LowRankScales => "S",
        }
    }
}

impl WeightKind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        Format::ALL.into_iter().flat_map(|format| {
            let zero_points = format.is_integer().then_some(Extra::ZeroPoints);
            let extras = format.ladders().map(Extra::Shifts).chain(zero_points).map(Some);
            [None].into_iter().chain(extras).map(move |extra| Self { format, extra })
        })
    }

    /// The kinds that tables have: INT8 and E4M3, with a scale for every row.
    pub fn tables() -> impl Iterator<Item = Self> {
        [Format::Int8, Format::E4M3].into_iter().map(|format| Self { format, extra: None })
    }

    /// The kind of the tables that the function of this name looks rows up in.
    pub fn of_gather(name: &str) -> Option<Self> {
        Self::tables().find(|kind| kind.gather_function() == name)
    }

    /// The name of the function that looks rows up in a table of this kind: `GatherInt8`.
    pub fn gather_function(self) -> String {
        format!("Gather{}{}", self.format.spelling(), self.suffix())
    }

    /// The name of the function that yields float rows: `DequantizeInt8_TransB`.
    pub fn dequantize_rows_function(self) -> String {
        format!("{}{TRANS_B}", self.dequantize_function())
    }

    /// What the scales of its groups are steps of, if they are.
    pub const fn ladder(self) -> Option<Ladder> {
        match self.extra {
            Some(Extra::Shifts(ladder)) => Some(ladder),
            _ => None,
        }
    }

    /// The name of the function that yields the float weight: `DequantizeE2M1_M3`.
    pub fn dequantize_function(self) -> String {
        format!("Dequantize{}{}", self.format.spelling(), self.suffix())
    }

    /// The operands, in the order of the inputs of functions.
    pub fn operands(self) -> impl Iterator<Item = Operand> {
        let extra = self.extra.map(|extra| match extra {
            Extra::Shifts(_) => Operand::Shifts,
            Extra::ZeroPoints => Operand::ZeroPoints,
        });
        [Operand::Weight, Operand::Scales].into_iter().chain(extra)
    }

    /// What names append for the extra.
    const fn suffix(self) -> &'static str {
        match self.extra {
            None => "",
            Some(Extra::Shifts(Ladder::M2)) => "_M2",
            Some(Extra::Shifts(Ladder::M3)) => "_M3",
            Some(Extra::Shifts(Ladder::M8)) => "_M8",
            Some(Extra::ZeroPoints) => "_ZeroPoints",
        }
    }
}

impl ActivationFormat {
    /// How the names of functions spell it.
    pub const fn spelling(self) -> &'static str {
        match self {
            Self::E4M3 => "E4M3",
            Self::E5M2 => "E5M2",
            Self::Int8 => "Int8",
        }
    }

    /// The name of the function that quantizes an activation to it.
    pub fn quantize_function(self) -> String {
        format!("QuantizeActivation{}", self.spelling())
    }

    /// What that function yields: codes, scales, and zero points of integers.
    pub const fn quantized(self) -> &'static [&'static str] {
        match self.float() {
            Some(_) => &["Xq", "Xs"],
            None => &["Xq", "Xs", "Xz"],
        }
    }
}

/// What a layer consists of, and so which function computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    /// The weight.
    pub weight: WeightKind,
    /// Format of the activation; `None` for one in float.
    pub activation: Option<ActivationFormat>,
    /// Format of the factors of the low-rank branch, if there is one.
    pub low_rank: Option<FactorFormat>,
    /// Whether the operands lie row by row, as those of a table do.
    pub trans_b: bool,
}

impl Signature {
    /// Every signature.
    pub fn all() -> impl Iterator<Item = Self> {
        let activations = || ActivationFormat::ALL.into_iter().map(Some).chain([None]);
        let branches = [None, Some(FactorFormat::E4M3), Some(FactorFormat::Bf16)];
        let layers = WeightKind::all().flat_map(move |weight| {
            activations().flat_map(move |activation| {
                branches.map(|low_rank| Self { weight, activation, low_rank, trans_b: false })
            })
        });
        let tied = WeightKind::tables().flat_map(move |weight| {
            activations().map(move |activation| Self { weight, activation, low_rank: None, trans_b: true })
        });
        layers.chain(tied)
    }

    /// The signature of the function of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|signature| signature.name() == name)
    }

    /// The name of the function.
    pub fn name(self) -> String {
        let WeightKind { format, .. } = self.weight;
        let weight = match format.is_implied() {
            true => String::new(),
            false => format!("_{}", format.spelling()),
        };
        let activation = match self.activation {
            None | Some(ActivationFormat::E4M3) => String::new(),
            Some(other) => format!("_Act{}", other.spelling()),
        };
        let low_rank = match self.low_rank {
            None => "",
            Some(FactorFormat::E4M3) => "_LowRank",
            Some(FactorFormat::Bf16) => "_LowRankBf16",
        };
        let (bits, activation_bits) = (format.bits(), if self.activation.is_some() { 8 } else { 16 });
        let extra = self.weight.suffix();
        let trans_b = if self.trans_b { TRANS_B } else { "" };
        format!("W{bits}A{activation_bits}Linear{weight}{extra}{activation}{low_rank}{trans_b}")
    }

    /// The names of what stands for the activation, the first inputs of the function.
    pub fn activation_inputs(self) -> &'static [&'static str] {
        self.activation.map_or(&["X"], ActivationFormat::quantized)
    }

    /// The operands, the inputs after those.
    pub fn operands(self) -> impl Iterator<Item = Operand> {
        let branch = [Operand::LowRankDown, Operand::LowRankUp, Operand::LowRankScales];
        self.weight.operands().chain(self.low_rank.map(|_| branch).into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_signature_has_a_name_of_its_own_that_leads_back() {
        let names: HashSet<String> = Signature::all().map(Signature::name).collect();
        assert_eq!(names.len(), 13 * 4 * 3 + 2 * 4);
        for signature in Signature::all() {
            assert_eq!(Signature::parse(&signature.name()), Some(signature));
        }
    }

    #[test]
    fn names_follow_the_grammar() {
        let parts = [
            &["W4A8Linear", "W8A8Linear", "W4A16Linear", "W8A16Linear"][..],
            &["", "_E2M1", "_E3M0", "_E4M3", "_E5M2", "_Int4", "_Int8", "_Lut4"],
            &["", "_M2", "_M3", "_M8", "_ZeroPoints"],
            &["", "_ActE4M3", "_ActE5M2", "_ActInt8"],
            &["", "_LowRank", "_LowRankBf16"],
            &["", "_TransB"],
        ];
        let spelled = parts.into_iter().fold(vec![String::new()], |names, part| {
            names.iter().flat_map(|name| part.iter().map(move |part| format!("{name}{part}"))).collect()
        });
        let parsed: Vec<_> = spelled.iter().filter_map(|name| Signature::parse(name)).collect();
        assert_eq!(parsed.len(), Signature::all().count(), "each name is one of these, and none means two");
        let known = [
            "W4A8Linear",
            "W4A8Linear_M3_LowRank",
            "W4A8Linear_Lut4_M8_LowRank",
            "W8A8Linear_Int8_ActInt8",
            "W8A16Linear",
            "W8A8Linear_TransB",
            "W8A16Linear_Int8_TransB",
            "W4A8Linear_Int4_ZeroPoints_ActE5M2_LowRankBf16",
        ];
        assert!(known.into_iter().all(|name| Signature::parse(name).is_some()));
        let unknown = [
            "",
            "w4a8linear",
            "W4A8Linear_",
            "W4A8Linear_LowRank_M2",
            "W4A8Linear_M8",
            "W4A8Linear_Lut4_M3",
            "W4A8Linear_Int8",
            "W8A8Linear_M2",
            "W4A8Linear_ZeroPoints",
            "W4A8Linear_M3_TransB",
            "W8A8Linear_Int8_ZeroPoints_TransB",
        ];
        assert!(unknown.into_iter().all(|name| Signature::parse(name).is_none()));
    }

    #[test]
    fn tables_have_functions_that_lead_back() {
        let names: Vec<String> = WeightKind::tables().map(WeightKind::gather_function).collect();
        assert_eq!(names, ["GatherInt8", "GatherE4M3"]);
        for kind in WeightKind::tables() {
            assert_eq!(WeightKind::of_gather(&kind.gather_function()), Some(kind));
        }
        assert_eq!(WeightKind::of_gather("GatherE5M2"), None);
    }
}
