//! Runs a stage on the calibration data and gathers what its layers are solved on.

use std::collections::{BTreeMap, HashMap};

use zqc_ir::graph::Port;
use zqc_ir::op::Linear;
use zqc_ir::{Graph, NodeId, Op, ValueId};
use zqc_numerics::{CrossMoment, Hessian};
use zqc_runtime::{Array, Interpreter, Live, LoadedBodies, RunError, Stage};

use super::{Calibration, HessianSource, Layer, WeightKey, Weights};
use crate::pass::PassError;
use crate::record::ActivationRecord;
use crate::statistics::{ActivationStatistics, TokenSample};

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
}

/// What a stage showed.
pub(super) struct Gathered {
    /// The Hessian of every set of inputs that a weight reads.
    pub hessians: HashMap<Vec<ValueId>, Hessian>,
    /// What the layers of a weight lack, if they are to make up for it.
    pub lacks: HashMap<WeightKey, CrossMoment>,
    /// One for each distinct input.
    pub activations: Vec<ActivationRecord>,
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
    ) -> Result<Gathered, PassError> {
        let (interpreter, stage) = (self.interpreter, self.stage);
        let graph = interpreter.graph();
        let corrects = to_solve && self.calibration.corrects();
        let mut session = interpreter.load(stage)?;
        let mut bodies: HashMap<NodeId, LoadedBodies> = HashMap::new();
        let mut inputs: BTreeMap<ValueId, Input> = BTreeMap::new();
        for layer in self.layers {
            let new = || Input::new(activation(graph, layer.x), layer.linear.k, samples.len());
            inputs.entry(layer.x).or_insert_with(new);
        }
        let mut lacks: HashMap<WeightKey, CrossMoment> = HashMap::new();
        for (index, sample) in samples.iter_mut().enumerate() {
            let failed = |source| PassError::Sample { sample: index, source };
            if let Some(session) = &mut session {
                for live in sample.both() {
                    interpreter.run_nodes(stage, session.as_mut(), live).map_err(failed)?;
                }
            }
            for &id in &stage.layers {
                for live in sample.both() {
                    interpreter.run_control(id, bodies.entry(id).or_default(), live).map_err(failed)?;
                }
            }
            for input in inputs.values_mut() {
                input.see(&sample.quantized);
            }
            for &id in &stage.layers {
                interpreter.run_quantize(id, &mut sample.quantized).map_err(failed)?;
                if let Some(float) = &mut sample.float {
                    interpreter.pass_quantize(id, float).map_err(failed)?;
                }
            }
            for (x, input) in &mut inputs {
                let source = match (&sample.float, self.calibration.hessian) {
                    (Some(float), HessianSource::Float) => float,
                    _ => &sample.quantized,
                };
                if to_solve && !input.add(source.get(x)) {
                    let layer = self.layers.iter().find(|layer| layer.x == *x);
                    let node = layer.map_or_else(String::new, |layer| graph.label(layer.id));
                    return Err(failed(RunError::NotFinite { node }));
                }
            }
            for layer in self.layers {
                let weight = &weights[&layer.key];
                let Some(float) = &mut sample.float else { continue };
                interpreter.run_linear(layer.id, weight, None, float).map_err(failed)?;
                if corrects {
                    interpreter.run_linear(layer.id, weight, None, &mut sample.quantized).map_err(failed)?;
                }
            }
            if corrects {
                for layer in self.layers {
                    let moment = lacks
                        .entry(layer.key)
                        .or_insert_with(|| CrossMoment::new(layer.linear.k, layer.linear.n));
                    self.add_lack(layer, sample, moment);
                }
            }
        }
        inputs.values_mut().for_each(Input::finish);
        let activations = inputs.iter().map(|(&x, input)| self.record(x, input, index)).collect();
        let mut hessians = HashMap::new();
        for layer in self.layers.iter().filter(|_| to_solve) {
            let shared = inputs_of(self.layers, layer.key);
            hessians.entry(shared).or_insert_with_key(|shared| sum(shared, &inputs));
        }
        Ok(Gathered { hessians, lacks, activations })
    }

    fn record(&self, x: ValueId, input: &Input, stage: usize) -> ActivationRecord {
        let readers = self.layers.iter().filter(|layer| layer.x == x);
        ActivationRecord {
            value: self.interpreter.graph().value(input.activation).name.clone(),
            layers: readers.map(|layer| layer.linear.layer.clone()).collect(),
            stage,
            width: input.tokens.width(),
            statistics: ActivationStatistics::new(&input.tokens),
        }
    }

    /// Adds what the layer's output on a sample, computed with the float weight, lacks of the float model's; and what the
    /// stream that it is added to lacks. A token of an expert that the float model has not at the same place
    /// lacks nothing.
    fn add_lack(&self, layer: &Layer, sample: &Sample, moment: &mut CrossMoment) {
        let graph = self.interpreter.graph();
        let values =
            |live: &'_ Live, value: ValueId| live.get(&value).and_then(Array::as_f32).map(<[f32]>::to_vec);
        let Some(float) = &sample.float else { return };
        let Some(y) = graph.node(layer.id).output(0) else { return };
        let [x, float_x] = [&sample.quantized, float].map(|live| live.get(&layer.x).and_then(Array::as_f32));
        let (Some(x), Some(float_x)) = (x, float_x) else { return };
        let (Some(mut lack), Some(ours)) = (values(float, y), values(&sample.quantized, y)) else { return };
        if lack.len() != ours.len() {
            return;
        }
        lack.iter_mut().zip(ours).for_each(|(lack, ours)| *lack -= ours);
        let stream = residual_stream(graph, y).filter(|&stream| !self.is_made_here(stream));
        let stream =
            stream.and_then(|stream| Some((values(float, stream)?, values(&sample.quantized, stream)?)));
        if let Some((float, ours)) = stream
            && float.len() == lack.len()
            && ours.len() == lack.len()
        {
            let differences = float.iter().zip(ours).map(|(float, ours)| float - ours);
            lack.iter_mut().zip(differences).for_each(|(lack, difference)| *lack += difference);
        }
        if chooses_rows(graph, activation(graph, layer.x)) {
            let &Linear { k, n, .. } = layer.linear;
            let tokens = x.chunks_exact(k).zip(float_x.chunks_exact(k)).zip(lack.chunks_exact_mut(n));
            let others = tokens.filter(|((x, float_x), _)| !is_same_token(x, float_x));
            others.for_each(|(_, lack)| lack.fill(0.0));
        }
        moment.accumulate(x, &lack);
    }

    /// Whether a layer of this stage yields the value: what it lacks is its own to make up for.
    fn is_made_here(&self, value: ValueId) -> bool {
        self.interpreter.graph().producer(value).is_some_and(|id| self.stage.layers.contains(&id))
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

/// What the output `y` of a layer is added to, when that is all that becomes of it.
fn residual_stream(graph: &Graph, y: ValueId) -> Option<ValueId> {
    let [place] = graph.uses(y) else { return None };
    let node = graph.node(place.node);
    node.op.as_standard("Add")?;
    let other = match place.port {
        Port::Input(0) => node.input(1),
        Port::Input(_) => node.input(0),
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

/// The Hessian over the tokens of several inputs.
fn sum(shared: &[ValueId], inputs: &BTreeMap<ValueId, Input>) -> Hessian {
    let mut sum = inputs[&shared[0]].hessian.clone();
    shared[1..].iter().for_each(|x| sum.merge(&inputs[x].hessian));
    sum
}

/// A distinct input of the stage's layers. Short samples wait for each other, because every accumulation touches all
/// `K²` sums.
struct Input {
    hessian: Hessian,
    waiting: Vec<f32>,
    /// Before quantization.
    activation: ValueId,
    tokens: TokenSample,
}

impl Input {
    /// Tokens that are accumulated together.
    const BLOCK: usize = 2048;

    fn new(activation: ValueId, k: usize, samples: usize) -> Self {
        Self {
            hessian: Hessian::new(k),
            waiting: Vec::new(),
            activation,
            tokens: TokenSample::new(k, samples),
        }
    }

    /// Looks at the activation before it is quantized.
    fn see(&mut self, live: &Live) {
        if let Some(values) = self.values(live.get(&self.activation)) {
            self.tokens.add(values);
        }
    }

    /// Adds the tokens of a sample; whether all of their values are finite.
    fn add(&mut self, x: Option<&Array>) -> bool {
        let Some(values) = self.values(x) else { return true };
        if !values.iter().all(|value| value.is_finite()) {
            return false;
        }
        self.waiting.extend_from_slice(values);
        if self.waiting.len() >= Self::BLOCK * self.hessian.k() {
            self.hessian.accumulate(&self.waiting);
            self.waiting.clear();
        }
        true
    }

    /// The values of a float array of the right width.
    fn values<'v>(&self, array: Option<&'v Array>) -> Option<&'v [f32]> {
        array.filter(|array| array.shape.last() == Some(&self.hessian.k())).and_then(Array::as_f32)
    }

    fn finish(&mut self) {
        self.hessian.accumulate(&std::mem::take(&mut self.waiting));
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
