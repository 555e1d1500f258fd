//! Our operators become calls of functions that the model defines itself: ONNX that stock runtimes execute.

use std::collections::{HashMap, HashSet};

use zqc_ir::onnx::proto::FunctionProto;
use zqc_ir::op::{QuantizeActivation, QuantizedLinear, attribute, port};
use zqc_ir::tensor::TensorError;
use zqc_ir::{Change, FreshNames, Graph, Model, NewNode, NodeId, Op, Patch, Tensor, ValueId};

use super::functions::{self, DOMAIN, GROUP_SIZE, OUTPUT_TYPE};
use super::signature::Signature;
use super::{activation, bias, layout};
use crate::pass::{Observer, Pass, PassError};

/// Turns every [`Op::QuantizeActivation`] and [`Op::QuantizedLinear`] into one call of a function of domain `ai.zqc`
/// that the model defines, `QuantizeActivationE4M3` or `W4A8Linear` for example; the call of a linear layer is named after
/// the layer. A bias is added after the call, in the layer's own element type.
///
/// Operands are transposed, so that no runtime has to: 4-bit codes are packed along N, `u8 [K, ceil(N/2)]`, and scales are
/// `f32 [groups, N]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LowerPortable {
    /// Whether ONNX Runtime is to fold a weight at once, which takes twice the memory while it loads the model, and not in steps.
    /// So it must be in the bodies of `If`, `Loop` and `Scan`: the steps are an `If` each, and ONNX Runtime does not
    /// inline those of an `If` whose condition is constant.
    pub at_once: bool,
}

impl Pass for LowerPortable {
    fn name(&self) -> &'static str {
        "lower_portable"
    }

    fn run(&self, model: &Model, _observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let ours = |op: &Op| matches!(op, Op::QuantizeActivation(_) | Op::QuantizedLinear(_));
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
        let mut lowering = Lowering {
            graph,
            names: FreshNames::new(graph),
            changes: Vec::new(),
            known: &model.header.functions,
            functions: Vec::new(),
            at_once: self.at_once,
            opset,
            activations: HashMap::new(),
            transposed: HashSet::new(),
        };
        for id in graph.order()? {
            match &graph.node(id).op {
                Op::QuantizeActivation(quantize) => lowering.quantize(id, quantize),
                Op::QuantizedLinear(linear) => lowering.linear(id, linear)?,
                Op::Onnx(_) | Op::Linear(_) => {}
            }
        }
        Ok(Patch {
            changes: lowering.changes,
            functions: lowering.functions,
            opsets: vec![(DOMAIN.to_string(), functions::VERSION)],
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
    /// Whether weights are folded at once.
    at_once: bool,
    /// The version of the standard operators that their bodies consist of.
    opset: i64,
    /// What stands for each quantized activation: codes, scales, and zero points of integers.
    activations: HashMap<ValueId, Vec<String>>,
    /// Operands that lie as the file wants them: layers may share theirs.
    transposed: HashSet<ValueId>,
}

impl Lowering<'_> {
    fn quantize(&mut self, id: NodeId, quantize: &QuantizeActivation) {
        let (graph, format) = (self.graph, quantize.format);
        let mut node = NewNode::restore(graph, graph.node(id));
        if let Some(quantized) = graph.node(id).output(0) {
            let codes = &graph.value(quantized).name;
            let parts = ["_scales", "_zero_points"].map(|part| self.names.fresh(&format!("{codes}{part}")));
            let mut names: Vec<String> = [codes.clone()].into_iter().chain(parts).collect();
            names.truncate(activation::outputs(format).len());
            node.outputs = names.iter().cloned().map(Some).collect();
            self.activations.insert(quantized, names);
        }
        let function = activation::name(format);
        node.op = functions::call(&function, Vec::new());
        let why = format!("{} becomes a call of {function}", graph.label(id));
        self.changes.push(Change { remove: vec![id], add: vec![node], ..Change::new(why) });
        self.define(activation::definition(format, self.opset));
    }

    fn linear(&mut self, id: NodeId, linear: &QuantizedLinear) -> Result<(), PassError> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let unreadable = |source| PassError::Weight { layer: linear.layer.clone(), source };
        let signature = Signature::of(graph, node, linear).map_err(unreadable)?;
        let mut call = NewNode::restore(graph, node);
        call.name = linear.layer.clone();
        call.op = functions::call(
            &signature.name(),
            vec![
                attribute::int(GROUP_SIZE, linear.group_size as i64),
                attribute::int(OUTPUT_TYPE, linear.dtype as i64),
            ],
        );
        let activation = node.input(port::X).and_then(|x| self.activations.get(&x));
        let activation = match activation {
            Some(names) => names.iter().cloned().map(Some).collect(),
            None => vec![call.inputs[port::X].take()],
        };
        let operands = signature.operands().into_iter().map(|(at, _)| call.inputs[at].take());
        call.inputs = activation.into_iter().chain(operands).collect();
        let mut change =
            Change::new(format!("layer {} becomes a call of {}", linear.layer, signature.name()));
        change.remove.push(id);
        change.replace = self.transpose(id, linear, signature).map_err(unreadable)?;
        change.add.push(call);
        if let (Some(bias), Some(y)) = (node.input(port::QUANTIZED_BIAS), node.output(0)) {
            bias::add(graph, &self.names, &mut change, linear, bias, y).map_err(unreadable)?;
        }
        self.changes.push(change);
        self.define(signature.dequantize_definition(self.opset, self.at_once));
        self.define(signature.definition(self.opset));
        Ok(())
    }

    /// Notes that a function is called.
    fn define(&mut self, function: FunctionProto) {
        let mut known = self.known.iter().chain(&self.functions);
        if !known.any(|known| known.domain() == DOMAIN && known.name() == function.name()) {
            self.functions.push(function);
        }
    }

    /// The operands of a layer as the file wants them, those that no other layer has brought there yet.
    fn transpose(
        &mut self,
        id: NodeId,
        linear: &QuantizedLinear,
        signature: Signature,
    ) -> Result<Vec<(ValueId, Tensor)>, TensorError> {
        let mut replaced = Vec::new();
        for (at, _) in signature.operands() {
            let value = self.graph.node(id).input(at).ok_or(TensorError::NotLoaded)?;
            if self.transposed.insert(value) {
                let tensor = self.graph.constant(value).ok_or(TensorError::NotLoaded)?;
                replaced.push((value, layout::to_file(linear, at, tensor)?));
            }
        }
        Ok(replaced)
    }
}
