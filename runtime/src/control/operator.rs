//! Control-flow operators and the interpreters of their regions.

use std::borrow::Cow;
use std::collections::HashMap;

use zqc_ir::{Graph, Model, Node, NodeId, Op, RegionId, ValueId};

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
    pub(super) regions: Vec<PreparedRegion<'a>>,
    pub(super) most_iterations: usize,
}

/// A value of the enclosing graph that the operator or a region of it reads.
pub(super) struct OuterValue {
    value: ValueId,
    /// Its value unless it is fed: a constant, or the default of an input.
    default: Option<Array>,
}

/// A region, ready to be run.
pub(super) struct PreparedRegion<'a> {
    pub interpreter: Interpreter<'a>,
    /// Its declared inputs.
    pub inputs: Vec<ValueId>,
    /// What it captures that is not constant: the value of the graph around, and the region's own.
    pub captures: Vec<(OuterValue, ValueId)>,
    pub results: Vec<RegionResult>,
}

/// Where a result of a region comes from.
pub(super) enum RegionResult {
    /// The result of this index of the interpreter.
    Computed(usize),
    /// A constant.
    Constant(Array),
}

impl<'a> Interpreter<'a> {
    /// Prepares to compute `wanted`; nothing is loaded yet. Control flow with operators of ours in its regions is run here, as is
    /// what the back end does not know.
    ///
    /// # Errors
    /// When the graph has a cycle, or regions with operators of ours are not what their operator asks for.
    pub fn new(model: &'a Model, backend: &'a dyn Backend, wanted: Vec<ValueId>) -> Result<Self, RunError> {
        Self::build(Cow::Borrowed(model), backend, wanted, usize::MAX)
    }

    /// As [`Interpreter::new`]; a `Loop` that is run here and has more iterations is an error.
    ///
    /// # Errors
    /// As [`Interpreter::new`].
    pub fn with_most_iterations(
        model: &'a Model,
        backend: &'a dyn Backend,
        wanted: Vec<ValueId>,
        most: usize,
    ) -> Result<Self, RunError> {
        Self::build(Cow::Borrowed(model), backend, wanted, most)
    }

    /// As [`Interpreter::with_most_iterations`], of a model that it may own.
    fn build(
        model: Cow<'a, Model>,
        backend: &'a dyn Backend,
        wanted: Vec<ValueId>,
        most_iterations: usize,
    ) -> Result<Self, RunError> {
        let controls = ours(&model, backend, most_iterations)?;
        let boxed = |(id, control)| (id, Box::new(control) as Box<dyn ControlOperator + 'a>);
        Self::with_controls(model, backend, wanted, controls.into_iter().map(boxed).collect())
    }
}

/// The control flow of the main graph that we run, not the back end: with operators of ours in its regions, or of a kind that the
/// back end does not know.
///
/// # Errors
/// As [`Control::new`], for regions with operators of ours.
fn ours<'a>(
    model: &Model,
    backend: &'a dyn Backend,
    most_iterations: usize,
) -> Result<HashMap<NodeId, Control<'a>>, RunError> {
    let mut ours = HashMap::new();
    for (id, node) in model.graph.nodes() {
        let mut inner = node.regions().iter().flat_map(|region| region.nodes_within());
        let holds_ours = inner.any(|node| !matches!(node.op, Op::Onnx(_)));
        if !holds_ours && !is_unknown(node, backend) {
            continue;
        }
        match Control::with_most_iterations(model, id, backend, most_iterations) {
            Ok(control) => ours.extend(control.map(|control| (id, control))),
            Err(error) if holds_ours => return Err(error),
            Err(_) => {} // The back end says that it cannot run it.
        }
    }
    Ok(ours)
}

