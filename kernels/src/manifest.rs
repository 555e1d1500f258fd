//! `manifest.json`: what is in a package.

use serde::{Deserialize, Serialize};
use zqc_formats::{Format, Ladder};

use crate::geometry::{Geometry, GeometryError};
use crate::table::Table;

/// The version of the format that this crate writes and reads.
pub const VERSION: u32 = 2;

/// Offsets in `weights.bin` are multiples of this.
pub const ALIGNMENT: usize = 256;

/// The member `format` of every manifest, of any version.
pub(crate) const FORMAT: &str = "zqc-cuda";

/// What is in a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `zqc-cuda`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// Version of the zqc that wrote the package.
    pub zqc_version: String,
    /// CRC-32 of the manifest as compact JSON in which this member is 0.
    pub checksum: u32,
    /// Size of `weights.bin`.
    pub weights_bytes: usize,
    /// The quantized activations that layers read.
    pub activations: Vec<Activation>,
    /// The layers, in the order of the model. Each has a name of its own.
    pub layers: Vec<Layer>,
}

/// A part of `weights.bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Array {
    /// Where it begins, a multiple of 256.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
    /// CRC-32 of its bytes.
    pub crc32: u32,
}

/// A quantized activation that layers share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Features of a token.
    pub k: usize,
    /// The ranks of all layers that read it, each padded to a multiple of 16; 0 when none has a low-rank branch.
    pub rank: usize,
    /// The inner factors of their low-rank branches: E4M3 `[blocks][rank][128]`, swizzled; absent when the rank is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<Array>,
}

/// A packed linear layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The layer's path in the source model.
    pub name: String,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Number format of the weights.
    pub codes: Codes,
    /// How the scales of a row's groups are bound to each other.
    pub scales: GroupScales,
    /// Input features that share a scale; `k` for the whole row.
    pub group_size: usize,
    /// Steps that a block holds for a row: 1, 2 or 4.
    pub steps_per_block: usize,
    /// Rank of the low-rank branch, unpadded; 0 without one.
    pub rank: usize,
    /// Index of the activation that the layer reads.
    pub activation: usize,
    /// The first of its ranks among those of the activation, a multiple of 16; 0 without a branch.
    pub rank_offset: usize,
    /// What the codes stand for, for every step.
    pub table: Table,
    /// Codes, steps and `u`.
    pub weights: Array,
    /// The scales of the rows, f32, zeros behind `n`.
    pub row_scales: Array,
    /// The bias, f32, zeros behind `n`; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<Array>,
}

/// Number format of packed weights: a sign above a magnitude of 3 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codes {
    /// [`Format::E2M1`].
    E2M1,
    /// [`Format::E3M0`].
    E3M0,
    /// [`Format::Lut4`].
    Lut4,
}

impl Codes {
    /// The packed form of a format; `None` for formats that kernels do not take.
    pub fn of(format: Format) -> Option<Self> {
        match format {
            Format::E2M1 => Some(Self::E2M1),
            Format::E3M0 => Some(Self::E3M0),
            Format::Lut4 => Some(Self::Lut4),
            _ => None,
        }
    }

    /// The number format.
    pub fn format(self) -> Format {
        match self {
            Self::E2M1 => Format::E2M1,
            Self::E3M0 => Format::E3M0,
            Self::Lut4 => Format::Lut4,
        }
    }
}

/// How the scales of a row's groups are bound to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupScales {
    /// The row is one group, of step 0 of the first ladder of the format: [`Ladder::M2`], if it has that one.
    Row,
    /// Groups lie on [`Ladder::M2`]; packages before 28 November 2026 have another word for it.
    #[serde(alias = "octaves")]
    M2,
    /// Groups lie on [`Ladder::M3`]; as above.
    #[serde(alias = "thirds")]
    M3,
    /// Groups lie on [`Ladder::M8`].
    M8,
}

impl GroupScales {
    /// The ladder that steps are counted on, of codes of `format`; `None` where that has none.
    pub fn ladder(self, format: Format) -> Option<Ladder> {
        match self {
            Self::Row => format.ladders().next(),
            Self::M2 => Some(Ladder::M2),
            Self::M3 => Some(Ladder::M3),
            Self::M8 => Some(Ladder::M8),
        }
    }
}

impl From<Ladder> for GroupScales {
    fn from(ladder: Ladder) -> Self {
        match ladder {
            Ladder::M2 => Self::M2,
            Ladder::M3 => Self::M3,
            Ladder::M8 => Self::M8,
        }
    }
}

impl Array {
    /// `bytes` at `offset`.
    pub(crate) fn new(offset: usize, bytes: &[u8]) -> Self {
        Self { offset, bytes: bytes.len(), crc32: crc32fast::hash(bytes) }
    }

    /// Zeros behind it, so that the next one begins where one can.
    pub(crate) fn padding(self) -> usize {
        self.bytes.next_multiple_of(ALIGNMENT) - self.bytes
    }
}

impl Layer {
    /// The sizes of the layer's arrays.
    ///
    /// # Errors
    /// When no layer can have such a shape.
    pub fn geometry(&self) -> Result<Geometry, GeometryError> {
        Geometry::new(self.n, self.k, self.group_size, self.rank)
    }

    /// Its arrays.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = (&'static str, Array)> {
        let fixed = [("weights", self.weights), ("row_scales", self.row_scales)];
        fixed.into_iter().chain(self.bias.map(|bias| ("bias", bias)))
    }
}

impl Manifest {
    /// What [`checksum`](Self::checksum) should be.
    ///
    /// # Errors
    /// When a name cannot be written as JSON.
    pub fn compute_checksum(&self) -> serde_json::Result<u32> {
        let unsigned = Self { checksum: 0, ..self.clone() };
        Ok(crc32fast::hash(&serde_json::to_vec(&unsigned)?))
    }
}
