//! Runs a stage on the calibration data and gathers what its layers are solved on.

use std::collections::{BTreeMap, HashMap, HashSet};

use zqc_ir::graph::Port;
use zqc_ir::op::Linear;
use zqc_ir::{Graph, NodeId, Op, ValueId};
use zqc_runtime::{Array, Interpreter, Live, LoadedRegions, LoadedWeight, RunError, Stage};
use zqc_solvers::CrossMoment;

use super::token_weights::TokenFactors;
use super::tokens::CalibrationTokens;
use super::{Calibration, HessianSource, Layer, WeightKey, Weights, go_on};
use crate::pass::{Observer, PassError};
use crate::record::ActivationRecord;
use crate::statistics::{ActivationStatistics, TokenSample};

/// Operators of ONNX Runtime that normalize the sum of their first two inputs.
const SKIPS: [&str; 2] = ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"];

/// One calibration sample under way.
pub(super) struct Sample {
    /// What the quantized model has computed so far.
    pub quantized: Live,
    /// What the float model has, if it runs beside.
    pub float: Option<Live>,
}

impl Sample {
    /// The values of both models.
    pub(super) fn both(&mut self) -> impl Iterator<Item = &mut Live> {
        [Some(&mut self.quantized), self.float.as_mut()].into_iter().flatten()
    }
}

/// A stage to run.
pub(super) struct Gathering<'a> {
    pub interpreter: &'a Interpreter<'a>,
    pub calibration: &'a Calibration<'a>,
    pub stage: &'a Stage,
    pub layers: &'a [Layer<'a>],
    /// What tokens count.
    pub factors: &'a TokenFactors,
}

/// What a stage showed.
pub(super) struct Gathered {
    /// The tokens of every set of inputs that a weight reads.
    pub tokens: HashMap<Vec<ValueId>, CalibrationTokens>,
    /// The output residuals of the layers of a weight, if they are to compensate for them.
    pub residuals: HashMap<WeightKey, OutputResidual>,
    /// One for each distinct input.
    pub activations: Vec<ActivationRecord>,
}

/// What the outputs of a weight's layers lack of the float model's.
pub(super) struct OutputResidual {
    pub moment: CrossMoment,
    /// Tokens `x` `[T, K]` and their output residuals `[T, N]`, not summed up yet: every accumulation touches all `K N` sums,
    /// so short samples wait for each other.
    waiting: (Vec<f32>, Vec<f32>),
    /// Tokens whose counterpart in the float model is not known, because it sends others to this expert; nothing is made up
    /// for on them.
    pub unmatched: usize,
}

impl OutputResidual {
    /// Tokens that are accumulated together at least.
    const BLOCK: usize = 256;

    fn new(&Linear { k, n, .. }: &Linear) -> Self {
        Self { moment: CrossMoment::new(k, n), waiting: Default::default(), unmatched: 0 }
    }

