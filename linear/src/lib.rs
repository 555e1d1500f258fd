//! CPU kernels of the quantized linear layer: codes of 4 or 8 bits with scales of groups, activations quantized token by
//! token or in float, a low-rank branch and a bias.
//!
//! [`PackedLinear`] holds a layer in the order in which the kernels read it, [`quantize_tokens`] makes the activations,
//! [`mod@reference`] is the definition of both in plain loops.
//!
//! # Order of sums
//!
//! Every instruction set, number of threads, batch and tile gives the same bits, since all of them add in one order,
//! that of `tdpbf16ps` of Intel AMX. Let `x` be the values of a token's codes (less the zero point), `w` those of the weight
//! (less the zero point of their group, or times its factor of the ladder, which is exact in bfloat16), all in `f32`, and `fma`
//! a product and sum rounded once.
//!
//! * A *block* is 32 consecutive input features, the last of a group may be shorter; the first begins where the group does.
//!   `even = fma(x[2i], w[2i], even)` and `odd = fma(x[2i + 1], w[2i + 1], odd)` for ascending `i`, both from +0; the block is
//!   `even + odd`.
//! * A row of a weight with shifts adds the blocks of all groups in order, from +0: `acc = acc + block`.
//! * Of another weight, a group adds its blocks in order, from +0: `sum = sum + block`; and a row its groups in order, from
//!   +0: `acc = fma(sum, scale, acc)`.
//! * `y = (acc * row_scale) * token_scale`. The row scale is 1 for a weight without shifts, the token scale is 1 for activations in
//!   float.
//! * The low-rank branch: `t[r] = (dot * rank_scale[r]) * token_scale`, `dot` being the sum of `x V[.., r]` over all
//!   input features in blocks of 32 as within one group; then `y = fma(t[r], U[r], y)` for ascending `r`.
//! * Elements of `U` and `V`, and activations in bfloat16, count as 0 below 2^-100, so that no product with a code can be subnormal,
//!   which AMX would flush.
//! * `y = y + bias`, and the cast to the type of the output, to nearest even. Every NaN is the same quiet NaN.
//!
//! Where the sums of a block are exact in any order, which its values tell, they are added as integers (`exact`): a token in
//! FP8 is that in most blocks.
//!
//! A code that is NaN, or a scale, makes all outputs of its token NaN. Weights and factors that are NaN or infinite are
//! refused.

mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
mod blocks;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "the kernels of others look up other forms")
)]
mod codebook;
mod error;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "NEON has no kernels by integers yet"))]
mod exact;
mod few;
mod finish;
mod forward;
mod isa;
mod kernel_table;
mod kernels;
mod kinds;
mod lanes;
mod layer;
mod line;
mod many;
mod matrix;
mod operands;
mod packed;
mod pool;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "the kernels of others alone read other than rows")
)]
mod prepare;
pub mod reference;
mod tiling;
mod tokens;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AMX alone has sums in memory"))]
mod walk;

pub use error::{IsaError, PackError, ShapeError};
pub use isa::Isa;
pub use layer::{Extra, Layer, Layout, LowRank};
pub use operands::{Output, Tokens};
pub use packed::PackedLinear;
pub use pool::{Pool, Serial};
pub use tokens::{Activations, quantize_tokens};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
