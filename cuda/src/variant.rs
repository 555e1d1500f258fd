//! Which kernels there are, and the macros that specialize one for a shape.

use std::fmt;

use zqc_kernels::BLOCK;

use crate::error::Error;
use crate::sources::Source;

/// The element type of an input or an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DataType {
    /// bfloat16.
    Bf16 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// IEEE single precision.
    F32 = 2,
}

impl DataType {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// The bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// What is computed from the input before it is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Prologue {
    /// Nothing.
    None = 0,
    /// `x / sqrt(mean(x^2) + epsilon) * gamma`.
    RmsNorm = 1,
    /// `silu(gate) * up`.
    SiluMul = 2,
}

impl Prologue {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::None, Self::RmsNorm, Self::SiluMul];
}

/// How products of E4M3 are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum Accumulation {
    /// By the tensor cores, which keep 14 bits of a sum: over all columns in prefill, or 8192 at a time where they are more than 16384, and
    /// over those of a block of threads in decode, 8192 at a time. The mode of cuBLASLt that is called fast.
    #[default]
    Fast = 0,
    /// In single precision every 1024 columns. Where there are more columns, tiles of prefill have at most 128 tokens then.
    Accurate = 1,
}

impl Accumulation {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Accurate];
}

/// A linear kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinearKernel {
    /// For few tokens: a cluster shares the columns of its output rows.
    Decode,
    /// For many tokens: a cluster shares its tokens.
    Prefill,
}

impl LinearKernel {
    const fn source(self) -> Source {
        match self {
            Self::Decode => Source::LinearDecode,
            Self::Prefill => Source::LinearPrefill,
        }
    }
}

impl fmt::Display for LinearKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
        })
    }
}

/// A linear kernel with its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinearVariant {
    /// Which kernel.
    pub kernel: LinearKernel,
    /// Tokens of a tile: 8, 16, 32, 64, 96 or 128 in decode, which has one tile where it is of up to 32, and 64 to 256 in steps of
    /// 32 in prefill.
    pub tokens: u32,
    /// Blocks of threads of a cluster: 1 to 8 in decode, 1, 2 or 4 in prefill.
    pub cluster: u32,
    /// Blocks of threads of a multiprocessor, which share its memory: in decode 2 or 3 for tiles of up to 16 tokens, 1 to 3 for 32,
    /// 1 or 2 for 64; else 1.
    pub blocks_per_sm: u32,
}

impl LinearVariant {
    /// Checks that the kernel has this tile.
    ///
    /// # Errors
    /// [`Error::Variant`] when it has not.
    pub fn check(self) -> Result<Self, Error> {
        let Self { kernel, tokens, cluster, blocks_per_sm } = self;
        let is_held = match (kernel, tokens) {
            (LinearKernel::Decode, 8 | 16) => matches!(blocks_per_sm, 2 | 3),
            (LinearKernel::Decode, 32) => matches!(blocks_per_sm, 1..=3),
            (LinearKernel::Decode, 64) => matches!(blocks_per_sm, 1 | 2),
            _ => blocks_per_sm == 1,
        };
        let exists = match kernel {
            LinearKernel::Decode => {
                matches!(tokens, 8 | 16 | 32 | 64 | 96 | 128) && (1..=8).contains(&cluster)
            }
            LinearKernel::Prefill => {
                (64..=256).contains(&tokens) && tokens % 32 == 0 && matches!(cluster, 1 | 2 | 4)
            }
        };
        let exists = exists && is_held;
        let reason = || {
            format!("{kernel} of {tokens} tokens in clusters of {cluster}, {blocks_per_sm} a multiprocessor")
        };
        if exists { Ok(self) } else { Err(Error::Variant { reason: reason() }) }
    }

    /// Whether the kernel has registers for this tile, where a weight has so many blocks of K: what prefill adds up in single precision
    /// takes a second set of sums.
    pub(crate) fn fits(self, blocks: usize, accumulation: Accumulation) -> bool {
        const LONG_BLOCKS: usize = 128;
        const SEGMENT: usize = 8;
        let most = match accumulation {
            Accumulation::Fast => LONG_BLOCKS,
            Accumulation::Accurate => SEGMENT,
        };
        self.kernel == LinearKernel::Decode || self.tokens <= 128 || blocks <= most
    }

    /// Whether the kernel, launched once, covers so many tokens.
    pub(crate) fn covers(self, tokens: usize) -> bool {
        self.kernel == LinearKernel::Prefill || self.tokens >= 64 || tokens <= self.tokens as usize
    }
}

