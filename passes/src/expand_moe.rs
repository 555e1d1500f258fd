//! `MoE` of ONNX Runtime becomes the router and products with stacks of experts.

use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType;
use zqc_ir::{ChangeBuilder, Model, NodeId, Patch, PatchBuilder, ValueRef};

use crate::contrib::microsoft;
use crate::layer_path::LayerPaths;
use crate::mixture::{Activation, Experts, Halves, Mixture, SwiGlu};
use crate::pass::{Context, Pass, PassError};
use crate::select::Select;

/// Turns every `MoE` of com.microsoft with constant weights into `TopK` of the router's probabilities, and for each of its
/// layers a `MatMul` with the matrix that `Gather` looks up for every token and choice, if `select` quantizes some of each:
/// [`SplitExperts`](crate::SplitExperts) makes a layer of each expert. The layers of the mixture at the path `p` are called
/// `p.fc1`, `p.fc2` and `p.fc3`, as the operator calls them.
#[derive(Debug, Clone, Default)]
pub struct ExpandMoe {
    /// Which layers are quantized.
    pub select: Select,
}

impl Pass for ExpandMoe {
    fn name(&self) -> &'static str {
        "expand_moe"
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut patch = PatchBuilder::new(graph);
        let mut paths = LayerPaths::default();
        for id in graph.order()? {
            let Some(Ok(mixture)) = Mixture::of(model, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, mixture.up[0].root);
            if mixture.kept(graph, &self.select, &path, &node.name).is_some() {
                continue;
            }
            let why = format!("{path} is a mixture of {} experts", mixture.down.experts);
            let change = patch.change_of(id, why);
            // One that does not come to its end is not in the patch.
            let _ = Expansion { path: &path, mixture: &mixture, change }.write(id);
        }
        Ok(patch.finish())
    }
}

struct Expansion<'p, 'g> {
    path: &'p str,
    mixture: &'p Mixture,
    change: ChangeBuilder<'p, 'g>,
}

impl Expansion<'_, '_> {
    /// `None` where a constant cannot be written in the type of the experts.
    fn write(mut self, id: NodeId) -> Option<()> {
        let mixture = self.mixture;
        let (k, n, choices) = (mixture.up[0].k as i64, mixture.down.n as i64, mixture.choices);
        let x = ValueRef::from(mixture.x);
        let probabilities = self.change.op("Softmax", [mixture.router.into()]).with([int("axis", -1)]);
        let probabilities = probabilities.output("probabilities");
        let most = self.change.integers(&[1], &[choices]);
        let best = self.change.op("TopK", [probabilities, most]).with([int("axis", -1)]);
        let [mut weights, chosen] = best.outputs(["weights", "experts"]);
        if mixture.normalized {
            let last = self.change.integers(&[1], &[-1]);
            let sum = self.change.op("ReduceSum", [weights.clone(), last]).with([int("keepdims", 1)]);
            let sum = sum.output("weights.sum");
            weights = self.change.op("Div", [weights, sum]).output("weights.normalized");
        }
        let chosen = self.reshaped(chosen, &[-1], "chosen");
        // Every token once for each of its choices.
        let tokens = self.reshaped(x.clone(), &[-1, 1, k], "tokens");
        let each = self.change.integers(&[3], &[1, choices, 1]);
        let each = self.change.op("Expand", [tokens, each]).output("tokens.each");
        let rows = self.reshaped(each, &[-1, 1, k], "rows");
        let halves: Vec<ValueRef> =
            mixture.up.iter().map(|experts| self.layer(experts, &rows, &chosen)).collect();
        let activated = self.activated(&halves)?;
        let yielded = self.layer(&mixture.down, &activated, &chosen);
        let yielded = self.reshaped(yielded, &[-1, choices, n], "yielded");
        let last = self.change.integers(&[1], &[-1]);
        let weights = self.change.op("Unsqueeze", [weights, last]).output("weights.column");
        let weighted = self.change.op("Mul", [yielded, weights]).output("weighted");
        let second = self.change.integers(&[1], &[1]);
        let sum = self.change.op("ReduceSum", [weighted, second]).with([int("keepdims", 0)]).output("sum");
        let shape = self.change.op("Shape", [x]).output("shape");
        let y = self.change.op("Reshape", [sum, shape]).output("mixture");
        self.change.replace(id, &y);
        Some(())
    }