/// Whether the operator, or one in a region of it, is control flow that the back end does not know.
fn is_unknown(node: &Node, backend: &dyn Backend) -> bool {
    let is_known = |node: &Node| {
        let kind = KINDS.into_iter().find(|kind| node.op.as_standard(kind).is_some());
        kind.is_none_or(|kind| backend.knows_control(kind))
    };
    let mut inner = node.regions().iter().flat_map(|region| region.nodes_within());
    !is_known(node) || inner.any(|node| !is_known(node))
}

impl<'a> Control<'a> {
    /// The operator at `node`; `None` when it is no control flow. Nothing is loaded yet.
    ///
    /// # Errors
    /// When it lacks a region, a constant that it reads has no host form, or a region has a cycle.
    pub fn new(model: &Model, node: NodeId, backend: &'a dyn Backend) -> Result<Option<Self>, RunError> {
        Self::with_most_iterations(model, node, backend, usize::MAX)
    }

    /// As [`Control::new`]; a `Loop` with more iterations is an error.
    pub(super) fn with_most_iterations(
        model: &Model,
        node: NodeId,
        backend: &'a dyn Backend,
        most_iterations: usize,
    ) -> Result<Option<Self>, RunError> {
        let graph = &model.graph;
        let operator = graph.node(node);
        let standard = KINDS.into_iter().find_map(|kind| operator.op.as_standard(kind));
        let Some(proto) = standard else { return Ok(None) };
        let label = graph.label(node);
        let fail = |reason: String| RunError::Control { node: label.clone(), reason };
        let kind = Kind::new(proto, model.opset()).map_err(fail)?;
        let regions =
            (0..operator.regions().len()).filter_map(|index| model.region(RegionId { node, index }));
        let prepared =
            regions.map(|region| PreparedRegion::new(graph, region, backend, most_iterations, &label));
        let outer = |input: &Option<ValueId>| input.map(|value| OuterValue::new(graph, value)).transpose();
        let inputs = operator.inputs().iter().map(outer).collect::<Result<_, _>>();
        Ok(Some(Self {
            kind,
            inputs: inputs.map_err(|error| fail(error.to_string()))?,
            outputs: operator.outputs().to_vec(),
            regions: prepared.collect::<Result<_, _>>()?,
            most_iterations,
            label,
        }))
    }

    pub(super) fn fail(&self, reason: impl Into<String>) -> RunError {
        RunError::Control { node: self.label.clone(), reason: reason.into() }
    }

    /// The only region of a loop.
    pub(super) fn body(&self) -> Result<&PreparedRegion<'a>, RunError> {
        self.regions.first().ok_or_else(|| self.fail("it has no body"))
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

impl<'a> PreparedRegion<'a> {
    fn new(
        around: &Graph,
        region: Model,
        backend: &'a dyn Backend,
        most_iterations: usize,
        label: &str,
    ) -> Result<Self, RunError> {
        let fail =
            |error: ArrayError| RunError::Control { node: label.to_string(), reason: error.to_string() };
        let graph = &region.graph;
        let is_fed = |value: &ValueId| graph.constant(*value).is_none();
        let inputs: Vec<ValueId> = graph.inputs().iter().copied().filter(is_fed).collect();
        let mut captures = Vec::new();
        for inner in graph.captures().filter(is_fed) {
            let name = &graph.value(inner).name;
            let outer = around.find(name).ok_or_else(|| RunError::NotFed { value: name.clone() })?;
            captures.push((OuterValue::new(around, outer).map_err(fail)?, inner));
        }
        let (mut wanted, mut results) = (Vec::new(), Vec::new());
        for &output in graph.outputs() {
            results.push(match graph.constant(output) {
                Some(tensor) => RegionResult::Constant(Array::of_tensor(tensor).map_err(fail)?),
                None => RegionResult::Computed(
                    wanted.iter().position(|&other| other == output).unwrap_or_else(|| {
                        wanted.push(output);
                        wanted.len() - 1
                    }),
                ),
            });
        }
        let interpreter = Interpreter::build(Cow::Owned(region), backend, wanted, most_iterations)?;
        Ok(Self { interpreter, inputs, captures, results })
    }
}
