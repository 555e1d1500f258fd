//! What a rule reads of a node, and writes of its gradient.

use std::collections::HashSet;

use zqc_ir::onnx::proto::{AttributeProto, NodeProto};
use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::{DataType, Tensor};
use zqc_ir::types::Type;
use zqc_ir::{ChangeBuilder, Graph, Node, Op, ValueId, ValueRef};

use crate::broadcast::{Reduction, reduction};
use crate::flow::is_float;

/// Why a rule does not cover a node.
pub(crate) type Reason = &'static str;

/// The first opset in which the axes of `ReduceMean` are an input.
const AXES_OF_REDUCTIONS: i64 = 18;

/// The gradient of a node in the making.
pub(crate) struct Backward<'b, 'p, 'g> {
    change: &'b mut ChangeBuilder<'p, 'g>,
    node: &'g Node,
    opset: i64,
    gradients: &'b [Option<ValueRef>],
    active: &'b HashSet<ValueId>,
    given: Vec<(ValueId, ValueRef)>,
}

impl<'b, 'p, 'g> Backward<'b, 'p, 'g> {
    /// The gradients with respect to the outputs of `node` are `gradients`, by port.
    pub(crate) fn new(
        change: &'b mut ChangeBuilder<'p, 'g>,
        node: &'g Node,
        opset: i64,
        gradients: &'b [Option<ValueRef>],
        active: &'b HashSet<ValueId>,
    ) -> Self {
        Self { change, node, opset, gradients, active, given: Vec::new() }
    }

    /// The gradients with respect to values that the node reads, of their shapes.
    pub(crate) fn into_given(self) -> Vec<(ValueId, ValueRef)> {
        self.given
    }

