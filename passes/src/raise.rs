//! What [`LowerPortable`](crate::LowerPortable) wrote becomes our operators again.

use std::collections::HashSet;

use zqc_ir::graph::{Port, Source};
use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::op::{QuantizeActivation, QuantizedLinear};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Change, Graph, Model, NewNode, Node, NodeId, Op, Patch, Tensor, ValueId};
use zqc_numerics::{Format, transpose_nibbles};

use crate::lower::functions::{self, DOMAIN, GROUP_SIZE, OUTPUT_TYPE};
use crate::lower::transpose_scales;
use crate::pass::{Observer, Pass, PassError};

/// The inverse of [`LowerPortable`](crate::LowerPortable): calls of the functions of domain `ai.zqc` become
/// [`Op::QuantizeActivation`] and [`Op::QuantizedLinear`], and the functions go. A layer is called what its call is.
///
/// The bias of a layer stays the `Add` that it was lowered to.
#[derive(Debug, Clone, Copy, Default)]
pub struct RaisePortable;

/// The ports of a call of [`functions::LINEAR`].
mod call_port {
    pub(super) const CODES: usize = 0;
    pub(super) const CODE_SCALES: usize = 1;
    pub(super) const WEIGHT: usize = 2;
    pub(super) const WEIGHT_SCALES: usize = 3;
}

impl Pass for RaisePortable {
    fn name(&self) -> &'static str {
        "raise_portable"
    }

    fn run(&self, model: &Model, _observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let Some(import) = model.header.opset_import.iter().find(|import| import.domain() == DOMAIN) else {
            return Ok(Patch::default());
        };
        if import.version() != functions::VERSION {
            return Err(PassError::Unsupported {
                what: format!("the model uses version {} of {DOMAIN}", import.version()),
                way_out: format!("this zqc knows version {}: use the one that wrote it", functions::VERSION),
            });
        }
        let mut raising = Raising { graph: &model.graph, changes: Vec::new(), transposed: HashSet::new() };
        for id in model.graph.order()? {
            match &model.graph.node(id).op {
                Op::Onnx(call) if call.domain() == DOMAIN => raising.call(id, call)?,
                _ => {}
            }
        }
        let users = model.header.functions.iter().filter(|function| function.domain() != DOMAIN);
        let inner = users.flat_map(|function| &function.node).any(calls_us)
            || model.graph.nodes().any(|(_, node)| match &node.op {
                Op::Onnx(proto) => proto.bodies().flat_map(|body| &body.node).any(calls_us),
                _ => false,
            });
        let forget = if inner { Vec::new() } else { vec![DOMAIN.to_string()] };
        Ok(Patch { changes: raising.changes, forget, ..Default::default() })
    }
}

/// Whether `node`, or one in a body of it, calls one of our functions.
fn calls_us(node: &NodeProto) -> bool {
    node.domain() == DOMAIN || node.bodies().flat_map(|body| &body.node).any(calls_us)
}

struct Raising<'g> {
    graph: &'g Graph,
    changes: Vec<Change>,
    /// Codes and scales that lie as our operators want them: layers may share theirs.
    transposed: HashSet<ValueId>,
}

impl<'g> Raising<'g> {
    fn call(&mut self, id: NodeId, call: &NodeProto) -> Result<(), PassError> {
        let raised = match call.op_type() {
            functions::QUANTIZE_ACTIVATION => self.quantize(id),
            functions::LINEAR => self.linear(id, call),
            other => Err(format!("{DOMAIN} has no function {other} that a graph may call")),
        };
        let change = raised.map_err(|reason| PassError::Malformed { node: self.graph.label(id), reason })?;
        self.changes.push(change);
        Ok(())
    }

