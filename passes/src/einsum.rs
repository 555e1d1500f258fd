//! `Einsum` nodes that multiply an activation by a constant, as exporters of Keras and JAX write linear layers.

use zqc_ir::{Graph, NodeId, ValueId};

use crate::constant_view::{ConstantView, is_float, root};

/// Stands for `...` among the letters of a term.
const ELLIPSIS: char = '.';

/// A product of an activation `x` and a constant matrix, or a stack of them.
pub(crate) struct EinsumProduct {
    pub x: ValueId,
    pub weight: ValueId,
    /// What holds the weight: an initializer, or the result of a `Constant` node.
    pub root: ValueId,
    pub plan: Plan,
    /// Experts, where the weight is a stack of matrices.
    pub experts: Option<i64>,
    /// Input features, of all contracted axes together.
    pub k: i64,
    /// The extents of the axes of output features.
    pub n: Vec<i64>,
}

/// How a product becomes a `MatMul`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The order of axes that brings `x` to `[.., contracted]`; `None` as it is.
    pub before: Option<Vec<i64>>,
    /// How many axes of `x` stay, those before the contracted ones.
    pub kept: usize,
    /// How many axes are contracted.
    pub contracted: usize,
    /// Whether the weight lies as `[N, K]`.
    pub transposed: bool,
    /// The order of axes that brings `[.., output features]` to the result; `None` as it is.
    pub after: Option<Vec<i64>>,
}

impl EinsumProduct {
    /// The product that the node is; `None` for all other nodes.
    pub(crate) fn of(graph: &Graph, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        let equation = node.op.as_standard("Einsum")?.find_attribute("equation")?.s.as_deref()?;
        let equation = std::str::from_utf8(equation).ok()?;
        node.sole_output()?;
        let &[Some(a), Some(b)] = node.inputs() else { return None };
        let [first, second, result] = terms(equation)?;
        Self::new(graph, a, b, Letters::new(&first, &second, &result))
            .or_else(|| Self::new(graph, b, a, Letters::new(&second, &first, &result)))
    }

    fn new(graph: &Graph, x: ValueId, weight: ValueId, letters: Option<Letters>) -> Option<Self> {
        let letters = letters?;
        let view = ConstantView::of(graph, weight).filter(|view| is_float(view.dtype) && !view.transposed)?;
        let fits = view.dims.len() == letters.weight.len() && view.dims.iter().all(|&dim| dim > 0);
        (fits && graph.literal(root(graph, x)).is_none()).then_some(())?;
        let extents = |axes: &[char]| -> Vec<i64> {
            let place = |axis| letters.weight.iter().position(|letter| letter == axis);
            axes.iter().filter_map(place).map(|place| view.dims[place]).collect()
        };
        let k = extents(&letters.contracted).into_iter().try_fold(1i64, i64::checked_mul)?;
        Some(Self {
            x,
            weight,
            root: view.root,
            plan: letters.plan()?,
            experts: letters.expert.map(|expert| extents(&[expert])[0]),
            k,
            n: extents(&letters.features),
        })
    }

    /// Input and output features; `None` where there are too many to count.
    pub(crate) fn features(&self) -> Option<[usize; 2]> {
        let n = self.n.iter().copied().try_fold(1i64, i64::checked_mul)?;
        Some([usize::try_from(self.k).ok()?, usize::try_from(n).ok()?])
    }
}

/// What the letters of an equation stand for.
struct Letters {
    x: Vec<char>,
    weight: Vec<char>,
    result: Vec<char>,
    /// In `x` and the result, in the order of `x`.
    rows: Vec<char>,
    /// In all three.
    expert: Option<char>,
    /// In `x` and the weight, in the weight's order.
    contracted: Vec<char>,
    /// In the weight and the result, in the weight's order.
    features: Vec<char>,
}

impl Letters {
    /// `None` where an axis is only in one term, or where these are not the axes of a linear layer.
    fn new(x: &[char], weight: &[char], result: &[char]) -> Option<Self> {
        let of = |axes: &[char], here: &[char], not: &[char]| -> Vec<char> {
            axes.iter().copied().filter(|axis| here.contains(axis) && !not.contains(axis)).collect()
        };
        let (rows, contracted) = (of(x, result, weight), of(weight, x, result));
        let features = of(weight, result, x);
        let shared = of(&of(weight, x, &[]), result, &[]);
        let (&[] | &[_]) = &shared[..] else { return None };
        let all = [x.len(), weight.len(), result.len()];
        let known = [
            rows.len() + contracted.len() + shared.len(),
            contracted.len() + features.len() + shared.len(),
            rows.len() + features.len() + shared.len(),
        ];
        let is_layer = all == known && ![&rows, &contracted, &features].iter().any(|axes| axes.is_empty());
        is_layer.then(|| Self {
            x: x.to_vec(),
            weight: weight.to_vec(),
            result: result.to_vec(),
            rows,
            expert: shared.first().copied(),
            contracted,
            features,
        })
    }

