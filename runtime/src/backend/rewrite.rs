//! Rewrites a subgraph as one that a back end takes.

pub mod decompose;
mod externalize;
mod inline;
mod softmax;
pub mod visit;
mod widen;

pub use externalize::externalize;
pub use inline::inline_functions;
pub use softmax::flatten_axes;
pub use widen::widen;
