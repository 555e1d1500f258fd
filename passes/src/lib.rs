//! The passes of zqc. Each reads the graph and returns a patch; the driver applies it and verifies the result.
//! [`Context`] is what it is given beside the graph. The order of the passes of a compilation stands in `zqc::Pipeline`.

mod attention;
mod backpropagate;
mod canonicalize;
mod constant_view;
mod context_length;
mod contrib;
mod dequantized;
mod einsum;
mod expand_attention;
mod expand_einsum;
mod expand_fused;
mod expand_moe;
mod expert_stack;
mod float_rows;
mod folded;
mod fused;
mod inline_functions;
mod layer_path;
mod layer_pattern;
mod lm_head;
mod lower;
mod mixture;
mod nbits;
mod pass;
mod quantize_activations;
mod quantize_head;
mod raise;
mod record;
mod restore_float;
mod reuse_weights;
mod select;
mod share_constants;
mod share_operands;
mod side_by_side;
mod softmax;
mod solve_weights;
mod split_experts;
mod statistics;
mod token_table;
mod tune;
mod upgrade_opset;
mod vocabulary;

pub use canonicalize::Canonicalize;
pub use context_length::context_length;
pub use expand_attention::ExpandAttention;
pub use expand_einsum::ExpandEinsum;
pub use expand_fused::ExpandFused;
pub use expand_moe::ExpandMoe;
pub use folded::weights_of_layers;
pub use inline_functions::InlineFunctions;
pub use layer_pattern::{LayerPattern, PatternError};
pub use lower::{LowerNative, LowerPortable};
pub use pass::{Context, Observer, Pass, PassError, Scope, Silent, run, run_in};
pub use quantize_activations::QuantizeActivations;
pub use quantize_head::QuantizeHead;
pub use raise::RaisePortable;
pub use record::{
    ActivationRecord, BranchRecord, CalibrationRecord, Coding, HeldOutRecord, LayerRecord, TuneRecord,
};
pub use restore_float::RestoreFloat;
pub use reuse_weights::{ReuseWeights, SolvedWeights};
pub use select::Select;
pub use share_constants::ShareConstants;
pub use share_operands::ShareOperands;
pub use solve_weights::{
    Calibration, Checkpoints, Errors, HessianSource, LowRankConfig, LowRankMetric, QuantConfig, Reference,
    Solution, SolveWeights, TokenWeights,
};
pub use split_experts::SplitExperts;
pub use statistics::{ActivationStatistics, MagnitudeHistogram, Octave, TokenSample, WeightHistogram};
pub use tune::Tune;
pub use upgrade_opset::{Opset, UpgradeOpset};
pub use vocabulary::vocabulary;

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
