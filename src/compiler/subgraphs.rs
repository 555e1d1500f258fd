//! Linear layers in the subgraphs of `If`, `Loop` and `Scan`.
//!
//! A subgraph is compiled as a model of its own, after the graph around it: what it reads from there is an input, or a
//! constant where it is one there. It goes back lowered, and its new constants go into the graph around it, where every
//! subgraph can read them.
//!
//! * A subgraph is calibrated on its iterations: what the compiled graph around it computes from a calibration sample is fed to the
//!   operator, whose float subgraph is run iteration by iteration, and what is fed to one is a sample. The branch of an `If`
//!   has one iteration in the samples that take it; a subgraph inside a subgraph has its iterations in those of the one around it.
//! * A branch that no sample takes and a loop without an iteration get no data, as do subgraphs behind what the back end cannot run:
//!   there a weight is taken over from the graph around or from a subgraph that was solved before, if a layer there reads a weight
//!   of the same content, and else rounded to nearest, with the layer's name in the report.
//! * A weight is solved once, wherever it is read. Subgraphs that samples reach come before those that none reaches, so that it
//!   is solved on data.
//! * While the graph around is calibrated, subgraphs are still in float.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::ControlFlow;

use zqc_ir::body::{Body, Place, places};
use zqc_ir::verify::verify;
use zqc_ir::{Graph, Model, NodeId, Op, ValueId};
use zqc_passes::{PassError, Scope, Silent, SolvedWeights, UpgradeOpset};
use zqc_runtime::{Array, Backend, Control, Interpreter, Live, LoadedBodies, RunError};

use super::Compiler;
use super::run::{Run, Solving};
use crate::error::Error;
use crate::options::Method;
use crate::pipeline::{Phase, Pipeline};
use crate::raise::raised_bodies;
use crate::report::Report;
use crate::target::PORTABLE_OPSET;

/// The most iterations of a `Loop` that one sample gives: the first, as a loop may have no end, and each may be fed as much as the
/// first. Those of a `Scan` are slices of what is there anyway.
const ITERATIONS: usize = 32;
/// Iterations beyond the first are kept as long as a subgraph gets no more samples than these: loops in loops multiply them.
const SAMPLES: usize = 4096;

/// Inputs by name, one entry a sample.
type Inputs = Vec<Vec<(String, Array)>>;

/// What calibration brings to a subgraph.
#[derive(Default)]
struct Data {
    samples: Inputs,
    /// Why there are no samples, where that is not their fault.
    failure: Option<String>,
}

/// Whether a subgraph in `model`, or one inside it, has layers that `compiler` would quantize.
pub(super) fn hold_layers(model: &Model, compiler: &Compiler) -> bool {
    places(&model.graph).into_iter().any(|place| {
        let Ok(Some(Body { mut model, .. })) = Body::take(model, place) else { return false };
        let (mut report, mut events) = (Report::default(), Silent);
        let mut run = Run::new(compiler, &mut model, &mut report, &mut events);
        (run.scope, run.is_trial) = (Scope::Subgraph, true);
        run.find_layers().is_ok() && run.has_layers() || hold_layers(&model, compiler)
    })
}

