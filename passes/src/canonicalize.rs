//! Every form in which exporters write a linear layer becomes [`Op::Linear`].

mod convolution;
mod operand;
mod rearranged;
mod unsupported;

use zqc_ir::graph::{Port, Use};
use zqc_ir::op::attribute::ints;
use zqc_ir::op::{Layout, Linear};
use zqc_ir::{Graph, Model, NodeId, Op, Patch, PatchBuilder, ValueId};

use crate::constant_view::root;
use crate::contrib::as_microsoft;
use crate::dequantized::Dequantized;
use crate::folded::Folded;
use crate::layer_path::LayerPaths;
use crate::nbits::NBits;
use crate::pass::{Context, Pass, PassError};
use crate::select::too_small;
use operand::{Constant, Initializers, Weight};
use rearranged::{Arrangement, Rearranged};

/// Turns `MatMul`, `Gemm`, pointwise `Conv` and ONNX Runtime's `FusedMatMul` with a constant matrix into [`Op::Linear`].
///
/// The matrix, an initializer or a `Constant` node, may come through any chain of `Cast`, `Flatten`, `Identity`, `Reshape`,
/// `Squeeze`, `Transpose` and `Unsqueeze`, and through `Gather`, `Slice` and `Split` with constant operands where these take
/// a piece of it, as experts lie in a stack. The chain stays where it is until the layer is solved; where the initializer
/// has other dimensions than the matrix, one that shares its payload joins it. A `Cast` between floating-point types is looked
/// through: the layer computes in the type that it yields, from the weight as the file has it. The same holds for a
/// `DequantizeLinear` of constants and for the codes of a `MatMulNBits`, if that is asked for: then the float weight joins the
/// graph.
///
/// A constant bias is taken in, be it the third operand of `Gemm` or `Conv` or an `Add` that is the only reader of the
/// product. `Reshape` nodes around a `Gemm` stay: the layer then works on the two-dimensional rows between them. Where a
/// `Gemm` transposes its activation, a `Transpose` does it before the layer; around a 1x1 convolution, which
/// is a linear layer over the channels, one brings the channels to the end and another brings them back, and so they do
/// around a product that has its matrix on the left.
///
/// [`Observer::layer_kept`](crate::Observer::layer_kept) hears of what stays as it is: a `Gemm` or a convolution that no linear
/// layer can express, a matrix that is already quantized, a product that ONNX Runtime fused, a matrix behind operators that are
/// not seen through, and an operand of an unknown operator.
#[derive(Debug, Clone, Copy, Default)]
pub struct Canonicalize {
    /// Whether a weight behind `DequantizeLinear` or of `MatMulNBits` is taken as the float weight that it yields, to be quantized again.
    /// All of these are held in memory in float.
    pub requantize: bool,
}

impl Pass for Canonicalize {
    fn name(&self) -> &'static str {
        "canonicalize"
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut paths = LayerPaths::default();
        let mut writer = Writer {
            patch: PatchBuilder::new(graph),
            initializers: Initializers::default(),
            rearranged: Rearranged::default(),
        };
        let order = graph.order()?;
        let folded = Folded::new(graph, &order);
        let mut others = Vec::new();
        for id in order {
            let node = graph.node(id);
            let Some(product) = Product::recognize(graph, id, self.requantize) else {
                match unsupported::reason(model, id) {
                    Some((weight, reason)) => {
                        context.observer.layer_kept(&paths.issue(graph, node, weight), &reason)
                    }
                    None => others.push(id),
                }
                continue;
            };
            let weight = product.weight.constant.root;
            let path = match product.weight.constant.index(graph) {
                Some(index) => paths.issue_part(graph, node, weight, index),
                None => paths.issue(graph, node, weight),
            };
            match product.bias(graph) {
                Ok(bias) => {
                    let codes = product.weight.constant.codes.and_then(|id| NBits::of(graph, id));
                    if let Some(codes) = codes {
                        context.observer.layer_requantized(&path, codes.stored(), codes.stored_bytes());
                    } else if let Some(weight) = Dequantized::of(graph, weight) {
                        context.observer.layer_requantized(&path, weight.stored(), weight.stored_bytes());
                    }
                    writer.linear(path, product, bias);
                }
                Err(reason) => context.observer.layer_kept(&path, &reason),
            }
        }
        // After the layers, whose names these do not change.
        for id in others {
            if let Some((weight, reason)) = unsupported::other(model, id, &folded) {
                context.observer.layer_kept(&paths.issue(graph, graph.node(id), weight), &reason);
            }
        }
        Ok(writer.patch.finish())
    }
}

/// A product of an activation and a constant matrix.
struct Product {
    node: NodeId,
    x: ValueId,
    weight: Weight,
    /// Factor on the product.
    alpha: f32,
    arrangement: Arrangement,
}

/// The constant that a layer adds, and the `Add` that does it where `Gemm` does not.
struct Bias {
    constant: Constant,
    beta: f32,
    add: Option<NodeId>,
}

