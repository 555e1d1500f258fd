//! Models and functions to text.
//!
//! What the language has no words for is printed as `proto<0x...>`, the message with all taken out that was printed. Every message
//! is taken apart field by field here, so that the Rust compiler refuses to forget a field of the schema.

mod graph;

use std::fmt;

use super::quote;
use super::words::{operator, value};
use crate::onnx::proto::{FunctionProto, ModelProto, OperatorSetIdProto};

pub(super) use graph::Printer;
pub use graph::Style;

impl Printer<'_> {
    /// The model.
    pub fn model(&mut self, model: &ModelProto) -> fmt::Result {
        let ModelProto {
            ir_version,
            opset_import,
            producer_name,
            producer_version,
            domain,
            model_version,
            doc_string,
            graph,
            metadata_props,
            training_info,
            functions,
            configuration,
        } = model;
        write!(self.out, "model")?;
        if let Some(version) = ir_version {
            write!(self.out, " ir_version={version}")?;
        }
        self.imports(opset_import)?;
        for (key, value) in
            [("producer", producer_name), ("producer_version", producer_version), ("domain", domain)]
        {
            if let Some(value) = value {
                write!(self.out, " {key}={}", quote::quoted(value.as_bytes()))?;
            }
        }
        if let Some(version) = model_version {
            write!(self.out, " model_version={version}")?;
        }
        let unsaid_metadata = self.metadata(metadata_props)?;
        self.rest(&ModelProto {
            doc_string: doc_string.clone(),
            metadata_props: unsaid_metadata,
            training_info: training_info.clone(),
            configuration: configuration.clone(),
            ..Default::default()
        })?;
        writeln!(self.out)?;
        functions.iter().try_for_each(|function| self.function(function))?;
        graph.iter().try_for_each(|graph| {
            self.graph(graph)?;
            writeln!(self.out)
        })
    }

    /// The imports; the reader refuses those without a version.
    fn imports(&mut self, imports: &[OperatorSetIdProto]) -> fmt::Result {
        if imports.is_empty() {
            return Ok(());
        }
        let import = |OperatorSetIdProto { domain, version }: &OperatorSetIdProto| {
            let domain = domain
                .as_ref()
                .map_or(String::new(), |domain| format!("{}=", quote::word(domain, |_| false)));
            format!("{domain}{}", version.unwrap_or_default())
        };
        let imports: Vec<_> = imports.iter().map(import).collect();
        write!(self.out, " imports({})", imports.join(", "))
    }

    fn function(&mut self, function: &FunctionProto) -> fmt::Result {
        let FunctionProto {
            name,
            input,
            output,
            attribute,
            attribute_proto,
            node,
            doc_string,
            opset_import,
            domain,
            overload,
            value_info,
            metadata_props,
        } = function;
        let operator = operator(domain.as_deref(), name.as_deref(), overload.as_deref());
        let values = |names: &[String]| names.iter().map(|name| value(name)).collect::<Vec<_>>().join(", ");
        write!(self.out, "function {operator}({}) -> ({})", values(input), values(output))?;
        if !attribute.is_empty() {
            let names: Vec<_> = attribute.iter().map(|name| quote::word(name, |_| false)).collect();
            write!(self.out, " attributes({})", names.join(", "))?;
        }
        if !attribute_proto.is_empty() {
            write!(self.out, " defaults(")?;
            self.separated(attribute_proto, |printer, attribute| printer.attribute(attribute, 0))?;
            write!(self.out, ")")?;
        }
        self.imports(opset_import)?;
        let unsaid_metadata = self.metadata(metadata_props)?;
        self.rest(&FunctionProto {
            doc_string: doc_string.clone(),
            metadata_props: unsaid_metadata,
            ..Default::default()
        })?;
        self.function_block(node, value_info)?;
        writeln!(self.out)
    }
}
