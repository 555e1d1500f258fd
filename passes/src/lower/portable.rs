//! Our operators become calls of functions that the model defines itself: ONNX that stock runtimes execute.

use std::collections::{HashMap, HashSet};

use zqc_formats::{FUNCTION_DOMAIN, FUNCTION_VERSION, GROUP_SIZE, OUTPUT_TYPE, Operand, Signature};
use zqc_ir::onnx::proto::{AttributeProto, FunctionProto};
use zqc_ir::op::{QuantizeActivation, QuantizedLinear, attribute, port};
use zqc_ir::tensor::TensorError;
use zqc_ir::{ChangeBuilder, Graph, Model, NodeId, Op, Patch, PatchBuilder, ValueId, ValueRef};

use super::folding::{Folding, TURN, turns};
use super::{activation, bias, dequantize_rows, functions, gather, layout, signature};
use crate::pass::{Context, Pass, PassError, Scope};

/// Turns every [`Op::QuantizeActivation`] and [`Op::QuantizedLinear`] into one call of a function of domain `ai.zqc`
/// that the model defines, `QuantizeActivationE4M3` or `W4A8Linear` for example; the call of a linear layer is named after
/// the layer. A bias is added after the call, in the layer's own element type. A [`Op::QuantizedGather`] becomes a call of
/// `GatherInt8` for example.
///
/// Operands are transposed, so that no runtime has to: 4-bit codes are packed along N, `u8 [K, ceil(N/2)]`, and scales are
/// `f32 [groups, N]`. Those of a table, and of a language-model head that is tied to it, lie row by row.
///
/// ONNX Runtime folds the weights in turns while it loads the model; in subgraphs all at once, which takes four times the memory of
/// the float weights: the turns are an `If` each, and ONNX Runtime does not inline those of an `If` whose condition is constant. A
/// model with such subgraphs has it in the main graph too, which shares their functions.
#[derive(Debug, Clone, Copy, Default)]
pub struct LowerPortable;

impl Pass for LowerPortable {
    fn name(&self) -> &'static str {
        "lower_portable"
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let ours = |op: &Op| !matches!(op, Op::Onnx(_) | Op::Linear(_));
        if !graph.nodes().any(|(_, node)| ours(&node.op)) {
            return Ok(Patch::default());
        }
        let opset = model.opset();
        if opset < functions::LEAST_OPSET {
            return Err(PassError::Unsupported {
                what: format!("opset {opset} has no FP8, which came with {}", functions::LEAST_OPSET),
                way_out: "run the pass upgrade_opset first".to_string(),
            });
        }
        let at_once = context.scope == Scope::Subgraph || model.header.functions.iter().any(is_of_body);
        let odd = graph.nodes().any(|(_, node)| has_odd_rows(&node.op));
        let folding = if at_once { Folding::AtOnce } else { Folding::InTurns { odd } };
        let mut lowering = Lowering {
            graph,
            patch: PatchBuilder::new(graph),
            known: &model.header.functions,
            functions: Vec::new(),
            folding,
            turns: turns_of(graph, folding),
            opset,
            activations: HashMap::new(),
            brought: HashSet::new(),
        };
        for id in graph.order()? {
            match &graph.node(id).op {
                Op::QuantizeActivation(quantize) => lowering.quantize(id, quantize),
                Op::QuantizedLinear(linear) => lowering.linear(id, linear)?,
                Op::QuantizedGather(table) => lowering.gather(id, table)?,
                Op::Onnx(_) | Op::Linear(_) => {}
            }
        }
        Ok(Patch {
            functions: lowering.functions,
            opsets: vec![(FUNCTION_DOMAIN.to_string(), FUNCTION_VERSION)],
            ir_version: Some(functions::LEAST_IR_VERSION),
            ..lowering.patch.finish()
        })
    }
}

struct Lowering<'g> {
    graph: &'g Graph,
    patch: PatchBuilder<'g>,
    /// The functions that the model has: those that its bodies call.
    known: &'g [FunctionProto],
    /// The others that are called.
    functions: Vec<FunctionProto>,
    /// How weights are folded.
    folding: Folding,
    /// The turns of the layers, if they take turns.
    turns: HashMap<NodeId, usize>,
    /// The version of the standard operators that their bodies consist of.
    opset: i64,
    /// What stands for each quantized activation: codes, scales, and zero points of integers.
    activations: HashMap<ValueId, Vec<ValueRef>>,
    /// Operands that lie as the file wants them: layers may share theirs.
    brought: HashSet<ValueId>,
}

