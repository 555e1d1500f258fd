//! Stacks of expert weights become one matrix an expert, so that every expert is a linear layer of its own.

mod routes;

use std::collections::HashMap;

use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::TensorError;
use zqc_ir::{ChangeBuilder, Graph, Model, NodeId, Patch, PatchBuilder, ValueId, ValueRef};

use crate::constant_view::ConstantView;
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
            patch: PatchBuilder::new(graph),
            opset: model.opset(),
            routes: Routes::default(),
            matrices: HashMap::new(),
        };
        let mut paths = LayerPaths::default();
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
            splitter.split(id, &path, &stack, &names).map_err(unreadable)?;
        }
        Ok(splitter.patch.finish())
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
    patch: PatchBuilder<'g>,
    opset: i64,
    routes: Routes,
    /// The initializers of the matrices of a stack in these dimensions.
    matrices: HashMap<(ValueId, usize, [usize; 3]), Vec<ValueRef>>,
}

impl Splitter<'_> {
    fn split(
        &mut self,
        id: NodeId,
        path: &str,
        stack: &ExpertStack,
        names: &[Names],
    ) -> Result<(), TensorError> {
        let graph = self.patch.graph();
        let why = format!("{path} is a stack of {} experts", stack.experts());
        let mut change = self.patch.change_of(id, why);
        let matrices = matrices(&mut self.matrices, stack, names, &mut change)?;
        let route = match stack.routing {
            Routing::All => None,
            Routing::Chosen { expert } | Routing::ChosenOnTheLeft { expert } => {
                Some(self.routes.get(&mut change, expert, stack.experts()))
            }
        };
        let on_the_left = matches!(stack.routing, Routing::ChosenOnTheLeft { .. });
        let each_reads = match &route {
            None => spread(&mut change, stack.x, stack.experts(), self.opset),
            Some(route) => route.rows(&mut change, stack.x, on_the_left),
        };
        let casts = graph.literal(stack.root).and_then(|stored| stored.dtype().ok()) != Some(stack.dtype);
        let mut each_yields = Vec::new();
        for (expert, (mut matrix, reads)) in matrices.into_iter().zip(each_reads).enumerate() {
            if casts {
                let cast = change.op("Cast", [matrix]).with([int("to", stack.dtype as i64)]);
                matrix = cast.output(&format!("cast.{expert}"));
            }
            if stack.transposed {
                let transpose = change.op("Transpose", [matrix]).with([ints("perm", &[1, 0])]);
                matrix = transpose.output(&format!("transpose.{expert}"));
            }
            let product = change.op("MatMul", [reads, matrix]);
            let product = product.named(format!("{}/MatMul", names[expert].path));
            each_yields.push(product.output(&format!("expert.{expert}")));
        }
        let y = match route {
            None => change.op("Concat", each_yields).with([int("axis", AXIS)]).output("all"),
            Some(route) => route.put_back(&mut change, each_yields, on_the_left),
        };
        change.replace(id, &y);
        Ok(())
    }
}

/// The parts of `x` that the experts read, or all of it for each.
fn spread(change: &mut ChangeBuilder, x: ValueId, experts: usize, opset: i64) -> Vec<ValueRef> {
    let shape = change.integers(&[3], &[experts as i64, 1, 1]);
    let all_read = change.op("Expand", [x.into(), shape]).output("input");
    let count = (opset >= COUNTED_PARTS).then(|| int("num_outputs", experts as i64));
    let split = change.op("Split", [all_read]).with([int("axis", AXIS)].into_iter().chain(count));
    split.outputs_of((0..experts).map(|expert| format!("input.{expert}")))
}

/// The initializers of the matrices of `stack`; those of `known` stacks are there.
fn matrices(
    known: &mut HashMap<(ValueId, usize, [usize; 3]), Vec<ValueRef>>,
    stack: &ExpertStack,
    names: &[Names],
    change: &mut ChangeBuilder,
) -> Result<Vec<ValueRef>, TensorError> {
    if let Some(known) = known.get(&(stack.root, stack.start, stack.dims)) {
        return Ok(known.clone());
    }
    let dims = stack.dims.map(|dim| dim as i64);
    let parts = ConstantView::tensor(change.graph(), stack.root, stack.start, &dims)?.parts()?;
    let matrices = names.iter().zip(parts).map(|(names, part)| change.constant(&names.matrix, part));
    let matrices: Vec<ValueRef> = matrices.collect();
    known.insert((stack.root, stack.start, stack.dims), matrices.clone());
    Ok(matrices)
}
