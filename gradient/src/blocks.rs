//! A model in blocks, to be differentiated one after the other.

use zqc_ir::graph::Port;
use zqc_ir::onnx::proto::ValueInfoProto;
use zqc_ir::{Graph, Model, PatchBuilder, ValueId};

use crate::error::GradientError;

/// The part of a model between two of its values.
#[derive(Debug, Clone)]
pub struct Block {
    /// The part as a model, under the names and ids that its values have in the whole. It has all inputs of the whole, and computes
    /// what it needs of them.
    pub model: Model,
    /// The input in the place of the value at which the block begins, of its type; `None` in the first block, which begins at the
    /// inputs of the model.
    pub input: Option<ValueId>,
    /// The value at which the block ends, its only result.
    pub output: ValueId,
}

/// Cuts a model at `boundaries`, such as [`segments`](crate::segments()) finds: a block ends at each of them, and begins at the one
/// before. The values of blocks other than the boundaries are unknown to each other.
///
/// # Errors
/// When a boundary is undefined, or a subgraph reads one by its name.
pub fn blocks(model: &Model, boundaries: &[ValueId]) -> Result<Vec<Block>, GradientError> {
    let beginnings = std::iter::once(None).chain(boundaries.iter().copied().map(Some));
    beginnings.zip(boundaries).map(|(beginning, &end)| block(model, beginning, end)).collect()
}

fn block(model: &Model, beginning: Option<ValueId>, end: ValueId) -> Result<Block, GradientError> {
    let graph = &model.graph;
    let name = |value: ValueId| graph.value(value).name.clone();
    let mut patch = PatchBuilder::new(graph);
    let mut input = None;
    if let Some(beginning) = beginning {
        let mut change = patch.change("a block begins here", name(beginning));
        let value = change.value("input");
        for place in graph.uses(beginning) {
            match place.port {
                Port::Input(port) => change.rewire(place.node, port, &value),
                Port::Capture => return Err(GradientError::Captured { value: name(beginning) }),
            }
        }
        change.finish();
        input = Some((patch.name(&value), graph.ty(beginning)));
    }
    let mut patch = patch.finish();
    if let Some((name, ty)) = &input {
        patch.inputs.push(ValueInfoProto {
            name: Some(name.clone()),
            r#type: ty.to_proto(),
            ..Default::default()
        });
    }
    patch.outputs = Some(vec![name(end)]);
    let mut model = model.clone();
    patch.apply(&mut model)?;
    let find = |graph: &Graph, name: &str| {
        graph.find(name).ok_or_else(|| GradientError::Undefined { value: name.to_string() })
    };
    let input = input.map(|(name, _)| find(&model.graph, &name)).transpose()?;
    Ok(Block { input, output: find(&model.graph, &name(end))?, model })
}
