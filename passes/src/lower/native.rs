//! Our operators become standard ONNX in its own low-precision types, for importers that know them.

mod activation;
mod tensors;
mod writer;

use std::collections::{HashMap, HashSet};

use zqc_ir::graph::{Port, Use};
use zqc_ir::op::attribute::int;
use zqc_ir::op::{QuantizeActivation, QuantizedLinear, port};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Change, FreshNames, Graph, Model, Node, NodeId, Op, Patch, Tensor, ValueId};
use zqc_numerics::{Format, Ladder};

use super::bias;
use crate::pass::{Context, Pass, PassError};
use writer::Writer;

/// Turns every [`Op::QuantizeActivation`] and [`Op::QuantizedLinear`] into standard operators in ONNX's own low-precision
/// types, without functions. They compute in float32 what those of [`LowerPortable`](crate::LowerPortable) do.
///
/// | of a layer | in the file |
/// |---|---|
/// | codes | `FLOAT4E2M1`, `FLOAT8E4M3FN`, `FLOAT8E5M2`, `INT4` or `INT8` `[K, N]` behind a `DequantizeLinear` whose blocks are the groups along K; E3M0 has no type there and is refused |
/// | scales, zero points | its scale, float32 `[groups, N]`, and its zero point, in the type of the codes |
/// | octaves below the scale of the row | its scale, `FLOAT8E8M0` `[groups, N]`; a `Mul` by the scales of the rows, float32 `[N]`, follows the `MatMul`, which then has nothing but codes and powers of two to read |
/// | thirds of octaves | factors, `FLOAT8E4M3FN` `[groups, N]`, behind a `DequantizeLinear` by the scales of the rows: that yields its scale, as in models of NVFP4 |
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
    /// octaves below that of their row, else 23.
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
    let octaves =
        |op: &Op| matches!(op, Op::QuantizedLinear(linear) if linear.ladder == Some(Ladder::Octaves));
    if graph.nodes().any(|(_, node)| octaves(&node.op)) { KNOWS_E8M0 } else { KNOWS_E2M1 }
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
        let mut lowering = Lowering {
            graph,
            writer: Writer::new(FreshNames::new(graph)),
            changes: Vec::new(),
            converted: HashSet::new(),
            floats: HashMap::new(),
        };
        for id in graph.order()? {
            match &graph.node(id).op {
                Op::QuantizeActivation(quantize) => lowering.quantize(id, quantize),
                Op::QuantizedLinear(linear) => lowering.linear(id, linear)?,
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
        Ok(Patch { changes: lowering.changes, ir_version: Some(least.ir), ..Default::default() })
    }
}

struct Lowering<'g> {
    graph: &'g Graph,
    writer: Writer<'g>,
    changes: Vec<Change>,
    /// Operands that have the types of the file: layers may share theirs.
    converted: HashSet<ValueId>,
    /// Names of what stands for codes of weights, factors and activations in float32.
    floats: HashMap<ValueId, String>,
}

impl<'g> Lowering<'g> {
    fn quantize(&mut self, id: NodeId, quantize: &QuantizeActivation) {
        let (graph, node) = (self.graph, self.graph.node(id));
        let mut change = replacing(id, format!("{} becomes standard operators", graph.label(id)));
        if let (Some(x), Some(quantized)) = (node.input(0), node.output(0))
            && let Some(linear) = graph.uses(quantized).iter().find_map(|place| reader(graph, place))
        {
            let (x, quantized) = (self.float32(x, linear.dtype), &graph.value(quantized).name);
            activation::quantize(&mut self.writer, &x, quantized, quantize.format, linear.k);
            self.writer.name_last(&node.name);
            change.add = self.writer.finish(quantized, node.rank());
        }
        self.changes.push(change);
    }

    fn linear(&mut self, id: NodeId, linear: &QuantizedLinear) -> Result<(), PassError> {
        if linear.format == Format::E3M0 {
            return Err(PassError::Unsupported {
                what: format!(
                    "layer {} has weights of {}, for which ONNX has no type",
                    linear.layer, linear.format
                ),
                way_out: "compile with --target portable".to_string(),
            });
        }
        let change = self.layer(id, linear);
        let change = change.map_err(|source| PassError::Weight { layer: linear.layer.clone(), source })?;
        self.changes.push(change);
        Ok(())
    }

