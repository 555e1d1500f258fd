//! The gradient of a loss at a model's logits with respect to values inside it, block by block: the forward run keeps what is between
//! blocks, and the rest of each is computed again beside its gradient (Chen et al., arXiv 1604.06174).

use std::collections::HashSet;
use std::ops::Range;

use zqc_gradient::{Block, Stopped, blocks, differentiate, segments};
use zqc_ir::{Graph, Model, NodeId, Op, ValueId};
use zqc_runtime::{Array, Backend, Interpreter, Live};

use crate::pass::{Observer, PassError};
use crate::side_by_side::side_by_side;
use crate::solve_weights::go_on;

/// Inputs of a graph by name.
pub(crate) type Inputs = Vec<(String, Array)>;

/// Bytes of the values between blocks that are held at once.
const HELD: usize = 1 << 30;

/// A loss, and what wants its gradients.
pub(crate) trait Loss: Sync {
    /// The loss on every token of a sample, and the gradient of its sum with respect to the logits.
    fn of_logits(&self, sample: usize, logits: &Array) -> Result<(Vec<f64>, Array), PassError>;

    /// Takes the gradient with respect to a value, on a sample. For every value, samples come in order.
    fn take(&mut self, sample: usize, value: ValueId, gradient: &Array);
}

/// What a run found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The loss on every token, in the order of samples.
    pub losses: Vec<f64>,
    /// What the gradient did not pass.
    pub stopped: Vec<Stopped>,
}

/// A model in blocks. One of them is loaded at a time.
pub(crate) struct Backpropagation<'a> {
    backend: &'a dyn Backend,
    blocks: Vec<Block>,
    wrt: Vec<ValueId>,
}

impl<'a> Backpropagation<'a> {
    /// Cuts `model` into blocks that have a linear layer each. Gradients are those with respect to `wrt`, in whichever block they
    /// are.
    ///
    /// # Errors
    /// When the model cannot be cut.
    pub(crate) fn new(
        model: &Model,
        logits: ValueId,
        wrt: Vec<ValueId>,
        backend: &'a dyn Backend,
    ) -> Result<Self, PassError> {
        let mut boundaries = with_layers(&model.graph, &segments(model, logits)?);
        if boundaries.last() != Some(&logits) {
            boundaries.push(logits);
        }
        Ok(Self { backend, blocks: blocks(model, &boundaries)?, wrt })
    }

    /// Runs the model on samples, `at_once` of them at the same time, and the gradient of the loss back from the logits.
    ///
    /// # Errors
    /// When the back end fails, `observer` wants no more, or those of `loss`.
    pub(crate) fn run(
        &self,
        samples: &[Inputs],
        at_once: usize,
        loss: &mut dyn Loss,
        observer: &dyn Observer,
    ) -> Result<Outcome, PassError> {
        let (mut outcome, mut first) = (Outcome::default(), 0);
        while let Some(sample) = samples.get(first) {
            let samples = &samples[first..][..self.held(sample)?.min(samples.len() - first)];
            let part = Part { first, samples, at_once, observer };
            self.run_part(&part, loss, &mut outcome)?;
            first += samples.len();
        }
        Ok(outcome)
    }

    /// How many samples like this one are held together.
    fn held(&self, sample: &Inputs) -> Result<usize, PassError> {
        let [first, _, ..] = &self.blocks[..] else { return Ok(1) };
        let interpreter = Interpreter::new(&first.model, self.backend, vec![first.output])?;
        let value = interpreter.run(feed(&interpreter, first, sample, None))?.remove(0);
        let bytes = size_of::<f32>() * value.data.len() * self.blocks.len();
        Ok((HELD / bytes.max(1)).max(1))
    }

    fn run_part(&self, part: &Part, loss: &mut dyn Loss, outcome: &mut Outcome) -> Result<(), PassError> {
        let Some((last, body)) = self.blocks.split_last() else { return Ok(()) };
        let &Part { first, samples, .. } = part;
        let mut between: Vec<Vec<Array>> = Vec::new();
        for block in body {
            let interpreter = Interpreter::new(&block.model, self.backend, vec![block.output])?;
            let prepared = interpreter.prepare_with_weights()?;
            let mut values = Vec::with_capacity(part.samples.len());
            let run = |at: usize| {
                let before = between.last().map(|before| &before[at]);
                Ok(prepared.run(feed(&interpreter, block, &samples[at], before))?.remove(0))
            };
            for round in part.rounds() {
                values.extend(side_by_side(round?, run)?);
            }
            between.push(values);
        }
        outcome.stopped.clear();
        let before = between.pop();
        let interpreter = Interpreter::new(&last.model, self.backend, vec![last.output])?;
        let prepared = interpreter.prepare_with_weights()?;
        let of_logits = |loss: &dyn Loss, at: usize| {
            let before = before.as_ref().map(|before| &before[at]);
            let logits = prepared.run(feed(&interpreter, last, &samples[at], before))?.remove(0);
            let (losses, gradient) = loss.of_logits(first + at, &logits)?;
            Ok((losses, Some(gradient)))
        };
        let mut gradients = self.back(last, part, before.as_deref(), loss, &of_logits, outcome)?;
        drop(prepared);
        for block in body.iter().rev() {
            let before = between.pop();
            let known = |_: &dyn Loss, at: usize| Ok((Vec::new(), gradients[at].clone()));
            gradients = self.back(block, part, before.as_deref(), loss, &known, outcome)?;
        }
        Ok(())
    }

