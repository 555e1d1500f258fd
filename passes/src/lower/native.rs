//! Our operators become standard ONNX in its own low-precision types, for importers that know them.

mod activation;
mod tensors;

use std::collections::{HashMap, HashSet};

use zqc_formats::Ladder;
use zqc_ir::graph::{Port, Use};
use zqc_ir::onnx::proto::AttributeProto;
use zqc_ir::op::attribute::int;
use zqc_ir::op::{QuantizeActivation, QuantizedLinear, port};
use zqc_ir::operands::native_dtype;
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{ChangeBuilder, Graph, Model, Node, NodeId, Op, Patch, PatchBuilder, ValueId, ValueRef};

use super::bias;
use crate::pass::{Context, Pass, PassError};

/// Turns every [`Op::QuantizeActivation`] and [`Op::QuantizedLinear`] into standard operators in ONNX's own low-precision
/// types, without functions. They compute in float32 what those of [`LowerPortable`](crate::LowerPortable) do.
///
/// | of a layer | in the file |
/// |---|---|
/// | codes | `FLOAT4E2M1`, `FLOAT8E4M3FN`, `FLOAT8E5M2`, `INT4` or `INT8` `[K, N]` behind a `DequantizeLinear` whose blocks are the groups along K; E3M0 has no type there and is refused |
/// | scales, zero points | its scale, float32 `[groups, N]`, and its zero point, in the type of the codes |
/// | steps of M2 below the scale of the row | its scale, `FLOAT8E8M0` `[groups, N]`; a `Mul` by the scales of the rows, float32 `[N]`, follows the `MatMul`, which then has nothing but codes and powers of two to read |
/// | steps of M3 | factors, `FLOAT8E4M3FN` `[groups, N]`, behind a `DequantizeLinear` by the scales of the rows: that yields its scale, as in models of NVFP4 |
/// | activation | `QuantizeLinear` and `DequantizeLinear`, a block a token, by scales and zero points computed from the token |
/// | low-rank branch | factors, `FLOAT8E4M3FN` or `BFLOAT16`, behind a `Cast`, and two `MatMul` that read the same activation |
///
/// A last group may be short: ONNX wants `ceil(K / block_size)` scales.
///
/// The `MatMul` is named after the layer. ONNX Runtime has no kernel for `FLOAT4E2M1`, and rounds the activation to
/// integers where it fuses an integer `DequantizeLinear` with a `MatMul`: what it is to run is lowered to portable ONNX.
#[derive(Debug, Clone, Copy, Default)]
pub struct LowerNative;

impl LowerNative {
    /// The least version of the standard operators that the layers of `graph` can be lowered to: 24 where scales are
    /// steps of M2 below that of their row, else 23.
    pub fn least_opset(graph: &Graph) -> i64 {
        least_versions(graph).opset
    }
}

/// A version of the standard operators, and the one of the IR that came with it.
struct Versions {
    opset: i64,
    ir: i64,
}

/// The versions that brought `FLOAT4E2M1`.
const KNOWS_E2M1: Versions = Versions { opset: 23, ir: 11 };
/// The versions that brought `FLOAT8E8M0`.
const KNOWS_E8M0: Versions = Versions { opset: 24, ir: 12 };

fn least_versions(graph: &Graph) -> Versions {
    let m2 = |op: &Op| matches!(op, Op::QuantizedLinear(linear) if linear.ladder == Some(Ladder::M2));
    if graph.nodes().any(|(_, node)| m2(&node.op)) { KNOWS_E8M0 } else { KNOWS_E2M1 }
}

impl Pass for LowerNative {
    fn name(&self) -> &'static str {
        "lower_native"
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let ours = |op: &Op| !matches!(op, Op::Onnx(_) | Op::Linear(_));
        if !graph.nodes().any(|(_, node)| ours(&node.op)) {
            return Ok(Patch::default());
        }
        let (least, opset) = (least_versions(graph), model.opset());
        if opset < least.opset {
            return Err(PassError::Unsupported {
                what: format!("opset {opset} lacks types of the weights, which came with {}", least.opset),
                way_out: "run the pass upgrade_opset first".to_string(),
            });
        }
        let mut patch = PatchBuilder::new(graph);
        let mut shared = Shared::default();
        for id in graph.order()? {
            match &graph.node(id).op {
                Op::QuantizeActivation(format) => quantize(&mut patch, &mut shared, id, format),
                Op::QuantizedLinear(linear) => {
                    check(linear)?;
                    lower(&mut patch, &mut shared, id, linear)
                        .map_err(|source| PassError::Weight { layer: linear.layer.clone(), source })?;
                }
                Op::QuantizedGather(table) => {
                    return Err(PassError::Unsupported {
                        what: format!(
                            "table {} is quantized, and ONNX looks no rows of codes up",
                            table.layer
                        ),
                        way_out: "use --target portable".to_string(),
                    });
                }
                Op::Onnx(_) | Op::Linear(_) => {}
            }
        }
        Ok(Patch { ir_version: Some(least.ir), ..patch.finish() })
    }
}

