//! Writes the nodes that stand for one.

use std::collections::HashMap;

use zqc_ir::onnx::proto::attribute_proto::AttributeType;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::tensor_shape_proto::dimension;
use zqc_ir::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use zqc_ir::op::attribute;

/// The first opset in which axes are an input of `ReduceSum`, `Squeeze` and `Unsqueeze`.
const AXES_OF_SUMS: i64 = 13;
/// The first opset in which they are one of every reduction.
const AXES_OF_REDUCTIONS: i64 = 18;

/// What follows the name of a node in the names of its parts, which are numbered.
const SEPARATOR: &str = "/decomposed/";

/// The name of the node that a node is a part of, as its name says.
pub fn whole(name: &str) -> Option<&str> {
    name.rsplit_once(SEPARATOR).map(|(whole, _)| whole)
}

/// The domain of ONNX Runtime's own operators.
const CONTRIB: &str = "com.microsoft";

/// What a graph says of the shapes of its values.
pub struct Shapes(HashMap<String, Vec<Option<i64>>>);

impl Shapes {
    /// Those that are declared, and those of constants.
    pub fn of(graph: &GraphProto) -> Self {
        let values = graph.input.iter().chain(&graph.value_info);
        let declared = values.filter_map(|value| Some((value.name().to_string(), declared_shape(value)?)));
        let dims = |tensor: &TensorProto| tensor.dims.iter().copied().map(Some).collect();
        let constants = graph.initializer.iter().map(|tensor| (tensor.name().to_string(), dims(tensor)));
        Self(declared.chain(constants).collect())
    }
}

fn declared_shape(value: &ValueInfoProto) -> Option<Vec<Option<i64>>> {
    let Some(type_proto::Value::TensorType(tensor)) = &value.r#type.as_ref()?.value else { return None };
    let length = |value: &dimension::Value| match value {
        dimension::Value::DimValue(length) => Some(*length),
        dimension::Value::DimParam(_) => None,
    };
    let dims = tensor.shape.as_ref()?.dim.iter();
    Some(dims.map(|dim| dim.value.as_ref().and_then(length)).collect())
}

/// What stands for a node, as far as it is written.
pub struct Parts<'n> {
    node: &'n NodeProto,
    opset: i64,
    shapes: &'n Shapes,
    nodes: Vec<NodeProto>,
    count: usize,
}

impl<'n> Parts<'n> {
    /// Of a node in a model of this opset, in a graph with these shapes.
    pub fn new(node: &'n NodeProto, opset: i64, shapes: &'n Shapes) -> Self {
        Self { node, opset, shapes, nodes: Vec::new(), count: 0 }
    }

    /// What was written.
    pub fn into_nodes(self) -> Vec<NodeProto> {
        self.nodes
    }

