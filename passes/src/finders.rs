//! The front end of every pipeline: the passes that find the linear layers of a model.

use crate::pass::Pass;
use crate::select::Select;
use crate::{
    Canonicalize, ExpandAttention, ExpandEinsum, ExpandFused, ExpandMoe, InlineFunctions, RaisePortable,
    SplitExperts,
};

/// The passes after which every linear layer of a graph is an operator of ours, in order. Layers that zqc quantized before are
/// among them; `select` says which of the others are worth an expansion, and `requantize` is that of [`Canonicalize`].
pub fn finders(select: &Select, requantize: bool) -> [Box<dyn Pass>; 8] {
    [
        Box::new(RaisePortable),
        Box::new(InlineFunctions),
        Box::new(ExpandAttention { select: select.clone() }),
        Box::new(ExpandMoe { select: select.clone() }),
        Box::new(ExpandFused { select: select.clone() }),
        Box::new(ExpandEinsum { select: select.clone() }),
        Box::new(SplitExperts { select: select.clone() }),
        Box::new(Canonicalize { requantize }),
    ]
}