/// What layers have in common.
#[derive(Default)]
struct Shared {
    /// Operands that have the types of the file.
    converted: HashSet<ValueId>,
    /// What stands for codes of weights, factors and activations in float32.
    floats: HashMap<ValueId, ValueRef>,
    /// The scalars and lists that the operators of activations read, by name.
    constants: HashMap<String, ValueRef>,
}

impl Shared {
    /// A value of type `dtype` in float32.
    fn float32(&mut self, change: &mut ChangeBuilder, value: ValueId, dtype: DataType) -> ValueRef {
        if dtype == DataType::Float {
            return value.into();
        }
        let name = &change.graph().value(value).name;
        let cast = || {
            let cast = change.op("Cast", [value.into()]).with([int("to", DataType::Float as i64)]);
            cast.output_named(&format!("{name}_float32"))
        };
        self.floats.entry(value).or_insert_with(cast).clone()
    }

    /// A constant that the whole file shares.
    fn constant(&mut self, change: &mut ChangeBuilder, name: &str, value: AttributeProto) -> ValueRef {
        let add = || change.op("Constant", []).with([value]).output_named(name);
        self.constants.entry(name.to_string()).or_insert_with(add).clone()
    }
}

fn quantize(patch: &mut PatchBuilder, shared: &mut Shared, id: NodeId, quantize: &QuantizeActivation) {
    let graph = patch.graph();
    let node = graph.node(id);
    let mut change = patch.change_of(id, format!("{} becomes standard operators", graph.label(id)));
    if let (Some(x), Some(quantized)) = (node.input(0), node.output(0))
        && let Some(linear) = graph.uses(quantized).iter().find_map(|place| reader(graph, place))
    {
        let x = shared.float32(&mut change, x, linear.dtype);
        activation::quantize(&mut change, shared, x, quantized, id, quantize.format, linear.k);
    }
    change.remove(id);
    change.finish();
}

/// Checks that ONNX has a type for the weight.
fn check(linear: &QuantizedLinear) -> Result<(), PassError> {
    if native_dtype(linear.format).is_some() {
        return Ok(());
    }
    Err(PassError::Unsupported {
        what: format!("layer {} has weights of {}, for which ONNX has no type", linear.layer, linear.format),
        way_out: "compile with --target portable".to_string(),
    })
}

fn lower(
    patch: &mut PatchBuilder,
    shared: &mut Shared,
    id: NodeId,
    linear: &QuantizedLinear,
) -> Result<(), TensorError> {
    let node = patch.graph().node(id);
    let change = patch.change_of(id, format!("layer {} becomes standard operators", linear.layer));
    let mut layer = Layer { node, linear, shared, change };
    layer.convert()?;
    if let Some(y) = node.output(0) {
        let product = layer.product(y)?;
        match node.input(port::QUANTIZED_BIAS) {
            None => layer.change.define_as(&product, y, id),
            Some(bias) => {
                let whole = layer.change.value("product");
                layer.change.define_as(&product, whole.clone(), id);
                bias::add(&mut layer.change, id, linear, whole, bias, y)?;
            }
        }
    }
    layer.change.remove(id);
    layer.change.finish();
    Ok(())
}

/// A layer on its way to standard operators.
struct Layer<'p, 'g> {
    node: &'g Node,
    linear: &'p QuantizedLinear,
    shared: &'p mut Shared,
    change: ChangeBuilder<'p, 'g>,
}

impl Layer<'_, '_> {
    /// Gives the operands the form that the file wants, those that no other layer has brought there yet.
    fn convert(&mut self) -> Result<(), TensorError> {
        for at in port::WEIGHT..port::QUANTIZED_BIAS {
            if let Some(value) = self.node.input(at)
                && self.shared.converted.insert(value)
            {
                let tensor = self.change.graph().constant(value).ok_or(TensorError::NotLoaded)?;
                self.change.replace_constant(value, tensors::to_native(self.linear, at, tensor)?);
            }
        }
        Ok(())
    }