/// A quantization kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuantizeKernel {
    /// For few tokens.
    Few,
    /// For many: each block of threads goes on from tile to tile and keeps the low-rank factor.
    Many,
}

/// A quantization kernel with its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantizeVariant {
    /// Which kernel.
    pub kernel: QuantizeKernel,
    /// Tokens of a cluster: 8 or 16, or 32 where it is for few tokens.
    pub tokens: u32,
    /// Blocks of threads that share a token's columns: 1, 2, 4 or 8.
    pub cluster: u32,
}

impl QuantizeVariant {
    /// Checks that the kernel has this tile.
    ///
    /// # Errors
    /// [`Error::Variant`] when it has not.
    pub fn check(self) -> Result<Self, Error> {
        let Self { kernel, tokens, cluster } = self;
        let has_tile = matches!(tokens, 8 | 16) || tokens == 32 && kernel == QuantizeKernel::Few;
        let exists = has_tile && matches!(cluster, 1 | 2 | 4 | 8);
        let name = match kernel {
            QuantizeKernel::Few => "quantize",
            QuantizeKernel::Many => "quantize_many",
        };
        let reason = || format!("{name} of {tokens} tokens in clusters of {cluster}");
        if exists { Ok(self) } else { Err(Error::Variant { reason: reason() }) }
    }

    /// The variant, or the nearest whose values the registers hold: with more blocks of threads for a token, then with fewer tokens, then
    /// the kernel for few.
    pub(crate) fn fitting(self, shape: &QuantizeShape) -> Self {
        let blocks = shape.k.div_ceil(BLOCK);
        let fits = |kernel, tokens: u32, cluster: u32| {
            let share = blocks.div_ceil(cluster as usize);
            match kernel {
                // Vectors of 8 values that a thread keeps.
                QuantizeKernel::Few => tokens as usize / 8 * share.div_ceil(2) <= 16,
                QuantizeKernel::Many if shape.holds_words() => share <= 32,
                QuantizeKernel::Many => share <= 88,
            }
        };
        // No block of threads without columns.
        let least = self.cluster.min(1 << blocks.max(1).ilog2());
        let kernels = [self.kernel, QuantizeKernel::Few];
        let tiles = kernels.into_iter().flat_map(|kernel| {
            let tokens = [32, 16, 8].into_iter().filter(move |&tokens| tokens <= self.tokens);
            let clusters = [1, 2, 4, 8].into_iter().filter(move |&cluster| cluster >= least);
            tokens.flat_map(move |tokens| clusters.clone().map(move |cluster| (kernel, tokens, cluster)))
        });
        let known = tiles.into_iter().find(|&(kernel, tokens, cluster)| fits(kernel, tokens, cluster));
        let (kernel, tokens, cluster) = known.unwrap_or((QuantizeKernel::Few, 8, 8));
        Self { kernel, tokens, cluster }
    }
}

/// The format of a table's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum TableCodes {
    /// INT8.
    Int8 = 0,
    /// FP8 E4M3.
    E4M3 = 1,
}

/// What the kernel of a linear layer of 8-bit weights is specialized for, beside its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableShape {
    /// The format of the weights.
    pub codes: TableCodes,
    /// Whether a row has several groups with a scale each.
    pub is_grouped: bool,
    /// The type of the input; `None` for E4M3 codes.
    pub input: Option<DataType>,
    /// The type of the output.
    pub output: DataType,
}

/// The type of indices into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum IndexType {
    /// int32.
    I32 = 32,
    /// int64.
    I64 = 64,
}

/// A kernel's source with the macros that specialize it: what is compiled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Specialization {
    source: Source,
    macros: Vec<(&'static str, String)>,
}

/// What a quantization kernel is specialized for, beside its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantizeShape {
    /// Columns of the input.
    pub k: usize,
    /// The stacked rank of the low-rank branches, padded; 0 without.
    pub rank: usize,
    /// The type of the input; `None` where it is E4M3 codes already, which nothing comes before.
    pub input: Option<DataType>,
    /// What comes before the quantization.
    pub prologue: Prologue,
}

impl QuantizeShape {
    /// Whether a value is held as 32 bits, not 16.
    fn holds_words(&self) -> bool {
        self.input == Some(DataType::F32) || self.prologue == Prologue::SiluMul
    }
}

