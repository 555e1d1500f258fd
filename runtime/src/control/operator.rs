//! Control-flow operators and the interpreters of their subgraphs.

use std::borrow::Cow;
use std::collections::HashMap;

use zqc_ir::body::{Body, Place};
use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::op::is_standard;
use zqc_ir::{Graph, Model, NodeId, Op, ValueId};

use super::bodies::Bodies;
use super::kind::{KINDS, Kind};
use crate::array::{Array, ArrayError};
use crate::backend::Backend;
use crate::interpreter::{ControlOperator, Interpreter, Live};
use crate::run_error::RunError;

/// A control-flow operator of the standard domain, ready to be run.
pub struct Control<'a> {
    label: String,
    pub(super) kind: Kind,
    pub(super) inputs: Vec<Option<OuterValue>>,
    pub(super) outputs: Vec<Option<ValueId>>,
    pub(super) bodies: Vec<PreparedBody<'a>>,
    pub(super) most_turns: usize,
}

/// A value of the enclosing graph that the operator or a subgraph reads.
pub(super) struct OuterValue {
    value: ValueId,
    /// Its value unless it is fed: a constant, or the default of an input.
    default: Option<Array>,
}

/// A subgraph, ready to be run.
pub(super) struct PreparedBody<'a> {
    pub interpreter: Interpreter<'a>,
    /// Its declared inputs.
    pub inputs: Vec<ValueId>,
    /// The values that it captures, with the input that stands for each.
    pub captured: Vec<(OuterValue, ValueId)>,
    pub results: Vec<BodyResult>,
}

/// Where a result of a subgraph comes from.
pub(super) enum BodyResult {
    /// The result of this index of the interpreter.
    Computed(usize),
    /// A constant of the subgraph.
    Constant(Array),
}

impl<'a> Interpreter<'a> {
    /// Prepares to compute `wanted`; nothing is loaded yet. Control flow is left to a back end that knows it.
    ///
    /// # Errors
    /// When the graph has a cycle.
    pub fn new(model: &'a Model, backend: &'a dyn Backend, wanted: Vec<ValueId>) -> Result<Self, RunError> {
        Self::build(Cow::Borrowed(model), backend, wanted, Bodies::default())
    }

    /// As [`Interpreter::new`], but control flow with operators of ours in its subgraphs is run here.
    ///
    /// # Errors
    /// When the graph has a cycle, or subgraphs are not what their operator asks for.
    pub fn with_bodies(
        model: &'a Model,
        backend: &'a dyn Backend,
        wanted: Vec<ValueId>,
        bodies: Bodies,
    ) -> Result<Self, RunError> {
        Self::build(Cow::Borrowed(model), backend, wanted, bodies)
    }

    /// As [`Interpreter::with_bodies`], of a model that it may own.
    fn build(
        model: Cow<'a, Model>,
        backend: &'a dyn Backend,
        wanted: Vec<ValueId>,
        bodies: Bodies,
    ) -> Result<Self, RunError> {
        let controls = ours(&model, backend, bodies)?;
        let boxed = |(id, control)| (id, Box::new(control) as Box<dyn ControlOperator + 'a>);
        Self::with_controls(model, backend, wanted, controls.into_iter().map(boxed).collect())
    }
}

/// The control flow of the main graph that we run, not the back end: with operators of ours in its subgraphs, or of a kind that
/// the back end does not know.
///
/// # Errors
/// As [`Control::new`], for subgraphs that may hold operators of ours.
pub(crate) fn ours<'a>(
    model: &Model,
    backend: &'a dyn Backend,
    bodies: Bodies,
) -> Result<HashMap<NodeId, Control<'a>>, RunError> {
    let mut ours = HashMap::new();
    for (id, node) in model.graph.nodes() {
        let Op::Onnx(proto) = &node.op else { continue };
        let unknown = is_unknown(proto, backend);
        if bodies.raise.is_none() && !unknown {
            continue;
        }
        match Control::new(model, id, backend, bodies) {
            Ok(control) => {
                let control = control.filter(|control| unknown || control.holds_ours());
                ours.extend(control.map(|control| (id, control)));
            }
            Err(error) if bodies.raise.is_some() => return Err(error),
            Err(_) => {} // The back end says that it cannot run it.
        }
    }
    Ok(ours)
}

/// Whether the operator, or one in a subgraph of it, is control flow that the back end does not know.
fn is_unknown(proto: &NodeProto, backend: &dyn Backend) -> bool {
    let is_control = KINDS.contains(&proto.op_type()) && is_standard(proto.domain());
    is_control && !backend.knows_control(proto.op_type())
        || proto.bodies().flat_map(|body| &body.node).any(|node| is_unknown(node, backend))
}

