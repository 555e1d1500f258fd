//! The shapes of operators' results.

use super::infer::Inputs;
use super::{Dim, Type};
use crate::onnx::proto::NodeProto;

/// The shape to which all are broadcast: `None` where one has an unknown rank.
pub(super) fn broadcast(types: &[Type]) -> Option<Vec<Dim>> {
    let shapes: Option<Vec<&Vec<Dim>>> = types.iter().map(|ty| ty.shape.as_ref()).collect();
    let shapes = shapes?;
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let along = |axis: usize| {
        // Where the axis lies in each shape, which are aligned at their ends.
        let dims = shapes.iter().filter_map(|shape| shape.get((axis + shape.len()).checked_sub(rank)?));
        dims.fold(Dim::Fixed(1), |all, dim| match (&all, dim) {
            (Dim::Fixed(1), _) => dim.clone(),
            (_, Dim::Fixed(1)) => all,
            // No shape is broadcast to both.
            (Dim::Fixed(ours), Dim::Fixed(theirs)) if ours != theirs => Dim::Unknown,
            // The extent is another than 1, so it is the result's.
            (_, Dim::Fixed(_)) => dim.clone(),
            (Dim::Fixed(_), _) => all,
            _ if all == *dim => all,
            _ => Dim::Unknown,
        })
    };
    Some((0..rank).map(along).collect())
}

/// The axes that an operator names in an attribute, or, in later opsets, in an input.
fn axes(node: &NodeProto, inputs: &Inputs, port: usize) -> Option<Vec<i64>> {
    inputs.integers(port).or_else(|| Some(node.ints("axes")?.to_vec()))
}

pub(super) fn reduced(node: &NodeProto, inputs: &Inputs) -> Option<Vec<Dim>> {
    let x = inputs.ty(0);
    let keeps = node.int_or("keepdims", 1) != 0;
    let mut shape = x.shape.clone()?;
    let Some(axes) = axes(node, inputs, 1) else {
        if inputs.is_given(1) {
            return keeps.then(|| vec![Dim::Unknown; shape.len()]);
        }
        let none = node.int_or("noop_with_empty_axes", 0) != 0;
        return Some(match (none, keeps) {
            (true, _) => shape,
            (false, true) => vec![Dim::Fixed(1); shape.len()],
            (false, false) => Vec::new(),
        });
    };
    let mut axes: Vec<usize> = axes.into_iter().map(|axis| x.axis(axis)).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.dedup();
    for axis in axes.into_iter().rev() {
        if keeps {
            shape[axis] = Dim::Fixed(1);
        } else {
            shape.remove(axis);
        }
    }
    Some(shape)
}

pub(super) fn transposed(node: &NodeProto, x: &Type) -> Option<Vec<Dim>> {
    let shape = x.shape.as_ref()?;
    let Some(order) = node.ints("perm") else { return Some(shape.iter().rev().cloned().collect()) };
    let at = |&axis: &i64| shape.get(usize::try_from(axis).ok()?).cloned();
    (order.len() == shape.len()).then(|| order.iter().map(at).collect())?
}

pub(super) fn reshaped(node: &NodeProto, inputs: &Inputs) -> Option<Vec<Dim>> {
    let Some(dims) = inputs.integers(1).or_else(|| Some(node.ints("shape")?.to_vec())) else {
        return inputs.extents(1);
    };
    let (x, copies) = (inputs.ty(0), node.int_or("allowzero", 0) == 0);
    let dim = |(axis, dim): (usize, i64)| match dim {
        0 if copies => x.dim(axis as i64),
        number if number >= 0 => Dim::Fixed(number),
        _ => Dim::Unknown,
    };
    let mut shape: Vec<Dim> = dims.iter().copied().enumerate().map(dim).collect();
    // The extent that is left over, where all others are numbers.
    let all: Option<i64> =
        x.shape.iter().flatten().map(Dim::fixed).try_fold(1i64, |all, dim| all.checked_mul(dim?));
    let rest = |shape: &[Dim], open: usize| {
        let others = shape.iter().enumerate().filter(|(at, _)| *at != open);
        others.map(|(_, dim)| dim.fixed()).try_fold(1i64, |all, dim| all.checked_mul(dim?))
    };
    if let (Some(open), Some(all), true) = (dims.iter().position(|&dim| dim == -1), all, x.shape.is_some())
        && let Some(rest) = rest(&shape, open).filter(|&rest| rest > 0)
    {
        shape[open] = Dim::Fixed(all / rest);
    }
    Some(shape)
}

