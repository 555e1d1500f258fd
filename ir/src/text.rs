//! The textual form of a graph: what `--emit ir` and `--print-ir-after` print and snapshot tests compare.
//!
//! ```text
//! graph main (%input_ids: i64[batch, seq]) -> (%logits: f32[batch, seq, 512]) {
//!   const %w: f32[64, 172]
//!   %y: f32[batch, seq, 172] = MatMul(%x, %w) {...} // node name
//! }
//! ```

use std::fmt::{self, Display, Formatter, Write};

use crate::graph::{Graph, Node, ValueId};
use crate::model::Model;
use crate::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, attribute_proto::AttributeType,
    tensor_shape_proto::dimension, type_proto,
};
use crate::op::{Op, is_standard};
use crate::tensor::{DataType, Tensor, name as dtype_name};

/// Longer lists in attributes are cut.
const LIST_SHOWN: usize = 16;

impl Display for Model {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "model ir_version={}", self.header.ir_version())?;
        for opset in &self.header.opset_import {
            let domain = if is_standard(opset.domain()) { "onnx" } else { opset.domain() };
            write!(f, " {domain}={}", opset.version())?;
        }
        if !self.header.producer_name().is_empty() {
            write!(f, " producer={:?}", self.header.producer_name())?;
        }
        writeln!(f)?;
        for function in &self.header.functions {
            let (inputs, outputs) = (function.input.join(", "), function.output.join(", "));
            write!(f, "function {}::{}({inputs}) -> ({outputs})", function.domain(), function.name())?;
            if !function.attribute.is_empty() {
                write!(f, " attributes({})", function.attribute.join(", "))?;
            }
            writeln!(f, " {{")?;
            function.node.iter().try_for_each(|node| writeln!(f, "  {}", node_proto_text(node)))?;
            writeln!(f, "}}")?;
        }
        self.graph.fmt(f)
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let list =
            |ids: &[ValueId]| ids.iter().map(|&id| self.typed_value(id)).collect::<Vec<_>>().join(", ");
        writeln!(f, "graph {} ({}) -> ({}) {{", self.name(), list(self.inputs()), list(self.outputs()))?;
        for (id, tensor) in self.initializers() {
            writeln!(f, "  const %{}: {}", self.value(id).name, tensor_text(tensor))?;
        }
        let order = match self.order() {
            Ok(order) => order,
            Err(cycle) => {
                writeln!(f, "  // {cycle}")?;
                self.nodes().map(|(id, _)| id).collect()
            }
        };
        for id in order {
            self.node_text(f, self.node(id))?;
        }
        writeln!(f, "}}")
    }
}

impl Graph {
    fn node_text(&self, f: &mut Formatter<'_>, node: &Node) -> fmt::Result {
        let outputs: Vec<_> =
            node.outputs().iter().map(|id| id.map_or("_".to_string(), |id| self.typed_value(id))).collect();
        let inputs: Vec<_> = node
            .inputs()
            .iter()
            .map(|id| id.map_or("_".to_string(), |id| format!("%{}", self.value(id).name)))
            .collect();
        let domain = match &node.op {
            Op::Onnx(op) => op.domain(),
            _ => "",
        };
        write!(f, "  {}", call_text(&outputs, domain, node.op.kind(), &inputs, &attributes(&node.op)))?;
        if !node.captures().is_empty() {
            let names: Vec<_> =
                node.captures().iter().map(|&id| format!("%{}", self.value(id).name)).collect();
            write!(f, " captures({})", names.join(", "))?;
        }
        if !node.name.is_empty() {
            write!(f, " // {}", node.name)?;
        }
        writeln!(f)
    }

