//! Weights that are already solved elsewhere: the branches of an `If` often read the same ones.

use zqc_ir::op::{Linear, QuantizedLinear, port};
use zqc_ir::{Change, Graph, Model, NewNode, Node, Op, Patch, Tensor};

use crate::pass::{Context, Pass, PassError};

/// Solved weights, to be found again by their content.
#[derive(Debug, Default)]
pub struct SolvedWeights {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    linear: Linear,
    weight: Tensor,
    quantized: QuantizedLinear,
    /// The constant operands, with their ports.
    operands: Vec<(usize, String, Tensor)>,
}

impl SolvedWeights {
    /// Notes how the layers of `before` were solved in `after`. The operands will have the names that `rename` makes of
    /// theirs.
    pub fn learn(&mut self, before: &Graph, after: &Graph, rename: impl Fn(&str) -> String) {
        for (_, node) in before.nodes() {
            let Op::Linear(linear) = &node.op else { continue };
            let solved = node.output(0).and_then(|y| after.find(&before.value(y).name));
            let solved = solved.and_then(|y| after.producer(y)).map(|id| after.node(id));
            let weight = node.input(port::WEIGHT).and_then(|weight| before.constant(weight));
            let (Some(solved), Some(weight)) = (solved, weight) else { continue };
            let Op::QuantizedLinear(quantized) = &solved.op else { continue };
            let operand = |port: usize| {
                let value = solved.input(port).filter(|_| port != port::X && port != port::QUANTIZED_BIAS)?;
                Some((port, rename(&after.value(value).name), after.constant(value)?.clone()))
            };
            self.entries.push(Entry {
                linear: Linear { origin: Vec::new(), ..linear.clone() },
                weight: weight.clone(),
                quantized: quantized.clone(),
                operands: (0..solved.inputs().len()).filter_map(operand).collect(),
            });
        }
    }

    /// The entry whose weight, `alpha` included, is that of `linear`.
    fn find(&self, linear: &Linear, weight: &Tensor) -> Option<&Entry> {
        let candidates = self.entries.iter().filter(|entry| {
            let Linear { k, n, alpha, .. } = entry.linear;
            (k, n, alpha.to_bits()) == (linear.k, linear.n, linear.alpha.to_bits())
        });
        let mut rows = None;
        candidates.into_iter().find(|entry| {
            if entry.linear.layout == linear.layout && entry.weight.dtype() == weight.dtype() {
                return entry.weight.bytes().ok() == weight.bytes().ok();
            }
            let ours =
                rows.get_or_insert_with(|| weight.to_f32().ok().map(|values| linear.weight_rows(values)));
            ours.is_some()
                && *ours == entry.weight.to_f32().ok().map(|values| entry.linear.weight_rows(values))
        })
    }
}

/// Turns every [`Op::Linear`] whose weight is among those of [`Context::solved`] into the [`Op::QuantizedLinear`] that came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReuseWeights;

impl Pass for ReuseWeights {
    fn name(&self) -> &'static str {
        "reuse_weights"
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        let (graph, Some(solved)) = (&model.graph, context.solved) else { return Ok(Patch::default()) };
        let (mut patch, mut added) = (Patch::default(), Vec::<&str>::new());
        for (id, node) in graph.nodes() {
            let Op::Linear(linear) = &node.op else { continue };
            let Some(value) = node.input(port::WEIGHT) else { continue };
            let entry = graph.constant(value).and_then(|weight| solved.find(linear, weight));
            let Some(entry) = entry else { continue };
            let mut change = Change::new(format!("{}: its weight is solved already", linear.layer));
            let mut quantized = NewNode::restore(graph, node);
            let bias = quantized.inputs.get_mut(port::LINEAR_BIAS).and_then(Option::take);
            let x = quantized.inputs.get_mut(port::X).and_then(Option::take).unwrap_or_default();
            let operands = entry.operands.iter().map(|(port, name, _)| (*port, name.clone()));
            quantized.inputs = zqc_ir::operands::inputs(x, operands, bias);
            quantized.op = Op::QuantizedLinear(QuantizedLinear {
                layer: linear.layer.clone(),
                beta: linear.beta,
                dtype: linear.dtype,
                ..entry.quantized.clone()
            });
            for (_, name, tensor) in &entry.operands {
                if !added.contains(&name.as_str()) {
                    added.push(name);
                    change.initializers.push((name.clone(), tensor.clone()));
                }
            }
            change.remove.push(id);
            change.add.push(quantized);
            change.remove_if_unused = linear.origin.iter().flat_map(Node::reads).chain([value]).collect();
            patch.changes.push(change);
        }
        Ok(patch)
    }
}
