//! Standard operators of an old opset become those of a newer one.

mod rules;

use std::cell::RefCell;
use std::collections::HashSet;

use zqc_ir::graph::fresh_name;
use zqc_ir::onnx::proto::{FunctionProto, NodeProto};
use zqc_ir::onnx::{ModelError, node_to_proto};
use zqc_ir::{Change, FreshNames, Graph, Model, NewNode, Op, Patch, opset};

use crate::pass::{Context, Pass, PassError};
use rules::{Adapted, CHANGES, NEWEST, OLDEST};

/// Raises the standard operators of a model to an opset: in the graph, in control-flow bodies and in the functions
/// that the model defines. The result computes the same. A model of that opset or a later one stays as it is, but for a domain
/// that is imported more than once: it is imported once, in the version that counts.
///
/// From opset 11 to 24 these operators change what a valid node means; all others only take in more types, or get
/// attributes and inputs whose default is the old behaviour:
///
/// | since | operators | what is done |
/// |---|---|---|
/// | 12 | `Dropout` | attribute `ratio`, which inference ignores, goes |
/// | 13 | `Squeeze`, `Unsqueeze`, `ReduceSum` | attribute `axes` becomes an input |
/// | 13 | `Split` | attribute `split` becomes an input |
/// | 13 | `Softmax`, `LogSoftmax`, `Hardmax` | `axis`, 1 by default, was the first of the axes taken as one: spelt out |
/// | 13 | `Resize` | the withdrawn mode `tf_half_pixel_for_nn` is refused |
/// | 14 | `BatchNormalization` | the outputs of training, which were redefined, are refused |
/// | 16 | `RoiAlign` | the old coordinates, no longer the default, are named: `output_half_pixel` |
/// | 18 | `Reduce` with `L1`, `L2`, `LogSum`, `LogSumExp`, `Max`, `Mean`, `Min`, `Prod`, `SumSquare` | attribute `axes` becomes an input |
/// | 18 | `Split` | gets `num_outputs` when the sizes of its parts are not given |
/// | 20 | `DFT` | attribute `axis`, 1 by default, becomes an input |
/// | 20 | `GridSample` | the modes `bilinear` and `bicubic` are called `linear` and `cubic` |
/// | 21 | `GroupNormalization` | scale and bias, one a group before and one a channel since, are refused |
/// | 22 | `AveragePool`, `MaxPool` | `ceil_mode`, which no longer counts windows that begin in the padding, is refused |
///
/// Opset 24 also says that infinities saturate in a `Cast` or `CastLike` to an FP8 type of the `FNUZ` kind. ONNX's
/// reference has always done so: such nodes stay as they are.
#[derive(Debug, Clone, Copy)]
pub struct UpgradeOpset {
    /// The opset to reach.
    pub to: Opset,
}

/// The opset to upgrade a model to, at most 24.
#[derive(Debug, Clone, Copy)]
pub enum Opset {
    /// This version.
    At(i64),
    /// The least one that can hold the graph, as a lowering says: [`LowerNative::least_opset`](crate::LowerNative::least_opset).
    LeastFor(fn(&Graph) -> i64),
}

impl Opset {
    fn of(self, graph: &Graph) -> i64 {
        match self {
            Opset::At(version) => version,
            Opset::LeastFor(least) => least(graph),
        }
    }
}

impl Pass for UpgradeOpset {
    fn name(&self) -> &'static str {
        "upgrade_opset"
    }

    fn runs_on_subgraphs(&self) -> bool {
        false
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let (graph, from, to) = (&model.graph, model.opset(), self.to.of(&model.graph));
        let repeated = opset::repeated(&model.header.opset_import);
        if from >= to {
            return Ok(Patch {
                functions: merged(&model.header.functions),
                opsets: repeated,
                ..Patch::default()
            });
        }
        let names = FreshNames::new(graph);
        let fresh = |hint: &str| names.fresh(hint);
        let rank = |name: &str| graph.ty(graph.find(name)?).rank();
        let upgrade = Upgrade::new(from, to, &fresh, &rank)?;
        let mut changes = Vec::new();
        for (id, node) in graph.nodes() {
            let Op::Onnx(op) = &node.op else { continue };
            if node.regions().is_empty() && !upgrade.concerns(op) {
                continue;
            }
            let Some(proto) = node_to_proto(graph, id).ok().filter(|proto| upgrade.concerns(proto)) else {
                continue;
            };
            let malformed =
                |error: ModelError| PassError::Malformed { node: graph.label(id), reason: error.to_string() };
            let nodes = upgrade.node(proto)?.into_iter();
            changes.push(Change {
                remove: vec![id],
                add: nodes
                    .map(|new| NewNode::from_proto(new, node.source_index()).map_err(malformed))
                    .collect::<Result<_, _>>()?,
                ..Change::new(format!("{} goes from opset {from} to {to}", graph.label(id)))
            });
        }
        let mut functions = merged(&model.header.functions);
        for function in model.header.functions.iter().filter_map(|f| upgraded(f, to).transpose()) {
            functions.push(function?);
        }
        Ok(Patch {
            changes,
            functions,
            opsets: repeated.into_iter().chain([(String::new(), to)]).collect(),
            ..Default::default()
        })
    }
}