    fn layer(&mut self, id: NodeId, linear: &QuantizedLinear) -> Result<Change, TensorError> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let mut change = replacing(id, format!("layer {} becomes standard operators", linear.layer));
        change.replace = self.convert(node, linear)?;
        let Some(y) = node.output(0) else { return Ok(change) };
        let name = &graph.value(y).name;
        let x = self.activation(node, linear)?;
        let weight = self.weight(node, linear)?;
        let mut product = self.writer.add("MatMul", &[&x, &weight], vec![], format!("{name}_accumulated"));
        self.writer.name_last(&linear.layer);
        if linear.ladder == Some(Ladder::Octaves) {
            let rows = self.operand(node, port::SCALES)?;
            product = self.writer.add("Mul", &[&product, rows], vec![], format!("{name}_scaled"));
        }
        if linear.rank > 0 {
            let branch = self.branch(node, &x, name)?;
            product = self.writer.add("Add", &[&product, &branch], vec![], format!("{name}_repaired"));
        }
        if linear.dtype != DataType::Float {
            let to = int("to", linear.dtype as i64);
            self.writer.add("Cast", &[&product], vec![to], format!("{name}_cast"));
        }
        change.add = self.writer.finish(name, node.rank());
        if let Some(bias) = node.input(port::QUANTIZED_BIAS) {
            bias::add(graph, self.writer.names(), &mut change, linear, bias, y)?;
        }
        Ok(change)
    }

    /// The operands of a layer as the file wants them, those that no other layer has brought there yet.
    fn convert(
        &mut self,
        node: &Node,
        linear: &QuantizedLinear,
    ) -> Result<Vec<(ValueId, Tensor)>, TensorError> {
        let mut replaced = Vec::new();
        for at in port::WEIGHT..port::QUANTIZED_BIAS {
            if let Some(value) = node.input(at)
                && self.converted.insert(value)
            {
                let tensor = self.graph.constant(value).ok_or(TensorError::NotLoaded)?;
                replaced.push((value, tensors::to_native(linear, at, tensor)?));
            }
        }
        Ok(replaced)
    }

    /// The name of the activation that a layer reads, in float32.
    fn activation(&mut self, node: &Node, linear: &QuantizedLinear) -> Result<String, TensorError> {
        let x = node.input(port::X).ok_or(TensorError::NotLoaded)?;
        let producer = self.graph.producer(x).map(|producer| &self.graph.node(producer).op);
        Ok(match producer {
            Some(Op::QuantizeActivation(_)) => self.graph.value(x).name.clone(),
            _ => self.float32(x, linear.dtype),
        })
    }

    /// The name of the weight of a layer in float32, up to the scales of rows that octaves lie below.
    fn weight(&mut self, node: &Node, linear: &QuantizedLinear) -> Result<String, TensorError> {
        let codes = node.input(port::WEIGHT).ok_or(TensorError::NotLoaded)?;
        if let Some(known) = self.floats.get(&codes) {
            return Ok(known.clone());
        }
        let mut attributes = vec![int("axis", 0), int("block_size", linear.group_size.min(linear.k) as i64)];
        let scales = match linear.ladder {
            None => self.operand(node, port::SCALES)?.to_string(),
            Some(Ladder::Octaves) => {
                attributes.push(int("output_dtype", DataType::Float as i64));
                self.operand(node, port::SHIFTS)?.to_string()
            }
            Some(Ladder::Thirds) => {
                let (factors, rows) = (self.operand(node, port::SHIFTS)?, self.operand(node, port::SCALES)?);
                let result = format!("{factors}_dequantized");
                self.writer.add("DequantizeLinear", &[factors, rows], vec![int("axis", 1)], result)
            }
        };
        let name = self.operand(node, port::WEIGHT)?;
        let mut inputs = vec![name, &scales];
        if node.input(port::ZERO_POINTS).is_some() {
            inputs.push(self.operand(node, port::ZERO_POINTS)?);
        }
        let weight = self.writer.add("DequantizeLinear", &inputs, attributes, format!("{name}_dequantized"));
        self.floats.insert(codes, weight.clone());
        Ok(weight)
    }

    /// The name of what the low-rank branch of the layer that yields `y` makes of `x`.
    fn branch(&mut self, node: &Node, x: &str, y: &str) -> Result<String, TensorError> {
        let mut factor = |at| {
            let value = node.input(at).ok_or(TensorError::NotLoaded)?;
            let dtype = self.graph.constant(value).ok_or(TensorError::NotLoaded)?.dtype()?;
            Ok(self.float32(value, dtype))
        };
        let (down, up) = (factor(port::LOW_RANK_DOWN)?, factor(port::LOW_RANK_UP)?);
        let scales = self.operand(node, port::LOW_RANK_SCALES)?;
        let components = self.writer.add("MatMul", &[x, &down], vec![], format!("{y}_components"));
        let weighted = self.writer.add("Mul", &[&components, scales], vec![], format!("{y}_weighted"));
        Ok(self.writer.add("MatMul", &[&weighted, &up], vec![], format!("{y}_branch")))
    }

    /// The name of a value of type `dtype` in float32.
    fn float32(&mut self, value: ValueId, dtype: DataType) -> String {
        let name = &self.graph.value(value).name;
        if dtype == DataType::Float {
            return name.clone();
        }
        let cast = || {
            let to = int("to", DataType::Float as i64);
            self.writer.add("Cast", &[name], vec![to], format!("{name}_float32"))
        };
        self.floats.entry(value).or_insert_with(cast).clone()
    }

    /// The name of what `node` reads at a port.
    fn operand(&self, node: &Node, at: usize) -> Result<&'g str, TensorError> {
        let value = node.input(at).ok_or(TensorError::NotLoaded)?;
        Ok(&self.graph.value(value).name)
    }
}

/// A change that puts what is to come in the place of a node.
fn replacing(id: NodeId, why: String) -> Change {
    Change { remove: vec![id], ..Change::new(why) }
}

/// The layer that reads its activation at this place.
fn reader<'g>(graph: &'g Graph, place: &Use) -> Option<&'g QuantizedLinear> {
    match &graph.node(place.node).op {
        Op::QuantizedLinear(linear) if place.port == Port::Input(port::X) => Some(linear),
        _ => None,
    }
}
