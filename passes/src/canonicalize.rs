//! Every form in which exporters write a linear layer becomes [`Op::Linear`].

use zqc_ir::graph::{Port, Use};
use zqc_ir::op::attribute::ints;
use zqc_ir::op::{Layout, Linear};
use zqc_ir::tensor::DataType;
use zqc_ir::{Change, Graph, Model, NewNode, NodeId, Op, Patch, ValueId};

use crate::layer_path::LayerPaths;
use crate::pass::{Observer, Pass, PassError};

/// Turns `MatMul` and `Gemm` with a constant matrix into [`Op::Linear`].
///
/// The matrix may come through any chain of `Transpose` and `Identity`, which stays where it is. A constant bias is
/// taken in, be it the third operand of `Gemm` or an `Add` that is the only reader of the product. `Reshape` nodes
/// around a `Gemm` stay: the layer then works on the two-dimensional rows between them. Where a `Gemm` transposes its
/// activation, a `Transpose` does it before the layer. A `Gemm` that no linear layer can express stays too, and
/// [`Observer::layer_kept`] hears of it.
///
/// Stacks of matrices and layers inside control-flow bodies and model-local functions are left alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Canonicalize;

impl Pass for Canonicalize {
    fn name(&self) -> &'static str {
        "canonicalize"
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut paths = LayerPaths::default();
        let mut patch = Patch::default();
        for id in graph.order()? {
            let node = graph.node(id);
            let Some(product) = Product::recognize(graph, id) else { continue };
            let path = paths.issue(graph, node, product.weight.value);
            match product.bias(graph) {
                Ok(bias) => patch.changes.push(linear(graph, path, product, bias)),
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

/// The constant matrix of a layer.
struct Weight {
    value: ValueId,
    layout: Layout,
    k: usize,
    n: usize,
    dtype: DataType,
}

/// The constant that a layer adds, and the `Add` that does it where `Gemm` does not.
struct Bias {
    value: ValueId,
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
        graph.constant(x).is_none().then_some(Self { node: id, x, weight })
    }

    /// What is added to the product; the error says why no linear layer can express the node.
    fn bias(&self, graph: &Graph) -> Result<Option<Bias>, &'static str> {
        let (node, n) = (graph.node(self.node), self.weight.n as i64);
        let Some(gemm) = node.op.as_standard("Gemm") else { return Ok(self.bias_add(graph, n)) };
        let Some(operand) = node.input(2) else { return Ok(self.bias_add(graph, n)) };
        let value = constant_of(graph, operand, &[&[n], &[1, n]])
            .ok_or("what its Gemm adds is not one constant per output feature")?;
        Ok(Some(Bias { value, beta: gemm.float_or("beta", 1.0), add: None }))
    }

    /// The `Add` of a constant bias that is the only reader of the product.
    fn bias_add(&self, graph: &Graph, n: i64) -> Option<Bias> {
        let product = graph.node(self.node).output(0)?;
        let &[Use { node: id, port: Port::Input(side @ (0 | 1)) }] = graph.uses(product) else { return None };
        let add = graph.node(id);
        let plain = add.op.as_standard("Add")?.attribute.is_empty();
        let value = constant_of(graph, add.input(1 - side)?, &[&[n]])?;
        (plain && !graph.is_output(product)).then_some(Bias { value, beta: 1.0, add: Some(id) })
    }
}

impl Weight {
    /// The constant that `operand`, which is to be read as `layout`, comes from.
    fn behind(graph: &Graph, operand: ValueId, mut layout: Layout) -> Option<Self> {
        let mut value = graph.resolve_identity(operand);
        while let Some(producer) = graph.producer(value) {
            let node = graph.node(producer);
            match node.op.as_standard("Transpose")?.ints("perm") {
                None | Some([1, 0]) => layout = layout.transposed(),
                Some([0, 1]) => {}
                Some(_) => return None,
            }
            value = graph.resolve_identity(node.input(0)?);
        }
        let tensor = graph.constant(value)?;
        let dtype = tensor.dtype().ok()?;
        let float =
            matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double);
        let [rows, columns] = tensor.matrix_dims().filter(|_| float)?;
        let (k, n) = match layout {
            Layout::InputOutput => (rows, columns),
            Layout::OutputInput => (columns, rows),
        };
        Some(Self { value, layout, k, n, dtype })
    }
}

/// The constant behind `operand` if it has one of these shapes.
fn constant_of(graph: &Graph, operand: ValueId, shapes: &[&[i64]]) -> Option<ValueId> {
    let value = graph.resolve_identity(operand);
    graph.constant(value).filter(|tensor| shapes.contains(&tensor.dims())).map(|_| value)
}

fn linear(graph: &Graph, layer: String, product: Product, bias: Option<Bias>) -> Change {
    let Weight { value: weight, layout, k, n, dtype } = product.weight;
    let node = graph.node(product.node);
    let add = bias.as_ref().and_then(|bias| bias.add);
    let origin: Vec<NodeId> = [product.node].into_iter().chain(add).collect();
    let labels: Vec<String> = origin.iter().map(|&id| graph.label(id)).collect();
    let inputs = [product.x, weight].into_iter().chain(bias.as_ref().map(|bias| bias.value));
    let outputs = graph.node(add.unwrap_or(product.node)).outputs();
    let name = |value: ValueId| Some(graph.value(value).name.clone());
    let why = format!("{layer} is {}", labels.join(" and "));
    let mut inputs: Vec<Option<String>> = inputs.map(name).collect();
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
    Change {
        why,
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
    }
}
