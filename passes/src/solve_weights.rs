//! Float weights become codes, scales and a low-rank branch, stage by stage: every stage is calibrated on what the already
//! quantized stages before it put out, so that it repairs what they lost.

mod calibration;
mod config;
mod gather;
mod layer;
mod reach;
mod token_weights;
mod tokens;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use zqc_formats::WeightFormat;
use zqc_ir::op::{Linear, QuantizedLinear, port};
use zqc_ir::operands;
use zqc_ir::tensor::TensorError;
use zqc_ir::{Graph, Model, Node, NodeId, Op, Patch, PatchBuilder, Tensor, ValueId, ValueRef};
use zqc_runtime::{Array, Interpreter, RunError};

use crate::pass::{Context, Observer, Pass, PassError};
use crate::record::LayerRecord;
use gather::{Gathered, Gathering, Sample, inputs_of};
use layer::{LayerStats, Prepared, Weight};
use reach::Blocked;
use token_weights::TokenFactors;

pub use calibration::{Calibration, Checkpoints, HessianSource, Reference};
pub use config::{Errors, LowRankConfig, LowRankMetric, QuantConfig, Solution};
pub use token_weights::TokenWeights;

/// Why a layer is rounded to nearest though its stage runs: the tokens of its input go elsewhere, as an expert's may.
const UNSEEN: &str = "no token of the calibration data comes to it";
/// Why a layer is rounded to nearest though tokens come to it: none is left to decide whether GPTQ is better.
const TOO_FEW: &str = "too few tokens of the calibration data come to it";

/// Solves the weights of every `zqc.linear`, which becomes `zqc.quantized_linear`. A weight that several layers share
/// is solved once, in the first stage that reads it, on the inputs of all its readers there.
///
/// Before the first layer is solved, every stage is loaded once, and run on the first sample: layers behind an operator that the
/// back end refuses are rounded to nearest, and [`Observer::layer_uncalibrated`] hears of them.
///
/// With [`Context::calibration`] the codes are found by GPTQ (Frantar et al., arXiv 2210.17323) on Hessians gathered from the data;
/// without, they are rounded to nearest.
pub struct SolveWeights {
    /// What the weights become, and how.
    pub config: QuantConfig,
}

/// What makes two layers share one solved weight.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct WeightKey {
    value: ValueId,
    transposed: bool,
    alpha: u32,
}

impl WeightKey {
    fn new(weight: ValueId, linear: &Linear) -> Self {
        let transposed = linear.layout == zqc_ir::op::Layout::InputOutput;
        Self { value: weight, transposed, alpha: linear.alpha.to_bits() }
    }
}

/// Float weights as rows `[N, K]`.
type Weights = HashMap<WeightKey, Vec<f32>>;

/// A layer to solve.
struct Layer<'g> {
    id: NodeId,
    linear: &'g Linear,
    x: ValueId,
    key: WeightKey,
}

impl Pass for SolveWeights {
    fn name(&self) -> &'static str {
        "solve_weights"
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        let mut solver = Solver {
            model,
            config: &self.config,
            patch: PatchBuilder::new(&model.graph),
            solved: HashMap::new(),
        };
        let order = model.graph.order().map_err(RunError::from)?;
        let layers = solver.layers(&order);
        match context.calibration {
            _ if layers.is_empty() => {}
            None => {
                context.observer.stage_started(0, 1, layers.len());
                for layer in &layers {
                    solver.round(layer, context.observer)?;
                }
            }
            Some(calibration) => solver.walk(calibration, context.observer)?,
        }
        Ok(solver.patch.finish())
    }
}

/// Whether these are solutions of the weights of `layers`.
fn fit(solutions: &[Solution], layers: &[&Layer]) -> bool {
    let fits = |(solution, layer): (&Solution, &&Layer)| solution.fits(layer.linear.n, layer.linear.k);
    solutions.len() == layers.len() && solutions.iter().zip(layers).all(fits)
}

