//! Our operators become calls of functions that the model defines itself: ONNX that stock runtimes execute.

use std::collections::{HashMap, HashSet};

use zqc_ir::op::{QuantizeActivation, QuantizedLinear, attribute, port};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Change, Graph, Model, NewNode, NodeId, Op, Patch, Tensor, ValueId};
use zqc_numerics::{Format, transpose_nibbles};

use super::functions::{self, DOMAIN, GROUP_SIZE, OUTPUT_TYPE};
use crate::pass::{Observer, Pass, PassError};

/// Turns every [`Op::QuantizeActivation`] and [`Op::QuantizedLinear`] into one call of a function of domain `ai.zqc`
/// that the model defines; the call of a linear layer is named after the layer. A bias is added after the call, in the
/// layer's own element type.
///
/// Codes and scales are transposed, so that no runtime has to: codes are packed along N, `u8 [K, ceil(N/2)]`, and scales
/// are `f32 [groups, N]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LowerPortable;

impl Pass for LowerPortable {
    fn name(&self) -> &'static str {
        "lower_portable"
    }

    fn run(&self, model: &Model, _observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut lowering = Lowering {
            graph,
            changes: Vec::new(),
            activation_scales: HashMap::new(),
            transposed: HashSet::new(),
        };
        for id in graph.order()? {
            match &graph.node(id).op {
                Op::QuantizeActivation(quantize) => lowering.quantize(id, quantize)?,
                Op::QuantizedLinear(linear) => lowering.linear(id, linear)?,
                Op::Onnx(_) | Op::Linear(_) => {}
            }
        }
        if lowering.changes.is_empty() {
            return Ok(Patch::default());
        }
        let opset = model.opset();
        if opset < functions::LEAST_OPSET {
            return Err(PassError::Unsupported {
                what: format!("opset {opset} has no FP8, which came with {}", functions::LEAST_OPSET),
                way_out: "run the pass upgrade_opset first".to_string(),
            });
        }
        let mut used = vec![functions::quantize_activation(opset)];
        if !lowering.transposed.is_empty() {
            used.extend([functions::dequantize_weight(opset), functions::linear(opset)]);
        }
        Ok(Patch {
            changes: lowering.changes,
            functions: used,
            opsets: vec![(DOMAIN.to_string(), functions::VERSION)],
            ir_version: Some(functions::LEAST_IR_VERSION),
            ..Default::default()
        })
    }
}

struct Lowering<'g> {
    graph: &'g Graph,
    changes: Vec<Change>,
    /// The names of the scales of each quantized activation.
    activation_scales: HashMap<ValueId, String>,
    /// Codes and scales that lie as the file wants them: layers may share theirs.
    transposed: HashSet<ValueId>,
}

