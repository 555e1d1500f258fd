//! The bias of a layer.

use zqc_ir::op::QuantizedLinear;
use zqc_ir::tensor::TensorError;
use zqc_ir::{Change, FreshNames, Graph, NewNode, Op, Tensor, ValueId};

/// Lets the last node that `change` adds, which yields the result `y` of a layer, yield the product alone, and adds the
/// `Add` of the bias, in the layer's own element type. A factor on the bias goes into a constant of its own.
///
/// # Errors
/// When there is such a factor, and the bias is no constant that can be read.
pub(super) fn add(
    graph: &Graph,
    names: &FreshNames,
    change: &mut Change,
    linear: &QuantizedLinear,
    bias: ValueId,
    y: ValueId,
) -> Result<(), TensorError> {
    let Some(last) = change.add.last_mut() else { return Ok(()) };
    let y = graph.value(y).name.clone();
    let product = names.fresh(&format!("{y}_product"));
    last.outputs = vec![Some(product.clone())];
    let rank = last.rank;
    let mut addend = graph.value(bias).name.clone();
    if linear.beta != 1.0 {
        let tensor = graph.constant(bias).ok_or(TensorError::NotLoaded)?;
        let scaled = tensor.to_f32()?.into_iter().map(|b| linear.beta * b).collect();
        addend = names.fresh(&format!("{y}_bias"));
        let scaled = Tensor::from_f32_as(linear.dtype, &[linear.n], scaled)?;
        change.initializers.push((addend.clone(), scaled));
        change.release.push(bias);
    }
    change.add.push(NewNode {
        name: format!("{}.bias", linear.layer),
        op: Op::standard("Add", Vec::new()),
        inputs: vec![Some(product), Some(addend)],
        outputs: vec![Some(y)],
        rank,
    });
    Ok(())
}
