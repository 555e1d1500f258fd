//! `MoE` of ONNX Runtime becomes the router and products with stacks of experts.

use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType;
use zqc_ir::{Change, FreshNames, Model, NodeId, Patch};

use crate::contrib::microsoft;
use crate::draft::{Draft, Integers};
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
        let (names, mut integers) = (FreshNames::new(graph), Integers::default());
        let mut paths = LayerPaths::default();
        let mut patch = Patch::default();
        for id in graph.order()? {
            let Some(Ok(mixture)) = Mixture::of(model, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, mixture.up[0].root);
            if mixture.kept(graph, &self.select, &path, &node.name).is_some() {
                continue;
            }
            let y = node.output(0).map_or("", |y| &graph.value(y).name);
            let why = format!("{path} is a mixture of {} experts", mixture.down.experts);
            let draft = Draft::new(graph, &names, y, why, &mut integers);
            patch.changes.extend(Expansion { path: &path, mixture: &mixture, draft }.write(id));
        }
        Ok(patch)
    }
}

struct Expansion<'g, 'i, 'm> {
    path: &'m str,
    mixture: &'m Mixture,
    draft: Draft<'g, 'i>,
}

impl Expansion<'_, '_, '_> {
    /// `None` where a constant cannot be written in the type of the experts.
    fn write(mut self, id: NodeId) -> Option<Change> {
        let mixture = self.mixture;
        let (k, n, choices) = (mixture.up[0].k as i64, mixture.down.n as i64, mixture.choices);
        let (x, router) = (self.draft.name(mixture.x), self.draft.name(mixture.router));
        let probabilities = self.draft.node("Softmax", vec![int("axis", -1)], &[router], "probabilities");
        let most = self.draft.integers(&[1], &[choices]);
        let best = ["weights", "experts"].map(str::to_string).into_iter();
        let best = self.draft.node_of_several("TopK", vec![int("axis", -1)], &[&probabilities, &most], best);
        let [mut weights, chosen] = [0, 1].map(|at| best[at].clone());
        if mixture.normalized {
            let last = self.draft.integers(&[1], &[-1]);
            let sum =
                self.draft.node("ReduceSum", vec![int("keepdims", 1)], &[&weights, &last], "weights.sum");
            weights = self.draft.node("Div", vec![], &[&weights, &sum], "weights.normalized");
        }
        let chosen = self.reshaped(&chosen, &[-1], "chosen");
        // Every token once for each of its choices.
        let tokens = self.reshaped(x, &[-1, 1, k], "tokens");
        let each = self.draft.integers(&[3], &[1, choices, 1]);
        let each = self.draft.node("Expand", vec![], &[&tokens, &each], "tokens.each");
        let rows = self.reshaped(&each, &[-1, 1, k], "rows");
        let mut halves = Vec::new();
        for experts in &mixture.up {
            halves.push(self.layer(experts, &rows, &chosen));
        }
        let activated = self.activated(&halves)?;
        let yielded = self.layer(&mixture.down, &activated, &chosen);
        let yielded = self.reshaped(&yielded, &[-1, choices, n], "yielded");
        let last = self.draft.integers(&[1], &[-1]);
        let weights = self.draft.node("Unsqueeze", vec![], &[&weights, &last], "weights.column");
        let weighted = self.draft.node("Mul", vec![], &[&yielded, &weights], "weighted");
        let second = self.draft.integers(&[1], &[1]);
        let sum = self.draft.node("ReduceSum", vec![int("keepdims", 0)], &[&weighted, &second], "sum");
        let shape = self.draft.node("Shape", vec![], &[x], "shape");
        self.draft.node("Reshape", vec![], &[&sum, &shape], "mixture");
        Some(self.draft.replace(id))
    }

    fn reshaped(&mut self, value: &str, dims: &[i64], part: &str) -> String {
        let shape = self.draft.integers(&[dims.len()], dims);
        self.draft.node("Reshape", vec![], &[value, &shape], part)
    }

    /// What the chosen experts make of rows `[tokens * choices, 1, K]`.
    fn layer(&mut self, experts: &Experts, rows: &str, chosen: &str) -> String {
        let name = experts.name;
        let stack = self.draft.name(experts.stack);
        let matrices =
            self.draft.node("Gather", vec![int("axis", 0)], &[stack, chosen], &format!("{name}.chosen"));
        let turned = vec![ints("perm", &[0, 2, 1])];
        let matrices = self.draft.node("Transpose", turned, &[&matrices], &format!("{name}.turned"));
        let mut y = self.draft.node("MatMul", vec![], &[rows, &matrices], name);
        self.draft.rename(format!("{}.{name}/MatMul", self.path));
        if let Some(bias) = experts.bias {
            let bias = self.draft.name(bias);
            let biases =
                self.draft.node("Gather", vec![int("axis", 0)], &[bias, chosen], &format!("{name}.biases"));
            let second = self.draft.integers(&[1], &[1]);
            let biases = self.draft.node("Unsqueeze", vec![], &[&biases, &second], &format!("{name}.bias"));
            y = self.draft.node("Add", vec![], &[&y, &biases], &format!("{name}.sum"));
        }
        y
    }

    fn activated(&mut self, halves: &[String]) -> Option<String> {
        let x = halves.first()?;
        Some(match self.mixture.activation {
            Activation::Identity => x.clone(),
            Activation::Relu => self.draft.node("Relu", vec![], &[x], "activated"),
            Activation::Silu => self.gated(x, x, "activated"),
            Activation::Gelu => {
                // The standard operator knows the tangent since opset 20 only.
                let output = self.draft.fresh("activated");
                let (inputs, outputs) = (vec![Some(x.clone())], vec![Some(output.clone())]);
                self.draft.foreign(microsoft("FastGelu", vec![]), inputs, outputs);
                output
            }
            Activation::SwiGlu(swiglu) => self.swiglu(swiglu, halves)?,
        })
    }

    /// `x sigmoid(gate)`.
    fn gated(&mut self, x: &str, gate: &str, part: &str) -> String {
        let gate = self.draft.node("Sigmoid", vec![], &[gate], &format!("{part}.gate"));
        self.draft.node("Mul", vec![], &[x, &gate], part)
    }

    fn swiglu(&mut self, swiglu: SwiGlu, halves: &[String]) -> Option<String> {
        let SwiGlu { layout, alpha, beta, limit } = swiglu;
        let n = self.mixture.down.k as i64;
        let (mut gate, mut linear) = match (layout, halves) {
            (Halves::Apart, [gate, linear]) => (gate.clone(), linear.clone()),
            (Halves::Interleaved | Halves::Joined, [both]) => {
                let (dims, axis) = if layout == Halves::Joined { ([-1, 2, n], 1) } else { ([-1, n, 2], 2) };
                let both = self.reshaped(both, &dims, "halves");
                let mut half = |at: i64, part: &str| {
                    let index = self.draft.integers(&[], &[at]);
                    let half = self.draft.node("Gather", vec![int("axis", axis)], &[&both, &index], part);
                    self.reshaped(&half, &[-1, 1, n], &format!("{part}.rows"))
                };
                (half(0, "gate"), half(1, "linear"))
            }
            _ => return None,
        };
        let dtype: DataType = self.mixture.dtype;
        if let Some(limit) = limit {
            let most = self.draft.scalar(dtype, limit)?;
            let least = self.draft.scalar(dtype, -limit)?;
            gate = self.draft.node("Min", vec![], &[&gate, &most], "gate.clipped");
            linear = self.draft.node("Clip", vec![], &[&linear, &least, &most], "linear.clipped");
        }
        let mut steep = gate.clone();
        if alpha != 1.0 {
            let alpha = self.draft.scalar(dtype, alpha)?;
            steep = self.draft.node("Mul", vec![], &[&gate, &alpha], "gate.scaled");
        }
        if beta != 0.0 {
            let beta = self.draft.scalar(dtype, beta)?;
            linear = self.draft.node("Add", vec![], &[&linear, &beta], "linear.shifted");
        }
        let gate = self.gated(&gate, &steep, "swish");
        Some(self.draft.node("Mul", vec![], &[&gate, &linear], "activated"))
    }
}