struct Solver<'a> {
    model: &'a Model,
    config: &'a QuantConfig,
    patch: PatchBuilder<'a>,
    /// Solved weights that this stage or, when layers share them, a later one reads.
    solved: HashMap<WeightKey, Solved>,
}

struct Solved {
    solution: Solution,
    /// The operands, with their ports.
    operands: Vec<(usize, ValueRef)>,
}

impl<'a> Solver<'a> {
    fn layers(&self, nodes: &[NodeId]) -> Vec<Layer<'a>> {
        let graph = &self.model.graph;
        let layer = |&id: &NodeId| {
            let node = graph.node(id);
            let Op::Linear(linear) = &node.op else { return None };
            let (x, weight) = (node.input(port::X)?, node.input(port::WEIGHT)?);
            Some(Layer { id, linear, x, key: WeightKey::new(weight, linear) })
        };
        nodes.iter().filter_map(layer).collect()
    }

    fn walk(&mut self, calibration: &Calibration, observer: &mut dyn Observer) -> Result<(), PassError> {
        let graph = &self.model.graph;
        let blocked = Blocked::find(self.model, calibration)?;
        let wanted = blocked.last_layers(graph);
        if wanted.is_empty() {
            return self.round_blocked(&blocked, observer);
        }
        let layers = self.layers(&graph.order()?);
        let factors = TokenFactors::new(self.model, &layers, calibration, observer)?;
        let interpreter = Interpreter::new(self.model, calibration.backend, wanted)?;
        let feed = |sample: &Vec<(String, Array)>| {
            let quantized =
                interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())));
            Sample { float: calibration.runs_float().then(|| quantized.clone()), quantized }
        };
        let mut samples: Vec<Sample> = calibration.samples.iter().map(feed).collect();
        let count = interpreter.stages().len();
        for (index, stage) in interpreter.stages().iter().enumerate() {
            let layers = self.layers(&stage.linears);
            observer.stage_started(index, count, layers.len());
            let mut weights = Weights::new();
            for layer in &layers {
                if let Entry::Vacant(place) = weights.entry(layer.key) {
                    place.insert(weight(self.model, layer)?);
                }
            }
            let unsolved = self.unsolved(&layers);
            for layer in &unsolved {
                if let (_, Some(reason)) = self.config.of_weight(&weights[&layer.key]) {
                    observer.layer_recoded(&layer.linear.layer, &reason);
                }
            }
            // A stage that a table or a layer solved before ends has nothing to keep.
            let checkpoints = calibration.checkpoints.filter(|_| !unsolved.is_empty());
            let known = checkpoints.and_then(|checkpoints| checkpoints.load(index));
            let known = known.filter(|known| fit(known, &unsolved));
            let gathering = Gathering {
                interpreter: &interpreter,
                calibration,
                stage,
                layers: &layers,
                factors: &factors,
            };
            let gathered = gathering.run(index, &weights, &mut samples, known.is_none(), observer)?;
            gathered.activations.iter().cloned().for_each(|record| observer.activations_seen(record));
            let stored = known.is_some();
            match known {
                Some(known) => {
                    for (layer, solution) in unsolved.iter().zip(known) {
                        self.store(layer, index, &weights[&layer.key], solution, 0.0, observer)?;
                    }
                }
                None => self.solve_stage(&layers, index, &weights, &gathered, calibration, observer)?,
            }
            layers.iter().for_each(|layer| self.replace(layer));
            for layer in &unsolved {
                let solution = &self.solved[&layer.key].solution;
                if solution.after.output.is_none() {
                    let tokens = solution.calibration.map_or(0, |calibration| calibration.tokens);
                    let reason = if tokens == 0 { UNSEEN } else { TOO_FEW };
                    observer.layer_uncalibrated(&layer.linear.layer, reason);
                }
            }
            if let Some(checkpoints) = checkpoints.filter(|_| !stored) {
                let solutions: Vec<&Solution> =
                    unsolved.iter().map(|layer| &self.solved[&layer.key].solution).collect();
                checkpoints.store(index, &solutions);
            }
            if index + 1 < count {
                for layer in &layers {
                    let Solution { matrix, branch, .. } = &self.solved[&layer.key].solution;
                    let weight = matrix.dequantize();
                    for sample in &mut samples {
                        interpreter.run_linear(layer.id, &weight, branch.as_ref(), &mut sample.quantized)?;
                    }
                }
            }
            let unshared = |layer: &&Layer| graph.uses(layer.key.value).len() == 1;
            layers.iter().filter(unshared).for_each(|layer| drop(self.solved.remove(&layer.key)));
            for live in samples.iter_mut().flat_map(Sample::both) {
                stage.last_read.iter().for_each(|value| drop(live.remove(value)));
            }
        }
        self.round_blocked(&blocked, observer)
    }

    /// Rounds the layers that no data comes to.
    fn round_blocked(&mut self, blocked: &Blocked, observer: &mut dyn Observer) -> Result<(), PassError> {
        for layer in self.layers(&self.model.graph.order()?) {
            let Some(reason) = blocked.reason(layer.id) else { continue };
            observer.layer_uncalibrated(&layer.linear.layer, reason);
            self.round(&layer, observer)?;
        }
        Ok(())
    }

    /// Rounds the weight of a layer to nearest.
    fn round(&mut self, layer: &Layer, observer: &mut dyn Observer) -> Result<(), PassError> {
        go_on(observer)?;
        if !self.solved.contains_key(&layer.key) {
            let started = Instant::now();
            let weight = weight(self.model, layer)?;
            let (config, recoded) = self.config.of_weight(&weight);
            if let Some(reason) = recoded {
                observer.layer_recoded(&layer.linear.layer, &reason);
            }
            let solution = solve(&config, layer, &weight, LayerStats::default())?;
            self.store(layer, 0, &weight, solution, started.elapsed().as_secs_f64(), observer)?;
        }
        self.replace(layer);
        Ok(())
    }

    /// The layers whose weights are not solved yet, one for each weight.
    fn unsolved<'l>(&self, layers: &'l [Layer<'a>]) -> Vec<&'l Layer<'a>> {
        let mut seen = HashSet::new();
        layers
            .iter()
            .filter(|layer| !self.solved.contains_key(&layer.key) && seen.insert(layer.key))
            .collect()
    }

    /// Solves the weights of a stage on what was gathered.
    fn solve_stage(
        &mut self,
        layers: &[Layer],
        stage: usize,
        weights: &Weights,
        gathered: &Gathered,
        calibration: &Calibration,
        observer: &mut dyn Observer,
    ) -> Result<(), PassError> {
        let mut prepared: HashMap<(Vec<ValueId>, WeightFormat), Prepared> = HashMap::new();
        for layer in self.unsolved(layers) {
            go_on(observer)?;
            let started = Instant::now();
            let weight = &weights[&layer.key];
            let (config, _) = self.config.of_weight(weight);
            let inputs = inputs_of(layers, layer.key);
            let tokens = &gathered.tokens[&inputs];
            let ready = match prepared.entry((inputs, config.gptq.grouping.format)) {
                Entry::Occupied(ready) => ready.into_mut(),
                Entry::Vacant(place) => {
                    let failed = |source| PassError::Solve { layer: layer.linear.layer.clone(), source };
                    place.insert(Prepared::new(tokens, &config, calibration.corrects()).map_err(failed)?)
                }
            };
            let stats = LayerStats {
                prepared: Some(ready),
                residual: gathered.residuals.get(&layer.key),
                propagation: calibration.propagation,
            };
            let solution = solve(&config, layer, weight, stats)?;
            self.store(layer, stage, weight, solution, started.elapsed().as_secs_f64(), observer)?;
        }
        Ok(())
    }

    /// Stores how the weight `[N, K]` of a layer was solved, in so many seconds.
    fn store(
        &mut self,
        layer: &Layer,
        stage: usize,
        weight: &[f32],
        solution: Solution,
        seconds: f64,
        observer: &mut dyn Observer,
    ) -> Result<(), PassError> {
        let graph = &self.model.graph;
        let &Layer { linear, key, .. } = layer;
        let hint = &graph.value(key.value).name;
        let unfit = |source| PassError::Operands { layer: linear.layer.clone(), source };
        let operands = operands::operands(&solution.matrix, solution.branch.as_ref()).map_err(unfit)?;
        let mut change = self.patch.change(format!("{}: codes and scales of the weight", linear.layer), hint);
        let operands = operands::add(&mut change, hint, operands);
        change.finish();
        let source = graph.constant(key.value);
        observer.layer_solved(LayerRecord {
            layer: linear.layer.clone(),
            k: linear.k,
            n: linear.n,
            stage,
            source_bytes: source.map_or(0, |tensor| tensor.byte_len().unwrap_or(0) as u64),
            coding: solution.coding(weight),
            bits_per_weight: solution.bits_per_weight(),
            weight_error: solution.after.weight,
            output_error: solution.after.output,
            calibration: solution.calibration,
            seconds,
        });
        self.solved.insert(key, Solved { solution, operands });
        Ok(())
    }

    /// Makes a quantized layer of a layer whose weight is solved.
    fn replace(&mut self, layer: &Layer) {
        let graph = &self.model.graph;
        let &Layer { id, linear, key, .. } = layer;
        let solved = &self.solved[&key];
        let Solution { matrix, branch, .. } = &solved.solution;
        let bias = graph.node(id).input(port::LINEAR_BIAS).map(ValueRef::from);
        let inputs = operands::inputs(layer.x.into(), solved.operands.iter().cloned(), bias);
        let op = Op::QuantizedLinear(QuantizedLinear {
            layer: linear.layer.clone(),
            k: linear.k,
            n: linear.n,
            format: matrix.format,
            group_size: matrix.group_size,
            ladder: matrix.scales.ladder(),
            rank: branch.as_ref().map_or(0, |branch| branch.rank),
            beta: linear.beta,
            dtype: linear.dtype,
        });
        let why = format!("{}: float weight becomes codes and scales", linear.layer);
        let mut change = self.patch.change_of(id, why);
        change.node(op, inputs).replaces(id);
        change.remove_if_unused(linear.origin.iter().flat_map(Node::reads).chain([key.value]));
        change.finish();
    }
}