    fn quantize(&mut self, id: NodeId) -> Result<Change, String> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let x = node.input(0).ok_or("it has no input")?;
        let codes = node.output(0).ok_or("it has no output")?;
        for (at, value) in node.outputs().iter().enumerate() {
            if value.is_some_and(|value| !self.is_read_only_as(value, at)) {
                return Err(format!("its output {at} is read by something else than {}", functions::LINEAR));
            }
        }
        let name = |value| Some(graph.value(value).name.clone());
        Ok(Change {
            remove: vec![id],
            add: vec![NewNode {
                name: node.name.clone(),
                op: Op::QuantizeActivation(QuantizeActivation { format: Format::E4M3 }),
                inputs: vec![name(x)],
                outputs: vec![name(codes)],
                rank: node.rank(),
            }],
            ..Change::new(format!("{} is a token-wise quantization", graph.label(id)))
        })
    }

    fn linear(&mut self, id: NodeId, call: &NodeProto) -> Result<Change, String> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let x = self.quantized_activation(node)?;
        let y = node.output(0).ok_or("it has no output")?;
        let group_size = usize::try_from(call.int_or(GROUP_SIZE, 0)).unwrap_or_default();
        if group_size == 0 {
            return Err(format!("its {GROUP_SIZE} is missing or not positive"));
        }
        let output_type = i32::try_from(call.int_or(OUTPUT_TYPE, 0)).ok();
        let dtype = output_type.and_then(|code| DataType::try_from(code).ok()).filter(|dtype| {
            matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
        });
        let dtype = dtype.ok_or_else(|| format!("its {OUTPUT_TYPE} is missing or no floating-point type"))?;
        let (codes, packed, [k, row_bytes]) = self.matrix(node, call_port::WEIGHT, DataType::Uint8)?;
        let (scales, scale, [groups, n]) = self.matrix(node, call_port::WEIGHT_SCALES, DataType::Float)?;
        if row_bytes != n.div_ceil(2) || groups != k.div_ceil(group_size) || groups * n == 0 {
            return Err(format!(
                "codes [{k}, {row_bytes}], scales [{groups}, {n}] and {GROUP_SIZE} {group_size} do not fit together"
            ));
        }
        let unreadable = |error: TensorError| error.to_string();
        let mut change = Change::new(format!("{} is a quantized linear layer", graph.label(id)));
        change.remove.push(id);
        if self.transposed.insert(codes) {
            let transposed = transpose_nibbles(&packed.bytes().map_err(unreadable)?, k, n);
            let tensor = Tensor::new(DataType::Uint8, &[n, k.div_ceil(2)], transposed);
            change.replace.push((codes, tensor.map_err(unreadable)?));
        }
        if self.transposed.insert(scales) {
            change.replace.push((scales, transpose_scales(scale, groups, n).map_err(unreadable)?));
        }
        let name = |value| Some(graph.value(value).name.clone());
        change.add.push(NewNode {
            name: node.name.clone(),
            op: Op::QuantizedLinear(QuantizedLinear {
                layer: node.name.clone(),
                k,
                n,
                format: Format::E2M1,
                group_size,
                beta: 1.0,
                dtype,
            }),
            inputs: vec![name(x), name(codes), name(scales)],
            outputs: vec![name(y)],
            rank: node.rank(),
        });
        Ok(change)
    }

    /// The codes that a linear layer reads, when its scales are those that belong to them.
    fn quantized_activation(&self, linear: &Node) -> Result<ValueId, String> {
        let codes = linear.input(call_port::CODES);
        let scales = linear.input(call_port::CODE_SCALES);
        let source = |value: Option<ValueId>| value.map(|value| self.graph.source(value));
        match (codes, source(codes), source(scales)) {
            (
                Some(codes),
                Some(Source::Node { node: producer, port: call_port::CODES }),
                Some(Source::Node { node: other, port: call_port::CODE_SCALES }),
            ) if producer == other && self.is_call(producer, functions::QUANTIZE_ACTIVATION) => Ok(codes),
            _ => Err(format!("its activation is not what one {} yields", functions::QUANTIZE_ACTIVATION)),
        }
    }

    /// The constant matrix of type `dtype` at input `at`, which nothing but linear layers reads.
    fn matrix(
        &self,
        linear: &Node,
        at: usize,
        dtype: DataType,
    ) -> Result<(ValueId, &'g Tensor, [usize; 2]), String> {
        let value = linear.input(at).ok_or_else(|| format!("it has no input {at}"))?;
        let tensor = self.graph.constant(value).filter(|tensor| tensor.dtype() == Ok(dtype));
        let matrix = tensor.and_then(|tensor| Some((value, tensor, tensor.matrix_dims()?)));
        let name = zqc_ir::tensor::name(dtype);
        let matrix = matrix.ok_or_else(|| format!("its input {at} is no constant {name} matrix"))?;
        if !self.is_read_only_as(value, at) {
            return Err(format!("its input {at} is read by something else than {}", functions::LINEAR));
        }
        Ok(matrix)
    }

    /// Whether every reader of `value` is a linear layer that reads it as its input `at`.
    fn is_read_only_as(&self, value: ValueId, at: usize) -> bool {
        let linear = |node| self.is_call(node, functions::LINEAR);
        !self.graph.is_output(value)
            && self.graph.uses(value).iter().all(|place| place.port == Port::Input(at) && linear(place.node))
    }

    fn is_call(&self, id: NodeId, function: &str) -> bool {
        match &self.graph.node(id).op {
            Op::Onnx(call) => call.domain() == DOMAIN && call.op_type() == function,
            _ => false,
        }
    }
}
