//! Constants that a file holds twice are stored once.

use zqc_ir::graph::Port;
use zqc_ir::op::attribute::ints;
use zqc_ir::{Graph, Model, NodeId, Patch, PatchBuilder, Tensor, ValueId, ValueRef};

use crate::constant_view::is_float;
use crate::pass::{Context, Pass, PassError};

/// Smaller matrices save nothing.
const MIN_ELEMENTS: usize = 1024;

/// Lets every `MatMul` and `Gemm` whose matrix has the content of another initializer, or that of its transpose, read the
/// other one, and drops the copy: exporters that fold constants leave a transposed copy of a tied embedding table.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShareConstants;

impl Pass for ShareConstants {
    fn name(&self) -> &'static str {
        "share_constants"
    }

    fn runs_on_subgraphs(&self) -> bool {
        false
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut patch = PatchBuilder::new(graph);
        let mut copies: Vec<ValueId> = Vec::new();
        for (value, tensor) in graph.initializers() {
            let Some(readers) = products(graph, value).filter(|_| is_large_matrix(tensor)) else { continue };
            let mut others =
                graph.initializers().filter(|(other, _)| *other != value && !copies.contains(other));
            let Some((original, transposed)) = others.find_map(|(other, candidate)| {
                graph.constant(other)?;
                Some((other, is_copy(tensor, candidate)?))
            }) else {
                continue;
            };
            copies.push(value);
            share(&mut patch, value, readers, original, transposed);
        }
        Ok(patch.finish())
    }
}

/// The nodes that read `value`, if it is a constant and each is a product of which it is the matrix.
fn products(graph: &Graph, value: ValueId) -> Option<Vec<NodeId>> {
    graph.constant(value)?;
    let uses = graph.uses(value);
    let fits = uses.iter().all(|place| {
        let op = &graph.node(place.node).op;
        place.port == Port::Input(1) && ["MatMul", "Gemm"].iter().any(|kind| op.as_standard(kind).is_some())
    });
    (fits && !uses.is_empty() && !graph.is_output(value))
        .then(|| uses.iter().map(|place| place.node).collect())
}

fn is_large_matrix(tensor: &Tensor) -> bool {
    tensor.matrix_dims().is_some_and(|[rows, columns]| rows.saturating_mul(columns) >= MIN_ELEMENTS)
        && tensor.dtype().is_ok_and(is_float)
}

/// Whether `copy` has the content of `original` (`Some(false)`) or of its transpose (`Some(true)`).
pub(crate) fn is_copy(copy: &Tensor, original: &Tensor) -> Option<bool> {
    let (dtype, [rows, columns]) = (copy.dtype().ok()?, original.matrix_dims()?);
    if Ok(dtype) != original.dtype() {
        return None;
    }
    let (ours, theirs) = (copy.bytes().ok()?, original.bytes().ok()?);
    if copy.matrix_dims()? == [rows, columns] && ours == theirs {
        return Some(false);
    }
    if copy.matrix_dims()? != [columns, rows] {
        return None;
    }
    let size = zqc_ir::tensor::bits(dtype)? / 8;
    let transposed = (0..columns).all(|column| {
        let ours = ours[column * rows * size..][..rows * size].chunks_exact(size);
        let theirs = theirs[column * size..].chunks(columns * size).map(|row| &row[..size]);
        ours.eq(theirs)
    });
    transposed.then_some(true)
}

fn share(patch: &mut PatchBuilder, copy: ValueId, readers: Vec<NodeId>, original: ValueId, transposed: bool) {
    let [copy_name, original_name] = [copy, original].map(|value| &patch.graph().value(value).name);
    let mut change =
        patch.change(format!("\"{copy_name}\" has the content of \"{original_name}\""), copy_name);
    let mut source = ValueRef::from(original);
    if transposed {
        source = change.op("Transpose", [source]).with([ints("perm", &[1, 0])]).output("shared");
    }
    readers.into_iter().for_each(|reader| change.rewire(reader, 1, &source));
    change.remove_if_unused([copy]);
    change.finish();
}