impl<'a> Control<'a> {
    /// The operator at `node`; `None` when it is no control flow, or a subgraph is no valid graph. Nothing is loaded yet.
    ///
    /// # Errors
    /// When it lacks a subgraph, raising one fails, a constant that it reads has no host form, or a subgraph has a cycle.
    pub fn new(
        model: &Model,
        node: NodeId,
        backend: &'a dyn Backend,
        bodies: Bodies,
    ) -> Result<Option<Self>, RunError> {
        let graph = &model.graph;
        let operator = graph.node(node);
        let standard = KINDS.into_iter().find_map(|kind| operator.op.as_standard(kind));
        let Some(proto) = standard else { return Ok(None) };
        let label = graph.label(node);
        let fail = |reason: String| RunError::Control { node: label.clone(), reason };
        let kind = Kind::new(proto, model.opset()).map_err(fail)?;
        let mut taken = Vec::new();
        for index in 0..proto.bodies().count() {
            let Ok(Some(body)) = Body::take(model, Place { node, index }) else { return Ok(None) };
            let own = proto.bodies().nth(index).map_or(0, |body| body.input.len());
            taken.push(PreparedBody::new(graph, body.model, own, backend, bodies, &label)?);
        }
        let outer = |input: &Option<ValueId>| input.map(|value| OuterValue::new(graph, value)).transpose();
        let inputs = operator.inputs().iter().map(outer).collect::<Result<_, _>>();
        let outputs = operator.outputs().to_vec();
        let inputs = inputs.map_err(|error| fail(error.to_string()))?;
        Ok(Some(Self { kind, inputs, outputs, bodies: taken, most_turns: bodies.most_turns, label }))
    }

    /// Whether a subgraph, or one inside it, holds operators of ours.
    fn holds_ours(&self) -> bool {
        let ours =
            |body: &PreparedBody| body.interpreter.stages().iter().any(|stage| stage.own().next().is_some());
        self.bodies.iter().any(ours)
    }

    pub(super) fn fail(&self, reason: impl Into<String>) -> RunError {
        RunError::Control { node: self.label.clone(), reason: reason.into() }
    }

    /// The only subgraph of a loop.
    pub(super) fn body(&self) -> Result<&PreparedBody<'a>, RunError> {
        self.bodies.first().ok_or_else(|| self.fail("it has no body"))
    }

    pub(super) fn input<'l>(&'l self, at: usize, live: &'l Live) -> Option<&'l Array> {
        self.inputs.get(at)?.as_ref()?.get(live)
    }

    pub(super) fn required<'l>(&'l self, at: usize, live: &'l Live) -> Result<&'l Array, RunError> {
        self.input(at, live).ok_or_else(|| self.fail(format!("its input {at} is missing")))
    }
}

impl OuterValue {
    fn new(graph: &Graph, value: ValueId) -> Result<Self, ArrayError> {
        let tensor = graph.constant(value).or_else(|| graph.default_of(value));
        Ok(Self { value, default: tensor.map(Array::of_tensor).transpose()? })
    }

    pub fn get<'l>(&'l self, live: &'l Live) -> Option<&'l Array> {
        live.get(&self.value).or(self.default.as_ref())
    }
}

impl<'a> PreparedBody<'a> {
    /// The subgraph `model`, whose first `own` inputs are declared; those after them stand for captured values.
    fn new(
        outer_graph: &Graph,
        mut model: Model,
        own: usize,
        backend: &'a dyn Backend,
        bodies: Bodies,
        label: &str,
    ) -> Result<Self, RunError> {
        let fail = |reason: String| RunError::Control { node: label.to_string(), reason };
        if let Some(raise) = bodies.raise {
            raise(&mut model).map_err(|error| fail(error.to_string()))?;
        }
        let graph = &model.graph;
        let fed = |input: &ValueId| graph.constant(*input).is_none();
        let inputs: Vec<ValueId> = graph.inputs().iter().copied().take(own).filter(fed).collect();
        let mut captured = Vec::new();
        for &input in graph.inputs().iter().skip(own) {
            let name = &graph.value(input).name;
            let value = outer_graph.find(name).ok_or_else(|| RunError::NotFed { value: name.clone() })?;
            let outer = OuterValue::new(outer_graph, value).map_err(|error| fail(error.to_string()))?;
            captured.push((outer, input));
        }
        let (mut wanted, mut results) = (Vec::new(), Vec::new());
        for &output in graph.outputs() {
            results.push(match graph.constant(output) {
                Some(tensor) => {
                    BodyResult::Constant(Array::of_tensor(tensor).map_err(|error| fail(error.to_string()))?)
                }
                None => BodyResult::Computed(
                    wanted.iter().position(|&other| other == output).unwrap_or_else(|| {
                        wanted.push(output);
                        wanted.len() - 1
                    }),
                ),
            });
        }
        let interpreter = Interpreter::build(Cow::Owned(model), backend, wanted, bodies)?;
        Ok(Self { interpreter, inputs, captured, results })
    }
}
