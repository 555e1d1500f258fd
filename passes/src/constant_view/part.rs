//! Which elements of a constant `Gather`, `Slice` and `Split` hand on, where they lie in one piece.

use zqc_ir::{Graph, Node};

use super::product;

/// A piece of a tensor.
pub(super) struct Part {
    /// How many elements come before it.
    pub start: usize,
    /// The dimensions of the piece.
    pub dims: Vec<i64>,
    /// The number of axes up to the last one that was cut.
    pub axes: usize,
}

impl Part {
    /// What output `port` of the node is of its first input, a tensor of these dimensions; `None` where the node is none of
    /// the three, or takes elements that lie apart.
    pub(super) fn of(graph: &Graph, node: &Node, port: usize, dims: &[i64]) -> Option<Self> {
        let whole = Self { start: 0, dims: dims.to_vec(), axes: 0 };
        whole.split(graph, node, port).or_else(|| match node.sole_output() {
            Some(_) => whole.sliced(graph, node).or_else(|| whole.gathered(graph, node)),
            None => None,
        })
    }

    fn split(&self, graph: &Graph, node: &Node, port: usize) -> Option<Self> {
        let split = node.op.as_standard("Split")?;
        let axis = self.axis(split.int_or("axis", 0))?;
        let sizes = match node.input(1) {
            Some(sizes) => Some(graph.literal(sizes)?.to_i64().ok()?),
            None => split.ints("split").map(<[i64]>::to_vec),
        };
        let [from, to] = match sizes {
            Some(sizes) => {
                let before = sizes.get(..port)?.iter().try_fold(0i64, |sum, &size| sum.checked_add(size))?;
                [before, before.checked_add(*sizes.get(port)?)?]
            }
            None => {
                let (extent, parts) = (self.dims[axis], node.outputs().len() as i64);
                let size = extent.checked_add(parts - 1)? / parts;
                [port as i64, port as i64 + 1].map(|at| at.saturating_mul(size).min(extent))
            }
        };
        self.narrowed(axis, from, to)
    }

    fn sliced(&self, graph: &Graph, node: &Node) -> Option<Self> {
        node.op.as_standard("Slice")?;
        let integers = |port| graph.literal(node.input(port)?)?.to_i64().ok();
        let (starts, ends) = (integers(1)?, integers(2)?);
        let axes = match node.input(3) {
            Some(_) => integers(3)?,
            None => (0..starts.len() as i64).collect(),
        };
        let plain = node.input(4).is_none() || integers(4)?.iter().all(|&step| step == 1);
        (plain && starts.len() == ends.len() && starts.len() == axes.len()).then_some(())?;
        let axes = axes.into_iter().map(|axis| self.axis(axis)).collect::<Option<Vec<usize>>>()?;
        let mut ranges: Vec<(usize, (i64, i64))> =
            axes.into_iter().zip(starts.into_iter().zip(ends)).collect();
        // An inner axis can only be cut where those before it have become 1.
        ranges.sort();
        let whole = Self { dims: self.dims.clone(), ..*self };
        ranges.into_iter().try_fold(whole, |part, (axis, (from, to))| {
            let extent = part.dims[axis];
            let place =
                |at: i64| (if at < 0 { at.saturating_add(extent) } else { at }).clamp(0, extent.max(0));
            part.narrowed(axis, place(from), place(to))
        })
    }

    fn gathered(&self, graph: &Graph, node: &Node) -> Option<Self> {
        let axis = self.axis(node.op.as_standard("Gather")?.int_or("axis", 0))?;
        let indices = graph.literal(node.input(1)?)?;
        let extent = self.dims[axis];
        let places = indices.to_i64().ok()?.into_iter();
        let places: Vec<i64> = places.map(|at| if at < 0 { at.saturating_add(extent) } else { at }).collect();
        let (&first, &last) = (places.first()?, places.last()?);
        let rank = indices.dims().len();
        (rank <= 1 && places.iter().copied().eq(first..=last)).then_some(())?;
        let mut part = self.narrowed(axis, first, last.checked_add(1)?)?;
        if rank == 0 {
            part.dims.remove(axis);
        }
        Some(part)
    }

    /// The axis, counted from the first one.
    fn axis(&self, axis: i64) -> Option<usize> {
        let rank = self.dims.len();
        let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
        usize::try_from(axis).ok().filter(|&axis| axis < rank)
    }

    /// The indices `from..to` along the axis; `None` where there are none such or they lie apart.
    fn narrowed(&self, axis: usize, from: i64, to: i64) -> Option<Self> {
        let extent = self.dims[axis];
        (0 <= from && from < to && to <= extent).then_some(())?;
        ([from, to] == [0, extent] || product(&self.dims[..axis])? == 1).then_some(())?;
        let before = product(&self.dims[axis + 1..])?.checked_mul(from)?;
        let mut dims = self.dims.clone();
        dims[axis] = to - from;
        let start = self.start.checked_add(usize::try_from(before).ok()?)?;
        Some(Self { start, dims, axes: self.axes.max(axis + 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(dims: &[i64], ranges: &[(usize, i64, i64)]) -> Option<(usize, Vec<i64>)> {
        let whole = Part { start: 0, dims: dims.to_vec(), axes: 0 };
        let part = ranges.iter().try_fold(whole, |part, &(axis, from, to)| part.narrowed(axis, from, to))?;
        Some((part.start, part.dims))
    }

    #[test]
    fn a_piece_is_cut_from_the_first_long_axis() {
        assert_eq!(narrowed(&[4, 3, 2], &[(0, 1, 3)]), Some((6, vec![2, 3, 2])));
        assert_eq!(narrowed(&[4, 3, 2], &[(0, 2, 3), (1, 1, 2)]), Some((14, vec![1, 1, 2])));
        assert_eq!(narrowed(&[4, 3, 2], &[(1, 0, 3)]), Some((0, vec![4, 3, 2])), "all of an inner axis");
        assert_eq!(narrowed(&[4, 3, 2], &[(1, 0, 2)]), None, "rows that lie apart");
        assert_eq!(narrowed(&[4, 3], &[(0, 3, 5)]), None, "beyond the end");
        assert_eq!(narrowed(&[4, 3], &[(0, 2, 2)]), None, "nothing");
        assert_eq!(narrowed(&[2, i64::MAX, i64::MAX], &[(0, 1, 2)]), None, "too many to count");
    }
}
