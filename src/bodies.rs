//! Linear layers inside the bodies of `If`, `Loop` and `Scan`.
//!
//! A body is compiled as a model of its own, after the graph around it: what it reads from there is an input, or a
//! constant where it is one there. It goes back lowered, and its new constants go into the graph around it, where every
//! body can read them.
//!
//! * The branch of an `If` is calibrated on what the compiled graph around it computes from the calibration samples that take
//!   this branch. A branch that none takes, and the body of a loop, whose values differ from turn to turn, get no data:
//!   there a weight is taken over from the graph around it or from a body that was solved before, if a layer there reads a
//!   weight of the same content, and else rounded to nearest, with the layer's name in the report.
//! * A weight is solved once, wherever it is read. Branches that samples take come before those that none takes, so that it
//!   is solved on data.
//! * While the graph around is calibrated, bodies are still in float.

use std::cmp::Reverse;

use zqc_ir::body::{Body, Place, places};
use zqc_ir::verify::verify;
use zqc_ir::{Model, Op, ValueId};
use zqc_passes::{LowerPortable, PassError, ReuseWeights, Silent, SolvedWeights, run};
use zqc_runtime::{Array, ArrayData, Backend, Interpreter, RunError};

use crate::compiler::Steps;
use crate::error::Error;
use crate::options::{Method, Options};

/// Names this step in errors.
const PASS: &str = "bodies";

/// Inputs by name, one entry a sample.
type Inputs = Vec<Vec<(String, Array)>>;

/// Whether a body in `model`, or one inside it, has layers that `options` would quantize.
pub(crate) fn hold_layers(model: &Model, options: &Options) -> bool {
    places(&model.graph).into_iter().any(|place| {
        let Ok(Some(Body { mut model, .. })) = Body::take(model, place) else { return false };
        let mut finders = options.finders().into_iter();
        let found = finders.try_for_each(|pass| run(pass.as_ref(), &mut model, &mut Silent));
        let layers = model.graph.nodes().any(|(_, node)| matches!(node.op, Op::Linear(_)));
        found.is_ok() && layers || hold_layers(&model, options)
    })
}

impl Steps<'_> {
    /// Quantizes and lowers the layers in the bodies of the model, whose opset must know FP8. What is `solved` already is
    /// taken over.
    pub(crate) fn bodies(
        &mut self,
        samples: &Inputs,
        backend: &dyn Backend,
        solved: &mut SolvedWeights,
    ) -> Result<(), Error> {
        let graph = &self.model.graph;
        let mut bodies = Vec::new();
        for place in places(graph) {
            let Some(result) = graph.node(place.node).outputs().iter().flatten().next() else { continue };
            let inputs = body_inputs(self.model, place, samples, backend).unwrap_or_default();
            bodies.push((*result, place.index, inputs));
        }
        bodies.sort_by_key(|(.., inputs)| Reverse(inputs.len()));
        for (result, index, inputs) in bodies {
            // The operator is another node after each of its bodies.
            if let Some(node) = self.model.graph.producer(result) {
                self.body(Place { node, index }, &inputs, backend, solved)?;
            }
        }
        Ok(())
    }

    fn body(
        &mut self,
        place: Place,
        samples: &Inputs,
        backend: &dyn Backend,
        solved: &mut SolvedWeights,
    ) -> Result<(), Error> {
        let label = self.model.graph.label(place.node);
        let broken = |error: &dyn std::fmt::Display| Error::Model(format!("a body of {label}: {error}"));
        let Some(mut body) = Body::take(self.model, place).map_err(|error| broken(&error))? else {
            return Ok(());
        };
        let mut steps = Steps {
            compiler: self.compiler,
            model: &mut body.model,
            report: self.report,
            events: self.events,
        };
        steps.find_layers()?;
        if !steps.has_layers() && !hold_layers(steps.model, steps.compiler.options()) {
            return Ok(());
        }
        steps.quantize_activations()?;
        steps.run(&ReuseWeights { solved })?;
        if steps.has_layers() {
            let float = steps.model.graph.clone();
            steps.solve_body(&label, samples, backend)?;
            solved.learn(&float, &steps.model.graph, str::to_string);
        }
        steps.bodies(samples, backend, solved)?;
        steps.run(&LowerPortable)?;
        let patch = body.put_back(self.model, format!("a body of {label} is quantized"))?;
        patch.apply(self.model).map_err(|source| PassError::Patch { pass: PASS, source })?;
        verify(self.model).map_err(|source| PassError::Broken { pass: PASS, source })?;
        Ok(())
    }

    fn solve_body(&mut self, label: &str, samples: &Inputs, backend: &dyn Backend) -> Result<(), Error> {
        if samples.is_empty() && self.compiler.options().method == Method::Gptq {
            let reason = format!("no calibration data comes to this body of {label}");
            for (_, node) in self.model.graph.nodes() {
                if let Op::Linear(linear) = &node.op {
                    self.report.note_uncalibrated(&linear.layer, &reason);
                }
            }
        }
        self.solve(samples, backend, None)
    }
}

/// What the body at `place` reads in those samples that reach it.
fn body_inputs(
    model: &Model,
    place: Place,
    samples: &Inputs,
    backend: &dyn Backend,
) -> Result<Inputs, RunError> {
    let graph = &model.graph;
    let node = graph.node(place.node);
    let Some(branch) = node.op.as_standard("If") else { return Ok(Inputs::new()) };
    let with_bodies = branch.attribute.iter().filter(|attribute| attribute.g.is_some());
    let is_then = with_bodies.map(|attribute| attribute.name() == "then_branch").nth(place.index);
    let (Some(is_then), Some(condition)) = (is_then, node.input(0)) else { return Ok(Inputs::new()) };
    let Ok(Some(body)) = Body::take(model, place) else { return Ok(Inputs::new()) };
    let names = body.model.graph.required_inputs().map(|id| body.model.graph.value(id).name.clone());
    let mut wanted: Vec<ValueId> = names.filter_map(|name| graph.find(&name)).collect();
    if graph.constant(condition).is_none() && !wanted.contains(&condition) {
        wanted.push(condition);
    }
    let interpreter = Interpreter::new(model, backend, wanted.clone())?;
    let mut prepared = interpreter.prepare()?;
    let mut reaching = Inputs::new();
    for sample in samples {
        let live = interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())));
        let values = prepared.run(live)?;
        let named = |(&id, array): (&ValueId, Array)| (graph.value(id).name.clone(), array);
        let values: Vec<(String, Array)> = wanted.iter().zip(values).map(named).collect();
        let name = &graph.value(condition).name;
        let holds = match graph.constant(condition) {
            Some(tensor) => tensor.bytes().ok().and_then(|bytes| bytes.first().map(|&byte| byte != 0)),
            None => values.iter().find(|(other, _)| other == name).and_then(|(_, array)| holds(array)),
        };
        if holds == Some(is_then) {
            reaching.push(values);
        }
    }
    Ok(reaching)
}

/// The truth of a condition.
fn holds(condition: &Array) -> Option<bool> {
    match &condition.data {
        ArrayData::Bool(values) => values.first().copied(),
        ArrayData::I32(values) => values.first().map(|&value| value != 0),
        ArrayData::I64(values) => values.first().map(|&value| value != 0),
        ArrayData::U8(values) => values.first().map(|&value| value != 0),
        _ => None,
    }
}
