//! Constant operands of linear layers, and the initializers that stand for those that are not initializers as they are.

use std::collections::HashMap;

use zqc_ir::op::Layout;
use zqc_ir::tensor::DataType;
use zqc_ir::{ChangeBuilder, Graph, NodeId, Tensor, ValueId, ValueRef};

use crate::constant_view::{ConstantView, is_float, product};
use crate::nbits::NBits;

/// The constant matrix of a layer.
pub(super) struct Weight {
    pub constant: Constant,
    pub layout: Layout,
    pub k: usize,
    pub n: usize,
    /// The element type in which the layer computes.
    pub dtype: DataType,
}

impl Weight {
    /// The constant matrix that `operand`, which is to be read as `layout`, comes from; one that is quantized only to
    /// `requantize` it.
    pub(super) fn behind(graph: &Graph, operand: ValueId, layout: Layout, requantize: bool) -> Option<Self> {
        let view = view(graph, operand, requantize)?;
        let layout = if view.transposed { layout.transposed() } else { layout };
        let [rows, columns] = view.dims[..] else { return None };
        let (rows, columns) = (usize::try_from(rows).ok()?, usize::try_from(columns).ok()?);
        let (k, n) = match layout {
            Layout::InputOutput => (rows, columns),
            Layout::OutputInput => (columns, rows),
        };
        let constant =
            Constant { root: view.root, start: view.start, dims: view.dims, dtype: None, codes: None };
        Some(Self { constant, layout, k, n, dtype: view.dtype })
    }

    /// The matrix of a `MatMulNBits`.
    pub(super) fn of_codes(graph: &Graph, id: NodeId) -> Option<Self> {
        let &NBits { n, k, dtype, .. } = &NBits::of(graph, id)?;
        let root = graph.node(id).input(1)?;
        let constant =
            Constant { root, start: 0, dims: vec![n as i64, k as i64], dtype: None, codes: Some(id) };
        Some(Self { constant, layout: Layout::OutputInput, k, n, dtype })
    }

    /// The constant matrix of a 1x1 convolution, `[N, K, 1, ..]`, and the rank of what it reads.
    pub(super) fn of_channels(graph: &Graph, operand: ValueId, requantize: bool) -> Option<(Self, usize)> {
        let view = view(graph, operand, requantize).filter(|view| !view.transposed)?;
        let [n, k, ref window @ ..] = view.dims[..] else { return None };
        if window.is_empty() || window.iter().any(|&extent| extent != 1) {
            return None;
        }
        let constant =
            Constant { root: view.root, start: view.start, dims: vec![n, k], dtype: None, codes: None };
        let (n, k) = (usize::try_from(n).ok()?, usize::try_from(k).ok()?);
        let weight = Self { constant, layout: Layout::OutputInput, k, n, dtype: view.dtype };
        Some((weight, view.dims.len()))
    }
}

fn view(graph: &Graph, operand: ValueId, requantize: bool) -> Option<ConstantView> {
    let view = ConstantView::of(graph, operand).filter(|view| is_float(view.dtype))?;
    (requantize || graph.literal(view.root).is_some()).then_some(view)
}

/// A constant in the dimensions and the type that a layer wants.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Constant {
    /// What holds the elements: an initializer, or the result of a `Constant` or `DequantizeLinear` node.
    pub root: ValueId,
    /// How many of its elements come before those of the constant.
    pub start: usize,
    pub dims: Vec<i64>,
    /// The type to convert to; `None` leaves the elements as they are.
    pub dtype: Option<DataType>,
    /// The `MatMulNBits` that knows what its elements stand for.
    pub codes: Option<NodeId>,
}

impl Constant {
    /// The constant vector behind `operand` if it has one of these shapes.
    pub(super) fn vector(graph: &Graph, operand: ValueId, shapes: &[&[i64]]) -> Option<Self> {
        let view = ConstantView::of(graph, operand)?;
        let stored = graph.literal(view.root)?.dtype().ok()?;
        let fits = !view.transposed && shapes.contains(&view.dims.as_slice());
        let dtype = Some(view.dtype).filter(|&dtype| dtype != stored);
        fits.then_some(Self { root: view.root, start: view.start, dims: view.dims, dtype, codes: None })
    }

    fn tensor(&self, graph: &Graph) -> Option<Tensor> {
        if let Some(id) = self.codes {
            return NBits::of(graph, id)?.tensor().ok();
        }
        let stored = ConstantView::tensor(graph, self.root, self.start, &self.dims).ok()?;
        let Some(dtype) = self.dtype else { return Some(stored) };
        let dims: Vec<usize> = self.dims.iter().map(|&dim| dim as usize).collect();
        Tensor::from_f32_as(dtype, &dims, stored.to_f32().ok()?).ok()
    }

    /// Which of the parts of this size it is, where it is less than what holds it.
    pub(super) fn index(&self, graph: &Graph) -> Option<usize> {
        let size = usize::try_from(product(&self.dims)?).ok()?;
        let is_part = graph.literal(self.root)?.elements() != Ok(size);
        self.start.checked_div(size).filter(|_| is_part && self.codes.is_none())
    }

    /// What an initializer of its own is called: a part like the matrix of a stack of experts, all else by its dimensions.
    fn hint(&self, graph: &Graph) -> String {
        let root = &graph.value(self.root).name;
        if let Some(index) = self.index(graph) {
            return format!("{root}.{index}");
        }
        let dims: Vec<String> = self.dims.iter().map(i64::to_string).collect();
        format!("{root}_{}", dims.join("x"))
    }
}

/// The initializers that a patch adds, each once however many layers read it.
#[derive(Default)]
pub(super) struct Initializers {
    known: HashMap<Constant, ValueRef>,
}

/// A constant that a layer will read.
pub(super) enum Operand {
    /// It is there.
    Known(ValueRef),
    /// It has to be added.
    New(Constant, Tensor),
}

impl Initializers {
    /// The operand for `constant`; `None` where its values cannot be read.
    pub(super) fn prepare(&self, graph: &Graph, constant: Constant) -> Option<Operand> {
        let stored = graph.constant(constant.root);
        let is_plain = constant.dtype.is_none() && constant.codes.is_none();
        if is_plain && stored.is_some_and(|tensor| tensor.dims() == constant.dims) {
            return Some(Operand::Known(constant.root.into()));
        }
        if let Some(known) = self.known.get(&constant) {
            return Some(Operand::Known(known.clone()));
        }
        let tensor = constant.tensor(graph)?;
        Some(Operand::New(constant, tensor))
    }

    /// The value of an operand; a new initializer joins `change`.
    pub(super) fn add(&mut self, change: &mut ChangeBuilder, operand: Operand) -> ValueRef {
        match operand {
            Operand::Known(value) => value,
            Operand::New(constant, tensor) => {
                let value = change.constant(&constant.hint(change.graph()), tensor);
                self.known.insert(constant, value.clone());
                value
            }
        }
    }
}