    fn typed_value(&self, id: ValueId) -> String {
        let value = self.value(id);
        let info = value.info.as_ref().and_then(|info| info.r#type.as_ref());
        match info.map(type_text) {
            Some(text) if !text.is_empty() => format!("%{}: {text}", value.name),
            _ => format!("%{}", value.name),
        }
    }
}

/// `%y = domain::Op(%a, %b) {attributes}`.
fn call_text(
    outputs: &[String],
    domain: &str,
    kind: &str,
    inputs: &[String],
    attributes: &[String],
) -> String {
    let domain = if is_standard(domain) { String::new() } else { format!("{domain}::") };
    let mut text = format!("{} = {domain}{kind}({})", outputs.join(", "), inputs.join(", "));
    if !attributes.is_empty() {
        let _ = write!(text, " {{{}}}", attributes.join(", "));
    }
    text
}

fn node_proto_text(node: &NodeProto) -> String {
    let values = |names: &[String]| {
        let value = |name: &String| if name.is_empty() { "_".to_string() } else { format!("%{name}") };
        names.iter().map(value).collect::<Vec<_>>()
    };
    let (outputs, inputs) = (values(&node.output), values(&node.input));
    call_text(&outputs, node.domain(), node.op_type(), &inputs, &node_attributes(node))
}

fn node_attributes(node: &NodeProto) -> Vec<String> {
    let mut attributes: Vec<_> = node.attribute.iter().map(attribute_text).collect();
    attributes.sort();
    attributes
}

fn attributes(op: &Op) -> Vec<String> {
    match op {
        Op::Onnx(node) => node_attributes(node),
        Op::QuantizeActivation(quantize) => vec![format!("format = {}", quantize.format)],
        Op::Linear(linear) => {
            let mut text = vec![
                format!("layer = {:?}", linear.layer),
                format!("k = {}", linear.k),
                format!("n = {}", linear.n),
                format!("layout = {:?}", linear.layout),
            ];
            if linear.alpha != 1.0 {
                text.push(format!("alpha = {}", linear.alpha));
            }
            if linear.beta != 1.0 {
                text.push(format!("beta = {}", linear.beta));
            }
            text
        }
        Op::QuantizedLinear(linear) | Op::QuantizedGather(linear) => {
            let mut text = vec![
                format!("layer = {:?}", linear.layer),
                format!("k = {}", linear.k),
                format!("n = {}", linear.n),
                format!("format = {}", linear.format),
                format!("group_size = {}", linear.group_size),
            ];
            if let Some(ladder) = linear.ladder {
                text.push(format!("ladder = {ladder}"));
            }
            if linear.rank > 0 {
                text.push(format!("rank = {}", linear.rank));
            }
            text
        }
    }
}

fn attribute_text(attribute: &AttributeProto) -> String {
    fn list<T: Display>(items: &[T]) -> String {
        let shown: Vec<_> = items.iter().take(LIST_SHOWN).map(T::to_string).collect();
        let more =
            if items.len() > LIST_SHOWN { format!(", ... {} in all", items.len()) } else { String::new() };
        format!("[{}{more}]", shown.join(", "))
    }
    let string = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
    let value = if !attribute.ref_attr_name().is_empty() {
        format!("@{}", attribute.ref_attr_name())
    } else {
        match attribute.r#type() {
            AttributeType::Float => attribute.f().to_string(),
            AttributeType::Int => attribute.i().to_string(),
            AttributeType::String => string(attribute.s()),
            AttributeType::Tensor => attribute.t.as_ref().map_or("tensor".to_string(), proto_text),
            AttributeType::Graph => attribute.g.as_ref().map_or("graph".to_string(), graph_summary),
            AttributeType::Floats => list(&attribute.floats),
            AttributeType::Ints => list(&attribute.ints),
            AttributeType::Strings => list(&attribute.strings.iter().map(|s| string(s)).collect::<Vec<_>>()),
            AttributeType::Graphs => list(&attribute.graphs.iter().map(graph_summary).collect::<Vec<_>>()),
            other => other.as_str_name().to_lowercase(),
        }
    };
    format!("{} = {value}", attribute.name())
}

fn graph_summary(graph: &GraphProto) -> String {
    format!("graph {:?} of {} nodes", graph.name(), graph.node.len())
}

fn proto_text(proto: &TensorProto) -> String {
    tensor_text(&Tensor::from_proto(proto.clone()))
}

fn tensor_text(tensor: &Tensor) -> String {
    let mut text = tensor.dtype().map_or("?", dtype_name).to_string();
    let dims: Vec<_> = tensor.dims().iter().map(i64::to_string).collect();
    let _ = write!(text, "[{}]", dims.join(", "));
    if let (Ok(1), Ok(bytes)) = (tensor.elements(), tensor.bytes()) {
        let scalar = match (tensor.dtype(), &*bytes) {
            (Ok(DataType::Int64), bytes) => bytes.first_chunk().map(|&b| i64::from_le_bytes(b).to_string()),
            (Ok(DataType::Int32), bytes) => bytes.first_chunk().map(|&b| i32::from_le_bytes(b).to_string()),
            _ => tensor.to_f32().ok().and_then(|values| values.first().map(f32::to_string)),
        };
        scalar.into_iter().for_each(|scalar| text.push_str(&format!(" = {scalar}")));
    }
    text
}

fn type_text(proto: &TypeProto) -> String {
    match &proto.value {
        Some(type_proto::Value::TensorType(tensor)) => {
            let dtype = DataType::try_from(tensor.elem_type()).map_or("?", dtype_name);
            let Some(shape) = &tensor.shape else { return dtype.to_string() };
            let dims = shape.dim.iter().map(|dim| match &dim.value {
                Some(dimension::Value::DimValue(size)) => size.to_string(),
                Some(dimension::Value::DimParam(symbol)) => symbol.clone(),
                None => "?".to_string(),
            });
            format!("{dtype}[{}]", dims.collect::<Vec<_>>().join(", "))
        }
        Some(type_proto::Value::SequenceType(inner)) => {
            format!("seq({})", inner.elem_type.as_deref().map(type_text).unwrap_or_default())
        }
        Some(type_proto::Value::OptionalType(inner)) => {
            format!("optional({})", inner.elem_type.as_deref().map(type_text).unwrap_or_default())
        }
        Some(type_proto::Value::MapType(_)) => "map".to_string(),
        Some(type_proto::Value::SparseTensorType(_)) => "sparse".to_string(),
        Some(type_proto::Value::OpaqueType(_)) => "opaque".to_string(),
        None => String::new(),
    }
}
