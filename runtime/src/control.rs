//! `If`, `Loop` and `Scan` turn by turn: each body is run by an interpreter of its own, so that it may hold operators of
//! ours, which no back end knows, and other such bodies.
//!
//! The semantics are those of ONNX since version 9 of `Scan`; the older one, with a batch dimension, is refused.

mod run;

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;

use zqc_ir::body::{Body, Place};
use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::op::is_standard;
use zqc_ir::{Graph, Model, NodeId, Op, ValueId};

use crate::array::{Array, ArrayError};
use crate::backend::Backend;
use crate::interpreter::{Interpreter, Live, RunError, Sessions, Weight};
use run::Run;

/// The operators.
const KINDS: [&str; 3] = ["If", "Loop", "Scan"];
/// The first version of `Scan` without a batch dimension.
const SCAN_OPSET: i64 = 9;

/// See [`Bodies::raise`].
pub type Raise = fn(&mut Model) -> Result<(), Box<dyn Error + Send + Sync>>;

/// How bodies are run.
#[derive(Debug, Clone, Copy)]
pub struct Bodies {
    /// Makes our operators of what stands for them in the main graph of a model, here of a body; without it, bodies hold none.
    pub raise: Option<Raise>,
    /// A `Loop` that goes on after so many turns is an error.
    pub most_turns: usize,
}

impl Default for Bodies {
    /// Bodies as they are, without a bound on turns.
    fn default() -> Self {
        Self { raise: None, most_turns: usize::MAX }
    }
}

/// Hears of every turn before it is run: which of the operator's bodies, the body's graph, and what is fed to it. When it
/// breaks, the operator is run no further.
pub type Watch<'w> = dyn FnMut(usize, &Graph, &Live) -> ControlFlow<()> + 'w;

/// What is loaded of an operator: its bodies, or its weight where it is a layer that is quantized already.
#[derive(Default)]
pub struct LoadedBodies {
    by_index: HashMap<usize, Sessions>,
    pub(crate) weight: Option<Weight>,
    /// Whether the operator is in a loop, so that its bodies are run many times on one sample.
    in_loop: bool,
}

impl LoadedBodies {
    /// Of an operator that is in a loop or not; nothing is loaded yet.
    pub(crate) fn new(in_loop: bool) -> Self {
        Self { in_loop, ..Self::default() }
    }
}

/// A control-flow operator of the standard domain, ready to be run.
pub struct Control<'a> {
    label: String,
    kind: Kind,
    inputs: Vec<Option<Outer>>,
    outputs: Vec<Option<ValueId>>,
    bodies: Vec<Taken<'a>>,
    most_turns: usize,
}

enum Kind {
    /// With the indices of its branches.
    If {
        then_branch: usize,
        else_branch: usize,
    },
    Loop,
    Scan(Scan),
}

/// The attributes of a `Scan`, those that are left out being empty.
struct Scan {
    inputs: usize,
    input_axes: Vec<i64>,
    input_directions: Vec<i64>,
    output_axes: Vec<i64>,
    output_directions: Vec<i64>,
}

/// A value of the graph around, as the operator or a body reads it.
struct Outer {
    value: ValueId,
    /// What it is unless it is fed: a constant, or the default of an input.
    default: Option<Array>,
}

/// A body.
struct Taken<'a> {
    interpreter: Interpreter<'a>,
    /// Its own inputs.
    inputs: Vec<ValueId>,
    /// What it reads from outside, with the input that stands for it.
    captured: Vec<(Outer, ValueId)>,
    results: Vec<ResultOf>,
}

/// Where a result of a body comes from.
enum ResultOf {
    /// From the interpreter, which gives several.
    Computed(usize),
    /// From the body's constants.
    Constant(Array),
}

/// The control flow of the main graph that we run, not the back end: with operators of ours in its bodies, or of a kind that
/// the back end does not know.
///
/// # Errors
/// As [`Control::new`], for bodies that may hold operators of ours.
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

/// Whether the operator, or one in a body of it, is control flow that the back end does not know.
fn is_unknown(proto: &NodeProto, backend: &dyn Backend) -> bool {
    let is_control = KINDS.contains(&proto.op_type()) && is_standard(proto.domain());
    is_control && !backend.knows_control(proto.op_type())
        || proto.bodies().flat_map(|body| &body.node).any(|node| is_unknown(node, backend))
}

