//! The declaration of an operator: its name and the types of its inputs and outputs.

use std::borrow::Cow;
use std::ffi::CString;

use crate::element::Element;
use crate::function::Function;
use crate::gather::Gather;
use crate::linear::Linear;
use crate::quantize::Quantize;

/// What an operator is declared as.
pub(crate) struct Schema {
    pub name: CString,
    pub function: Function,
    pub inputs: Vec<Element>,
    pub outputs: Vec<Element>,
}

impl Schema {
    /// That of a function. A layer takes whatever floats the model has, and where the type of an output can be
    /// inferred yields them too, else float32.
    pub fn new(function: Function, infers_types: bool) -> Self {
        let float = if infers_types { Element::ANY } else { Element::F32 };
        let (inputs, outputs) = match function {
            Function::Quantize(format) => (vec![Element::ANY], Quantize::outputs(format)),
            Function::Linear(signature) => {
                let x = if signature.activation.is_none() { Element::ANY } else { float };
                (Linear::inputs(signature, x), vec![float])
            }
            Function::Gather(kind) => (Gather::inputs(kind), vec![float]),
        };
        let name = CString::new(function.name()).unwrap_or_default();
        Self { name, function, inputs, outputs }
    }

    pub fn name(&self) -> Cow<'_, str> {
        self.name.to_string_lossy()
    }
}
