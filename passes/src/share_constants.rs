//! Constants that a file holds twice are stored once.

use std::collections::HashMap;

use zqc_ir::graph::Port;
use zqc_ir::op::attribute::ints;
use zqc_ir::tensor::{DataType, bits};
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
        let mut groups: HashMap<Key, Group> = HashMap::new();
        for (value, tensor) in graph.initializers().filter(|(value, _)| graph.constant(*value).is_some()) {
            let Some(key) = key(tensor) else { continue };
            let group = groups.entry(key).or_default();
            match products(graph, value).filter(|_| is_large_matrix(tensor)) {
                Some(readers) => group.may_go.push((value, tensor, readers)),
                None => group.stay.push((value, tensor)),
            }
        }
        let mut changes = Vec::new();
        for Group { stay, may_go } in groups.into_values() {
            for (at, (copy, tensor, readers)) in may_go.iter().enumerate() {
                // One that stays, or else the last: no other copy has this one as its original then.
                let later = may_go[at + 1..].iter().rev().map(|&(value, tensor, _)| (value, tensor));
                let mut others = stay.iter().copied().chain(later);
                let original =
                    others.find_map(|(other, candidate)| Some((other, is_copy(tensor, candidate)?)));
                changes.extend(
                    original.map(|(original, transposed)| (*copy, readers.clone(), original, transposed)),
                );
            }
        }
        changes.sort_by_key(|(copy, ..)| *copy);
        let mut patch = PatchBuilder::new(graph);
        for (copy, readers, original, transposed) in changes {
            share(&mut patch, copy, readers, original, transposed);
        }
        Ok(patch.finish())
    }
}

/// Constant matrices that may be copies of each other or of each other's transpose, in the order of the file.
#[derive(Default)]
struct Group<'g> {
    /// Those that other nodes than products read as well, and small ones.
    stay: Vec<(ValueId, &'g Tensor)>,
    /// The others, with the products that read them.
    may_go: Vec<(ValueId, &'g Tensor, Vec<NodeId>)>,
}

/// What a matrix has in common with its transpose, and is known at once: element type, dimensions, first and last element.
type Key = (DataType, [usize; 2], [Vec<u8>; 2]);

fn key(tensor: &Tensor) -> Option<Key> {
    let (dtype, [rows, columns]) = (tensor.dtype().ok()?, tensor.matrix_dims()?);
    let size = bits(dtype)? / 8;
    let bytes = tensor.bytes().ok()?;
    let ends = [bytes.get(..size)?, bytes.get(bytes.len().checked_sub(size)?..)?].map(<[u8]>::to_vec);
    Some((dtype, [rows.min(columns), rows.max(columns)], ends))
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
    let size = bits(dtype)? / 8;
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