impl<'a> Control<'a> {
    /// The operator at `node`; `None` when it is no control flow, or a body is no valid graph. Nothing is loaded yet.
    ///
    /// # Errors
    /// When it lacks a body, its operators cannot be made ours, a constant that it reads has no host form, or a body has a
    /// circle.
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
            taken.push(Taken::new(graph, body.model, own, backend, bodies, &label)?);
        }
        let outer = |input: &Option<ValueId>| input.map(|value| Outer::new(graph, value)).transpose();
        let inputs = operator.inputs().iter().map(outer).collect::<Result<_, _>>();
        let outputs = operator.outputs().to_vec();
        let inputs = inputs.map_err(|error| fail(error.to_string()))?;
        Ok(Some(Self { kind, inputs, outputs, bodies: taken, most_turns: bodies.most_turns, label }))
    }

    /// Whether a body, or one inside it, holds operators of ours.
    fn holds_ours(&self) -> bool {
        let ours = |body: &Taken| body.interpreter.stages().iter().any(|stage| !stage.layers.is_empty());
        self.bodies.iter().any(ours)
    }

    /// Loads the bodies, and those inside them, and lets them go again.
    ///
    /// # Errors
    /// When the back end refuses one.
    pub(crate) fn try_load(&self) -> Result<(), RunError> {
        self.bodies.iter().try_for_each(|body| body.interpreter.try_load())
    }

    /// Runs the operator on one sample, from the values that it and its bodies read; `watch` hears of every turn. The results
    /// by value, or `None` when `watch` stops it.
    ///
    /// # Errors
    /// When a value is missing or does not fit, a loop takes too many turns, or a body cannot be run.
    pub fn run(
        &self,
        live: &Live,
        loaded: &mut LoadedBodies,
        watch: &mut Watch,
    ) -> Result<Option<Live>, RunError> {
        let mut run = Run { control: self, live, loaded, watch };
        let results = match &self.kind {
            Kind::If { then_branch, else_branch } => run.branch(*then_branch, *else_branch),
            Kind::Loop => run.turns(),
            Kind::Scan(scan) => run.scan(scan),
        };
        let named = |results: Vec<Array>| {
            let named = self.outputs.iter().zip(results);
            named.filter_map(|(output, array)| Some(((*output)?, array))).collect()
        };
        Ok(results?.map(named))
    }

    fn fail(&self, reason: impl Into<String>) -> RunError {
        RunError::Control { node: self.label.clone(), reason: reason.into() }
    }

    /// The only body of a loop.
    fn body(&self) -> Result<&Taken<'a>, RunError> {
        self.bodies.first().ok_or_else(|| self.fail("it has no body"))
    }

    fn input<'l>(&'l self, at: usize, live: &'l Live) -> Option<&'l Array> {
        self.inputs.get(at)?.as_ref()?.get(live)
    }

    fn required<'l>(&'l self, at: usize, live: &'l Live) -> Result<&'l Array, RunError> {
        self.input(at, live).ok_or_else(|| self.fail(format!("its input {at} is missing")))
    }
}

impl Kind {
    /// What `proto` is, or what is wrong with it.
    fn new(proto: &NodeProto, opset: i64) -> Result<Self, String> {
        let branch = |name: &str| {
            let bodies = proto.attribute.iter().filter(|attribute| attribute.g.is_some());
            let place = bodies.map(|attribute| attribute.name()).position(|other| other == name);
            place.ok_or_else(|| format!("it has no {name}"))
        };
        match proto.op_type() {
            "If" => Ok(Kind::If { then_branch: branch("then_branch")?, else_branch: branch("else_branch")? }),
            "Loop" => branch("body").map(|_| Kind::Loop),
            _ if opset < SCAN_OPSET => Err(format!("it has a batch dimension, as below opset {SCAN_OPSET}")),
            _ => {
                branch("body")?;
                let list = |name| proto.ints(name).unwrap_or_default().to_vec();
                Ok(Kind::Scan(Scan {
                    inputs: usize::try_from(proto.int_or("num_scan_inputs", 0)).unwrap_or(0),
                    input_axes: list("scan_input_axes"),
                    input_directions: list("scan_input_directions"),
                    output_axes: list("scan_output_axes"),
                    output_directions: list("scan_output_directions"),
                }))
            }
        }
    }
}

impl Outer {
    fn new(graph: &Graph, value: ValueId) -> Result<Self, ArrayError> {
        let tensor = graph.constant(value).or_else(|| graph.default_of(value));
        Ok(Self { value, default: tensor.map(Array::of_tensor).transpose()? })
    }

    fn get<'l>(&'l self, live: &'l Live) -> Option<&'l Array> {
        live.get(&self.value).or(self.default.as_ref())
    }
}

impl<'a> Taken<'a> {
    /// The body `model`, whose first inputs are its `own`.
    fn new(
        around: &Graph,
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
            let value = around.find(name).ok_or_else(|| RunError::NotFed { value: name.clone() })?;
            let outer = Outer::new(around, value).map_err(|error| fail(error.to_string()))?;
            captured.push((outer, input));
        }
        let (mut wanted, mut results) = (Vec::new(), Vec::new());
        for &output in graph.outputs() {
            results.push(match graph.constant(output) {
                Some(tensor) => {
                    ResultOf::Constant(Array::of_tensor(tensor).map_err(|error| fail(error.to_string()))?)
                }
                None => ResultOf::Computed(wanted.iter().position(|&other| other == output).unwrap_or_else(
                    || {
                        wanted.push(output);
                        wanted.len() - 1
                    },
                )),
            });
        }
        let interpreter = Interpreter::of(Cow::Owned(model), backend, wanted, bodies)?;
        Ok(Self { interpreter, inputs, captured, results })
    }
}

#[cfg(test)]
mod tests;
