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

use zqc_ir::verify::verify;
use zqc_ir::{Graph, Model, NodeId, Patch, RegionId, ValueId};
use zqc_passes::{PassError, Scope, Silent, SolvedWeights, UpgradeOpset};
use zqc_runtime::{Array, Backend, Control, Interpreter, Live, LoadedRegions, RunError};

use super::Compiler;
use super::run::{Run, Solving};
use crate::error::Error;
use crate::options::Method;
use crate::pipeline::{Phase, Pipeline};
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
pub(super) fn has_quantizable_subgraph(model: &Model, compiler: &Compiler) -> bool {
    model.graph.regions().any(|(id, _)| {
        let Some(mut model) = model.region(id) else { return false };
        let (mut report, mut events) = (Report::default(), Silent);
        let mut run = Run::new(compiler, &mut model, &mut report, &mut events);
        (run.scope, run.is_trial) = (Scope::Subgraph, true);
        run.find_layers().is_ok() && run.has_layers() || has_quantizable_subgraph(&model, compiler)
    })
}

impl Run<'_> {
    /// Quantizes and lowers the layers in the subgraphs of the model. What is `solved` already is taken over.
    pub(super) fn quantize_subgraphs(
        &mut self,
        solving: &Solving,
        solved: &mut SolvedWeights,
    ) -> Result<(), Error> {
        if !has_quantizable_subgraph(self.model, self.compiler) {
            return Ok(());
        }
        if self.scope == Scope::Main {
            self.apply(&UpgradeOpset { to: PORTABLE_OPSET })?;
        }
        let graph = &self.model.graph;
        let holders = graph.nodes().filter(|(_, node)| !node.regions().is_empty());
        let mut subgraphs = Vec::new();
        for (node, operator) in holders {
            let mut data = solving
                .backend
                .map_or_else(HashMap::new, |backend| data(self.model, node, solving.samples, backend));
            for index in 0..operator.regions().len() {
                subgraphs.push((RegionId { node, index }, data.remove(&index).unwrap_or_default()));
            }
        }
        subgraphs.sort_by_key(|(_, data)| Reverse(data.samples.len()));
        let mut subgraphs = subgraphs.into_iter();
        subgraphs.try_for_each(|(id, data)| self.quantize_subgraph(id, &data, solving.backend, solved))
    }

    fn quantize_subgraph(
        &mut self,
        id: RegionId,
        data: &Data,
        backend: Option<&dyn Backend>,
        solved: &mut SolvedWeights,
    ) -> Result<(), Error> {
        let label = self.model.graph.label(id.node);
        let Some(mut region) = self.model.region(id) else { return Ok(()) };
        let mut run = Run {
            compiler: self.compiler,
            model: &mut region,
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
        let why = format!("the layers in a subgraph of {label} are quantized");
        let patch = Patch::replace_region(self.model, id, region, why);
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
        if !self.has_layers() && !has_quantizable_subgraph(self.model, self.compiler) {
            return Ok(false);
        }
        let solving = Solving { backend, samples: &data.samples, more: &[], reference: None, state: None };
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
        for index in 0..model.graph.node(node).regions().len() {
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
    let Some(control) = Control::new(model, node, backend)? else { return Ok(()) };
    let graph = &model.graph;
    let mut wanted: Vec<ValueId> =
        graph.node(node).reads().filter(|&id| graph.producer(id).is_some()).collect();
    wanted.sort();
    wanted.dedup();
    let interpreter = Interpreter::new(model, backend, wanted.clone())?;
    let prepared = interpreter.prepare()?;
    let mut loaded = LoadedRegions::default();
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
fn named(graph: &Graph, fed: &Live) -> Vec<(String, Array)> {
    let named = |id| Some((graph.value(id).name.clone(), fed.get(&id)?.clone()));
    graph.given().filter_map(named).collect()
}
