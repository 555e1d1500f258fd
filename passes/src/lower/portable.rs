//! Our operators become calls of functions that the model defines itself: ONNX that stock runtimes execute.

use std::collections::{HashMap, HashSet};

use zqc_ir::onnx::proto::{AttributeProto, FunctionProto};
use zqc_ir::op::{QuantizeActivation, QuantizedLinear, attribute, port};
use zqc_ir::tensor::TensorError;
use zqc_ir::{Change, FreshNames, Graph, Model, NewNode, NodeId, Op, Patch, Tensor, ValueId};
use zqc_numerics::{FUNCTION_DOMAIN, FUNCTION_VERSION, GROUP_SIZE, OUTPUT_TYPE, Operand, Signature};

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
            names: FreshNames::new(graph),
            changes: Vec::new(),
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
            changes: lowering.changes,
            functions: lowering.functions,
            opsets: vec![(FUNCTION_DOMAIN.to_string(), FUNCTION_VERSION)],
            ir_version: Some(functions::LEAST_IR_VERSION),
            ..Default::default()
        })
    }
}

struct Lowering<'g> {
    graph: &'g Graph,
    names: FreshNames<'g>,
    changes: Vec<Change>,
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
    activations: HashMap<ValueId, Vec<String>>,
    /// Operands that lie as the file wants them: layers may share theirs.
    brought: HashSet<ValueId>,
}

impl Lowering<'_> {
    fn quantize(&mut self, id: NodeId, quantize: &QuantizeActivation) {
        let (graph, format) = (self.graph, quantize.format);
        let mut node = NewNode::restore(graph, graph.node(id));
        if let Some(quantized) = graph.node(id).output(0) {
            let codes = &graph.value(quantized).name;
            let parts = ["_scales", "_zero_points"].map(|part| self.names.fresh(&format!("{codes}{part}")));
            let mut names: Vec<String> = [codes.clone()].into_iter().chain(parts).collect();
            names.truncate(format.quantized().len());
            node.outputs = names.iter().cloned().map(Some).collect();
            self.activations.insert(quantized, names);
        }
        let function = format.quantize_function();
        node.op = functions::call(&function, Vec::new());
        let why = format!("{} becomes a call of {function}", graph.label(id));
        self.changes.push(Change { remove: vec![id], add: vec![node], ..Change::new(why) });
        self.define(activation::definition(format, self.opset));
    }

    fn linear(&mut self, id: NodeId, linear: &QuantizedLinear) -> Result<(), PassError> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let unreadable = |source| PassError::Weight { layer: linear.layer.clone(), source };
        let signature = signature::of(graph, node, linear).map_err(unreadable)?;
        let mut call = NewNode::restore(graph, node);
        call.name = linear.layer.clone();
        let mut attributes = attributes(linear);
        attributes.extend(self.turns.get(&id).map(|&turn| attribute::int(TURN, turn as i64)));
        call.op = functions::call(&signature.name(), attributes);
        let activation = node.input(port::X).and_then(|x| self.activations.get(&x));
        let activation = match activation {
            Some(names) => names.iter().cloned().map(Some).collect(),
            None => vec![call.inputs[port::X].take()],
        };
        let operands = signature.operands().map(|operand| call.inputs[signature::port(operand)].take());
        call.inputs = activation.into_iter().chain(operands).collect();
        let mut change =
            Change::new(format!("layer {} becomes a call of {}", linear.layer, signature.name()));
        change.remove.push(id);
        let operands: Vec<Operand> = signature.operands().collect();
        change.replace = self.bring(id, linear, &operands, signature.trans_b).map_err(unreadable)?;
        change.add.push(call);
        if let (Some(bias), Some(y)) = (node.input(port::QUANTIZED_BIAS), node.output(0)) {
            bias::add(graph, &self.names, &mut change, linear, bias, y).map_err(unreadable)?;
        }
        self.changes.push(change);
        self.define(signature::weight_definition(signature, self.folding, self.opset));
        self.define(signature::definition(signature, self.folding, self.opset));
        Ok(())
    }

    fn gather(&mut self, id: NodeId, table: &QuantizedLinear) -> Result<(), PassError> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let Some(kind) = gather::kind(table) else {
            return Err(PassError::Unsupported {
                what: format!("table {} has {} codes that no function looks up", table.layer, table.format),
                way_out: "leave it in float".to_string(),
            });
        };
        let mut call = NewNode::restore(graph, node);
        let function = kind.gather_function();
        call.name = table.layer.clone();
        call.op = functions::call(&function, attributes(table));
        let operands: Vec<Operand> = kind.operands().collect();
        let ports = [port::X].into_iter().chain(operands.iter().map(|&operand| signature::port(operand)));
        call.inputs = ports.map(|port| call.inputs[port].take()).collect();
        let unreadable = |source| PassError::Weight { layer: table.layer.clone(), source };
        let replace = self.bring(id, table, &operands, true).map_err(unreadable)?;
        let why = format!("table {} becomes a call of {function}", table.layer);
        self.changes.push(Change { remove: vec![id], add: vec![call], replace, ..Change::new(why) });
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

    /// The operands of a layer as the file wants them, row by row or transposed, those that no other layer has brought there
    /// yet.
    fn bring(
        &mut self,
        id: NodeId,
        linear: &QuantizedLinear,
        operands: &[Operand],
        by_rows: bool,
    ) -> Result<Vec<(ValueId, Tensor)>, TensorError> {
        let mut replaced = Vec::new();
        for at in operands.iter().map(|&operand| signature::port(operand)) {
            let value = self.graph.node(id).input(at).ok_or(TensorError::NotLoaded)?;
            if self.brought.insert(value) {
                let tensor = self.graph.constant(value).ok_or(TensorError::NotLoaded)?;
                let to_file = if by_rows { layout::rows_to_file } else { layout::to_file };
                replaced.push((value, to_file(linear, at, tensor)?));
            }
        }
        Ok(replaced)
    }
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
