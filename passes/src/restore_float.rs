//! Layers that are not quantized turn back into what they were.

use zqc_ir::{Change, Model, Op, Patch};

use crate::pass::{Context, Pass, PassError};

/// Turns every `zqc.linear` back into the nodes that it stands for: a pipeline that stops halfway leaves them.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreFloat;

impl Pass for RestoreFloat {
    fn name(&self) -> &'static str {
        "restore_float"
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let restored = graph.nodes().filter_map(|(id, node)| match &node.op {
            Op::Linear(linear) => {
                Change::restore_origin(graph, id, format!("{} is not quantized", linear.layer))
            }
            _ => None,
        });
        Ok(Patch { changes: restored.collect(), ..Patch::default() })
    }
}
