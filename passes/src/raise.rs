//! What [`LowerPortable`](crate::LowerPortable) wrote becomes our operators again.

use std::collections::HashMap;

use zqc_formats::{
    ActivationFormat, FUNCTION_DOMAIN, FUNCTION_VERSION, GROUP_SIZE, OUTPUT_TYPE, Operand, Signature,
};
use zqc_ir::functions::{Functions, label};
use zqc_ir::graph::{Port, Source, Use};
use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::op::{QuantizeActivation, QuantizedLinear};
use zqc_ir::operands;
use zqc_ir::tensor::{DataType, name};
use zqc_ir::{Graph, Model, Node, NodeId, Op, Patch, PatchBuilder, Tensor, ValueId, ValueRef, opset};

use crate::lower::callee::Callee;
use crate::lower::{activation, layout, own, signature};
use crate::pass::{Context, Pass, PassError};

/// The inverse of [`LowerPortable`](crate::LowerPortable): calls of the functions of domain `ai.zqc` become
/// [`Op::QuantizeActivation`], [`Op::QuantizedLinear`] and [`Op::QuantizedGather`], and the functions go. A layer is called what its call is. Our
/// functions are known by what they compute: one of their names with another body is refused, and other functions of the
/// domain stay.
///
/// The bias of a layer stays the `Add` that it was lowered to.
#[derive(Debug, Clone, Copy, Default)]
pub struct RaisePortable;

impl Pass for RaisePortable {
    fn name(&self) -> &'static str {
        "raise_portable"
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        if let Some(foreign) = model.header.functions.iter().find(|function| own::is_foreign(function)) {
            return Err(PassError::Unsupported {
                what: format!(
                    "the model's function {} has the name of one that zqc writes, and is another",
                    label(foreign)
                ),
                way_out: format!(
                    "if it is to be another, give it another domain than {FUNCTION_DOMAIN}; if not, the file was damaged or edited, \
                     or is of a newer zqc"
                ),
            });
        }
        if let Some(old) = model.header.functions.iter().find(|function| own::is_old(function)) {
            return Err(PassError::Unsupported {
                what: format!("the model calls {}, as zqc named it before 28 November 2026", label(old)),
                way_out: "compile the float model again; the file itself runs as before".to_string(),
            });
        }
        let Some(version) = opset::version(&model.header.opset_import, FUNCTION_DOMAIN) else {
            return Ok(Patch::default());
        };
        if version != FUNCTION_VERSION {
            return Err(PassError::Unsupported {
                what: format!("the model uses version {version} of {FUNCTION_DOMAIN}"),
                way_out: format!("this zqc knows version {}: use the one that wrote it", FUNCTION_VERSION),
            });
        }
        let defined = Functions::new(&model.header.functions);
        let mut raising =
            Raising { graph: &model.graph, patch: PatchBuilder::new(&model.graph), brought: HashMap::new() };
        for id in model.graph.order()? {
            let Op::Onnx(call) = &model.graph.node(id).op else { continue };
            match defined.called(call) {
                Some(function) if own::is_ours(function) => raising.call(id, call)?,
                None if call.domain() == FUNCTION_DOMAIN => return Err(undefined(&model.graph, id)),
                _ => {}
            }
        }
        let others = || model.header.functions.iter().filter(|function| !own::is_ours(function));
        let stays = others().any(|function| function.domain() == FUNCTION_DOMAIN)
            || others().flat_map(|function| &function.node).any(calls_us)
            || model.graph.regions().flat_map(|(_, region)| region.nodes_within()).any(is_call);
        let forget = if stays { Vec::new() } else { vec![FUNCTION_DOMAIN.to_string()] };
        Ok(Patch { forget, ..raising.patch.finish() })
    }
}

fn undefined(graph: &Graph, id: NodeId) -> PassError {
    let reason = "the model does not define the function that it calls".to_string();
    PassError::Malformed { node: graph.label(id), reason }
}

/// Whether the node calls one of our functions.
fn is_call(node: &Node) -> bool {
    matches!(&node.op, Op::Onnx(call) if call.domain() == FUNCTION_DOMAIN)
}

/// Whether `node`, or one in a body of it, calls one of our functions.
fn calls_us(node: &NodeProto) -> bool {
    node.domain() == FUNCTION_DOMAIN || node.bodies().flat_map(|body| &body.node).any(calls_us)
}

