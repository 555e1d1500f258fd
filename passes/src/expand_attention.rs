//! `Attention` of ONNX Runtime becomes a linear layer and what follows it.

use std::collections::HashMap;

use zqc_ir::onnx::proto::AttributeProto;
use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType;
use zqc_ir::{Change, FreshNames, Graph, Model, NodeId, Op, Patch, ValueId};

use crate::attention::{Mask, PackedAttention};
use crate::contrib::microsoft;
use crate::draft::{Draft, Integers};
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
        let (names, mut integers) = (FreshNames::new(graph), Integers::default());
        let (mut paths, mut masks) = (LayerPaths::default(), HashMap::new());
        let mut patch = Patch::default();
        for id in graph.order()? {
            let Some(Ok(attention)) = PackedAttention::of(graph, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, attention.root);
            let by_name = [path.as_str(), &node.name, &graph.value(attention.root).name];
            if self.select.reason_to_keep(&by_name, attention.features()).is_none() {
                let why = format!("{path} yields queries, keys and values");
                let y = node.output(0).map_or("", |y| &graph.value(y).name);
                let draft = Draft::new(graph, &names, y, why, &mut integers);
                let expansion = Expansion { graph, id, opset: model.opset(), attention: &attention, draft };
                patch.changes.push(expansion.write(&path, &mut masks));
            }
        }
        Ok(patch)
    }
}

struct Expansion<'g, 'i> {
    graph: &'g Graph,
    id: NodeId,
    opset: i64,
    attention: &'g PackedAttention,
    draft: Draft<'g, 'i>,
}

impl Expansion<'_, '_> {
    /// `masks` are the masks of keys that are there already, by the ends that they were made of.
    fn write(mut self, path: &str, masks: &mut HashMap<ValueId, String>) -> Change {
        let (graph, attention) = (self.graph, self.attention);
        let node = graph.node(self.id);
        let name = |value: ValueId| graph.value(value).name.clone();
        let mut packed =
            self.draft.node("MatMul", vec![], &[&name(attention.x), &name(attention.weight)], "product");
        self.draft.rename(format!("{path}/MatMul"));
        if let Some(bias) = attention.bias {
            packed = self.draft.node("Add", vec![], &[&packed, &name(bias)], "sum");
        }
        let mut inputs: Vec<Option<String>> = self.parts(&packed).into_iter().map(Some).collect();
        let mask = match attention.mask {
            Mask::None => None,
            Mask::Raw(mask) => Some(name(mask)),
            Mask::Ends(ends) => Some(masks.entry(ends).or_insert_with(|| self.mask(&name(ends))).clone()),
        };
        inputs.extend([None, mask, attention.attention_bias.map(name)]);
        if let Some(past) = attention.past {
            inputs.extend([0, 1].map(|half| Some(self.half(&name(past), half))));
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let attribute = |name: &str| match &node.op {
            Op::Onnx(proto) => proto.find_attribute(name).cloned(),
            _ => None,
        };
        let attributes: Vec<AttributeProto> = PackedAttention::shared().filter_map(attribute).collect();
        let mut outputs = vec![node.output(0).map(name)];
        let present = node.output(1);
        if present.is_some() {
            outputs.extend(["keys", "values"].map(|part| Some(self.draft.fresh(part))));
        }
        let op = microsoft("MultiHeadAttention", attributes);
        self.draft.successor(self.id, op, inputs, outputs.clone());
        if let Some(present) = present {
            let halves = outputs.into_iter().skip(1).flatten();
            let halves: Vec<String> = halves.map(|half| self.unsqueezed(&half, 0)).collect();
            let halves: Vec<&str> = halves.iter().map(String::as_str).collect();
            self.draft.node("Concat", vec![int("axis", 0)], &halves, "present");
            self.draft.yields(present);
        }
        self.draft.without(self.id)
    }

    /// Queries, keys and values.
    fn parts(&mut self, packed: &str) -> Vec<String> {
        let sizes = self.attention.sizes;
        let results = ["query", "key", "value"].map(str::to_string).into_iter();
        let axis = int("axis", -1);
        if self.opset < READS_AXES {
            return self.draft.node_of_several(
                "Split",
                vec![axis, ints("split", &sizes)],
                &[packed],
                results,
            );
        }
        let sizes = self.draft.integers(&[3], &sizes);
        self.draft.node_of_several("Split", vec![axis], &[packed, &sizes], results)
    }

    /// Keys or values of earlier tokens.
    fn half(&mut self, past: &str, half: i64) -> String {
        let index = self.draft.integers(&[], &[half]);
        self.draft.node("Gather", vec![int("axis", 0)], &[past, &index], &format!("past.{half}"))
    }

    fn unsqueezed(&mut self, value: &str, axis: i64) -> String {
        if self.opset < READS_AXES {
            return self.draft.node("Unsqueeze", vec![ints("axes", &[axis])], &[value], "unsqueezed");
        }
        let axes = self.draft.integers(&[1], &[axis]);
        self.draft.node("Unsqueeze", vec![], &[value, &axes], "unsqueezed")
    }

    /// The mask `[batch, keys]` of the keys before the ends and, if the beginnings follow them, not before those.
    fn mask(&mut self, ends: &str) -> String {
        let x = self.graph.value(self.attention.x).name.clone();
        let along = |axis: i64| vec![int("axis", axis)];
        let [zero, one] = [0, 1].map(|number| self.draft.integers(&[], &[number]));
        let [first, any] = [0, -1].map(|number| self.draft.integers(&[1], &[number]));
        let draft = &mut self.draft;
        let shape = draft.node("Shape", vec![], &[&x], "shape");
        let batch = draft.node("Gather", along(0), &[&shape, &first], "batch");
        let keys = draft.node("Gather", along(0), &[&shape, &one], "keys");
        let ends = draft.node("Cast", vec![int("to", DataType::Int64 as i64)], &[ends], "ends");
        // Where there are no beginnings, these are.
        let zeros = draft.node("Expand", vec![], &[&first, &batch], "zeros");
        let bounds = draft.node("Concat", along(0), &[&ends, &zeros], "bounds");
        let rows = draft.node("Concat", along(0), &[&any, &batch], "rows");
        let bounds = draft.node("Reshape", vec![], &[&bounds, &rows], "bounds.rows");
        let places = draft.node("Range", vec![], &[&zero, &keys, &one], "places");
        let before = |this: &mut Self, row: &str, part: &str| {
            let bound = this.draft.node("Gather", along(0), &[&bounds, row], &format!("bound.{part}"));
            let bound = this.unsqueezed(&bound, 1);
            this.draft.node("Less", vec![], &[&places, &bound], &format!("before.{part}"))
        };
        let (before_end, before_start) = (before(self, &zero, "end"), before(self, &one, "start"));
        let started = self.draft.node("Not", vec![], &[&before_start], "started");
        let seen = self.draft.node("And", vec![], &[&before_end, &started], "seen");
        self.draft.node("Cast", vec![int("to", DataType::Int32 as i64)], &[&seen], "mask")
    }
}
