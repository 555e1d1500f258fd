//! The gradient of a loss at a model's logits with respect to values inside it, block by block: the forward run keeps what is between
//! blocks, and the rest of each is computed again beside its gradient (Chen et al., arXiv 1604.06174).

use std::collections::HashSet;

use zqc_gradient::{Block, Stopped, blocks, differentiate, segments};
use zqc_ir::{Graph, Model, NodeId, Op, ValueId};
use zqc_runtime::{Array, Backend, Interpreter, Live};

use crate::pass::PassError;

/// Inputs of a graph by name.
pub(crate) type Inputs = Vec<(String, Array)>;

/// Bytes of the values between blocks that are held at once.
const HELD: usize = 1 << 30;

/// A loss, and what wants its gradients.
pub(crate) trait Loss {
    /// The gradient of the loss with respect to the logits of a sample.
    fn of_logits(&mut self, sample: usize, logits: &Array) -> Result<Array, PassError>;

    /// Takes the gradient with respect to a value, on a sample.
    fn take(&mut self, sample: usize, value: ValueId, gradient: &Array);

    /// Fails when the run is to end.
    fn go_on(&self) -> Result<(), PassError>;
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

    /// Runs the model on samples, and the gradient of the loss back from the logits. What it did not pass.
    ///
    /// # Errors
    /// When the back end fails, or those of `loss`.
    pub(crate) fn run(&self, samples: &[Inputs], loss: &mut dyn Loss) -> Result<Vec<Stopped>, PassError> {
        let (mut stopped, mut first) = (Vec::new(), 0);
        while let Some(sample) = samples.get(first) {
            let count = self.at_once(sample)?.min(samples.len() - first);
            let part = Part { first, samples: &samples[first..first + count] };
            stopped = self.run_part(&part, loss)?;
            first += count;
        }
        Ok(stopped)
    }

    /// How many samples like this one are run together.
    fn at_once(&self, sample: &Inputs) -> Result<usize, PassError> {
        let [first, _, ..] = &self.blocks[..] else { return Ok(1) };
        let interpreter = Interpreter::new(&first.model, self.backend, vec![first.output])?;
        let value = interpreter.run(feed(&interpreter, first, sample, None))?.remove(0);
        let bytes = size_of::<f32>() * value.data.len() * self.blocks.len();
        Ok((HELD / bytes.max(1)).max(1))
    }

    fn run_part(&self, part: &Part, loss: &mut dyn Loss) -> Result<Vec<Stopped>, PassError> {
        let Some((last, body)) = self.blocks.split_last() else { return Ok(Vec::new()) };
        let mut between: Vec<Vec<Array>> = Vec::new();
        for block in body {
            let interpreter = Interpreter::new(&block.model, self.backend, vec![block.output])?;
            let mut prepared = interpreter.prepare()?;
            let mut values = Vec::with_capacity(part.samples.len());
            for (at, sample) in part.samples.iter().enumerate() {
                loss.go_on()?;
                let before = between.last().map(|before| &before[at]);
                values.extend(prepared.run(feed(&interpreter, block, sample, before))?);
            }
            between.push(values);
        }
        let mut stopped = Vec::new();
        let mut before = between.pop();
        let interpreter = Interpreter::new(&last.model, self.backend, vec![last.output])?;
        let mut prepared = interpreter.prepare()?;
        let mut of_logits = |loss: &mut dyn Loss, at: usize| {
            let before = before.as_ref().map(|before| &before[at]);
            let live = feed(&interpreter, last, &part.samples[at], before);
            let logits = prepared.run(live)?.remove(0);
            loss.of_logits(part.first + at, &logits).map(Some)
        };
        let mut gradients = self.back(last, part, before.as_deref(), loss, &mut of_logits, &mut stopped)?;
        drop(prepared);
        for block in body.iter().rev() {
            before = between.pop();
            let mut known = |_: &mut dyn Loss, at: usize| Ok(gradients[at].take());
            gradients = self.back(block, part, before.as_deref(), loss, &mut known, &mut stopped)?;
        }
        Ok(stopped)
    }

    /// Runs the gradient of a block on samples; the gradients with respect to the value at which it begins, where there are any.
    fn back(
        &self,
        block: &Block,
        part: &Part,
        before: Option<&[Array]>,
        loss: &mut dyn Loss,
        seed: &mut Seed,
        stopped: &mut Vec<Stopped>,
    ) -> Result<Vec<Option<Array>>, PassError> {
        let graph = &block.model.graph;
        let inside = self.wrt.iter().copied().filter(|&value| !graph.is_gone(value));
        let asked: Vec<ValueId> = block.input.into_iter().chain(inside).collect();
        let mut gradient = differentiate(&block.model, block.output, &asked)?;
        stopped.append(&mut gradient.stopped);
        let known = asked.into_iter().zip(&gradient.gradients);
        let (values, wanted): (Vec<_>, Vec<_>) = known.filter_map(|(value, &at)| Some((value, at?))).unzip();
        let interpreter = Interpreter::new(&gradient.model, self.backend, wanted)?;
        let mut prepared = interpreter.prepare()?;
        let mut gradients = Vec::with_capacity(part.samples.len());
        for (at, sample) in part.samples.iter().enumerate() {
            loss.go_on()?;
            gradients.push(None);
            let Some(seed) = seed(loss, at)? else { continue };
            let mut live = feed(&interpreter, block, sample, before.map(|before| &before[at]));
            live.insert(gradient.output_gradient, seed);
            for (&value, found) in values.iter().zip(prepared.run(live)?) {
                if Some(value) == block.input {
                    gradients[at] = Some(found);
                } else {
                    loss.take(part.first + at, value, &found);
                }
            }
        }
        Ok(gradients)
    }
}

/// Gives the gradient with respect to a block's output on a sample of a part; `None` where none comes as far.
type Seed<'s> = dyn FnMut(&mut dyn Loss, usize) -> Result<Option<Array>, PassError> + 's;

/// Samples that are run together.
struct Part<'s> {
    /// The number of the first.
    first: usize,
    samples: &'s [Inputs],
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