struct Raising<'g> {
    graph: &'g Graph,
    patch: PatchBuilder<'g>,
    /// The operands in the form that our operators want: layers may share theirs, and one that a subgraph reads stays beside it
    /// as it is.
    brought: HashMap<ValueId, ValueRef>,
}

impl<'g> Raising<'g> {
    fn call(&mut self, id: NodeId, call: &NodeProto) -> Result<(), PassError> {
        let function = call.op_type();
        let raised = match (activation::parse(function), Callee::parse(function)) {
            (Some(format), _) => self.quantize(id, format),
            (None, Some(callee)) => self.weighted(id, call, callee),
            (None, None) => {
                Err(format!("{FUNCTION_DOMAIN} has no function {function} that a graph may call"))
            }
        };
        raised.map_err(|reason| PassError::Malformed { node: self.graph.label(id), reason })
    }

    fn quantize(&mut self, id: NodeId, format: ActivationFormat) -> Result<(), String> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let x = node.input(0).ok_or("it has no input")?;
        let codes = node.output(0).ok_or("it has no output")?;
        let part = |at| {
            move |reader: Callee, input| match reader {
                Callee::Linear(signature) => signature.activation == Some(format) && input == at,
                Callee::Gather(_) => false,
            }
        };
        for (at, value) in node.outputs().iter().enumerate() {
            if value.is_some_and(|value| self.is_captured(value) || !self.is_read_only(value, part(at))) {
                return Err(format!(
                    "its output {at} is read by something else than layers of {format} activations"
                ));
            }
        }
        let why = format!("{} is a token-wise quantization", graph.label(id));
        let mut change = self.patch.change_of(id, why);
        let quantize = change.node(Op::QuantizeActivation(QuantizeActivation { format }), [Some(x.into())]);
        quantize.in_place_of(id).defines([Some(codes.into())]);
        change.remove(id);
        change.finish();
        Ok(())
    }

    /// A layer, or a look-up in a table.
    fn weighted(&mut self, id: NodeId, call: &NodeProto, callee: Callee) -> Result<(), String> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let x = match callee {
            Callee::Linear(signature) => self.activation(node, signature)?,
            Callee::Gather(_) => node.input(0).ok_or("it has no input 0")?,
        };
        let y = node.output(0).ok_or("it has no output")?;
        let mut operands = Vec::new();
        for (operand, input) in callee.operands().into_iter().zip(callee.first_operand()..) {
            let value = node.input(input).ok_or_else(|| format!("it has no input {input}"))?;
            let tensor = graph.constant(value).ok_or_else(|| format!("its input {input} is no constant"))?;
            operands.push((operand, input, value, tensor));
        }
        let dim = |wanted, axis: usize| {
            let found = operands.iter().find(|(operand, ..)| *operand == wanted);
            let dim = found.and_then(|(.., tensor)| tensor.dims().get(axis).copied());
            dim.map_or(0, |dim| usize::try_from(dim).unwrap_or(0))
        };
        let weight = callee.weight();
        let (k, n) = match callee.by_rows() {
            true => (dim(Operand::Weight, 1), dim(Operand::Weight, 0)),
            false => (dim(Operand::Weight, 0), dim(Operand::Scales, 1)),
        };
        let linear = QuantizedLinear {
            layer: node.name.clone(),
            k,
            n,
            format: weight.format,
            group_size: group_size(call)?,
            ladder: weight.ladder(),
            rank: dim(Operand::LowRankScales, 0),
            beta: 1.0,
            dtype: output_type(call)?,
        };
        if k.saturating_mul(n) == 0 {
            return Err("its weight has no elements".to_string());
        }
        let mut brought = Vec::new();
        for &(operand, input, value, tensor) in &operands {
            let (dtype, dims) = callee.file_type(operand, &linear);
            check(tensor, dtype, &dims).map_err(|reason| format!("its input {input} is {reason}"))?;
            if self.brought.contains_key(&value) {
                continue;
            }
            let same = |reader: Callee, input| {
                reader.operand(input) == Some(operand) && reader.by_rows() == callee.by_rows()
            };
            if !self.is_read_only(value, same) {
                return Err(format!("its input {input} is read by something else than layers too"));
            }
            let to_graph = if callee.by_rows() { layout::rows_to_graph } else { layout::to_graph };
            let tensor = to_graph(&linear, signature::port(operand), tensor);
            brought.push((value, self.is_captured(value), tensor.map_err(|error| error.to_string())?));
        }
        let mut change = self.patch.change_of(id, format!("{} has a quantized weight", graph.label(id)));
        for (value, is_captured, tensor) in brought {
            let operand = if is_captured {
                change.constant(&graph.value(value).name, tensor)
            } else {
                change.replace_constant(value, tensor);
                value.into()
            };
            self.brought.insert(value, operand);
        }
        let ports = operands
            .iter()
            .map(|&(operand, _, value, _)| (signature::port(operand), self.brought[&value].clone()));
        let inputs = operands::inputs(x.into(), ports, None);
        let op = match callee {
            Callee::Linear(_) => Op::QuantizedLinear(linear),
            Callee::Gather(_) => Op::QuantizedGather(linear),
        };
        change.node(op, inputs).in_place_of(id).defines([Some(y.into())]);
        change.remove(id);
        change.finish();
        Ok(())
    }

    /// The activation that a linear layer reads, when the inputs that stand for it are what one call yields.
    fn activation(&self, linear: &Node, signature: Signature) -> Result<ValueId, String> {
        let x = linear.input(0).ok_or("it has no input 0")?;
        let Some(format) = signature.activation else { return Ok(x) };
        let producer = self
            .graph
            .producer(x)
            .filter(|&producer| self.function(producer) == Some(&format.quantize_function()));
        let yielded = |at: usize| {
            let part = linear.input(at).map(|value| self.graph.source(value));
            part == producer.map(|node| Source::Node { node, port: at })
        };
        if producer.is_some() && (0..signature.activation_inputs().len()).all(yielded) {
            Ok(x)
        } else {
            Err(format!("its activation is not what one {} yields", format.quantize_function()))
        }
    }

    /// Whether every reader of `value` but regions is a function of ours that reads it as `wanted` of it and of the input.
    fn is_read_only(&self, value: ValueId, wanted: impl Fn(Callee, usize) -> bool) -> bool {
        let reads = |place: &Use| match (place.port, self.function(place.node)) {
            (Port::Input(at), Some(function)) => {
                Callee::parse(function).is_some_and(|callee| wanted(callee, at))
            }
            (Port::Capture, _) => true,
            _ => false,
        };
        !self.graph.is_output(value) && self.graph.uses(value).iter().all(reads)
    }

    /// Whether another graph has the value too: this is a region and it comes from around, or a region reads it.
    fn is_captured(&self, value: ValueId) -> bool {
        self.graph.source(value) == Source::Capture
            || self.graph.uses(value).iter().any(|place| place.port == Port::Capture)
    }

    /// The name of our function that the node calls, if it is a call of one.
    fn function(&self, id: NodeId) -> Option<&'g str> {
        match &self.graph.node(id).op {
            Op::Onnx(call) if call.domain() == FUNCTION_DOMAIN => Some(call.op_type()),
            _ => None,
        }
    }
}