pub(super) fn squeezed(node: &NodeProto, inputs: &Inputs) -> Option<Vec<Dim>> {
    let x = inputs.ty(0);
    let axes = axes(node, inputs, 1)?;
    let axes: Vec<usize> = axes.into_iter().map(|axis| x.axis(axis)).collect::<Option<_>>()?;
    let shape = x.shape?.into_iter().enumerate();
    Some(shape.filter(|(axis, _)| !axes.contains(axis)).map(|(_, dim)| dim).collect())
}

pub(super) fn unsqueezed(node: &NodeProto, inputs: &Inputs) -> Option<Vec<Dim>> {
    let old = inputs.ty(0).shape?;
    // Where the axes are computed, their number still tells the rank.
    let Some(axes) = axes(node, inputs, 1) else {
        let added = usize::try_from(inputs.ty(1).dim(0).fixed()?).ok()?;
        return Some(vec![Dim::Unknown; old.len() + added]);
    };
    let rank = Type::new(None, vec![Dim::Unknown; old.len() + axes.len()]);
    let axes: Vec<usize> = axes.into_iter().map(|axis| rank.axis(axis)).collect::<Option<_>>()?;
    let mut old = old.into_iter();
    let dim = |axis| if axes.contains(&axis) { Some(Dim::Fixed(1)) } else { old.next() };
    (0..rank.rank()?).map(dim).collect()
}

pub(super) fn gathered(node: &NodeProto, inputs: &Inputs) -> Option<Vec<Dim>> {
    let x = inputs.ty(0);
    let axis = x.axis(node.int_or("axis", 0))?;
    let (mut shape, indices) = (x.shape?, inputs.ty(1).shape?);
    shape.splice(axis..=axis, indices);
    Some(shape)
}

pub(super) fn concatenated(node: &NodeProto, inputs: &Inputs) -> Option<Vec<Dim>> {
    let types = inputs.all();
    let known = types.iter().find(|ty| ty.shape.is_some())?;
    let axis = known.axis(node.int_or("axis", 1))?;
    let mut shape = known.shape.clone()?;
    let mut along = types.iter().map(|ty| ty.dim(axis as i64).fixed());
    let sum = along.try_fold(0i64, |sum, dim| sum.checked_add(dim?));
    shape[axis] = sum.map_or(Dim::Unknown, Dim::Fixed);
    Some(shape)
}

pub(super) fn split(node: &NodeProto, inputs: &Inputs) -> Vec<Type> {
    let x = inputs.ty(0);
    let axis = x.axis(node.int_or("axis", 0));
    let sizes = inputs.integers(1).or_else(|| Some(node.ints("split")?.to_vec()));
    let result = |at: usize| {
        let mut shape = x.shape.clone();
        if let (Some(shape), Some(axis)) = (&mut shape, axis) {
            let size = sizes.as_ref().and_then(|sizes| sizes.get(at).copied());
            shape[axis] = size.map_or(Dim::Unknown, Dim::Fixed);
        }
        Type::new(x.dtype, shape)
    };
    (0..inputs.results()).map(result).collect()
}

/// The shape of a product of matrices, of vectors, or of stacks of matrices.
pub(super) fn product(a: &Type, b: &Type) -> Option<Vec<Dim>> {
    let (left, right) = (a.shape.as_ref()?, b.shape.as_ref()?);
    match (&left[..], &right[..]) {
        ([.., _], [_]) => Some(left[..left.len() - 1].to_vec()),
        ([_], [stack @ .., _, n]) => Some(with_last([stack, &[Dim::Unknown]].concat(), n.clone())),
        ([left @ .., m, _], [right @ .., _, n]) => {
            let stacks = [left, right].map(|stack| Type::new(None, stack.to_vec()));
            let mut shape = broadcast(&stacks)?;
            shape.extend([m.clone(), n.clone()]);
            Some(shape)
        }
        _ => None,
    }
}

/// The shape with another last dimension.
pub(super) fn with_last(mut shape: Vec<Dim>, last: Dim) -> Vec<Dim> {
    shape.pop();
    shape.push(last);
    shape
}