    fn reshaped(&mut self, value: ValueRef, dims: &[i64], part: &str) -> ValueRef {
        let shape = self.change.integers(&[dims.len()], dims);
        self.change.op("Reshape", [value, shape]).output(part)
    }

    /// The rows of `stack` that `chosen` names.
    fn gathered(&mut self, stack: ValueRef, chosen: &ValueRef, part: &str) -> ValueRef {
        self.change.op("Gather", [stack, chosen.clone()]).with([int("axis", 0)]).output(part)
    }

    /// What the chosen experts make of rows `[tokens * choices, 1, K]`.
    fn layer(&mut self, experts: &Experts, rows: &ValueRef, chosen: &ValueRef) -> ValueRef {
        let name = experts.name;
        let matrices = self.gathered(experts.stack.into(), chosen, &format!("{name}.chosen"));
        let turned = self.change.op("Transpose", [matrices]).with([ints("perm", &[0, 2, 1])]);
        let matrices = turned.output(&format!("{name}.turned"));
        let product = self.change.op("MatMul", [rows.clone(), matrices]);
        let mut y = product.named(format!("{}.{name}/MatMul", self.path)).output(name);
        if let Some(bias) = experts.bias {
            let biases = self.gathered(bias.into(), chosen, &format!("{name}.biases"));
            let second = self.change.integers(&[1], &[1]);
            let biases = self.change.op("Unsqueeze", [biases, second]).output(&format!("{name}.bias"));
            y = self.change.op("Add", [y, biases]).output(&format!("{name}.sum"));
        }
        y
    }

    fn activated(&mut self, halves: &[ValueRef]) -> Option<ValueRef> {
        let x = halves.first()?.clone();
        Some(match self.mixture.activation {
            Activation::Identity => x,
            Activation::Relu => self.change.op("Relu", [x]).output("activated"),
            Activation::Silu => self.gated(x.clone(), x, "activated"),
            Activation::Gelu => {
                // The standard operator knows the tangent since opset 20 only.
                self.change.node(microsoft("FastGelu", vec![]), [Some(x)]).output("activated")
            }
            Activation::SwiGlu(swiglu) => self.swiglu(swiglu, halves)?,
        })
    }

    /// `x sigmoid(gate)`.
    fn gated(&mut self, x: ValueRef, gate: ValueRef, part: &str) -> ValueRef {
        let gate = self.change.op("Sigmoid", [gate]).output(&format!("{part}.gate"));
        self.change.op("Mul", [x, gate]).output(part)
    }

    fn swiglu(&mut self, swiglu: SwiGlu, halves: &[ValueRef]) -> Option<ValueRef> {
        let SwiGlu { layout, alpha, beta, limit } = swiglu;
        let n = self.mixture.down.k as i64;
        let (mut gate, mut linear) = match (layout, halves) {
            (Halves::Apart, [gate, linear]) => (gate.clone(), linear.clone()),
            (Halves::Interleaved | Halves::Joined, [both]) => {
                let (dims, axis) = if layout == Halves::Joined { ([-1, 2, n], 1) } else { ([-1, n, 2], 2) };
                let both = self.reshaped(both.clone(), &dims, "halves");
                let mut half = |at: i64, part: &str| {
                    let index = self.change.integers(&[], &[at]);
                    let half = self.change.op("Gather", [both.clone(), index]).with([int("axis", axis)]);
                    let half = half.output(part);
                    self.reshaped(half, &[-1, 1, n], &format!("{part}.rows"))
                };
                (half(0, "gate"), half(1, "linear"))
            }
            _ => return None,
        };
        let dtype: DataType = self.mixture.dtype;
        if let Some(limit) = limit {
            let most = self.change.scalar(dtype, limit)?;
            let least = self.change.scalar(dtype, -limit)?;
            gate = self.change.op("Min", [gate, most.clone()]).output("gate.clipped");
            linear = self.change.op("Clip", [linear, least, most]).output("linear.clipped");
        }
        let mut steep = gate.clone();
        if alpha != 1.0 {
            let alpha = self.change.scalar(dtype, alpha)?;
            steep = self.change.op("Mul", [steep, alpha]).output("gate.scaled");
        }
        if beta != 0.0 {
            let beta = self.change.scalar(dtype, beta)?;
            linear = self.change.op("Add", [linear, beta]).output("linear.shifted");
        }
        let gate = self.gated(gate, steep, "swish");
        Some(self.change.op("Mul", [gate, linear]).output("activated"))
    }
}