/// The positive attribute [`GROUP_SIZE`] of a call.
fn group_size(call: &NodeProto) -> Result<usize, String> {
    let size = usize::try_from(call.int_or(GROUP_SIZE, 0)).ok().filter(|&size| size > 0);
    size.ok_or_else(|| format!("its {GROUP_SIZE} is missing or not positive"))
}

/// The floating-point type that the attribute [`OUTPUT_TYPE`] of a call names.
fn output_type(call: &NodeProto) -> Result<DataType, String> {
    let code = i32::try_from(call.int_or(OUTPUT_TYPE, 0)).ok();
    let dtype = code.and_then(|code| DataType::try_from(code).ok()).filter(|dtype| {
        matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
    });
    dtype.ok_or_else(|| format!("its {OUTPUT_TYPE} is missing or no floating-point type"))
}

/// Checks that an operand has the type and the dimensions that the others ask for.
fn check(tensor: &Tensor, dtype: DataType, dims: &[usize]) -> Result<(), String> {
    let fits = tensor.dtype() == Ok(dtype)
        && tensor.dims().iter().map(|&dim| usize::try_from(dim).ok()).eq(dims.iter().copied().map(Some));
    if fits {
        return Ok(());
    }
    let found = tensor.dtype().map_or("?", name);
    Err(format!("{found} {:?}, and {} {dims:?} fits its other operands", tensor.dims(), name(dtype)))
}