impl Run<'_> {
    /// Quantizes and lowers the layers in the subgraphs of the model. What is `solved` already is taken over.
    pub(super) fn quantize_subgraphs(
        &mut self,
        solving: &Solving,
        solved: &mut SolvedWeights,
    ) -> Result<(), Error> {
        if !hold_layers(self.model, self.compiler) {
            return Ok(());
        }
        if self.scope == Scope::Main {
            self.apply(&UpgradeOpset { to: PORTABLE_OPSET })?;
        }
        let graph = &self.model.graph;
        let mut nodes: Vec<NodeId> = places(graph).into_iter().map(|place| place.node).collect();
        nodes.dedup();
        let mut subgraphs = Vec::new();
        for node in nodes {
            let Some(&result) = graph.node(node).outputs().iter().flatten().next() else { continue };
            let Op::Onnx(operator) = &graph.node(node).op else { continue };
            let mut data = solving
                .backend
                .map_or_else(HashMap::new, |backend| data(self.model, node, solving.samples, backend));
            for index in 0..operator.bodies().count() {
                subgraphs.push((result, index, data.remove(&index).unwrap_or_default()));
            }
        }
        subgraphs.sort_by_key(|(.., data)| Reverse(data.samples.len()));
        for (result, index, data) in subgraphs {
            // The operator is another node after each of its subgraphs.
            if let Some(node) = self.model.graph.producer(result) {
                self.quantize_subgraph(Place { node, index }, &data, solving.backend, solved)?;
            }
        }
        Ok(())
    }

    fn quantize_subgraph(
        &mut self,
        place: Place,
        data: &Data,
        backend: Option<&dyn Backend>,
        solved: &mut SolvedWeights,
    ) -> Result<(), Error> {
        let label = self.model.graph.label(place.node);
        let broken = |error: &dyn std::fmt::Display| Error::Model(format!("a body of {label}: {error}"));
        let Some(mut body) = Body::take(self.model, place).map_err(|error| broken(&error))? else {
            return Ok(());
        };
        let mut run = Run {
            compiler: self.compiler,
            model: &mut body.model,
            report: self.report,
            events: self.events,
            scope: Scope::Subgraph,
            is_trial: false,
            changes: std::mem::take(&mut self.changes),
        };
        let found = run.quantize_in(&label, data, backend, solved);
        self.changes = run.changes;
        if !found? {
            return Ok(());
        }
        let pass = Pipeline::QUANTIZE_SUBGRAPHS;
        let patch = body.put_back(self.model, format!("a body of {label} is quantized"))?;
        patch.apply(self.model).map_err(|source| PassError::Patch { pass, source })?;
        verify(self.model).map_err(|source| PassError::Broken { pass, source })?;
        Ok(())
    }

    /// Quantizes and lowers this subgraph of the operator `label`; whether it, or one inside it, has layers.
    fn quantize_in(
        &mut self,
        label: &str,
        data: &Data,
        backend: Option<&dyn Backend>,
        solved: &mut SolvedWeights,
    ) -> Result<bool, Error> {
        self.find_layers()?;
        if !self.has_layers() && !hold_layers(self.model, self.compiler) {
            return Ok(false);
        }
        let solving = Solving { backend, samples: &data.samples, state: None };
        let float = self.model.graph.clone();
        let known = self.report.layers.len();
        self.run(Phase::Quantize, &solving, solved)?;
        if data.samples.is_empty() && self.compiler.options.method == Method::Gptq {
            let reason = data.failure.as_deref().unwrap_or("no sample enters it");
            let reason = format!("no calibration data comes to this body of {label}: {reason}");
            for layer in
                self.report.layers[known..].iter().map(|layer| layer.layer.clone()).collect::<Vec<_>>()
            {
                self.report.note_uncalibrated(&layer, &reason);
            }
        }
        solved.learn(&float, &self.model.graph, str::to_string);
        self.run(Phase::Finish, &solving, solved)?;
        self.restore_float()?;
        self.lower()?;
        Ok(true)
    }
}

/// What the subgraphs of the operator at `node` read in their iterations, by their index. A subgraph that cannot be run has its
/// first iteration only, for the layers that its data comes to.
fn data(
    model: &Model,
    node: NodeId,
    samples: &[Vec<(String, Array)>],
    backend: &dyn Backend,
) -> HashMap<usize, Data> {
    let mut data: HashMap<usize, Data> = HashMap::new();
    if let Err(error) = gather(model, node, samples, backend, &mut data) {
        let Op::Onnx(operator) = &model.graph.node(node).op else { return data };
        for index in 0..operator.bodies().count() {
            data.entry(index).or_default().failure = Some(error.to_string());
        }
    }
    data
}

fn gather(
    model: &Model,
    node: NodeId,
    samples: &[Vec<(String, Array)>],
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
        "Loop" => ITERATIONS,
        _ => usize::MAX,
    };
    let mut most = (SAMPLES / samples.len()).clamp(1, most);
    let mut outcome = Ok(());
    for sample in samples {
        let mut live = interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())));
        let values = prepared.run(live.clone())?;
        live.extend(wanted.iter().copied().zip(values));
        let mut iterations = 0;
        let mut keep = |index: usize, body: &Graph, fed: &Live| {
            data.entry(index).or_default().samples.push(named(body, fed));
            iterations += 1;
            if iterations == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if let Err(error) = control.run(&live, &mut loaded, &mut keep) {
            most = 1;
            outcome = Err(error);
        }
    }
    outcome
}

/// What is fed to a subgraph, by name.
fn named(body: &Graph, fed: &Live) -> Vec<(String, Array)> {
    let named = |id| Some((body.value(id).name.clone(), fed.get(&id)?.clone()));
    body.required_inputs().filter_map(named).collect()
}