    pub(crate) fn node(&self) -> &'g Node {
        self.node
    }

    pub(crate) fn graph(&self) -> &'g Graph {
        self.change.graph()
    }

    pub(crate) fn opset(&self) -> i64 {
        self.opset
    }

    /// The node's message; only operators of ours have none.
    pub(crate) fn proto(&self) -> Result<&'g NodeProto, Reason> {
        match &self.node.op {
            Op::Onnx(proto) => Ok(proto),
            _ => Err("it is no ONNX operator"),
        }
    }

    /// The integer attribute of this name, or `default`.
    pub(crate) fn int_or(&self, name: &str, default: i64) -> i64 {
        self.proto().map_or(default, |proto| proto.int_or(name, default))
    }

    /// The float attribute of this name, or `default`.
    pub(crate) fn float_or(&self, name: &str, default: f32) -> f32 {
        self.proto().map_or(default, |proto| proto.float_or(name, default))
    }

    /// The gradient with respect to an output, if one reached it.
    pub(crate) fn gradient(&self, port: usize) -> Option<ValueRef> {
        self.gradients.get(port).cloned().flatten()
    }

    /// The gradient with respect to the first output, the only one that may have any.
    pub(crate) fn sole_gradient(&self) -> Result<ValueRef, Reason> {
        let others = self.gradients.iter().skip(1).any(Option::is_some);
        self.gradient(0).filter(|_| !others).ok_or("a gradient reaches another output than its first")
    }

    /// The value at an input.
    pub(crate) fn x(&self, port: usize) -> Result<ValueRef, Reason> {
        self.node.input(port).map(ValueRef::from).ok_or("it lacks an input")
    }

    /// The value at an output.
    pub(crate) fn y(&self, port: usize) -> Result<ValueRef, Reason> {
        self.node.output(port).map(ValueRef::from).ok_or("it lacks an output")
    }

    /// The type of an input; nothing is known of one that is left out.
    pub(crate) fn x_type(&self, port: usize) -> Type {
        self.node.input(port).map_or_else(Type::default, |value| self.change.graph().ty(value))
    }

    /// The type of an output.
    pub(crate) fn y_type(&self, port: usize) -> Type {
        self.node.output(port).map_or_else(Type::default, |value| self.change.graph().ty(value))
    }

    /// The number of dimensions of an input.
    pub(crate) fn rank(&self, port: usize) -> Result<usize, Reason> {
        self.x_type(port).rank().ok_or("the rank of an input is unknown")
    }

    /// The integers at an input that is constant.
    pub(crate) fn x_integers(&self, port: usize) -> Option<Vec<i64>> {
        self.change.graph().literal(self.node.input(port)?)?.to_i64().ok()
    }

    /// The constant at an input.
    pub(crate) fn x_constant(&self, port: usize) -> Option<Tensor> {
        Some(self.change.graph().literal(self.node.input(port)?)?.into_owned())
    }

    /// Whether the gradient with respect to an input is wanted.
    pub(crate) fn wants(&self, port: usize) -> bool {
        self.node.input(port).is_some_and(|value| self.active.contains(&value))
    }

    /// Contributes to the gradient with respect to an input, of whose shape `gradient` is.
    pub(crate) fn give(&mut self, port: usize, gradient: ValueRef) {
        if let Some(value) = self.node.input(port).filter(|_| self.wants(port)) {
            self.given.push((value, gradient));
        }
    }

    /// As [`Backward::give`], where the input was broadcast to the shape of `gradient`, of which `whole` is known: sums over the
    /// axes along which it was.
    pub(crate) fn give_sum(&mut self, port: usize, gradient: ValueRef, whole: &Type) {
        let Ok(x) = self.x(port) else { return };
        let gradient = match reduction(&self.x_type(port), whole) {
            Some(Reduction { leading, inner }) => {
                let inner = self.sum(gradient, &inner, true);
                self.sum(inner, &leading, false)
            }
            None => self.sum_to_shape_of(gradient, &x),
        };
        self.give(port, gradient);
    }

    /// The sum along those axes, which are none for the value itself.
    pub(crate) fn sum(&mut self, x: ValueRef, axes: &[i64], stays: bool) -> ValueRef {
        if axes.is_empty() {
            return x;
        }
        let axes = self.integers(axes);
        self.op_with("ReduceSum", &[&x, &axes], [int("keepdims", stays.into())])
    }

    /// The mean along axes, which stay with length 1.
    pub(crate) fn mean(&mut self, x: &ValueRef, axes: &[i64]) -> ValueRef {
        if self.opset < AXES_OF_REDUCTIONS {
            return self.op_with("ReduceMean", &[x], [ints("axes", axes), int("keepdims", 1)]);
        }
        let axes = self.integers(axes);
        self.op_with("ReduceMean", &[x, &axes], [int("keepdims", 1)])
    }

    /// The sum over the axes along which a value of the shape of `x` was broadcast, found out while the model runs.
    fn sum_to_shape_of(&mut self, gradient: ValueRef, x: &ValueRef) -> ValueRef {
        let (whole, shape) = (self.shape(&gradient), self.shape(x));
        let (whole_rank, rank) = (self.shape(&whole), self.shape(&shape));
        let missing = self.op("Sub", &[&whole_rank, &rank]);
        let one = self.integers(&[1]);
        let ones = self.op("Expand", &[&one, &missing]);
        let padded = self.op_with("Concat", &[&ones, &shape], [int("axis", 0)]);
        let same = self.op("Equal", &[&padded, &whole]);
        let differs = self.op("Not", &[&same]);
        let axes = self.op("NonZero", &[&differs]);
        let flat = self.integers(&[-1]);
        let axes = self.op("Reshape", &[&axes, &flat]);
        let attributes = [int("keepdims", 1), int("noop_with_empty_axes", 1)];
        let sum = self.op_with("ReduceSum", &[&gradient, &axes], attributes);
        self.op("Reshape", &[&sum, &shape])
    }

    /// The shape of an input, a vector of integers.
    pub(crate) fn shape_of(&mut self, port: usize) -> Result<ValueRef, Reason> {
        let dims = self.x_type(port).shape;
        let fixed: Option<Vec<i64>> = dims.and_then(|dims| dims.iter().map(|dim| dim.fixed()).collect());
        match fixed {
            Some(dims) => Ok(self.integers(&dims)),
            None => {
                let x = self.x(port)?;
                Ok(self.shape(&x))
            }
        }
    }

    /// The shape of a value, a vector of integers.
    pub(crate) fn shape(&mut self, x: &ValueRef) -> ValueRef {
        self.op("Shape", &[x])
    }

    /// The value with axes of length 1 put in.
    pub(crate) fn unsqueezed(&mut self, x: &ValueRef, axes: &[i64]) -> ValueRef {
        let axes = self.integers(axes);
        self.op("Unsqueeze", &[x, &axes])
    }

    /// The length along an axis: a vector of one integer.
    pub(crate) fn length(&mut self, x: &ValueRef, axis: i64) -> ValueRef {
        let (shape, axis) = (self.shape(x), self.integers(&[axis]));
        self.op("Gather", &[&shape, &axis])
    }

    /// Zeros of this shape.
    pub(crate) fn zeros(&mut self, shape: &ValueRef) -> ValueRef {
        let zero = self.scalar(0.0);
        self.op("Expand", &[&zero, shape])
    }

    /// A constant, with a name made from `hint`.
    pub(crate) fn constant(&mut self, hint: &str, tensor: Tensor) -> ValueRef {
        self.change.constant(hint, tensor)
    }

    /// A constant vector of integers.
    pub(crate) fn integers(&mut self, values: &[i64]) -> ValueRef {
        self.change.integers(&[values.len()], values)
    }

    /// A constant integer.
    pub(crate) fn integer(&mut self, value: i64) -> ValueRef {
        self.change.integers(&[], &[value])
    }

    /// The element type in which the gradient is computed.
    pub(crate) fn dtype(&self) -> DataType {
        let outputs = (0..self.node.outputs().len()).map(|port| self.y_type(port));
        let inputs = (0..self.node.inputs().len()).map(|port| self.x_type(port));
        let mut known = outputs.chain(inputs).filter_map(|ty| ty.dtype);
        known.find(|&dtype| is_float(dtype)).unwrap_or(DataType::Float)
    }

    /// A constant number of the type of the gradient.
    pub(crate) fn scalar(&mut self, value: f32) -> ValueRef {
        let dtype = self.dtype();
        // The type is one of floating-point numbers, of which there is a scalar; a value that nothing defines is refused.
        self.change.scalar(dtype, value).unwrap_or_else(|| self.change.value("scalar"))
    }

    /// The value of a node of the standard operator `op_type`.
    pub(crate) fn op(&mut self, op_type: &str, inputs: &[&ValueRef]) -> ValueRef {
        self.op_with(op_type, inputs, [])
    }

    /// The value of a node of the standard operator `op_type` with attributes.
    pub(crate) fn op_with(
        &mut self,
        op_type: &str,
        inputs: &[&ValueRef],
        attributes: impl IntoIterator<Item = AttributeProto>,
    ) -> ValueRef {
        let node = self.change.op(op_type, inputs.iter().map(|&input| input.clone()));
        node.with(attributes).output(&op_type.to_lowercase())
    }

    /// The values of a node of the standard operator `op_type` with so many results.
    pub(crate) fn op_of_several(
        &mut self,
        op_type: &str,
        inputs: &[&ValueRef],
        attributes: impl IntoIterator<Item = AttributeProto>,
        results: usize,
    ) -> Vec<ValueRef> {
        let node = self.change.op(op_type, inputs.iter().map(|&input| input.clone()));
        let part = |at| format!("{}_{at}", op_type.to_lowercase());
        node.with(attributes).outputs_of((0..results).map(part))
    }

    /// The first value of a node of any operator; `None` where an optional input is left out.
    pub(crate) fn node_of(&mut self, op: Op, inputs: Vec<Option<ValueRef>>) -> ValueRef {
        let part = op.kind().to_lowercase();
        self.change.node(op, inputs).output(&part)
    }

    /// The value times a number.
    pub(crate) fn scaled(&mut self, x: ValueRef, factor: f32) -> ValueRef {
        if factor == 1.0 {
            return x;
        }
        let factor = self.scalar(factor);
        self.op("Mul", &[&x, &factor])
    }
}
