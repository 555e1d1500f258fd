//! Every form in which exporters write a linear layer becomes [`Op::Linear`].

mod foreign;
mod operand;

use zqc_ir::graph::{Port, Use};
use zqc_ir::op::attribute::ints;
use zqc_ir::op::{Layout, Linear};
use zqc_ir::{Change, Graph, Model, NewNode, NodeId, Op, Patch, ValueId};

use crate::constant_view::root;
use crate::layer_path::LayerPaths;
use crate::pass::{Observer, Pass, PassError};
use operand::{Constant, Initializers, Weight};

/// Turns `MatMul` and `Gemm` with a constant matrix into [`Op::Linear`].
///
/// The matrix, an initializer or a `Constant` node, may come through any chain of `Cast`, `Flatten`, `Identity`, `Reshape`,
/// `Squeeze`, `Transpose` and `Unsqueeze`, which stays where it is until the layer is solved; where the initializer has
/// other dimensions than the matrix, one that shares its payload joins it. A `Cast` between floating-point types is looked
/// through: the layer computes in the type that it yields, from the weight as the file has it.
///
/// A constant bias is taken in, be it the third operand of `Gemm` or an `Add` that is the only reader of the product.
/// `Reshape` nodes around a `Gemm` stay: the layer then works on the two-dimensional rows between them. Where a `Gemm`
/// transposes its activation, a `Transpose` does it before the layer.
///
/// [`Observer::layer_kept`] hears of what stays as it is: a `Gemm` that no linear layer can express, a matrix that is
/// already quantized, and a product that ONNX Runtime fused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Canonicalize;

impl Pass for Canonicalize {
    fn name(&self) -> &'static str {
        "canonicalize"
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut paths = LayerPaths::default();
        let mut initializers = Initializers::default();
        let mut patch = Patch::default();
        for id in graph.order()? {
            let node = graph.node(id);
            if let Some((weight, reason)) = foreign::reason(graph, node) {
                observer.layer_kept(&paths.issue(graph, node, weight), &reason);
                continue;
            }
            let Some(product) = Product::recognize(graph, id) else { continue };
            let path = paths.issue(graph, node, product.weight.constant.root);
            match product.bias(graph) {
                Ok(bias) => patch.changes.extend(linear(graph, path, product, bias, &mut initializers)),
                Err(reason) => observer.layer_kept(&path, reason),
            }
        }
        Ok(patch)
    }
}

/// A `MatMul` or `Gemm` of an activation and a constant matrix.
struct Product {
    node: NodeId,
    x: ValueId,
    weight: Weight,
}

/// The constant that a layer adds, and the `Add` that does it where `Gemm` does not.
struct Bias {
    constant: Constant,
    beta: f32,
    add: Option<NodeId>,
}

impl Product {
    fn recognize(graph: &Graph, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        let transposed = match node.op.as_standard("Gemm") {
            Some(gemm) => gemm.int_or("transB", 0) != 0,
            None if node.op.as_standard("MatMul").is_some() => false,
            None => return None,
        };
        let layout = if transposed { Layout::OutputInput } else { Layout::InputOutput };
        let (x, weight) = (node.input(0)?, Weight::behind(graph, node.input(1)?, layout)?);
        graph.literal(root(graph, x)).is_none().then_some(Self { node: id, x, weight })
    }

    /// What is added to the product; the error says why no linear layer can express the node.
    fn bias(&self, graph: &Graph) -> Result<Option<Bias>, &'static str> {
        let (node, n) = (graph.node(self.node), self.weight.n as i64);
        let Some(gemm) = node.op.as_standard("Gemm") else { return Ok(self.bias_add(graph, n)) };
        let Some(operand) = node.input(2) else { return Ok(self.bias_add(graph, n)) };
        let constant = Constant::vector(graph, operand, &[&[n], &[1, n]])
            .ok_or("what its Gemm adds is not one constant per output feature")?;
        Ok(Some(Bias { constant, beta: gemm.float_or("beta", 1.0), add: None }))
    }

    /// The `Add` of a constant bias that is the only reader of the product.
    fn bias_add(&self, graph: &Graph, n: i64) -> Option<Bias> {
        let product = graph.node(self.node).output(0)?;
        let &[Use { node: id, port: Port::Input(side @ (0 | 1)) }] = graph.uses(product) else { return None };
        let add = graph.node(id);
        let plain = add.op.as_standard("Add")?.attribute.is_empty();
        let constant = Constant::vector(graph, add.input(1 - side)?, &[&[n]])?;
        (plain && !graph.is_output(product)).then_some(Bias { constant, beta: 1.0, add: Some(id) })
    }
}

fn linear(
    graph: &Graph,
    layer: String,
    product: Product,
    bias: Option<Bias>,
    initializers: &mut Initializers,
) -> Option<Change> {
    let Weight { constant: weight, layout, k, n, dtype } = product.weight;
    let node = graph.node(product.node);
    let add = bias.as_ref().and_then(|bias| bias.add);
    let origin: Vec<NodeId> = [product.node].into_iter().chain(add).collect();
    let labels: Vec<String> = origin.iter().map(|&id| graph.label(id)).collect();
    let mut added = Vec::new();
    let mut inputs = vec![Some(graph.value(product.x).name.clone())];
    for constant in [&weight].into_iter().chain(bias.as_ref().map(|bias| &bias.constant)) {
        inputs.push(Some(initializers.name(graph, constant, &mut added)?));
    }
    let outputs = graph.node(add.unwrap_or(product.node)).outputs();
    let name = |value: ValueId| Some(graph.value(value).name.clone());
    let why = format!("{layer} is {}", labels.join(" and "));
    let transposes_x = node.op.as_standard("Gemm").is_some_and(|gemm| gemm.int_or("transA", 0) != 0);
    let transpose = transposes_x.then(|| {
        let transposed = outputs.iter().flatten().next().map(|&y| format!("{}_input", graph.value(y).name));
        let transposed = transposed.map(|hint| graph.fresh_name(&hint));
        NewNode {
            name: String::new(),
            op: Op::standard("Transpose", vec![ints("perm", &[1, 0])]),
            inputs: vec![std::mem::replace(&mut inputs[0], transposed.clone())],
            outputs: vec![transposed],
            rank: None,
        }
    });
    Some(Change {
        why,
        initializers: added,
        add: transpose
            .into_iter()
            .chain([NewNode {
                name: node.name.clone(),
                op: Op::Linear(Linear {
                    layer,
                    k,
                    n,
                    layout,
                    alpha: node.op.as_standard("Gemm").map_or(1.0, |gemm| gemm.float_or("alpha", 1.0)),
                    beta: bias.map_or(1.0, |bias| bias.beta),
                    dtype,
                    origin: origin.iter().map(|&id| graph.node(id).clone()).collect(),
                }),
                inputs,
                outputs: outputs.iter().map(|value| value.and_then(name)).collect(),
                rank: node.rank(),
            }])
            .collect(),
        remove: origin,
        ..Change::default()
    })
}