    fn add(&mut self, x: &[f32], missing: &[f32], linear: &Linear) {
        if self.waiting.0.is_empty() && x.len() >= Self::BLOCK * linear.k {
            self.moment.accumulate(x, missing);
            return;
        }
        self.waiting.0.extend_from_slice(x);
        self.waiting.1.extend_from_slice(missing);
        if self.waiting.0.len() >= Self::BLOCK * linear.k {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (x, missing) = std::mem::take(&mut self.waiting);
        self.moment.accumulate(&x, &missing);
    }
}

impl Gathering<'_> {
    /// Runs the stage, number `index`, up to its layers, which have the float `weights`, on every sample. What the layers are
    /// solved on is gathered if they are `to_solve`.
    pub(super) fn run(
        &self,
        index: usize,
        weights: &Weights,
        samples: &mut [Sample],
        to_solve: bool,
        observer: &dyn Observer,
    ) -> Result<Gathered, PassError> {
        let (interpreter, stage) = (self.interpreter, self.stage);
        let graph = interpreter.graph();
        let corrects = to_solve && self.calibration.corrects();
        let mut session = interpreter.load(stage)?;
        let mut regions: HashMap<NodeId, LoadedRegions> = HashMap::new();
        let mut quantized: HashMap<NodeId, LoadedWeight> = HashMap::new();
        let mut inputs: BTreeMap<ValueId, Input> = BTreeMap::new();
        for layer in self.layers {
            inputs.entry(layer.x).or_insert_with(|| Input::new(graph, layer, samples.len()));
        }
        let mut residuals: HashMap<WeightKey, OutputResidual> = HashMap::new();
        let count = samples.len();
        for (at, sample) in samples.iter_mut().enumerate() {
            go_on(observer)?;
            let failed = |source| PassError::Sample { sample: at, source: Box::new(source) };
            if let Some(session) = &mut session {
                for live in sample.both() {
                    interpreter.run_nodes(stage, session.as_ref(), live).map_err(failed)?;
                }
            }
            for live in sample.both() {
                for &id in &stage.controls {
                    interpreter.run_control(id, regions.entry(id).or_default(), live).map_err(failed)?;
                }
                for &id in &stage.quantized {
                    interpreter.run_quantized(id, quantized.entry(id).or_default(), live).map_err(failed)?;
                }
            }
            for input in inputs.values_mut() {
                let (activation, width) = (input.activation, input.sampled.width());
                let values = interpreter.floats(input.layer, activation, width, &sample.quantized);
                input.sampled.add(values.map_err(failed)?);
            }
            for &id in &stage.quantizations {
                interpreter.run_quantize(id, &mut sample.quantized).map_err(failed)?;
                if let Some(float) = &mut sample.float {
                    interpreter.pass_quantize(id, float).map_err(failed)?;
                }
            }
            for (&x, input) in inputs.iter_mut().filter(|_| to_solve) {
                let source = match (&sample.float, self.calibration.hessian) {
                    (Some(float), HessianSource::Float) => float,
                    _ => &sample.quantized,
                };
                let values =
                    interpreter.floats(input.layer, x, input.sampled.width(), source).map_err(failed)?;
                if !values.iter().all(|value| value.is_finite()) {
                    return Err(failed(RunError::NotFinite { node: graph.label(input.layer) }));
                }
                let values = self.factors.scaled(x, at, values, input.sampled.width());
                input.tokens.add(&values, at, count);
            }
            for layer in self.layers {
                let weight = &weights[&layer.key];
                let Some(float) = &mut sample.float else { continue };
                interpreter.run_linear(layer.id, weight, None, float).map_err(failed)?;
                if corrects {
                    interpreter.run_linear(layer.id, weight, None, &mut sample.quantized).map_err(failed)?;
                }
            }
            if let Some(float) = sample.float.as_ref().filter(|_| corrects) {
                for layer in self.layers {
                    let residual =
                        residuals.entry(layer.key).or_insert_with(|| OutputResidual::new(layer.linear));
                    self.add_residual(layer, at, &sample.quantized, float, residual).map_err(failed)?;
                }
            }
        }
        inputs.values_mut().for_each(|input| input.tokens.finish());
        residuals.values_mut().for_each(OutputResidual::flush);
        let activations = inputs.iter().map(|(&x, input)| self.record(x, input, index)).collect();
        let tokens = if to_solve { self.by_weight(inputs) } else { HashMap::new() };
        Ok(Gathered { tokens, residuals, activations })
    }