/// What a linear kernel is specialized for, beside its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinearShape {
    /// Rows of the weight: the output's columns.
    pub n: usize,
    /// Columns of the weight: the input's columns.
    pub k: usize,
    /// Groups of a row that a block of 128 columns holds.
    pub steps_per_block: usize,
    /// The rank of the low-rank branch, padded; 0 without.
    pub rank: usize,
    /// The E4M3 bytes of the eight magnitudes under each step.
    pub table: [u64; 16],
    /// The type of the output.
    pub output: DataType,
    /// How products are added up.
    pub accumulation: Accumulation,
}

impl Specialization {
    /// Quantization of an activation.
    pub fn quantize(shape: &QuantizeShape, variant: QuantizeVariant) -> Self {
        let macros = vec![
            ("ZQC_K", shape.k.to_string()),
            ("ZQC_RANK", shape.rank.to_string()),
            ("ZQC_INPUT", input_number(shape.input)),
            ("ZQC_MODE", (shape.prologue as u32).to_string()),
            ("ZQC_TOKENS", variant.tokens.to_string()),
            ("ZQC_CLUSTER", variant.cluster.to_string()),
        ];
        let source = match variant.kernel {
            QuantizeKernel::Few => Source::Quantize,
            QuantizeKernel::Many => Source::QuantizeMany,
        };
        Self { source, macros }
    }

    /// A linear layer.
    pub fn linear(shape: &LinearShape, variant: LinearVariant) -> Self {
        let table = shape.table.map(|word| format!("{word:#018x}ull")).join(",");
        let macros = vec![
            ("ZQC_N", shape.n.to_string()),
            ("ZQC_K", shape.k.to_string()),
            ("ZQC_STEPS", shape.steps_per_block.to_string()),
            ("ZQC_RANK", shape.rank.to_string()),
            ("ZQC_TABLE", table),
            ("ZQC_OUTPUT", (shape.output as u32).to_string()),
            ("ZQC_TOKENS", variant.tokens.to_string()),
            ("ZQC_CLUSTER", variant.cluster.to_string()),
            ("ZQC_PER_SM", variant.blocks_per_sm.to_string()),
            ("ZQC_ACCURATE", (shape.accumulation as u32).to_string()),
        ];
        Self { source: variant.kernel.source(), macros }
    }

    /// Quantization of an activation that stays row by row.
    pub fn quantize_rows(input: DataType) -> Self {
        Self { source: Source::QuantizeRows, macros: vec![("ZQC_INPUT", (input as u32).to_string())] }
    }

    /// Rows looked up in a table.
    pub fn table_gather(codes: TableCodes, index: IndexType, output: DataType) -> Self {
        let macros = vec![
            ("ZQC_CODES", (codes as u32).to_string()),
            ("ZQC_INDEX", (index as u32).to_string()),
            ("ZQC_OUTPUT", (output as u32).to_string()),
        ];
        Self { source: Source::TableGather, macros }
    }

    /// A linear layer of 8-bit weights, for tiles of 8, 16, 32 or 64 tokens.
    pub fn table_linear(shape: TableShape, tokens: u32) -> Self {
        let TableShape { codes, is_grouped, input, output } = shape;
        let macros = vec![
            ("ZQC_GROUPED", u32::from(is_grouped).to_string()),
            ("ZQC_CODES", (codes as u32).to_string()),
            ("ZQC_INPUT", input_number(input)),
            ("ZQC_OUTPUT", (output as u32).to_string()),
            ("ZQC_TOKENS", tokens.to_string()),
        ];
        Self { source: Source::TableLinear, macros }
    }

    /// The name of the function that is launched.
    pub fn entry(&self) -> &'static str {
        self.source.entry()
    }

    pub(crate) fn source(&self) -> Source {
        self.source
    }

    pub(crate) fn options(&self) -> Vec<String> {
        let fixed = ["--gpu-architecture=sm_90a", "--std=c++17", "-default-device"];
        let macros = self.macros.iter().map(|(name, value)| format!("-D{name}={value}"));
        fixed.map(String::from).into_iter().chain(macros).collect()
    }
}

/// The number of an input's type in the kernels.
fn input_number(input: Option<DataType>) -> String {
    const E4M3: u32 = 3;
    input.map_or(E4M3, |input| input as u32).to_string()
}

impl fmt::Display for Specialization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source.file_name())?;
        let shown = self.macros.iter().filter(|(name, _)| *name != "ZQC_TABLE");
        shown.into_iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}
