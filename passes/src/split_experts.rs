//! Stacks of expert weights become one matrix an expert, so that every expert is a linear layer of its own.

use std::collections::HashMap;

use zqc_ir::onnx::proto::AttributeProto;
use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::TensorError;
use zqc_ir::{Change, Graph, Model, NewNode, NodeId, Op, Patch, Tensor, ValueId};

use crate::expert_stack::ExpertStack;
use crate::layer_path::LayerPaths;
use crate::pass::{Observer, Pass, PassError};
use crate::select::Select;

/// The axis of experts, counted from the last one: `[.., E, T, K]`.
const AXIS: i64 = -3;
/// Since this opset `Split` says how many parts it makes.
const COUNTED_PARTS: i64 = 18;

/// Turns every `MatMul` with a constant stack of float matrices `[E, K, N]` into `E` of them with one matrix each, if
/// `select` quantizes any: `x` is expanded to `[.., E, T, K]`, which leaves it as it is where it has that shape, and split;
/// what the experts yield is concatenated. Each keeps its own Hessian, so it is solved on the tokens that come to it.
///
/// The expert `e` of a stack at the path `p` is called `p.e`, its matrix after the stack's initializer.
#[derive(Debug, Clone, Default)]
pub struct SplitExperts {
    /// Which layers are quantized.
    pub select: Select,
}

impl Pass for SplitExperts {
    fn name(&self) -> &'static str {
        "split_experts"
    }

    fn run(&self, model: &Model, _observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut splitter =
            Splitter { graph, opset: model.opset(), shapes: HashMap::new(), parts: HashMap::new() };
        let mut paths = LayerPaths::default();
        let mut patch = Patch::default();
        for id in graph.order()? {
            let Some(stack) = ExpertStack::of(graph, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, stack.root);
            let names: Vec<_> =
                (0..stack.experts()).map(|expert| Names::new(graph, &path, &stack, expert)).collect();
            let is_kept = |names: &Names| {
                let names = [names.path.as_str(), &node.name, &names.matrix];
                self.select.reason_to_keep(&names, stack.features()).is_some()
            };
            if names.iter().all(is_kept) {
                continue;
            }
            let unreadable = |source| PassError::Weight { layer: path.clone(), source };
            patch.changes.push(splitter.split(id, &path, &stack, &names).map_err(unreadable)?);
        }
        Ok(patch)
    }
}

/// The names of an expert.
struct Names {
    path: String,
    matrix: String,
}

impl Names {
    fn new(graph: &Graph, path: &str, stack: &ExpertStack, expert: usize) -> Self {
        let stack = &graph.value(stack.root).name;
        Self { path: format!("{path}.{expert}"), matrix: format!("{stack}.{expert}") }
    }
}

struct Splitter<'g> {
    graph: &'g Graph,
    opset: i64,
    /// The initializers `[E, 1, 1]`, by `E`.
    shapes: HashMap<usize, String>,
    /// The initializers of the matrices of a stack in these dimensions.
    parts: HashMap<(ValueId, [usize; 3]), Vec<String>>,
}

impl Splitter<'_> {
    fn split(
        &mut self,
        id: NodeId,
        path: &str,
        stack: &ExpertStack,
        names: &[Names],
    ) -> Result<Change, TensorError> {
        let graph = self.graph;
        let node = graph.node(id);
        let mut change = Change::new(format!("{path} is a stack of {} experts", stack.experts()));
        let shape = self.shape(stack.experts(), &mut change);
        let matrices = self.matrices(stack, names, &mut change)?;
        let y = node.output(0).map_or("", |y| &graph.value(y).name);
        let fresh = |part: &str| graph.fresh_name(&format!("{y}_{part}"));
        let all_read = fresh("input");
        change.add.push(new_node(
            "Expand",
            vec![],
            &[&graph.value(stack.x).name, &shape],
            [all_read.clone()],
        ));
        let each_reads: Vec<String> =
            (0..stack.experts()).map(|expert| fresh(&format!("input.{expert}"))).collect();
        let mut parts = vec![int("axis", AXIS)];
        if self.opset >= COUNTED_PARTS {
            parts.push(int("num_outputs", stack.experts() as i64));
        }
        change.add.push(new_node("Split", parts, &[&all_read], each_reads.clone()));
        let mut each_yields = Vec::new();
        for (expert, mut matrix) in matrices.into_iter().enumerate() {
            let mut view = |op_type: &str, attribute| {
                let result = fresh(&format!("{}.{expert}", op_type.to_lowercase()));
                change.add.push(new_node(op_type, vec![attribute], &[&matrix], [result.clone()]));
                matrix = result;
            };
            if graph.literal(stack.root).and_then(|stored| stored.dtype().ok()) != Some(stack.dtype) {
                view("Cast", int("to", stack.dtype as i64));
            }
            if stack.transposed {
                view("Transpose", ints("perm", &[1, 0]));
            }
            let result = fresh(&format!("expert.{expert}"));
            let product = new_node("MatMul", vec![], &[&each_reads[expert], &matrix], [result.clone()]);
            change.add.push(NewNode { name: format!("{}/MatMul", names[expert].path), ..product });
            each_yields.push(result);
        }
        let each_yields: Vec<&str> = each_yields.iter().map(String::as_str).collect();
        let whole = new_node("Concat", vec![int("axis", AXIS)], &each_yields, [y.to_string()]);
        change.add.push(NewNode { name: node.name.clone(), rank: node.rank(), ..whole });
        change.remove.push(id);
        change.release = node.reads().collect();
        Ok(change)
    }

    fn shape(&mut self, experts: usize, change: &mut Change) -> String {
        let name = self.shapes.entry(experts).or_insert_with(|| {
            let name = self.graph.fresh_name(&format!("experts_{experts}"));
            let shape = Tensor::from_i64(&[3], vec![experts as i64, 1, 1]);
            change.initializers.extend(shape.ok().map(|shape| (name.clone(), shape)));
            name
        });
        name.clone()
    }

    fn matrices(
        &mut self,
        stack: &ExpertStack,
        names: &[Names],
        change: &mut Change,
    ) -> Result<Vec<String>, TensorError> {
        if let Some(known) = self.parts.get(&(stack.root, stack.dims)) {
            return Ok(known.clone());
        }
        let whole = self.graph.literal(stack.root).ok_or(TensorError::NotLoaded)?;
        let parts = whole.reshaped(&stack.dims.map(|dim| dim as i64))?.parts()?;
        let names: Vec<String> = names.iter().map(|names| self.graph.fresh_name(&names.matrix)).collect();
        change.initializers.extend(names.iter().cloned().zip(parts));
        self.parts.insert((stack.root, stack.dims), names.clone());
        Ok(names)
    }
}

fn new_node(
    op_type: &str,
    attributes: Vec<AttributeProto>,
    inputs: &[&str],
    outputs: impl IntoIterator<Item = String>,
) -> NewNode {
    NewNode {
        name: String::new(),
        op: Op::standard(op_type, attributes),
        inputs: inputs.iter().map(|name| Some(name.to_string())).collect(),
        outputs: outputs.into_iter().map(Some).collect(),
        rank: None,
    }
}
