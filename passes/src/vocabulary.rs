//! How many tokens a language model knows.

use zqc_ir::graph::Source;
use zqc_ir::op::port;
use zqc_ir::{Graph, Node, Op, ValueId};

use crate::constant_view::{ConstantView, root};

/// Operators that change the type or the shape of token ids and nothing else.
const KEEPS_IDS: [&str; 6] = ["Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// Operators of ONNX Runtime that look tokens up, with the inputs that are the table and the ids. They have other tables as well,
/// of positions and segments.
const LOOK_UPS: [(&str, usize, usize); 2] =
    [("EmbedLayerNormalization", 2, 0), ("GatherBlockQuantized", 0, 1)];

/// A constant matrix whose rows a node looks up.
pub(crate) struct Table {
    /// What holds the elements.
    pub root: ValueId,
    /// How many rows there are to look up.
    pub rows: usize,
    /// How long each is.
    pub columns: usize,
    /// The input of the graph that the ids come from, if nothing but their type and shape is changed on the way.
    pub ids: Option<ValueId>,
}

impl Table {
    /// The table that `node` looks rows up in.
    pub(crate) fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let proto = match &node.op {
            Op::Onnx(proto) => proto,
            Op::QuantizedGather(table) => {
                let (root, ids) = (node.input(port::WEIGHT)?, ids_input(graph, node.input(port::X)?));
                return Some(Self { root, rows: table.n, columns: table.k, ids });
            }
            _ => return None,
        };
        let (table, ids) = match node.op.as_standard("Gather") {
            Some(gather) if gather.int_or("axis", 0) == 0 => (0, 1),
            Some(_) => return None,
            None => {
                let look_up = LOOK_UPS.iter().find(|(op_type, ..)| *op_type == proto.op_type())?;
                (look_up.1, look_up.2)
            }
        };
        let table = node.input(table)?;
        let (root, rows, columns) = match ConstantView::of(graph, table) {
            Some(view) => match view.dims[..] {
                [columns, rows] if view.transposed => (view.root, rows, columns),
                [rows, columns] => (view.root, rows, columns),
                _ => return None,
            },
            // Another table may be put in its place, of as many rows.
            None => {
                let root = root(graph, table);
                let [rows, columns] = graph.default_of(root)?.dims()[..] else { return None };
                (root, rows, columns)
            }
        };
        let ids = ids_input(graph, node.input(ids)?);
        let extent = |dim| usize::try_from(dim).ok();
        Some(Self { root, rows: extent(rows)?, columns: extent(columns)?, ids })
    }
}

/// The input of the graph that `ids` come from, up to their type and shape.
fn ids_input(graph: &Graph, mut ids: ValueId) -> Option<ValueId> {
    while let Some(producer) = graph.producer(ids) {
        let node = graph.node(producer);
        let passed_on = KEEPS_IDS.iter().any(|op_type| node.op.as_standard(op_type).is_some());
        ids = node.input(0).filter(|_| passed_on)?;
    }
    matches!(graph.source(ids), Source::Input | Source::Capture).then_some(ids)
}

/// The number of tokens that the model's embedding knows: the rows of the constant table in which the graph's input `tokens` is
/// looked up, there or in a region; a caller may put another table in its place.
/// `None` when there is no such table.
pub fn vocabulary(graph: &Graph, tokens: &str) -> Option<usize> {
    let input = graph.find(tokens)?;
    let mut tables = graph.nodes().filter_map(|(_, node)| Table::of(graph, node));
    let here = tables.find(|table| table.ids == Some(input)).map(|table| table.rows);
    // A region calls what it reads from around by the same name.
    here.or_else(|| graph.regions().find_map(|(_, region)| vocabulary(region, tokens)))
}
