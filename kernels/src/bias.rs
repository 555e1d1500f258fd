//! The bias of a layer of a graph.

use zqc_ir::{Graph, Tensor, ValueId};

/// The bias times `beta`, a value for each of `n` rows; `None` when it is no constant, or one that depends on the token.
pub(crate) fn constant(graph: &Graph, bias: ValueId, beta: f32, n: usize) -> Option<Vec<f32>> {
    let tensor = graph.constant(bias)?;
    if !is_vector(tensor, n) {
        return None;
    }
    let values: Vec<f32> = tensor.to_f32().ok()?.into_iter().map(|value| beta * value).collect();
    Some(if values.len() == n { values } else { values.repeat(n) })
}

/// Whether a tensor broadcasts to `[.., n]` and is the same for every token.
fn is_vector(tensor: &Tensor, n: usize) -> bool {
    match tensor.dims().split_last() {
        None => true,
        Some((&last, tokens)) => {
            tokens.iter().all(|&dim| dim == 1) && (last == 1 || usize::try_from(last) == Ok(n))
        }
    }
}