impl Lowering<'_> {
    fn quantize(&mut self, id: NodeId, quantize: &QuantizeActivation) {
        let (node, format) = (self.graph.node(id), quantize.format);
        let function = format.quantize_function();
        let mut change =
            self.patch.change_of(id, format!("{} becomes a call of {function}", self.graph.label(id)));
        let mut outputs = Vec::new();
        if let Some(quantized) = node.output(0) {
            let parts = ["scales", "zero_points"].map(|part| change.value(part));
            outputs.extend([quantized.into()].into_iter().chain(parts));
            outputs.truncate(format.quantized().len());
            self.activations.insert(quantized, outputs.clone());
        }
        let inputs = node.inputs().iter().map(|input| input.map(ValueRef::from));
        let call = change.node(functions::call(&function, Vec::new()), inputs).in_place_of(id);
        call.defines(outputs.into_iter().map(Some));
        change.remove(id);
        change.finish();
        self.define(activation::definition(format, self.opset));
    }

    fn linear(&mut self, id: NodeId, linear: &QuantizedLinear) -> Result<(), PassError> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let unreadable = |source| PassError::Weight { layer: linear.layer.clone(), source };
        let signature = signature::of(graph, node, linear).map_err(unreadable)?;
        let why = format!("layer {} becomes a call of {}", linear.layer, signature.name());
        let mut change = self.patch.change_of(id, why);
        let operands: Vec<Operand> = signature.operands().collect();
        bring(&mut self.brought, &mut change, id, linear, &operands, signature.trans_b)
            .map_err(unreadable)?;
        let x = node.input(port::X);
        let activation = match x.and_then(|x| self.activations.get(&x)) {
            Some(parts) => parts.iter().cloned().map(Some).collect(),
            None => vec![x.map(ValueRef::from)],
        };
        let operands = operands.into_iter().map(|operand| node.input(signature::port(operand)));
        let inputs = activation.into_iter().chain(operands.map(|operand| operand.map(ValueRef::from)));
        let mut attributes = attributes(linear);
        attributes.extend(self.turns.get(&id).map(|&turn| attribute::int(TURN, turn as i64)));
        let op = functions::call(&signature.name(), attributes);
        let call = change.node(op, inputs).in_place_of(id).named(&linear.layer);
        match (node.input(port::QUANTIZED_BIAS), node.output(0)) {
            (Some(bias), Some(y)) => {
                let product = call.output("product");
                bias::add(&mut change, id, linear, product, bias, y).map_err(unreadable)?;
            }
            (_, y) => call.defines([y.map(ValueRef::from)]),
        }
        change.remove(id);
        change.finish();
        self.define(signature::weight_definition(signature, self.folding, self.opset));
        self.define(signature::definition(signature, self.folding, self.opset));
        Ok(())
    }

    fn gather(&mut self, id: NodeId, table: &QuantizedLinear) -> Result<(), PassError> {
        let node = self.graph.node(id);
        let Some(kind) = gather::kind(table) else {
            return Err(PassError::Unsupported {
                what: format!("table {} has {} codes that no function looks up", table.layer, table.format),
                way_out: "leave it in float".to_string(),
            });
        };
        let function = kind.gather_function();
        let why = format!("table {} becomes a call of {function}", table.layer);
        let mut change = self.patch.change_of(id, why);
        let operands: Vec<Operand> = kind.operands().collect();
        let unreadable = |source| PassError::Weight { layer: table.layer.clone(), source };
        bring(&mut self.brought, &mut change, id, table, &operands, true).map_err(unreadable)?;
        let ports = [port::X].into_iter().chain(operands.iter().map(|&operand| signature::port(operand)));
        let inputs = ports.map(|port| node.input(port).map(ValueRef::from));
        let call = change.node(functions::call(&function, attributes(table)), inputs).in_place_of(id);
        call.named(&table.layer).defines(node.outputs().iter().map(|y| y.map(ValueRef::from)));
        change.remove(id);
        change.finish();
        self.define(dequantize_rows::definition(kind, self.opset));
        self.define(gather::definition(kind, self.opset));
        Ok(())
    }

    /// Notes that a function is called.
    fn define(&mut self, function: FunctionProto) {
        let mut known = self.known.iter().chain(&self.functions);
        if !known.any(|known| known.domain() == FUNCTION_DOMAIN && known.name() == function.name()) {
            self.functions.push(function);
        }
    }
}

/// Brings the operands of a layer into the form that the file wants, row by row or transposed, those that no other layer has
/// brought there yet.
fn bring(
    brought: &mut HashSet<ValueId>,
    change: &mut ChangeBuilder,
    id: NodeId,
    linear: &QuantizedLinear,
    operands: &[Operand],
    by_rows: bool,
) -> Result<(), TensorError> {
    let graph = change.graph();
    for at in operands.iter().map(|&operand| signature::port(operand)) {
        let value = graph.node(id).input(at).ok_or(TensorError::NotLoaded)?;
        if brought.insert(value) {
            let tensor = graph.constant(value).ok_or(TensorError::NotLoaded)?;
            let to_file = if by_rows { layout::rows_to_file } else { layout::to_file };
            change.replace_constant(value, to_file(linear, at, tensor)?);
        }
    }
    Ok(())
}

/// The attributes of the call of a layer or of a table.
fn attributes(linear: &QuantizedLinear) -> Vec<AttributeProto> {
    vec![
        attribute::int(GROUP_SIZE, linear.group_size as i64),
        attribute::int(OUTPUT_TYPE, linear.dtype as i64),
    ]
}

/// Whether the function is one of a layer in a body, whose weight is folded at once.
fn is_of_body(function: &FunctionProto) -> bool {
    let of_layer = function.domain() == FUNCTION_DOMAIN && Signature::parse(function.name()).is_some();
    of_layer && !function.attribute.iter().any(|attribute| attribute == TURN)
}

/// Whether the last byte of each row of codes in the file has one of them.
fn has_odd_rows(op: &Op) -> bool {
    matches!(op, Op::QuantizedLinear(linear) if linear.format.bits() == 4 && linear.n % 2 == 1)
}

/// The turns in which the weights of the layers are folded; none where that is at once.
fn turns_of(graph: &Graph, folding: Folding) -> HashMap<NodeId, usize> {
    if folding == Folding::AtOnce {
        return HashMap::new();
    }
    let layers = graph.nodes().filter_map(|(id, node)| match &node.op {
        Op::QuantizedLinear(linear) => Some((id, linear.k * linear.n)),
        _ => None,
    });
    let (layers, weights): (Vec<NodeId>, Vec<usize>) = layers.unzip();
    layers.into_iter().zip(turns(&weights)).collect()
}