    /// Runs the gradient of a block on samples; the gradients with respect to the value at which it begins, where there are any.
    fn back(
        &self,
        block: &Block,
        part: &Part,
        before: Option<&[Array]>,
        loss: &mut dyn Loss,
        seed: &Seed,
        outcome: &mut Outcome,
    ) -> Result<Vec<Option<Array>>, PassError> {
        let graph = &block.model.graph;
        let inside = self.wrt.iter().copied().filter(|&value| !graph.is_gone(value));
        let asked: Vec<ValueId> = block.input.into_iter().chain(inside).collect();
        let mut gradient = differentiate(&block.model, block.output, &asked)?;
        outcome.stopped.append(&mut gradient.stopped);
        let known = asked.into_iter().zip(&gradient.gradients);
        let (values, wanted): (Vec<_>, Vec<_>) = known.filter_map(|(value, &at)| Some((value, at?))).unzip();
        let interpreter = Interpreter::new(&gradient.model, self.backend, wanted)?;
        let prepared = interpreter.prepare_with_weights()?;
        let mut gradients = Vec::with_capacity(part.samples.len());
        let samples = part.samples;
        for round in part.rounds() {
            let round = round?;
            let of_round: &dyn Loss = loss;
            let run = |at: usize| {
                let (losses, seed) = seed(of_round, at)?;
                let Some(seed) = seed else { return Ok((losses, Vec::new())) };
                let mut live = feed(&interpreter, block, &samples[at], before.map(|before| &before[at]));
                live.insert(gradient.output_gradient, seed);
                Ok((losses, prepared.run(live)?))
            };
            for (at, (losses, found)) in round.clone().zip(side_by_side(round, run)?) {
                outcome.losses.extend(losses);
                gradients.push(None);
                for (&value, found) in values.iter().zip(found) {
                    if Some(value) == block.input {
                        gradients[at] = Some(found);
                    } else {
                        loss.take(part.first + at, value, &found);
                    }
                }
            }
        }
        Ok(gradients)
    }
}

/// Gives the loss on the tokens of a sample of a part, if it is known here, and the gradient with respect to a block's output;
/// `None` where none comes as far.
type Seed<'s> = dyn Fn(&dyn Loss, usize) -> Result<(Vec<f64>, Option<Array>), PassError> + Sync + 's;

/// Samples that are held together.
struct Part<'s> {
    /// The number of the first.
    first: usize,
    samples: &'s [Inputs],
    /// How many of them are run at the same time.
    at_once: usize,
    observer: &'s dyn Observer,
}

impl Part<'_> {
    /// The samples, as many at a time as are run at the same time, unless no more is wanted.
    fn rounds(&self) -> impl Iterator<Item = Result<Range<usize>, PassError>> {
        let round = |first| first..self.samples.len().min(first + self.at_once);
        (0..self.samples.len())
            .step_by(self.at_once)
            .map(move |first| go_on(self.observer).map(|()| round(first)))
    }
}

/// The values that a block is fed on a sample, `before` where it begins.
fn feed(interpreter: &Interpreter, block: &Block, sample: &Inputs, before: Option<&Array>) -> Live {
    let mut live = interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())));
    live.extend(block.input.zip(before.cloned()));
    live
}

/// Those of `boundaries`, which are in order, that have a linear layer before them and behind the one before.
fn with_layers(graph: &Graph, boundaries: &[ValueId]) -> Vec<ValueId> {
    let is_layer = |id: NodeId| matches!(graph.node(id).op, Op::Linear(_) | Op::QuantizedLinear(_));
    let mut seen = HashSet::new();
    let mut has_new_layer = |value: ValueId| {
        let mut waiting: Vec<NodeId> = graph.producer(value).into_iter().collect();
        let mut found = false;
        while let Some(id) = waiting.pop() {
            if seen.insert(id) {
                found |= is_layer(id);
                waiting.extend(graph.predecessors(id));
            }
        }
        found
    };
    boundaries.iter().copied().filter(|&value| has_new_layer(value)).collect()
}
