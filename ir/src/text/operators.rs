//! Our own operators as nodes with attributes, which is how the textual form says them.

use std::str::FromStr;

use zqc_formats::{ActivationFormat, Format, Ladder};

use super::types;
use crate::graph::{Graph, Node};
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, attribute_proto::AttributeType};
use crate::op::attribute::{float, graph, int, string};
use crate::op::{Layout, Linear, Op, QuantizeActivation, QuantizedLinear};
use crate::tensor::{DataType, name};

/// The nodes that a linear layer stands for.
const ORIGIN: &str = "origin";

/// The attributes of an operator of ours, as the attributes of a node; none for an operator of ONNX.
pub(super) fn attributes(around: &Graph, op: &Op) -> Vec<AttributeProto> {
    match op {
        Op::Onnx(_) => Vec::new(),
        Op::QuantizeActivation(quantize) => vec![string("format", &quantize.format.to_string())],
        Op::Linear(linear) => {
            let Linear { layer, k, n, layout, alpha, beta, dtype, origin } = linear;
            let mut attributes = layer_attributes(layer, *k, *n);
            attributes.push(string("layout", layout_name(*layout)));
            attributes.extend((*alpha != 1.0).then(|| float("alpha", *alpha)));
            attributes.extend((*beta != 1.0).then(|| float("beta", *beta)));
            attributes.push(string("dtype", name(*dtype)));
            let node = origin.iter().map(|node| node_to_proto(around, node)).collect();
            let graph =
                (!origin.is_empty()).then(|| graph(ORIGIN, GraphProto { node, ..Default::default() }));
            attributes.extend(graph);
            attributes
        }
        Op::QuantizedLinear(linear) | Op::QuantizedGather(linear) => {
            let QuantizedLinear { layer, k, n, format, group_size, ladder, rank, beta, dtype } = linear;
            let mut attributes = layer_attributes(layer, *k, *n);
            attributes.push(string("format", &format.to_string()));
            attributes.push(int("group_size", *group_size as i64));
            attributes.extend(ladder.map(|ladder| string("ladder", &ladder.to_string())));
            attributes.extend((*rank > 0).then(|| int("rank", *rank as i64)));
            attributes.extend((*beta != 1.0).then(|| float("beta", *beta)));
            attributes.push(string("dtype", name(*dtype)));
            attributes
        }
    }
}

fn layer_attributes(layer: &str, k: usize, n: usize) -> Vec<AttributeProto> {
    vec![string("layer", layer), int("k", k as i64), int("n", n as i64)]
}

/// A node of `graph` as a message, one of ours by the attributes that the textual form has.
pub(super) fn node_to_proto(graph: &Graph, node: &Node) -> NodeProto {
    let names = |ids: &[Option<crate::graph::ValueId>]| {
        ids.iter().map(|id| id.map_or_else(String::new, |id| graph.value(id).name.clone())).collect()
    };
    let mut proto = match &node.op {
        Op::Onnx(proto) => NodeProto::clone(proto),
        op => NodeProto {
            op_type: Some(op.kind().to_string()),
            attribute: attributes(graph, op),
            ..Default::default()
        },
    };
    (proto.input, proto.output) = (names(node.inputs()), names(node.outputs()));
    if proto.name() != node.name {
        proto.name = Some(node.name.clone());
    }
    proto
}