    /// The tokens of every set of inputs that a weight reads. Those of an input that is in one set only are moved there: a
    /// Hessian is large.
    fn by_weight(&self, mut inputs: BTreeMap<ValueId, Input>) -> HashMap<Vec<ValueId>, CalibrationTokens> {
        let sets: HashSet<Vec<ValueId>> =
            self.layers.iter().map(|layer| inputs_of(self.layers, layer.key)).collect();
        let mut left: HashMap<ValueId, usize> = HashMap::new();
        sets.iter().flatten().for_each(|&x| *left.entry(x).or_default() += 1);
        let mut tokens = HashMap::new();
        for set in sets {
            let mut sum = CalibrationTokens::new(inputs[&set[0]].sampled.width());
            for (at, x) in set.iter().enumerate() {
                let sets_left = left.entry(*x).or_default();
                *sets_left -= 1;
                match inputs.remove(x) {
                    Some(input) if at == 0 && *sets_left == 0 => sum = input.tokens,
                    Some(input) => {
                        sum.merge(&input.tokens);
                        if *sets_left > 0 {
                            inputs.insert(*x, input);
                        }
                    }
                    None => {}
                }
            }
            tokens.insert(set, sum.prepare());
        }
        tokens
    }

    fn record(&self, x: ValueId, input: &Input, stage: usize) -> ActivationRecord {
        let readers = self.layers.iter().filter(|layer| layer.x == x);
        ActivationRecord {
            value: self.interpreter.graph().value(input.activation).name.clone(),
            layers: readers.map(|layer| layer.linear.layer.clone()).collect(),
            stage,
            width: input.sampled.width(),
            statistics: ActivationStatistics::new(&input.sampled),
        }
    }

    /// Adds what the layer's output on a sample, computed with the float weight, lacks of the float model's; and what the
    /// stream that it is added to lacks. A token of an expert that the float model has not at the same place
    /// lacks nothing that is known.
    fn add_residual(
        &self,
        layer: &Layer,
        sample: usize,
        ours: &Live,
        float: &Live,
        residual: &mut OutputResidual,
    ) -> Result<(), RunError> {
        let (interpreter, graph) = (self.interpreter, self.interpreter.graph());
        let &Linear { k, n, .. } = layer.linear;
        let [x, float_x] = [ours, float].map(|live| interpreter.floats(layer.id, layer.x, k, live));
        let (x, float_x) = (x?, float_x?);
        let Some(y) = graph.node(layer.id).output(0) else { return Ok(()) };
        let [y, float_y] = [ours, float].map(|live| interpreter.floats(layer.id, y, n, live));
        let (y, float_y) = (y?, float_y?);
        if y.len() != float_y.len() {
            residual.unmatched += x.len() / k;
            return Ok(());
        }
        let mut missing: Vec<f32> = float_y.iter().zip(y).map(|(float, ours)| float - ours).collect();
        if let Some(stream) = self.residual_stream(layer, ours, float) {
            missing.iter_mut().zip(stream).for_each(|(missing, difference)| *missing += difference);
        }
        if chooses_rows(graph, activation(graph, layer.x)) {
            let tokens = x.chunks_exact(k).zip(float_x.chunks_exact(k)).zip(missing.chunks_exact_mut(n));
            for (_, missing) in tokens.filter(|((x, float_x), _)| !is_same_token(x, float_x)) {
                missing.fill(0.0);
                residual.unmatched += 1;
            }
        }
        let [x, missing] = [(x, k), (&missing, n)]
            .map(|(values, width)| self.factors.scaled(layer.x, sample, values, width));
        residual.add(&x, &missing, layer.linear);
        Ok(())
    }

    /// What the stream that the layer's output is added to lacks, when it is computed already, and before this stage.
    fn residual_stream<'l>(&self, layer: &Layer, ours: &'l Live, float: &'l Live) -> Option<Vec<f32>> {
        let graph = self.interpreter.graph();
        let y = graph.node(layer.id).output(0)?;
        let stream = residual_stream(graph, y).filter(|&stream| !self.is_made_here(stream))?;
        let values = |live: &'l Live, id| live.get(&id).and_then(Array::as_f32);
        let (y, ours, float) = (values(ours, y)?, values(ours, stream)?, values(float, stream)?);
        // A stream that is broadcast has no difference for every token.
        let alike = ours.len() == y.len() && float.len() == y.len();
        alike.then(|| float.iter().zip(ours).map(|(float, ours)| float - ours).collect())
    }

    /// Whether a layer of this stage yields the value: what it lacks is its own to make up for.
    fn is_made_here(&self, value: ValueId) -> bool {
        self.interpreter.graph().producer(value).is_some_and(|id| self.stage.own().any(|own| own == id))
    }
}

