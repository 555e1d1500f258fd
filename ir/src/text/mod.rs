//! The textual form of a model, both ways: what `--emit ir` writes and reads, `--print-ir-after` prints and tests compare.
//!
//! ```text
//! model ir_version=10 imports(20)
//! graph main (%x: f32[batch, 64]) -> (%y: f32[batch, 172]) {
//!   const %w: f32[64, 172] = splat<0.5>
//!   %h: f32[batch, 172] = MatMul(%x, %w) @/proj/MatMul
//!   %y = Gelu(%h) {approximate = "tanh"} // a comment
//! }
//! ```
//!
//! `docs/text.md` has the grammar.

mod constant;
mod file;
pub(crate) mod lex;
pub(crate) mod message;
mod operators;
pub(crate) mod parse;
mod print;
mod quote;
mod types;
mod words;

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::graph::{Cycle, Graph};
use crate::model::Model;
use crate::onnx::{ModelError, from_text};

pub use file::{read, stage};
pub use lex::ParseError;
use message::{any_order, graph_message, messages};
use parse::Parser;
pub use parse::is_text;
use print::Printer;
pub use print::Style;

/// The model that a text means. Constants that the text leaves out are [opaque](crate::Tensor::is_opaque).
///
/// # Errors
/// When the text breaks the grammar, has constants in other files, or the graph is not valid.
pub fn parse(text: &str) -> Result<Model, ModelError> {
    let (proto, own) = Parser::new(text).model()?;
    from_text(proto, own, None)
}

impl FromStr for Model {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text)
    }
}

/// All of `model` as text: [`parse`] gives the same model. Fields of a newer schema than ours are left out.
///
/// # Errors
/// When the graph has a cycle.
pub fn exact(model: &Model) -> Result<String, Cycle> {
    let order = model.graph.order()?;
    let mut text = String::new();
    let (proto, own) = messages(model, &order);
    // Writing to a string does not fail.
    let _ = Printer::new(&mut text, Style::Exact, &own).model(&proto);
    Ok(text)
}

/// The summary of a model.
impl Display for Model {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (proto, own) = messages(self, &any_order(&self.graph));
        Printer::new(f, Style::Summary, &own).model(&proto)
    }
}

/// The summary of a graph.
impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (proto, own) = graph_message(self, &any_order(self));
        Printer::new(f, Style::Summary, &own).graph(&proto)?;
        writeln!(f)
    }
}
