//! Layers as [`LowerNative`](zqc_passes::LowerNative) writes them.

use std::collections::{HashMap, HashSet};

use zqc_formats::{ActivationFormat, Ladder};
use zqc_ir::operands::format_of;
use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, Node, NodeId, ValueId};

use super::LinearSummary;

/// The native layers of a graph, by the names of their products.
#[derive(Default)]
pub(super) struct Layers {
    /// What they are.
    pub summaries: HashMap<String, LinearSummary>,
    /// The products of their low-rank branches, which are no layers of their own.
    pub branches: HashSet<String>,
}

impl Layers {
    /// Those of `graph`, as it was written.
    pub fn of(graph: &Graph) -> Self {
        let mut layers = Self::default();
        for (id, node) in graph.nodes() {
            let Some((summary, branch)) = layer(graph, id) else { continue };
            let products = node.output(0).map(|product| graph.value(product).name.clone());
            layers.summaries.extend(products.map(|product| (product, summary)));
            let products = branch.into_iter().flat_map(|branch| branch.products);
            layers.branches.extend(products.map(|product| graph.value(product).name.clone()));
        }
        layers
    }
}

/// The layer whose product with a weight in blocks the node is, if it is one.
fn layer(graph: &Graph, id: NodeId) -> Option<(LinearSummary, Option<Branch>)> {
    let product = graph.node(id);
    product.op.as_standard("MatMul")?;
    let x = product.input(0)?;
    let weight = producer(graph, product.input(1)?, "DequantizeLinear")?;
    let (codes, scales) = (graph.constant(weight.input(0)?)?, weight.input(1)?);
    let [k, n] = codes.matrix_dims().filter(|dims| !dims.contains(&0))?;
    let blocks = weight.op.as_standard("DequantizeLinear").filter(|blocks| blocks.int_or("axis", 1) == 0)?;
    let ladder = ladder(graph, scales);
    let mut summary = LinearSummary {
        layer: product.name.clone(),
        k,
        n,
        format: format_of(codes.dtype().ok()?)?.to_string(),
        group_size: Some(usize::try_from(blocks.int_or("block_size", 0)).ok().filter(|&size| size > 0)?),
        scales: Some(ladder.map_or("grouped".to_string(), |ladder| ladder.to_string())),
        zero_points: weight.input(2).is_some(),
        rank: 0,
        activations: activation(graph, x).map(|format| format.to_string()),
        bits_per_weight: 0.0,
        bias: false,
    };
    let row_scales = producer(graph, scales, "DequantizeLinear");
    let mut bits = bits_read(graph, weight) + row_scales.map_or(0.0, |node| bits_read(graph, node));
    let mut following = only_reader(graph, product);
    if let Some(scaled) = following.filter(|node| ladder == Some(Ladder::M2) && is(node, "Mul")) {
        bits += bits_read(graph, scaled);
        following = only_reader(graph, scaled);
    }
    let branch = following.and_then(|sum| Some((sum, Branch::of(graph, sum, x)?)));
    if let Some((sum, branch)) = &branch {
        summary.rank = branch.rank;
        bits += branch.bits;
        following = only_reader(graph, sum);
    }
    if let Some(cast) = following.filter(|node| is(node, "Cast")) {
        following = only_reader(graph, cast);
    }
    summary.bias = following.is_some_and(|node| is(node, "Add") && bits_read(graph, node) > 0.0);
    summary.bits_per_weight = bits / (k as f64 * n as f64);
    Some((summary, branch.map(|(_, branch)| branch)))
}

/// A low-rank branch.
struct Branch {
    rank: usize,
    bits: f64,
    /// The results of its two matrices.
    products: [ValueId; 2],
}

impl Branch {
    /// The branch over `x` whose result `sum` adds to a product.
    fn of(graph: &Graph, sum: &Node, x: ValueId) -> Option<Self> {
        let up = producer(graph, sum.input(1).filter(|_| is(sum, "Add"))?, "MatMul")?;
        let weighted = producer(graph, up.input(0)?, "Mul")?;
        let down = producer(graph, weighted.input(0)?, "MatMul").filter(|down| down.input(0) == Some(x))?;
        let rank = graph.constant(weighted.input(1)?)?.elements().ok()?;
        let factors = [producer(graph, down.input(1)?, "Cast")?, producer(graph, up.input(1)?, "Cast")?];
        let bits =
            bits_read(graph, weighted) + factors.map(|cast| bits_read(graph, cast)).iter().sum::<f64>();
        Some(Self { rank, bits, products: [down.output(0)?, up.output(0)?] })
    }
}

/// What the scales of groups are steps of, if they are.
fn ladder(graph: &Graph, scales: ValueId) -> Option<Ladder> {
    match graph.constant(scales) {
        Some(scales) if scales.dtype() == Ok(DataType::Float8e8m0) => Some(Ladder::M2),
        Some(_) => None,
        None => producer(graph, scales, "DequantizeLinear").map(|_| Ladder::M3),
    }
}

/// The format of an activation that is quantized and dequantized.
fn activation(graph: &Graph, x: ValueId) -> Option<ActivationFormat> {
    let dequantize = producer(graph, x, "DequantizeLinear")?;
    let quantize = producer(graph, dequantize.input(0)?, "QuantizeLinear")?;
    match quantize.op.as_standard("QuantizeLinear")?.int_or("output_dtype", 0) {
        dtype if dtype == DataType::Float8e4m3fn as i64 => Some(ActivationFormat::E4M3),
        dtype if dtype == DataType::Float8e5m2 as i64 => Some(ActivationFormat::E5M2),
        _ => Some(ActivationFormat::Int8),
    }
}

/// Bits of the constants that a node reads.
fn bits_read(graph: &Graph, node: &Node) -> f64 {
    let constants = node.inputs().iter().flatten().filter_map(|&value| graph.constant(value));
    constants.map(|tensor| 8.0 * tensor.byte_len().unwrap_or(0) as f64).sum()
}

/// The standard operator of this type that computes the value.
fn producer<'g>(graph: &'g Graph, value: ValueId, op_type: &str) -> Option<&'g Node> {
    graph.producer(value).map(|id| graph.node(id)).filter(|node| is(node, op_type))
}

/// The only node that reads the result of `node`.
fn only_reader<'g>(graph: &'g Graph, node: &Node) -> Option<&'g Node> {
    match graph.uses(node.output(0)?) {
        [place] => Some(graph.node(place.node)),
        _ => None,
    }
}

fn is(node: &Node, op_type: &str) -> bool {
    node.op.as_standard(op_type).is_some()
}