    fn plan(&self) -> Option<Plan> {
        let lies_as =
            |parts: [&[char]; 2]| self.weight.iter().eq(self.expert.iter().chain(parts.concat().iter()));
        let transposed = lies_as([&self.features, &self.contracted]);
        (transposed || lies_as([&self.contracted, &self.features])).then_some(())?;
        let mut kept = self.rows.clone();
        // `MatMul` wants the axis of experts before the last one of rows.
        kept.splice(kept.len() - 1..kept.len() - 1, self.expert);
        let before = order(&self.x, &[&kept[..], &self.contracted].concat());
        let after = order(&[&kept[..], &self.features].concat(), &self.result);
        let moves =
            before.is_some() || after.is_some() || self.contracted.len() > 1 || self.features.len() > 1;
        // What `...` stands for cannot be counted.
        (!self.x.contains(&ELLIPSIS) || !moves).then_some(Plan {
            before,
            kept: kept.len(),
            contracted: self.contracted.len(),
            transposed,
            after,
        })
    }
}

/// The order in which `from` becomes `to`; `None` if it is that already.
fn order(from: &[char], to: &[char]) -> Option<Vec<i64>> {
    let place = |axis: &char| from.iter().position(|other| other == axis).map(|place| place as i64);
    (from != to).then(|| to.iter().filter_map(place).collect())
}

/// The letters of the three terms of an equation such as `abc,cde->abde`; `None` where there are others, or an axis stands twice
/// in a term.
fn terms(equation: &str) -> Option<[Vec<char>; 3]> {
    let equation: String = equation.replace("...", ".").split_whitespace().collect();
    let (inputs, result) = equation.split_once("->")?;
    let (first, second) = inputs.split_once(',')?;
    let letters = |term: &str| -> Option<Vec<char>> {
        let letters: Vec<char> = term.chars().collect();
        let once = |(at, axis): (usize, &char)| {
            (axis.is_ascii_alphabetic() || *axis == ELLIPSIS) && !letters[..at].contains(axis)
        };
        letters.iter().enumerate().all(once).then_some(letters)
    };
    Some([letters(first)?, letters(second)?, letters(result)?])
}

#[cfg(test)]
mod tests {
    use super::{Letters, Plan, terms};

    fn plan(equation: &str) -> Option<Plan> {
        let [x, weight, result] = terms(equation)?;
        Letters::new(&x, &weight, &result)?.plan()
    }

    #[test]
    fn every_order_of_axes() {
        let plain = Plan { before: None, kept: 2, contracted: 1, transposed: false, after: None };
        assert_eq!(plan("abc,cd->abd"), Some(plain));
        assert_eq!(plan(" a b c , c d e -> a b d e "), plan("abc,cde->abde"));
        let heads = Plan { before: None, kept: 2, contracted: 2, transposed: false, after: None };
        assert_eq!(plan("bshk,hkd->bsd"), Some(heads));
        let turned = Plan {
            before: Some(vec![0, 2, 1]),
            kept: 2,
            contracted: 1,
            transposed: true,
            after: Some(vec![0, 2, 1, 3]),
        };
        assert_eq!(plan("bds,hkd->bhsk"), Some(turned));
        let rows = Plan { before: None, kept: 1, contracted: 1, transposed: true, after: None };
        assert_eq!(plan("...d,ed->...e"), Some(rows));
        let experts = Plan { before: None, kept: 2, contracted: 1, transposed: false, after: None };
        assert_eq!(plan("ecd,edf->ecf"), Some(experts));
        let between =
            Plan { before: Some(vec![1, 0, 2, 3]), kept: 3, contracted: 1, transposed: false, after: None };
        assert_eq!(plan("egcd,edf->gecf"), Some(between));
    }

    #[test]
    fn what_is_no_linear_layer() {
        let others = [
            "ab,bc",
            "abc,cd,de->abe",
            "aab,bc->ac",
            "abc,cd->abe",
            "abc,cd->ad",
            "ab,ab->a",
            "a,b->ab",
            "ab,b->a",
            "abcd,abde->abce",
            "...ab,bcd->...acd",
            "ab,b c d->da c.",
            "1b,bc->1c",
            "abc,dce->abde",
        ];
        for equation in others {
            assert_eq!(plan(equation), None, "{equation}");
        }
    }
}