    /// The layer's result `y` without bias.
    fn product(&mut self, y: ValueId) -> Result<ValueRef, TensorError> {
        let (linear, name) = (self.linear, &self.change.graph().value(y).name);
        let x = self.activation()?;
        let weight = self.weight()?;
        let product = self.change.op("MatMul", [x.clone(), weight]).named(&linear.layer);
        let mut product = product.output_named(&format!("{name}_accumulated"));
        if linear.ladder == Some(Ladder::M2) {
            let rows = self.operand(port::SCALES)?;
            product = self.change.op("Mul", [product, rows.into()]).output_named(&format!("{name}_scaled"));
        }
        if linear.rank > 0 {
            let branch = self.branch(x, name)?;
            product = self.change.op("Add", [product, branch]).output_named(&format!("{name}_repaired"));
        }
        if linear.dtype != DataType::Float {
            let cast = self.change.op("Cast", [product]).with([int("to", linear.dtype as i64)]);
            product = cast.output_named(&format!("{name}_cast"));
        }
        Ok(product)
    }

    /// The activation that the layer reads, in float32.
    fn activation(&mut self) -> Result<ValueRef, TensorError> {
        let (graph, x) = (self.change.graph(), self.operand(port::X)?);
        let producer = graph.producer(x).map(|producer| &graph.node(producer).op);
        Ok(match producer {
            Some(Op::QuantizeActivation(_)) => x.into(),
            _ => self.shared.float32(&mut self.change, x, self.linear.dtype),
        })
    }

    /// The weight of the layer in float32, up to the scales of rows that steps of M2 lie below.
    fn weight(&mut self) -> Result<ValueRef, TensorError> {
        let (graph, linear) = (self.change.graph(), self.linear);
        let codes = self.operand(port::WEIGHT)?;
        if let Some(known) = self.shared.floats.get(&codes) {
            return Ok(known.clone());
        }
        let mut attributes = vec![int("axis", 0), int("block_size", linear.group_size.min(linear.k) as i64)];
        let dequantized = |value| format!("{}_dequantized", graph.value(value).name);
        let scales = match linear.ladder {
            None => self.operand(port::SCALES)?.into(),
            Some(Ladder::M2) => {
                attributes.push(int("output_dtype", DataType::Float as i64));
                self.operand(port::SHIFTS)?.into()
            }
            Some(Ladder::M8) => return Err(tensors::NO_FACTORS),
            Some(Ladder::M3) => {
                let (factors, rows) = (self.operand(port::SHIFTS)?, self.operand(port::SCALES)?);
                let scales = self.change.op("DequantizeLinear", [factors.into(), rows.into()]);
                scales.with([int("axis", 1)]).output_named(&dequantized(factors))
            }
        };
        let zero_points = self.node.input(port::ZERO_POINTS).map(ValueRef::from);
        let inputs = [codes.into(), scales].into_iter().chain(zero_points);
        let weight = self.change.op("DequantizeLinear", inputs).with(attributes);
        let weight = weight.output_named(&dequantized(codes));
        self.shared.floats.insert(codes, weight.clone());
        Ok(weight)
    }

    /// What the low-rank branch of the layer that yields `y` makes of `x`.
    fn branch(&mut self, x: ValueRef, y: &str) -> Result<ValueRef, TensorError> {
        let (down, up) = (self.factor(port::LOW_RANK_DOWN)?, self.factor(port::LOW_RANK_UP)?);
        let scales = self.operand(port::LOW_RANK_SCALES)?.into();
        let components = self.change.op("MatMul", [x, down]).output_named(&format!("{y}_components"));
        let weighted = self.change.op("Mul", [components, scales]).output_named(&format!("{y}_weighted"));
        Ok(self.change.op("MatMul", [weighted, up]).output_named(&format!("{y}_branch")))
    }

    fn factor(&mut self, at: usize) -> Result<ValueRef, TensorError> {
        let value = self.operand(at)?;
        let dtype = self.change.graph().constant(value).ok_or(TensorError::NotLoaded)?.dtype()?;
        Ok(self.shared.float32(&mut self.change, value, dtype))
    }

    /// What the layer reads at a port.
    fn operand(&self, at: usize) -> Result<ValueId, TensorError> {
        self.node.input(at).ok_or(TensorError::NotLoaded)
    }
}

/// The layer that reads its activation at this place.
fn reader<'g>(graph: &'g Graph, place: &Use) -> Option<&'g QuantizedLinear> {
    match &graph.node(place.node).op {
        Op::QuantizedLinear(linear) if place.port == Port::Input(port::X) => Some(linear),
        _ => None,
    }
}