/// The operator of ours that a node says, and the nodes that it stands for.
///
/// # Errors
/// What is wrong with its attributes, in words.
pub(super) fn from_attributes(node: &NodeProto) -> Result<(Op, Vec<NodeProto>), String> {
    let mut given = Given { kind: node.op_type(), attributes: node.attribute.clone() };
    let mut origin = Vec::new();
    let op = match node.op_type() {
        "zqc.quantize_activation" => {
            let format = given.string("format")?;
            let known = ActivationFormat::ALL.into_iter().find(|known| known.to_string() == format);
            Op::QuantizeActivation(QuantizeActivation {
                format: known.ok_or_else(|| given.unknown("format", &format))?,
            })
        }
        "zqc.linear" => {
            let layout = given.string("layout")?;
            let known = [Layout::InputOutput, Layout::OutputInput].into_iter();
            let layout = known.into_iter().find(|&known| layout_name(known) == layout);
            origin = given.take(ORIGIN).and_then(|origin| origin.g).unwrap_or_default().node;
            Op::Linear(Linear {
                layer: given.string("layer")?,
                k: given.size("k")?,
                n: given.size("n")?,
                layout: layout.ok_or_else(|| given.unknown("layout", "it"))?,
                alpha: given.float("alpha", 1.0),
                beta: given.float("beta", 1.0),
                dtype: given.dtype()?,
                origin: Vec::new(),
            })
        }
        kind @ ("zqc.quantized_linear" | "zqc.quantized_gather") => {
            let format = given.string("format")?;
            let ladder = given.take("ladder").map(|ladder| String::from_utf8_lossy(ladder.s()).into_owned());
            let known = |name: &String| Ladder::ALL.into_iter().find(|known| known.to_string() == *name);
            let linear = QuantizedLinear {
                layer: given.string("layer")?,
                k: given.size("k")?,
                n: given.size("n")?,
                format: Format::from_str(&format).map_err(|error| error.to_string())?,
                group_size: given.size("group_size")?,
                ladder: match &ladder {
                    Some(name) => Some(known(name).ok_or_else(|| given.unknown("ladder", name))?),
                    None => None,
                },
                rank: given.size_or("rank", 0)?,
                beta: given.float("beta", 1.0),
                dtype: given.dtype()?,
            };
            match kind {
                "zqc.quantized_linear" => Op::QuantizedLinear(linear),
                _ => Op::QuantizedGather(linear),
            }
        }
        other => {
            return Err(format!(
                "there is no operator {other}; an ONNX operator of this name is written in quotes"
            ));
        }
    };
    match given.attributes.first() {
        Some(unknown) => Err(format!("{} has no attribute {:?}", given.kind, unknown.name())),
        None => Ok((op, origin)),
    }
}

fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::InputOutput => "InputOutput",
        Layout::OutputInput => "OutputInput",
    }
}

/// The attributes that a text gives an operator of ours.
struct Given<'a> {
    kind: &'a str,
    attributes: Vec<AttributeProto>,
}

impl Given<'_> {
    fn take(&mut self, name: &str) -> Option<AttributeProto> {
        let at = self.attributes.iter().position(|attribute| attribute.name() == name)?;
        Some(self.attributes.remove(at))
    }

    fn unknown(&self, name: &str, value: &str) -> String {
        format!("{}: {value} is no {name}", self.kind)
    }

    fn of_kind(&mut self, name: &str, kind: AttributeType) -> Result<AttributeProto, String> {
        let attribute = self.take(name).filter(|attribute| attribute.r#type() == kind);
        let wanted = kind.as_str_name().to_lowercase();
        attribute.ok_or_else(|| format!("{} needs the attribute {name}, of kind {wanted}", self.kind))
    }

    fn string(&mut self, name: &str) -> Result<String, String> {
        let bytes = self.of_kind(name, AttributeType::String)?.s.unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| format!("{}: {name} is not UTF-8", self.kind))
    }

    fn size(&mut self, name: &str) -> Result<usize, String> {
        let size = self.of_kind(name, AttributeType::Int)?.i();
        usize::try_from(size).map_err(|_| format!("{}: {name} is {size}", self.kind))
    }

    fn size_or(&mut self, name: &str, default: usize) -> Result<usize, String> {
        let is_given = self.attributes.iter().any(|attribute| attribute.name() == name);
        if is_given { self.size(name) } else { Ok(default) }
    }

    fn float(&mut self, name: &str, default: f32) -> f32 {
        self.take(name).and_then(|attribute| attribute.f).unwrap_or(default)
    }

    fn dtype(&mut self) -> Result<DataType, String> {
        let word = self.string("dtype")?;
        types::data_type(&word).ok_or_else(|| self.unknown("dtype", &word))
    }
}