/// Fails when the observer wants no more.
pub(crate) fn go_on(observer: &dyn Observer) -> Result<(), PassError> {
    if observer.stopped() { Err(PassError::Stopped) } else { Ok(()) }
}

/// Solves the weight `[N, K]` of a layer.
fn solve(
    config: &QuantConfig,
    layer: &Layer,
    weight: &[f32],
    stats: LayerStats,
) -> Result<Solution, PassError> {
    let values = Weight { values: weight, rows: layer.linear.n, cols: layer.linear.k };
    let failed = |source| PassError::Solve { layer: layer.linear.layer.clone(), source };
    config.solve(values, stats).map_err(failed)
}

/// The layer's weight as rows `[N, K]`.
fn weight(model: &Model, layer: &Layer) -> Result<Vec<f32>, PassError> {
    let tensor = model.graph.constant(layer.key.value).ok_or(TensorError::NotLoaded);
    let values = tensor.and_then(Tensor::to_f32);
    let values = values.map_err(|source| PassError::Weight { layer: layer.linear.layer.clone(), source })?;
    Ok(layer.linear.weight_rows(values))
}

/// The results of the linear layers among those that `counts` that no other such layer comes after: computing them
/// computes all others.
fn last_layers(graph: &Graph, counts: impl Fn(NodeId) -> bool) -> Vec<ValueId> {
    let layers = graph.nodes().filter(|(_, node)| matches!(node.op, Op::Linear(_))).map(|(id, _)| id);
    let layers: Vec<NodeId> = layers.filter(|&id| counts(id)).collect();
    let before = graph.ancestors(layers.iter().flat_map(|&id| graph.predecessors(id)));
    layers.iter().filter(|id| !before.contains(id)).filter_map(|&id| graph.node(id).output(0)).collect()
}
