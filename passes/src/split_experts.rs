//! Stacks of expert weights become one matrix an expert, so that every expert is a linear layer of its own.

mod routes;

use std::collections::HashMap;

use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::TensorError;
use zqc_ir::{Change, FreshNames, Graph, Model, NodeId, Patch, ValueId};

use crate::constant_view::ConstantView;
use crate::draft::{Draft, Integers};
use crate::expert_stack::{ExpertStack, Routing};
use crate::layer_path::LayerPaths;
use crate::pass::{Context, Pass, PassError};
use crate::select::Select;
use routes::Routes;

/// The axis of experts, or of tokens where each has its expert, counted from the last one: `[.., E, T, K]`.
const AXIS: i64 = -3;
/// Since this opset `Split` says how many parts it makes.
const COUNTED_PARTS: i64 = 18;

/// Turns every `MatMul` with a constant stack of float matrices `[E, K, N]` into `E` of them with one matrix each, if
/// `select` quantizes any. Each keeps its own Hessian, so it is solved on the tokens that come to it.
///
/// * Where every expert reads its own part of `x`, or all of it, `x` is expanded to `[.., E, T, K]`, which leaves it as it is
///   where it has that shape, and split; what the experts yield is concatenated.
/// * Where `Gather` or `GatherND` looks up a matrix for every token, no matrix is copied any more: an expert reads the rows of
///   the tokens that choose it, and what the experts yield is put back in the order of the tokens. An expert that no token
///   chooses multiplies no row.
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

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut splitter = Splitter {
            graph,
            names: FreshNames::new(graph),
            opset: model.opset(),
            integers: Integers::default(),
            routes: Routes::default(),
            matrices: HashMap::new(),
        };
        let mut paths = LayerPaths::default();
        let mut patch = Patch::default();
        for id in graph.order()? {
            let Some(stack) = ExpertStack::of(model, id) else { continue };
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
    names: FreshNames<'g>,
    opset: i64,
    integers: Integers,
    routes: Routes,
    /// The initializers of the matrices of a stack in these dimensions.
    matrices: HashMap<(ValueId, usize, [usize; 3]), Vec<String>>,
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
        let y = node.output(0).map_or("", |y| &graph.value(y).name);
        let why = format!("{path} is a stack of {} experts", stack.experts());
        let mut draft = Draft::new(graph, &self.names, y, why, &mut self.integers);
        let matrices = matrices(graph, &self.names, &mut self.matrices, stack, names, &mut draft.change)?;
        let x = graph.value(stack.x).name.as_str();
        let route = match stack.routing {
            Routing::All => None,
            Routing::Chosen { expert } | Routing::ChosenOnTheLeft { expert } => {
                Some(self.routes.get(&mut draft, expert, stack.experts()))
            }
        };
        let on_the_left = matches!(stack.routing, Routing::ChosenOnTheLeft { .. });
        let each_reads = match &route {
            None => spread(&mut draft, x, stack.experts(), self.opset),
            Some(route) => route.rows(&mut draft, x, on_the_left),
        };
        let casts = graph.literal(stack.root).and_then(|stored| stored.dtype().ok()) != Some(stack.dtype);
        let mut each_yields = Vec::new();
        for (expert, mut matrix) in matrices.into_iter().enumerate() {
            if casts {
                let to = vec![int("to", stack.dtype as i64)];
                matrix = draft.node("Cast", to, &[&matrix], &format!("cast.{expert}"));
            }
            if stack.transposed {
                let order = vec![ints("perm", &[1, 0])];
                matrix = draft.node("Transpose", order, &[&matrix], &format!("transpose.{expert}"));
            }
            let part = format!("expert.{expert}");
            each_yields.push(draft.node("MatMul", vec![], &[&each_reads[expert], &matrix], &part));
            draft.rename(format!("{}/MatMul", names[expert].path));
        }
        let each_yields: Vec<&str> = each_yields.iter().map(String::as_str).collect();
        match route {
            None => drop(draft.node("Concat", vec![int("axis", AXIS)], &each_yields, "all")),
            Some(route) => route.put_back(&mut draft, &each_yields, on_the_left),
        }
        Ok(draft.replace(id))
    }
}

/// The parts of `x` that the experts read, or all of it for each.
fn spread(draft: &mut Draft, x: &str, experts: usize, opset: i64) -> Vec<String> {
    let shape = draft.integers(&[3], &[experts as i64, 1, 1]);
    let all_read = draft.node("Expand", vec![], &[x, &shape], "input");
    let mut parts = vec![int("axis", AXIS)];
    if opset >= COUNTED_PARTS {
        parts.push(int("num_outputs", experts as i64));
    }
    let results = (0..experts).map(|expert| format!("input.{expert}"));
    draft.node_of_several("Split", parts, &[&all_read], results)
}

/// The initializers of the matrices of `stack`; those of `known` stacks are there.
fn matrices(
    graph: &Graph,
    fresh: &FreshNames,
    known: &mut HashMap<(ValueId, usize, [usize; 3]), Vec<String>>,
    stack: &ExpertStack,
    names: &[Names],
    change: &mut Change,
) -> Result<Vec<String>, TensorError> {
    if let Some(known) = known.get(&(stack.root, stack.start, stack.dims)) {
        return Ok(known.clone());
    }
    let dims = stack.dims.map(|dim| dim as i64);
    let parts = ConstantView::tensor(graph, stack.root, stack.start, &dims)?.parts()?;
    let names: Vec<String> = names.iter().map(|names| fresh.fresh(&names.matrix)).collect();
    change.initializers.extend(names.iter().cloned().zip(parts));
    known.insert((stack.root, stack.start, stack.dims), names.clone());
    Ok(names)
}