/// The functions that import a domain more than once, importing it once.
fn merged(functions: &[FunctionProto]) -> Vec<FunctionProto> {
    let several = functions.iter().filter(|function| !opset::repeated(&function.opset_import).is_empty());
    several.cloned().map(merge_imports).collect()
}

fn merge_imports(mut function: FunctionProto) -> FunctionProto {
    for (domain, version) in opset::repeated(&function.opset_import) {
        opset::import(&mut function.opset_import, &domain, version);
    }
    function
}

/// The function in opset `to`; `None` when it is in that or a later one, or uses no standard operators.
fn upgraded(function: &FunctionProto, to: i64) -> Result<Option<FunctionProto>, PassError> {
    let mut function = merge_imports(function.clone());
    let Some(from) = opset::version(&function.opset_import, "").filter(|&from| from < to) else {
        return Ok(None);
    };
    opset::import(&mut function.opset_import, "", to);
    let mut taken: HashSet<String> = function.input.iter().cloned().collect();
    collect_names(&function.node, &mut taken);
    let taken = RefCell::new(taken);
    let fresh = |hint: &str| {
        let name = fresh_name(hint, |name| taken.borrow().contains(name));
        taken.borrow_mut().insert(name.clone());
        name
    };
    let upgrade = Upgrade::new(from, to, &fresh, &|_| None)?;
    function.node = upgrade.nodes(std::mem::take(&mut function.node))?;
    Ok(Some(function))
}

fn collect_names(nodes: &[NodeProto], names: &mut HashSet<String>) {
    for node in nodes {
        names.extend(node.input.iter().chain(&node.output).cloned());
        node.bodies().for_each(|body| collect_names(&body.node, names));
    }
}

/// The way from one opset to another, in one scope and the control-flow bodies in it.
struct Upgrade<'a> {
    from: i64,
    to: i64,
    /// Makes a name that is free in the scope.
    fresh: &'a dyn Fn(&str) -> String,
    /// The rank of a value, where it is known.
    rank: &'a dyn Fn(&str) -> Option<usize>,
}

impl<'a> Upgrade<'a> {
    fn new(
        from: i64,
        to: i64,
        fresh: &'a dyn Fn(&str) -> String,
        rank: &'a dyn Fn(&str) -> Option<usize>,
    ) -> Result<Self, PassError> {
        if from < OLDEST || to > NEWEST {
            return Err(PassError::Unsupported {
                what: format!("opset {from} cannot be raised to {to}: zqc knows opsets {OLDEST} to {NEWEST}"),
                way_out: format!("export the model in opset {to}, or use onnx.version_converter"),
            });
        }
        Ok(Self { from, to, fresh, rank })
    }

    /// Whether `node` has to be adapted to the change.
    fn meets(&self, change: &rules::Change, node: &NodeProto) -> bool {
        self.from < change.since && change.since <= self.to && change.is_of(node)
    }

    /// Whether the node, or one in a body of it, has to be adapted to any change.
    fn concerns(&self, node: &NodeProto) -> bool {
        let mut inner = node.bodies().flat_map(|body| &body.node);
        CHANGES.iter().any(|change| self.meets(change, node)) || inner.any(|node| self.concerns(node))
    }

    /// The nodes that do in the new opset what `node` did in the old one, in order.
    fn node(&self, mut node: NodeProto) -> Result<Vec<NodeProto>, PassError> {
        for attribute in &mut node.attribute {
            for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                body.node = self.nodes(std::mem::take(&mut body.node))?;
            }
        }
        let mut adapted = Adapted { before: Vec::new(), node, after: Vec::new() };
        for change in &CHANGES {
            if self.meets(change, &adapted.node) {
                change.apply(self, &mut adapted)?;
            }
        }
        let Adapted { before, node, after } = adapted;
        Ok(before.into_iter().chain([node]).chain(after).collect())
    }

    fn nodes(&self, nodes: Vec<NodeProto>) -> Result<Vec<NodeProto>, PassError> {
        let nodes: Result<Vec<_>, _> = nodes.into_iter().map(|node| self.node(node)).collect();
        Ok(nodes?.into_iter().flatten().collect())
    }

    /// A free name, made from the first result of `node`.
    fn name_beside(&self, node: &NodeProto, hint: &str) -> String {
        let result = node.output.iter().find(|name| !name.is_empty());
        (self.fresh)(&format!("{}_{hint}", result.map_or("", String::as_str)))
    }
}
