//! The bias of a layer.

use zqc_ir::op::QuantizedLinear;
use zqc_ir::tensor::TensorError;
use zqc_ir::{ChangeBuilder, NodeId, Tensor, ValueId, ValueRef};

/// Adds the `Add` of the bias to the `product` of the layer `id`, in the layer's own element type; it yields the result `y` of
/// the layer. A factor on the bias goes into a constant of its own.
///
/// # Errors
/// When there is such a factor, and the bias is no constant that can be read.
pub(super) fn add(
    change: &mut ChangeBuilder,
    id: NodeId,
    linear: &QuantizedLinear,
    product: ValueRef,
    bias: ValueId,
    y: ValueId,
) -> Result<(), TensorError> {
    let graph = change.graph();
    let mut addend = ValueRef::from(bias);
    if linear.beta != 1.0 {
        let tensor = graph.constant(bias).ok_or(TensorError::NotLoaded)?;
        let scaled = tensor.to_f32()?.into_iter().map(|b| linear.beta * b).collect();
        let scaled = Tensor::from_f32_as(linear.dtype, &[linear.n], scaled)?;
        addend = change.constant(&format!("{}_bias", graph.value(y).name), scaled);
        change.remove_if_unused([bias]);
    }
    let add = change.op("Add", [product, addend]).in_place_of(id);
    add.named(format!("{}.bias", linear.layer)).defines([Some(y.into())]);
    Ok(())
}