    /// The node that is decomposed.
    pub fn node(&self) -> &'n NodeProto {
        self.node
    }

    /// Its input at this place, if it has one there.
    pub fn input(&self, at: usize) -> Option<&'n str> {
        self.node.input.get(at).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Its output at this place, if it has one there.
    pub fn output(&self, at: usize) -> Option<&'n str> {
        self.node.output.get(at).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Whether an integer attribute is there and not 0.
    pub fn is_set(&self, attribute: &str) -> bool {
        self.node.int_or(attribute, 0) != 0
    }

    /// An integer attribute that counts something.
    pub fn count_of(&self, attribute: &str) -> Option<i64> {
        Some(self.node.int_or(attribute, 0)).filter(|&count| count > 0)
    }

    /// A float attribute, if it is there.
    pub fn float_of(&self, attribute: &str) -> Option<f32> {
        self.node.find_attribute(attribute).and_then(|attribute| attribute.f)
    }

    /// A string attribute, if it is there.
    pub fn string_of(&self, attribute: &str) -> Option<&'n [u8]> {
        self.node.find_attribute(attribute).and_then(|attribute| attribute.s.as_deref())
    }

    /// The shape of a value, as far as it is known: `None` for a dimension that is not.
    pub fn shape(&self, value: &str) -> Option<&'n [Option<i64>]> {
        self.shapes.0.get(value).map(Vec::as_slice)
    }

    /// Whether a value is known to have one dimension.
    pub fn is_vector(&self, value: &str) -> bool {
        self.shape(value).is_some_and(|shape| shape.len() == 1)
    }

    /// Adds a node of the standard domain; the name of its result.
    pub fn op(&mut self, op_type: &str, input: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = self.fresh();
        self.push("", op_type, input, vec![output.clone()], attributes);
        output
    }

    /// Adds a node of ONNX Runtime's domain with these outputs.
    pub fn contrib(
        &mut self,
        op_type: &str,
        input: &[&str],
        outputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) {
        self.push(CONTRIB, op_type, input, outputs, attributes);
    }

    /// Gives a value the name of the output at this place, if there is one.
    pub fn yield_as(&mut self, at: usize, value: &str) {
        if let Some(output) = self.output(at) {
            self.push("", "Identity", &[value], vec![output.to_string()], Vec::new());
        }
    }

    /// A name that nothing has.
    pub fn fresh(&mut self) -> String {
        self.count += 1;
        let output = self.node.output.iter().find(|name| !name.is_empty());
        format!("{}{SEPARATOR}{}", output.map_or("", String::as_str), self.count)
    }

    fn push(
        &mut self,
        domain: &str,
        op_type: &str,
        input: &[&str],
        output: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) {
        self.count += 1;
        self.nodes.push(NodeProto {
            domain: Some(domain.to_string()),
            op_type: Some(op_type.to_string()),
            name: Some(format!("{}{SEPARATOR}{}", self.node.name(), self.count)),
            input: input.iter().map(|name| name.to_string()).collect(),
            output,
            attribute: attributes,
            ..Default::default()
        });
    }

    fn constant(&mut self, tensor: TensorProto) -> String {
        self.op("Constant", &[], vec![attribute::tensor("value", tensor)])
    }

    /// A constant vector.
    pub fn ints(&mut self, values: &[i64]) -> String {
        let dims = vec![values.len() as i64];
        let data_type = Some(DataType::Int64 as i32);
        self.constant(TensorProto { dims, data_type, int64_data: values.to_vec(), ..Default::default() })
    }

    /// A constant scalar.
    pub fn int(&mut self, value: i64) -> String {
        let data_type = Some(DataType::Int64 as i32);
        self.constant(TensorProto { data_type, int64_data: vec![value], ..Default::default() })
    }

    /// A constant scalar.
    pub fn float(&mut self, value: f32) -> String {
        let data_type = Some(DataType::Float as i32);
        self.constant(TensorProto { data_type, float_data: vec![value], ..Default::default() })
    }

    /// The value with another element type.
    pub fn cast(&mut self, x: &str, to: DataType) -> String {
        self.op("Cast", &[x], vec![attribute::int("to", to as i64)])
    }

    /// The value in this shape; 0 copies a dimension, -1 takes what is left.
    pub fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.op("Reshape", &[x, &shape], Vec::new())
    }

    /// The value with its dimensions in this order.
    pub fn transpose(&mut self, x: &str, order: &[i64]) -> String {
        self.op("Transpose", &[x], vec![attribute::ints("perm", order)])
    }

    /// The elements from `start` to `end`, vectors of one element, along `axis`, every `step`th.
    pub fn slice(&mut self, x: &str, start: &str, end: &str, axis: i64, step: i64) -> String {
        let (axis, step) = (self.ints(&[axis]), self.ints(&[step]));
        self.op("Slice", &[x, start, end, &axis, &step], Vec::new())
    }

    /// The elements from `start` to `end` along `axis`.
    pub fn part(&mut self, x: &str, start: i64, end: i64, axis: i64) -> String {
        let (start, end) = (self.ints(&[start]), self.ints(&[end]));
        self.slice(x, &start, &end, axis, 1)
    }

    /// The values side by side.
    pub fn concat(&mut self, values: &[&str], axis: i64) -> String {
        self.op("Concat", values, vec![attribute::int("axis", axis)])
    }

    /// The value with a dimension of 1 at `axis`.
    pub fn unsqueeze(&mut self, x: &str, axis: i64) -> String {
        self.along("Unsqueeze", x, axis, AXES_OF_SUMS, Vec::new())
    }

    /// `op_type`, a reduction, along `axis`, which stays with length 1 or goes.
    pub fn reduce(&mut self, op_type: &str, x: &str, axis: i64, stays: bool) -> String {
        let first = if op_type == "ReduceSum" { AXES_OF_SUMS } else { AXES_OF_REDUCTIONS };
        self.along(op_type, x, axis, first, vec![attribute::int("keepdims", stays.into())])
    }

    /// An operator with axes, which are an input from the opset `first` on.
    fn along(
        &mut self,
        op_type: &str,
        x: &str,
        axis: i64,
        first: i64,
        mut attributes: Vec<AttributeProto>,
    ) -> String {
        if self.opset >= first {
            let axes = self.ints(&[axis]);
            return self.op(op_type, &[x, &axes], attributes);
        }
        attributes.push(attribute::ints("axes", &[axis]));
        self.op(op_type, &[x], attributes)
    }

    /// The length of the dimension `axis`: a vector of one element.
    pub fn length(&mut self, x: &str, axis: i64) -> String {
        let (shape, axis) = (self.op("Shape", &[x], Vec::new()), self.ints(&[axis]));
        self.op("Gather", &[&shape, &axis], Vec::new())
    }

    /// 0, 1, ... up to `end`, a vector of one element, exclusive.
    pub fn range(&mut self, end: &str) -> String {
        let (zero, one) = (self.int(0), self.int(1));
        let end = self.op("Gather", &[end, &zero], Vec::new());
        self.op("Range", &[&zero, &end, &one], Vec::new())
    }

    /// Whether the value has so many dimensions: a vector of one truth value.
    pub fn has_rank(&mut self, x: &str, rank: i64) -> String {
        let shape = self.op("Shape", &[x], Vec::new());
        let (found, rank) = (self.op("Shape", &[&shape], Vec::new()), self.ints(&[rank]));
        self.op("Equal", &[&found, &rank], Vec::new())
    }

    /// One of two values, of which only that one is computed.
    pub fn either(
        &mut self,
        condition: &str,
        then: impl FnOnce(&mut Self) -> String,
        otherwise: impl FnOnce(&mut Self) -> String,
    ) -> String {
        let branches = [("then_branch", self.branch(then)), ("else_branch", self.branch(otherwise))];
        let branches = branches.into_iter().map(|(name, graph)| AttributeProto {
            name: Some(name.to_string()),
            r#type: Some(AttributeType::Graph as i32),
            g: Some(graph),
            ..Default::default()
        });
        self.op("If", &[condition], branches.collect())
    }

    /// A subgraph that yields what `write` does.
    fn branch(&mut self, write: impl FnOnce(&mut Self) -> String) -> GraphProto {
        let around = std::mem::take(&mut self.nodes);
        let result = write(self);
        // What is written may be a value of the graph around.
        let output = self.op("Identity", &[&result], Vec::new());
        let node = std::mem::replace(&mut self.nodes, around);
        let output = vec![ValueInfoProto { name: Some(output.clone()), ..Default::default() }];
        GraphProto { name: Some(self.fresh()), node, output, ..Default::default() }
    }
}
