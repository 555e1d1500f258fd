//! What zqc wrote is run with its layers as our operators, in the main graph and in bodies.

use zqc_ir::Model;
use zqc_passes::{PassError, RaisePortable, Silent, run};
use zqc_runtime::Bodies;

/// Makes our operators of the layers in the main graph of a compiled model.
pub(crate) fn raise(model: &mut Model) -> Result<(), PassError> {
    run(&RaisePortable, model, &mut Silent)
}

/// How the bodies of a compiled model are run, in loops of at most so many turns.
pub(crate) fn raised_bodies(most_turns: usize) -> Bodies {
    Bodies { raise: Some(|body| Ok(raise(body)?)), most_turns }
}
