//! How the subgraphs of control-flow operators are run.

use std::error::Error;

use zqc_ir::Model;

/// See [`Bodies::raise`].
pub type Raise = fn(&mut Model) -> Result<(), Box<dyn Error + Send + Sync>>;

/// How subgraphs are run.
#[derive(Debug, Clone, Copy)]
pub struct Bodies {
    /// Raises a subgraph: makes our operators of the functions that stand for them in a compiled model. Without it, subgraphs
    /// hold none.
    pub raise: Option<Raise>,
    /// A `Loop` with more iterations is an error.
    pub most_turns: usize,
}

impl Default for Bodies {
    /// Subgraphs as they are, without a bound on iterations.
    fn default() -> Self {
        Self { raise: None, most_turns: usize::MAX }
    }
}