impl Product {
    fn recognize(graph: &Graph, id: NodeId, requantize: bool) -> Option<Self> {
        let node = graph.node(id);
        node.sole_output()?;
        let matrix = |port, layout| Weight::behind(graph, node.input(port)?, layout, requantize);
        let gemm = ["MatMul", "Gemm"].iter().find_map(|op_type| node.op.as_standard(op_type));
        let (x, weight, alpha, arrangement) = if let Some(gemm) = gemm {
            // A product without such attributes that has them is no valid node.
            let is_set = |name| gemm.op_type() == "Gemm" && gemm.int_or(name, 0) != 0;
            let layout = |transposed| if transposed { Layout::OutputInput } else { Layout::InputOutput };
            let alpha = if gemm.op_type() == "Gemm" { gemm.float_or("alpha", 1.0) } else { 1.0 };
            if let Some(weight) = matrix(1, layout(is_set("transB"))) {
                let arrangement =
                    if is_set("transA") { Arrangement::transposed() } else { Arrangement::default() };
                (node.input(0)?, weight, alpha, arrangement)
            } else {
                let x = node.input(1)?;
                let weight = matrix(0, layout(!is_set("transA"))).filter(|_| node.input(2).is_none())?;
                too_small(weight.k, weight.n).is_none().then_some(())?;
                (x, weight, alpha, Arrangement::columns(graph.ty(x).rank()?, is_set("transB"))?)
            }
        } else if let Some(fused) = as_microsoft(&node.op, "FusedMatMul") {
            let is_set = |name| fused.int_or(name, 0) != 0;
            if ["transA", "transBatchA", "transBatchB"].into_iter().any(is_set) {
                return None;
            }
            let layout = if is_set("transB") { Layout::OutputInput } else { Layout::InputOutput };
            (node.input(0)?, matrix(1, layout)?, fused.float_or("alpha", 1.0), Arrangement::default())
        } else if requantize && let Some(weight) = Weight::of_codes(graph, id) {
            (node.input(0)?, weight, 1.0, Arrangement::default())
        } else {
            let (weight, arrangement) = convolution::pointwise(graph, node, requantize)?;
            (node.input(0)?, weight, 1.0, arrangement)
        };
        let computed = graph.literal(root(graph, x)).is_none();
        computed.then_some(Self { node: id, x, weight, alpha, arrangement })
    }

    /// What is added to the product; the error says why no linear layer can express the node.
    fn bias(&self, graph: &Graph) -> Result<Option<Bias>, String> {
        let (node, n) = (graph.node(self.node), self.weight.n as i64);
        let conv = node.op.as_standard("Conv");
        if let Some(obstacle) = conv.and_then(convolution::obstacle) {
            return Err(obstacle);
        }
        let port = if self.weight.constant.codes.is_some() { 5 } else { 2 };
        let Some(operand) = node.input(port) else {
            return Ok(self.bias_add(graph, n).filter(|_| self.arrangement.after.is_none()));
        };
        let constant = Constant::vector(graph, operand, &[&[n], &[1, n]]);
        let not_constant =
            || format!("what its {} adds is not one constant per output feature", node.op.kind());
        let beta = node.op.as_standard("Gemm").map_or(1.0, |gemm| gemm.float_or("beta", 1.0));
        Ok(Some(Bias { constant: constant.ok_or_else(not_constant)?, beta, add: None }))
    }

    /// The `Add` of a constant bias that is the only reader of the product.
    fn bias_add(&self, graph: &Graph, n: i64) -> Option<Bias> {
        let product = graph.node(self.node).output(0)?;
        let &[Use { node: id, port: Port::Input(side @ (0 | 1)) }] = graph.uses(product) else { return None };
        let add = graph.node(id);
        let plain = add.op.as_standard("Add")?.attribute.is_empty() && add.sole_output().is_some();
        let constant = Constant::vector(graph, add.input(1 - side)?, &[&[n]])?;
        (plain && !graph.is_output(product)).then_some(Bias { constant, beta: 1.0, add: Some(id) })
    }
}

/// Makes the layers, which share what can be shared.
struct Writer<'g> {
    patch: PatchBuilder<'g>,
    initializers: Initializers,
    rearranged: Rearranged,
}

impl Writer<'_> {
    /// Nothing where the values of a constant cannot be read.
    fn linear(&mut self, layer: String, product: Product, bias: Option<Bias>) -> Option<()> {
        let graph = self.patch.graph();
        let Weight { constant: weight, layout, k, n, dtype } = product.weight;
        let (add, beta) = bias.as_ref().map_or((None, 1.0), |bias| (bias.add, bias.beta));
        let origin: Vec<NodeId> = [product.node].into_iter().chain(add).collect();
        let labels: Vec<String> = origin.iter().map(|&id| graph.label(id)).collect();
        let y = graph.node(add.unwrap_or(product.node)).output(0)?;
        let constants = [weight].into_iter().chain(bias.map(|bias| bias.constant));
        let constants: Option<Vec<_>> =
            constants.map(|constant| self.initializers.prepare(graph, constant)).collect();
        let constants = constants?;
        let why = format!("{layer} is {}", labels.join(" and "));
        let mut change = self.patch.change(why, &graph.value(y).name);
        let x = match product.arrangement.before {
            Some(order) => self.rearranged.get(&mut change, product.x, order),
            None => product.x.into(),
        };
        let mut inputs = vec![Some(x)];
        inputs.extend(constants.into_iter().map(|operand| Some(self.initializers.add(&mut change, operand))));
        let after = product.arrangement.after.map(|order| (order, change.value("output")));
        let op = Op::Linear(Linear {
            layer,
            k,
            n,
            layout,
            alpha: product.alpha,
            beta,
            dtype,
            origin: origin.iter().map(|&id| graph.node(id).clone()).collect(),
        });
        let result = after.as_ref().map_or(y.into(), |(_, output)| output.clone());
        change.node(op, inputs).in_place_of(product.node).defines([Some(result)]);
        if let Some((order, output)) = after {
            change.op("Transpose", [output]).with([ints("perm", &order)]).defines([Some(y.into())]);
        }
        origin.into_iter().for_each(|id| change.remove(id));
        change.finish();
        Some(())
    }
}