impl Lowering<'_> {
    fn quantize(&mut self, id: NodeId, quantize: &QuantizeActivation) -> Result<(), PassError> {
        let graph = self.graph;
        if quantize.format != Format::E4M3 {
            return Err(not_portable(&graph.label(id), quantize.format));
        }
        let mut node = NewNode::restore(graph, graph.node(id));
        if let Some(codes) = graph.node(id).output(0) {
            let scales = graph.fresh_name(&format!("{}_scales", graph.value(codes).name));
            node.outputs.push(Some(scales.clone()));
            self.activation_scales.insert(codes, scales);
        }
        node.op = functions::call(functions::QUANTIZE_ACTIVATION, Vec::new());
        let why = format!("{} becomes a call of {}", graph.label(id), functions::QUANTIZE_ACTIVATION);
        self.changes.push(Change { remove: vec![id], add: vec![node], ..Change::new(why) });
        Ok(())
    }

    fn linear(&mut self, id: NodeId, linear: &QuantizedLinear) -> Result<(), PassError> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let layer = format!("layer {}", linear.layer);
        if linear.format != Format::E2M1 {
            return Err(not_portable(&layer, linear.format));
        }
        let activation_scales = node.input(port::X).and_then(|x| self.activation_scales.get(&x));
        let activation_scales = activation_scales.ok_or_else(|| PassError::Unsupported {
            what: format!("{layer} reads a float activation, which has no portable form yet"),
            way_out: "quantize activations to e4m3".to_string(),
        })?;
        let mut call = NewNode::restore(graph, node);
        call.name = linear.layer.clone();
        call.op = functions::call(
            functions::LINEAR,
            vec![
                attribute::int(GROUP_SIZE, linear.group_size as i64),
                attribute::int(OUTPUT_TYPE, linear.dtype as i64),
            ],
        );
        let bias = call.inputs.get_mut(port::QUANTIZED_BIAS).and_then(Option::take);
        call.inputs.truncate(port::QUANTIZED_BIAS);
        call.inputs.insert(port::X + 1, Some(activation_scales.clone()));
        let mut change = Change::new(format!("{layer} becomes a call of {}", functions::LINEAR));
        change.remove.push(id);
        let unreadable = |source| PassError::Weight { layer: linear.layer.clone(), source };
        change.replace = self.transpose(id, linear).map_err(unreadable)?;
        match (bias, node.output(0)) {
            (Some(bias), Some(y)) => {
                let add = self.add_bias(&mut change, linear, bias, y, &mut call).map_err(unreadable)?;
                change.add = vec![call, add];
            }
            _ => change.add = vec![call],
        }
        self.changes.push(change);
        Ok(())
    }

    /// The operands of a layer as the file wants them, those that no other layer has brought there yet.
    fn transpose(
        &mut self,
        id: NodeId,
        linear: &QuantizedLinear,
    ) -> Result<Vec<(ValueId, Tensor)>, TensorError> {
        let &QuantizedLinear { k, n, .. } = linear;
        let mut replaced = Vec::new();
        for at in [port::WEIGHT, port::SCALES] {
            let Some(value) = self.graph.node(id).input(at).filter(|&value| self.transposed.insert(value))
            else {
                continue;
            };
            let tensor = self.graph.constant(value).ok_or(TensorError::NotLoaded)?;
            let transposed = match at {
                port::WEIGHT => {
                    let codes = transpose_nibbles(&tensor.bytes()?, n, k);
                    Tensor::new(DataType::Uint8, &[k, n.div_ceil(2)], codes)?
                }
                _ => transpose_scales(tensor, n, linear.groups())?,
            };
            replaced.push((value, transposed));
        }
        Ok(replaced)
    }

    /// The `Add` that yields `y` in the place of `call`, which yields the product.
    fn add_bias(
        &self,
        change: &mut Change,
        linear: &QuantizedLinear,
        mut bias: String,
        y: ValueId,
        call: &mut NewNode,
    ) -> Result<NewNode, TensorError> {
        let graph = self.graph;
        let y = graph.value(y).name.clone();
        let product = graph.fresh_name(&format!("{y}_product"));
        call.outputs = vec![Some(product.clone())];
        if linear.beta != 1.0 {
            let value = graph.find(&bias);
            let tensor = value.and_then(|value| graph.constant(value)).ok_or(TensorError::NotLoaded)?;
            let scaled = tensor.to_f32()?.into_iter().map(|b| linear.beta * b).collect();
            bias = graph.fresh_name(&format!("{y}_bias"));
            let scaled = Tensor::from_f32_as(linear.dtype, &[linear.n], scaled)?;
            change.initializers.push((bias.clone(), scaled));
            change.release.extend(value);
        }
        Ok(NewNode {
            name: format!("{}.bias", linear.layer),
            op: Op::standard("Add", Vec::new()),
            inputs: vec![Some(product), Some(bias)],
            outputs: vec![Some(y)],
            rank: call.rank,
        })
    }
}

/// The transpose of the matrix `[rows, cols]` of scales.
pub(crate) fn transpose_scales(scales: &Tensor, rows: usize, cols: usize) -> Result<Tensor, TensorError> {
    let values = scales.to_f32()?;
    let column = |col| values.iter().skip(col).step_by(cols).copied();
    Tensor::from_f32(&[cols, rows], (0..cols).flat_map(column).collect())
}

fn not_portable(place: &str, format: Format) -> PassError {
    PassError::Unsupported {
        what: format!("{place} uses {format}, which has no portable form yet"),
        way_out: "use weights in e2m1 and activations in e4m3".to_string(),
    }
}