/// Whether the rows of an activation are chosen while the model runs, as those of an expert.
fn chooses_rows(graph: &Graph, activation: ValueId) -> bool {
    let node = graph.producer(activation).map(|id| graph.node(id));
    let gather = node.filter(|node| node.op.as_standard("Gather").is_some());
    gather.is_some_and(|gather| gather.reads().all(|value| graph.literal(value).is_none()))
}

/// Whether two activations are one token's, of the quantized and of the float model: the models may send different tokens to
/// an expert. Quantization moves an activation by some per cent, another token's is farther away than 0.7 of the length.
fn is_same_token(ours: &[f32], float: &[f32]) -> bool {
    let squares = |value: f32| f64::from(value) * f64::from(value);
    let distance: f64 = ours.iter().zip(float).map(|(ours, float)| squares(ours - float)).sum();
    let length: f64 = float.iter().copied().map(squares).sum();
    distance <= length / 2.0
}

/// What the output `y` of a layer is added to, when that is all that becomes of it: by an `Add`, or by the sum that ONNX Runtime
/// fuses with the normalization behind it.
fn residual_stream(graph: &Graph, y: ValueId) -> Option<ValueId> {
    let [place] = graph.uses(y) else { return None };
    let node = graph.node(place.node);
    let Op::Onnx(proto) = &node.op else { return None };
    let adds = match proto.domain() {
        "com.microsoft" => SKIPS.contains(&proto.op_type()),
        _ => node.op.as_standard("Add").is_some(),
    };
    adds.then_some(())?;
    let other = match place.port {
        Port::Input(0) => node.input(1),
        Port::Input(1) => node.input(0),
        _ => None,
    };
    other.filter(|&other| other != y && !graph.is_output(y) && graph.constant(other).is_none())
}

/// The value that is quantized to `x`, or `x` itself.
fn activation(graph: &Graph, x: ValueId) -> ValueId {
    let quantize = graph.producer(x).map(|id| graph.node(id));
    let quantize = quantize.filter(|node| matches!(node.op, Op::QuantizeActivation(_)));
    quantize.and_then(|node| node.input(0)).unwrap_or(x)
}

/// The distinct inputs of the layers that share a weight.
pub(super) fn inputs_of(layers: &[Layer], key: WeightKey) -> Vec<ValueId> {
    let mut inputs: Vec<ValueId> =
        layers.iter().filter(|layer| layer.key == key).map(|layer| layer.x).collect();
    inputs.sort();
    inputs.dedup();
    inputs
}

/// A distinct input of the stage's layers.
struct Input {
    tokens: CalibrationTokens,
    /// What is quantized to the input, or the input itself.
    activation: ValueId,
    /// One of the layers that read it.
    layer: NodeId,
    /// Some tokens of the activation, before quantization.
    sampled: TokenSample,
}

impl Input {
    fn new(graph: &Graph, layer: &Layer, samples: usize) -> Self {
        Self {
            tokens: CalibrationTokens::new(layer.linear.k),
            activation: activation(graph, layer.x),
            layer: layer.id,
            sampled: TokenSample::new(layer.linear.k, samples),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_same_token;

    #[test]
    fn a_rounded_token_is_the_same_and_another_is_not() {
        let float = [1.0, -2.0, 0.5, 3.0];
        assert!(is_same_token(&float, &float));
        assert!(is_same_token(&[1.25, -2.0, 0.375, 2.5], &float));
        assert!(!is_same_token(&[-2.0, 1.0, 3.0, 0.5], &float));
        assert!(!is_same_token(&[0.0; 4], &float));
        assert!(is_same_token(&[0.0; 4], &[0.0; 4]));
    }
}
