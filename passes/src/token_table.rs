//! The table of the token embeddings, and what reads it.

use std::collections::HashSet;

use zqc_ir::graph::Port;
use zqc_ir::op::{Layout, port};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Graph, Node, NodeId, Op, Tensor, ValueId};

use crate::constant_view::{ConstantView, VIEWS, is_float, root};
use crate::layer_path::LayerPaths;
use crate::lm_head::tokens;
use crate::share_constants::is_copy;
use crate::vocabulary::Table;

/// A table that tokens are looked up in, or that a linear layer reads besides those who look rows up.
pub(crate) struct TokenTable {
    /// What holds the elements.
    pub root: ValueId,
    /// Entries.
    pub rows: usize,
    /// Features of an entry.
    pub columns: usize,
    /// How the elements lie: an entry after the other, or a feature after the other.
    pub layout: Layout,
    /// The nodes that look rows up, with the element type that each yields.
    pub look_ups: Vec<(NodeId, DataType)>,
    /// The linear layers that read the table, or a copy of it as exporters leave it that fold constants: the language-model
    /// head.
    pub layers: Vec<NodeId>,
    /// Where it sits in the source model.
    pub path: String,
    /// Why it can be nothing but float numbers: what else reads it.
    pub obstacle: Option<String>,
}

impl TokenTable {
    /// Those of a graph, in the order of the nodes that look tokens up.
    pub(crate) fn all(graph: &Graph) -> Vec<Self> {
        let tokens = tokens(graph);
        let mut tables: Vec<Self> = Vec::new();
        for (_, node) in graph.nodes() {
            let Some(table) = Table::of(graph, node) else { continue };
            let is_new = tables.iter().all(|known| known.root != table.root);
            if !is_new || !graph.literal(table.root).is_some_and(|tensor| tensor.dtype().is_ok_and(is_float))
            {
                continue;
            }
            let mut found = Self {
                root: table.root,
                rows: table.rows,
                columns: table.columns,
                layout: Layout::OutputInput,
                look_ups: Vec::new(),
                layers: Vec::new(),
                path: LayerPaths::default().issue(graph, node, table.root),
                obstacle: None,
            };
            found.find_readers(graph);
            if table.ids.is_some_and(|ids| tokens.contains(&ids)) || !found.layers.is_empty() {
                tables.push(found);
            }
        }
        tables
    }

    /// The names by which a user may mean it: its path, its own, and those of the nodes that look rows up.
    pub(crate) fn names<'n>(&'n self, graph: &'n Graph) -> Vec<&'n str> {
        let look_ups = self.look_ups.iter().map(|&(id, _)| graph.node(id).name.as_str());
        [self.path.as_str(), &graph.value(self.root).name].into_iter().chain(look_ups).collect()
    }

    /// The elements, in the dimensions of the layout.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn tensor(&self, graph: &Graph) -> Result<Tensor, TensorError> {
        let [rows, columns] = [self.rows as i64, self.columns as i64];
        let dims = match self.layout {
            Layout::OutputInput => [rows, columns],
            Layout::InputOutput => [columns, rows],
        };
        ConstantView::tensor(graph, self.root, 0, &dims)
    }

    fn find_readers(&mut self, graph: &Graph) {
        let mut layouts = HashSet::new();
        let linears = graph.nodes().filter(|(_, node)| matches!(node.op, Op::Linear(_))).map(|(id, _)| id);
        let (mut others, mut copies) = (Vec::new(), self.copies(graph));
        copies.push(self.root);
        for id in linears {
            let Op::Linear(linear) = &graph.node(id).op else { continue };
            let mut operands = linear.origin.iter().flat_map(Node::reads);
            if operands.any(|operand| copies.contains(&root(graph, operand))) {
                self.layers.push(id);
                let whole = (linear.n, linear.k) == (self.rows, self.columns) && linear.alpha == 1.0;
                others.extend((!whole).then(|| format!("{} reads a part or a multiple of it", linear.layer)));
            }
        }
        let mut open = copies;
        while let Some(value) = open.pop() {
            if graph.is_output(value) {
                others.push("it is a result of the model".to_string());
            }
            for place in graph.uses(value) {
                let node = graph.node(place.node);
                let is_view = VIEWS.iter().any(|op_type| node.op.as_standard(op_type).is_some());
                match (&node.op, place.port) {
                    (Op::Linear(_), Port::Input(port::WEIGHT)) if self.layers.contains(&place.node) => {}
                    (Op::Onnx(_), Port::Input(0)) if is_view => {
                        open.extend(node.outputs().iter().flatten());
                    }
                    (Op::Onnx(_), Port::Input(0)) if looks_up(graph, place.node) => {
                        let view = ConstantView::of(graph, value);
                        self.look_ups.extend(view.as_ref().map(|view| (place.node, view.dtype)));
                        layouts.insert(view.is_some_and(|view| view.transposed));
                    }
                    _ => others.push(format!("{} reads it", graph.label(place.node))),
                }
            }
        }
        if layouts.contains(&true) {
            self.layout = Layout::InputOutput;
        }
        if graph.default_of(self.root).is_some() {
            others.push("a caller may put another in its place".to_string());
        }
        if layouts.len() != 1 {
            others.push("it is not looked up by Gather alone".to_string());
        }
        self.obstacle = others.into_iter().next();
    }

    /// The constants that hold the same matrix or its transpose, as exporters leave it that fold constants.
    fn copies(&self, graph: &Graph) -> Vec<ValueId> {
        let Some(original) = graph.constant(self.root) else { return Vec::new() };
        let same_size = |tensor: &Tensor| tensor.elements().ok() == Some(self.rows * self.columns);
        let others = graph.initializers().filter(|(id, tensor)| *id != self.root && same_size(tensor));
        others.filter(|(_, tensor)| is_copy(tensor, original).is_some()).map(|(id, _)| id).collect()
    }
}

/// Whether a node looks rows up, by indices that are no constant.
fn looks_up(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let gather = node.op.as_standard("Gather").filter(|gather| gather.int_or("axis", 0) == 0);
    gather.is_some() && node.input(1).is_some_and(|ids| graph.literal(root(graph, ids)).is_none())
}
