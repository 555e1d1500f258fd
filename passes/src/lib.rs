//! The passes of zqc. Each reads the graph and returns a patch; the driver applies it and verifies the result.
//!
//! In order:
//! 1. [`RaisePortable`]: layers that zqc quantized before become our operators again.
//! 2. [`InlineFunctions`]: model-local functions that hold linear layers become their bodies.
//! 3. [`ExpandAttention`]: ONNX Runtime's `Attention` becomes a linear layer and `MultiHeadAttention`.
//! 4. [`ExpandMoe`]: ONNX Runtime's `MoE` becomes a router and products with stacks of experts.
//! 5. [`ExpandFused`]: layers that ONNX Runtime fused with an activation become two operators.
//! 6. [`ExpandEinsum`]: an `Einsum` that is a linear layer becomes `MatMul`.
//! 7. [`SplitExperts`]: a stack of expert weights becomes one matrix an expert.
//! 8. [`Canonicalize`]: every form of a linear layer becomes `zqc.linear`. With the passes before it, that is [`finders`].
//! 9. [`Select`]: which of them are quantized; the others turn back into what they were, with a reason.
//! 10. [`QuantizeHead`]: the language-model head and the table of the tokens, without data.
//! 11. [`QuantizeActivations`]: one token-wise quantization per distinct input.
//! 12. [`SolveWeights`]: stage by stage in topological order, the quantized prefix feeding the next stage: gather the
//!     Hessians, solve the weights on the low-precision grid.
//! 13. [`ShareConstants`]: what the file holds twice is stored once.
//! 14. [`UpgradeOpset`]: the standard operators move to an opset that knows the types of the result.
//! 15. [`LowerPortable`]: our operators become ONNX that stock runtimes execute. [`RaisePortable`] is its inverse. Or
//!     [`LowerNative`]: they become ONNX in its own low-precision types, for importers that know them.
//! 16. [`ShareOperands`]: what lowered layers of the graph and of its bodies have in common is stored once.

mod attention;
mod canonicalize;
mod constant_view;
mod context_length;
mod contrib;
mod dequantized;
mod draft;
mod einsum;
mod expand_attention;
mod expand_einsum;
mod expand_fused;
mod expand_moe;
mod expert_stack;
mod finders;
mod float_rows;
mod folded;
mod fused;
mod inline_functions;
mod layer_path;
mod lm_head;
mod lower;
mod mixture;
mod nbits;
mod pass;
mod quantize_activations;
mod quantize_head;
mod raise;
mod rank;
mod record;
mod reuse_weights;
mod select;
mod share_constants;
mod share_operands;
mod solve_weights;
mod split_experts;
mod statistics;
mod token_table;
mod upgrade_opset;
mod vocabulary;

pub use canonicalize::Canonicalize;
pub use context_length::context_length;
pub use expand_attention::ExpandAttention;
pub use expand_einsum::ExpandEinsum;
pub use expand_fused::ExpandFused;
pub use expand_moe::ExpandMoe;
pub use finders::finders;
pub use folded::weights_of_layers;
pub use inline_functions::InlineFunctions;
pub use lower::{LowerNative, LowerPortable};
pub use pass::{Observer, Pass, PassError, Silent, run};
pub use quantize_activations::QuantizeActivations;
pub use quantize_head::QuantizeHead;
pub use raise::RaisePortable;
pub use record::{ActivationRecord, BranchRecord, CalibrationRecord, Coding, HeldOutRecord, LayerRecord};
pub use reuse_weights::{ReuseWeights, SolvedWeights};
pub use select::Select;
pub use share_constants::ShareConstants;
pub use share_operands::ShareOperands;
pub use solve_weights::{
    Branch, BranchMetric, Calibration, Checkpoints, Errors, HessianSource, Method, Recipe, Solution,
    SolveWeights,
};
pub use split_experts::SplitExperts;
pub use statistics::{ActivationStatistics, MagnitudeHistogram, Octave, TokenSample, WeightHistogram};
pub use upgrade_opset::UpgradeOpset;
pub use vocabulary::vocabulary;
