//! `Attention` of ONNX Runtime becomes a linear layer and what follows it.

use std::collections::HashMap;

use zqc_ir::onnx::proto::AttributeProto;
use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType;
use zqc_ir::{ChangeBuilder, Graph, Model, NodeId, Op, Patch, PatchBuilder, ValueId, ValueRef};

use crate::attention::{Mask, PackedAttention};
use crate::contrib::microsoft;
use crate::layer_path::LayerPaths;
use crate::pass::{Context, Pass, PassError};
use crate::select::Select;

/// Since this opset `Split` and `Unsqueeze` read what was an attribute before.
const READS_AXES: i64 = 13;

/// Turns every `Attention` of com.microsoft with a constant weight into `MatMul`, `Add` of its bias and
/// `MultiHeadAttention`, if `select` quantizes the weight.
///
/// A mask of sequence ends becomes one of keys, `[batch, keys]`, which more runtimes take. Keys and values of earlier tokens,
/// which lie in one tensor, are taken apart and put together again.
#[derive(Debug, Clone, Default)]
pub struct ExpandAttention {
    /// Which layers are quantized.
    pub select: Select,
}

impl Pass for ExpandAttention {
    fn name(&self) -> &'static str {
        "expand_attention"
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut patch = PatchBuilder::new(graph);
        let (mut paths, mut masks) = (LayerPaths::default(), HashMap::new());
        for id in graph.order()? {
            let Some(Ok(attention)) = PackedAttention::of(graph, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, attention.root);
            let by_name = [path.as_str(), &node.name, &graph.value(attention.root).name];
            if self.select.reason_to_keep(&by_name, attention.features()).is_none() {
                let change = patch.change_of(id, format!("{path} yields queries, keys and values"));
                let expansion = Expansion { graph, id, opset: model.opset(), attention: &attention, change };
                expansion.write(&path, &mut masks);
            }
        }
        Ok(patch.finish())
    }
}

struct Expansion<'p, 'g> {
    graph: &'g Graph,
    id: NodeId,
    opset: i64,
    attention: &'p PackedAttention,
    change: ChangeBuilder<'p, 'g>,
}

impl Expansion<'_, '_> {
    /// `masks` are the masks of keys that are there already, by the ends that they were made of.
    fn write(mut self, path: &str, masks: &mut HashMap<ValueId, ValueRef>) {
        let attention = self.attention;
        let node = self.graph.node(self.id);
        let product = self.change.op("MatMul", [attention.x.into(), attention.weight.into()]);
        let mut packed = product.named(format!("{path}/MatMul")).output("product");
        if let Some(bias) = attention.bias {
            packed = self.change.op("Add", [packed, bias.into()]).output("sum");
        }
        let mut inputs: Vec<Option<ValueRef>> = self.parts(packed).into_iter().map(Some).collect();
        let mask = match attention.mask {
            Mask::None => None,
            Mask::Raw(mask) => Some(mask.into()),
            Mask::Ends(ends) => Some(masks.entry(ends).or_insert_with(|| self.mask(ends)).clone()),
        };
        inputs.extend([None, mask, attention.attention_bias.map(ValueRef::from)]);
        if let Some(past) = attention.past {
            inputs.extend([0, 1].map(|half| Some(self.half(past, half))));
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let attribute = |name: &str| match &node.op {
            Op::Onnx(proto) => proto.find_attribute(name).cloned(),
            _ => None,
        };
        let attributes: Vec<AttributeProto> = PackedAttention::shared().filter_map(attribute).collect();
        let present = node.output(1);
        let caches = present.map(|_| ["keys", "values"].map(|part| self.change.value(part)));
        let outputs = [node.output(0).map(ValueRef::from)].into_iter();
        let outputs = outputs.chain(caches.iter().flatten().cloned().map(Some)).collect::<Vec<_>>();
        let op = microsoft("MultiHeadAttention", attributes);
        self.change.node(op, inputs).in_place_of(self.id).defines(outputs);
        if let (Some(present), Some(caches)) = (present, caches) {
            let halves = caches.map(|half| self.unsqueezed(half, 0));
            self.change.op("Concat", halves).with([int("axis", 0)]).defines([Some(present.into())]);
        }
        self.change.remove(self.id);
        self.change.remove_if_unused(node.reads());
        self.change.finish();
    }

    /// Queries, keys and values.
    fn parts(&mut self, packed: ValueRef) -> [ValueRef; 3] {
        let sizes = self.attention.sizes;
        let (axis, parts) = (int("axis", -1), ["query", "key", "value"]);
        if self.opset < READS_AXES {
            return self.change.op("Split", [packed]).with([axis, ints("split", &sizes)]).outputs(parts);
        }
        let sizes = self.change.integers(&[3], &sizes);
        self.change.op("Split", [packed, sizes]).with([axis]).outputs(parts)
    }

    /// Keys or values of earlier tokens.
    fn half(&mut self, past: ValueId, half: i64) -> ValueRef {
        let index = self.change.integers(&[], &[half]);
        let gather = self.change.op("Gather", [past.into(), index]).with([int("axis", 0)]);
        gather.output(&format!("past.{half}"))
    }

    fn unsqueezed(&mut self, value: ValueRef, axis: i64) -> ValueRef {
        if self.opset < READS_AXES {
            let unsqueeze = self.change.op("Unsqueeze", [value]).with([ints("axes", &[axis])]);
            return unsqueeze.output("unsqueezed");
        }
        let axes = self.change.integers(&[1], &[axis]);
        self.change.op("Unsqueeze", [value, axes]).output("unsqueezed")
    }

    /// The mask `[batch, keys]` of the keys before the ends and, if the beginnings follow them, not before those.
    fn mask(&mut self, ends: ValueId) -> ValueRef {
        let along = |axis: i64| [int("axis", axis)];
        let [zero, one] = [0, 1].map(|number| self.change.integers(&[], &[number]));
        let [first, any] = [0, -1].map(|number| self.change.integers(&[1], &[number]));
        let change = &mut self.change;
        let shape = change.op("Shape", [self.attention.x.into()]).output("shape");
        let batch = change.op("Gather", [shape.clone(), first.clone()]).with(along(0)).output("batch");
        let keys = change.op("Gather", [shape, one.clone()]).with(along(0)).output("keys");
        let ends = change.op("Cast", [ends.into()]).with([int("to", DataType::Int64 as i64)]).output("ends");
        // Where there are no beginnings, these are.
        let zeros = change.op("Expand", [first, batch.clone()]).output("zeros");
        let bounds = change.op("Concat", [ends, zeros]).with(along(0)).output("bounds");
        let rows = change.op("Concat", [any, batch]).with(along(0)).output("rows");
        let bounds = change.op("Reshape", [bounds, rows]).output("bounds.rows");
        let places = change.op("Range", [zero.clone(), keys, one.clone()]).output("places");
        let before = |this: &mut Self, row: ValueRef, part: &str| {
            let bound = this.change.op("Gather", [bounds.clone(), row]).with(along(0));
            let bound = bound.output(&format!("bound.{part}"));
            let bound = this.unsqueezed(bound, 1);
            this.change.op("Less", [places.clone(), bound]).output(&format!("before.{part}"))
        };
        let (before_end, before_start) = (before(self, zero, "end"), before(self, one, "start"));
        let started = self.change.op("Not", [before_start]).output("started");
        let seen = self.change.op("And", [before_end, started]).output("seen");
        self.change.op("Cast", [seen]).with([int("to", DataType::Int32 as i64)]).output("mask")
    }
}
