//! Linear layers inside the bodies of `If`, `Loop` and `Scan`.
//!
//! A body is compiled as a model of its own, after the graph around it: what it reads from there is an input, or a
//! constant where it is one there. It goes back lowered, and its new constants go into the graph around it, where every
//! body can read them.
//!
//! * A body is calibrated on its turns: what the compiled graph around it computes from a calibration sample is fed to the
//!   operator, whose float body is run turn by turn, and what is fed to a turn is a sample of the body. The branch of an `If`
//!   has one turn in the samples that take it; a body inside a body has its turns in those of the body around it.
//! * A branch that no sample takes and a loop without a turn get no data, as do bodies behind what the back end cannot run:
//!   there a weight is taken over from the graph around or from a body that was solved before, if a layer there reads a weight
//!   of the same content, and else rounded to nearest, with the layer's name in the report.
//! * A weight is solved once, wherever it is read. Bodies that samples reach come before those that none reaches, so that it
//!   is solved on data.
//! * While the graph around is calibrated, bodies are still in float.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::ControlFlow;

use zqc_ir::body::{Body, Place, places};
use zqc_ir::verify::verify;
use zqc_ir::{Graph, Model, NodeId, Op, ValueId};
use zqc_passes::{LowerPortable, PassError, ReuseWeights, Silent, SolvedWeights};
use zqc_runtime::{Array, Backend, Control, Interpreter, Live, LoadedBodies, RunError};

use crate::compiler::{Compiler, Steps};
use crate::error::Error;
use crate::options::Method;
use crate::raise::raised_bodies;
use crate::report::Report;

/// Names this step in errors.
const PASS: &str = "bodies";

/// The most turns of a `Loop` that one sample gives: the first, as a loop may have no end, and each may be fed as much as the
/// first. Those of a `Scan` are slices of what is there anyway.
const TURNS: usize = 32;
/// Turns beyond the first are kept as long as a body gets no more samples than these: loops in loops multiply them.
const SAMPLES: usize = 4096;

/// Inputs by name, one entry a sample.
type Inputs = Vec<Vec<(String, Array)>>;

/// What calibration brings to a body.
#[derive(Default)]
struct Data {
    samples: Inputs,
    /// Why there are no samples, where that is not their fault.
    failure: Option<String>,
}

/// Whether a body in `model`, or one inside it, has layers that `compiler` would quantize.
pub(crate) fn hold_layers(model: &Model, compiler: &Compiler) -> bool {
    places(&model.graph).into_iter().any(|place| {
        let Ok(Some(Body { mut model, .. })) = Body::take(model, place) else { return false };
        let (report, events) = (&mut Report::default(), &mut Silent);
        let mut steps = Steps { compiler, model: &mut model, report, events };
        steps.find_layers(true).is_ok() && steps.has_layers() || hold_layers(&model, compiler)
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
        let mut nodes: Vec<NodeId> = places(graph).into_iter().map(|place| place.node).collect();
        nodes.dedup();
        let mut bodies = Vec::new();
        for node in nodes {
            let Some(&result) = graph.node(node).outputs().iter().flatten().next() else { continue };
            let Op::Onnx(operator) = &graph.node(node).op else { continue };
            let mut turns = turns(self.model, node, samples, backend);
            for index in 0..operator.bodies().count() {
                bodies.push((result, index, turns.remove(&index).unwrap_or_default()));
            }
        }
        bodies.sort_by_key(|(.., data)| Reverse(data.samples.len()));
        for (result, index, data) in bodies {
            // The operator is another node after each of its bodies.
            if let Some(node) = self.model.graph.producer(result) {
                self.body(Place { node, index }, &data, backend, solved)?;
            }
        }
        Ok(())
    }

    fn body(
        &mut self,
        place: Place,
        data: &Data,
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
        steps.find_layers(true)?;
        if !steps.has_layers() && !hold_layers(steps.model, steps.compiler) {
            return Ok(());
        }
        steps.quantize_activations()?;
        steps.run(&ReuseWeights { solved })?;
        if steps.has_layers() {
            let float = steps.model.graph.clone();
            steps.solve_body(&label, data, backend)?;
            solved.learn(&float, &steps.model.graph, str::to_string);
        }
        steps.bodies(&data.samples, backend, solved)?;
        steps.run(&LowerPortable { at_once: true })?;
        let patch = body.put_back(self.model, format!("a body of {label} is quantized"))?;
        patch.apply(self.model).map_err(|source| PassError::Patch { pass: PASS, source })?;
        verify(self.model).map_err(|source| PassError::Broken { pass: PASS, source })?;
        Ok(())
    }

    fn solve_body(&mut self, label: &str, data: &Data, backend: &dyn Backend) -> Result<(), Error> {
        if data.samples.is_empty() && self.compiler.options().method == Method::Gptq {
            let reason = data.failure.as_deref().unwrap_or("no sample enters it");
            let reason = format!("no calibration data comes to this body of {label}: {reason}");
            for (_, node) in self.model.graph.nodes() {
                if let Op::Linear(linear) = &node.op {
                    self.report.note_uncalibrated(&linear.layer, &reason);
                }
            }
        }
        self.solve(&data.samples, backend, None)
    }
}

/// What the bodies of the operator at `node` read in their turns, by their index. A body that cannot be run has its first
/// turn only, for the layers that its data comes to.
fn turns(model: &Model, node: NodeId, samples: &Inputs, backend: &dyn Backend) -> HashMap<usize, Data> {
    let mut data: HashMap<usize, Data> = HashMap::new();
    if let Err(error) = gather_turns(model, node, samples, backend, &mut data) {
        let Op::Onnx(operator) = &model.graph.node(node).op else { return data };
        for index in 0..operator.bodies().count() {
            data.entry(index).or_default().failure = Some(error.to_string());
        }
    }
    data
}

fn gather_turns(
    model: &Model,
    node: NodeId,
    samples: &Inputs,
    backend: &dyn Backend,
    data: &mut HashMap<usize, Data>,
) -> Result<(), RunError> {
    if samples.is_empty() {
        return Ok(());
    }
    let Some(control) = Control::new(model, node, backend, raised_bodies(usize::MAX))? else { return Ok(()) };
    let graph = &model.graph;
    let mut wanted: Vec<ValueId> =
        graph.node(node).reads().filter(|&id| graph.producer(id).is_some()).collect();
    wanted.sort();
    wanted.dedup();
    let interpreter = Interpreter::with_bodies(model, backend, wanted.clone(), raised_bodies(usize::MAX))?;
    let mut prepared = interpreter.prepare()?;
    let mut loaded = LoadedBodies::default();
    let most = match graph.node(node).op.kind() {
        "If" => 1,
        "Loop" => TURNS,
        _ => usize::MAX,
    };
    let mut most = (SAMPLES / samples.len()).clamp(1, most);
    let mut outcome = Ok(());
    for sample in samples {
        let mut live = interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())));
        let values = prepared.run(live.clone())?;
        live.extend(wanted.iter().copied().zip(values));
        let mut turns = 0;
        let mut keep = |index: usize, body: &Graph, fed: &Live| {
            data.entry(index).or_default().samples.push(named(body, fed));
            turns += 1;
            if turns == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if let Err(error) = control.run(&live, &mut loaded, &mut keep) {
            most = 1;
            outcome = Err(error);
        }
    }
    outcome
}

/// What is fed to a body, by name.
fn named(body: &Graph, fed: &Live) -> Vec<(String, Array)> {
    let named = |id| Some((body.value(id).name.clone(), fed.get(&id)?.clone()));
    body.required_inputs().filter_map(named).collect()
}
