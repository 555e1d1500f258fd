//! Slices of arrays along any axis, as loops read and stack them.

use std::sync::Arc;

use zqc_ir::onnx::proto::tensor_proto::DataType;

use crate::array::{Array, ArrayData, ArrayError, element_count};
use crate::inputs::{Dimension, InputSpec};

/// The axis that `axis`, which counts from the end when it is negative, means among `rank`; `None` when there is none.
pub(crate) fn resolve(axis: i64, rank: usize) -> Option<usize> {
    let from_start = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
    usize::try_from(from_start).ok().filter(|&axis| axis < rank)
}

/// Evaluates `$body` with `$elements` bound to the vector that `$data` holds, and gives data of the same type.
macro_rules! same_type {
    ($data:expr, $elements:ident => $body:expr) => {
        match $data {
            ArrayData::F32($elements) => ArrayData::from($body),
            ArrayData::I64($elements) => ArrayData::from($body),
            ArrayData::I32($elements) => ArrayData::from($body),
            ArrayData::I8($elements) => ArrayData::from($body),
            ArrayData::U8($elements) => ArrayData::from($body),
            ArrayData::Bool($elements) => ArrayData::from($body),
        }
    };
}

/// The elements of `$data` if it is of `$variant`.
macro_rules! as_variant {
    ($data:expr, $variant:ident) => {
        match $data {
            ArrayData::$variant(elements) => Some(elements),
            _ => None,
        }
    };
}

/// The slice number `index` along `axis`, which it lacks; `None` beyond the end.
pub(crate) fn slice(array: &Array, axis: usize, index: usize) -> Option<Array> {
    let extent = array.shape.get(axis).copied().filter(|&extent| index < extent)?;
    let inner = element_count(&array.shape[axis + 1..])?;
    let whole = extent.checked_mul(inner)?.max(1);
    let mut shape = array.shape.clone();
    shape.remove(axis);
    let data = same_type!(&array.data, elements => {
        let blocks = elements.chunks_exact(whole);
        blocks.flat_map(|block| &block[index * inner..(index + 1) * inner]).copied().collect::<Vec<_>>()
    });
    Some(Array { shape, data })
}

/// The arrays side by side along a new `axis`; `None` when there are none, they differ in shape or type, or have too few
/// dimensions.
pub(crate) fn stack(parts: &[Array], axis: usize) -> Option<Array> {
    let first = parts.first()?;
    if axis > first.shape.len() || parts.iter().any(|part| part.shape != first.shape) {
        return None;
    }
    let inner = element_count(&first.shape[axis..])?;
    let data = match &first.data {
        ArrayData::F32(_) => interleave(parts, inner, |data| as_variant!(data, F32)),
        ArrayData::I64(_) => interleave(parts, inner, |data| as_variant!(data, I64)),
        ArrayData::I32(_) => interleave(parts, inner, |data| as_variant!(data, I32)),
        ArrayData::I8(_) => interleave(parts, inner, |data| as_variant!(data, I8)),
        ArrayData::U8(_) => interleave(parts, inner, |data| as_variant!(data, U8)),
        ArrayData::Bool(_) => interleave(parts, inner, |data| as_variant!(data, Bool)),
    }?;
    let mut shape = first.shape.clone();
    shape.insert(axis, parts.len());
    Some(Array { shape, data })
}

/// Blocks of `inner` elements, one of each part in turn; `None` when `elements` finds other ones in a part.
fn interleave<T: Copy>(
    parts: &[Array],
    inner: usize,
    elements: impl Fn(&ArrayData) -> Option<&Arc<Vec<T>>>,
) -> Option<ArrayData>
where
    ArrayData: From<Vec<T>>,
{
    let parts: Vec<&Arc<Vec<T>>> = parts.iter().map(|part| elements(&part.data)).collect::<Option<_>>()?;
    let blocks = parts.first()?.len().checked_div(inner).unwrap_or(0);
    let block = |at: usize| parts.iter().flat_map(move |part| &part[at * inner..(at + 1) * inner]);
    Some((0..blocks).flat_map(block).copied().collect::<Vec<T>>().into())
}

/// What a stack of no arrays along `axis` is, each of which is what `part` declares: without elements, dimensions that are not
/// declared 0.
///
/// # Errors
/// When arrays of the declared type have no host form.
pub(crate) fn empty_stack(part: Option<InputSpec>, axis: i64) -> Result<Array, ArrayError> {
    let dtype = part.as_ref().map_or(DataType::Float, |part| part.data_type);
    let extent = |dimension: &Dimension| match dimension {
        Dimension::Fixed(extent) => *extent,
        Dimension::Symbolic(_) => 0,
    };
    let mut shape: Vec<usize> = part.and_then(|spec| spec.shape).iter().flatten().map(extent).collect();
    shape.insert(resolve(axis, shape.len() + 1).unwrap_or(0), 0);
    Array::from_le_bytes(dtype, shape, &[])
}

#[cfg(test)]
mod tests {
    use super::{resolve, slice, stack};
    use crate::array::Array;

    fn cube() -> Array {
        Array::new(vec![2, 3, 2], (0..12).collect::<Vec<i64>>()).unwrap()
    }

    #[test]
    fn slices_stack_to_what_they_were_cut_from() {
        let cube = cube();
        assert_eq!(slice(&cube, 1, 2), Some(Array::new(vec![2, 2], vec![4i64, 5, 10, 11]).unwrap()));
        for axis in 0..3 {
            let parts: Vec<Array> = (0..cube.shape[axis]).map_while(|at| slice(&cube, axis, at)).collect();
            assert_eq!(stack(&parts, axis).as_ref(), Some(&cube), "axis {axis}");
            assert_eq!(slice(&cube, axis, cube.shape[axis]), None);
        }
        assert_eq!(slice(&cube, 3, 0), None);
    }

    #[test]
    fn what_differs_does_not_stack() {
        let row = |shape: Vec<usize>| Array::new(shape, vec![0f32; 4]).unwrap();
        let integers = Array::new(vec![4], vec![0i64; 4]).unwrap();
        assert_eq!(stack(&[row(vec![4]), row(vec![2, 2])], 0), None);
        assert_eq!(stack(&[row(vec![4]), integers], 0), None);
        assert_eq!(stack(&[row(vec![4])], 2), None);
        assert_eq!(stack(&[], 0), None);
        let empty = Array::new(vec![2, 0], Vec::<f32>::new()).unwrap();
        assert_eq!(stack(&[empty.clone(), empty], 1).unwrap().shape, [2, 2, 0]);
    }

    #[test]
    fn dimensions_of_nothing_that_cannot_be_counted_give_nothing() {
        let empty = Array::new(vec![0, usize::MAX, 3], Vec::<f32>::new()).unwrap();
        assert_eq!(slice(&empty, 0, 0), None);
        let wide = Array::new(vec![usize::MAX, 3, 0], Vec::<f32>::new());
        assert_eq!(wide.ok().and_then(|wide| stack(&[wide], 0)), None);
    }

    #[test]
    fn axes_count_from_both_ends() {
        assert_eq!([0, 2, -1, -3].map(|axis| resolve(axis, 3)), [Some(0), Some(2), Some(2), Some(0)]);
        assert_eq!([3, -4, i64::MIN, i64::MAX].map(|axis| resolve(axis, 3)), [None; 4]);
    }
}
