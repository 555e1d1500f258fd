//! The types of values: element type and symbolic shape, as far as they are known.

mod infer;
mod rules;
mod shapes;

use std::fmt;
use std::sync::Arc;

use crate::onnx::proto::tensor_shape_proto::{self, dimension};
use crate::onnx::proto::{TensorShapeProto, TypeProto, type_proto};
use crate::tensor::{DataType, Tensor, name};

pub(crate) use infer::infer;

/// The extent of a tensor along one axis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A number.
    Fixed(i64),
    /// A symbol: wherever it stands, it is the same number in one run.
    Symbol(Arc<str>),
    /// Nothing is known.
    Unknown,
}

impl Dim {
    /// The number, where it is one.
    pub fn fixed(&self) -> Option<i64> {
        match self {
            Dim::Fixed(number) => Some(*number),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }

    fn contradicts(&self, other: &Dim) -> bool {
        self.fixed().zip(other.fixed()).is_some_and(|(ours, theirs)| ours != theirs)
    }
}

/// What is known of the type of a value; nothing of one that is no tensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Type {
    /// The element type.
    pub dtype: Option<DataType>,
    /// The dimensions, outermost first; `None` where not even their number is known.
    pub shape: Option<Vec<Dim>>,
}

impl Type {
    /// A tensor of these dimensions.
    pub fn new(dtype: impl Into<Option<DataType>>, shape: impl Into<Option<Vec<Dim>>>) -> Self {
        Self { dtype: dtype.into(), shape: shape.into() }
    }

    /// The type that a file declares.
    pub fn from_proto(proto: &TypeProto) -> Self {
        let Some(type_proto::Value::TensorType(tensor)) = &proto.value else { return Self::default() };
        let dim = |value: &Option<dimension::Value>| match value {
            Some(dimension::Value::DimValue(number)) if *number >= 0 => Dim::Fixed(*number),
            // Some exporters write a known extent as a symbol of digits.
            Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => {
                let number = symbol.parse().ok().filter(|&number| number >= 0);
                number.map_or_else(|| Dim::Symbol(symbol.as_str().into()), Dim::Fixed)
            }
            _ => Dim::Unknown,
        };
        let dtype = DataType::try_from(tensor.elem_type()).ok();
        let shape = tensor.shape.as_ref();
        Self {
            dtype: dtype.filter(|&dtype| dtype != DataType::Undefined),
            shape: shape.map(|shape| shape.dim.iter().map(|dim_proto| dim(&dim_proto.value)).collect()),
        }
    }

    /// The type as a file declares it; `None` where the element type is unknown, without which a file can declare none.
    pub fn to_proto(&self) -> Option<TypeProto> {
        let dim = |dim: &Dim| tensor_shape_proto::Dimension {
            value: match dim {
                Dim::Fixed(number) => Some(dimension::Value::DimValue(*number)),
                Dim::Symbol(symbol) => Some(dimension::Value::DimParam(symbol.to_string())),
                Dim::Unknown => None,
            },
            ..Default::default()
        };
        let shape = self.shape.as_ref();
        let tensor = type_proto::Tensor {
            elem_type: Some(self.dtype? as i32),
            shape: shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() }),
        };
        Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() })
    }

    /// The type of a constant.
    pub fn of_tensor(tensor: &Tensor) -> Self {
        Self::new(tensor.dtype().ok(), tensor.dims().iter().map(|&dim| Dim::Fixed(dim)).collect::<Vec<_>>())
    }

    /// The number of dimensions, where it is known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The extent along an axis, counted from the last one if it is negative; [`Dim::Unknown`] where there is no such axis.
    pub fn dim(&self, axis: i64) -> Dim {
        let at = self.axis(axis);
        at.and_then(|at| self.shape.as_ref()?.get(at).cloned()).unwrap_or(Dim::Unknown)
    }

    /// The axis as counted from the first, where the rank is known and it is within.
    pub fn axis(&self, axis: i64) -> Option<usize> {
        let rank = self.rank()? as i64;
        let at = if axis < 0 { axis + rank } else { axis };
        (0..rank).contains(&at).then_some(at as usize)
    }

    /// Whether no value has both types.
    pub fn contradicts(&self, other: &Type) -> bool {
        let dtypes = self.dtype.zip(other.dtype).is_some_and(|(ours, theirs)| ours != theirs);
        let shapes = self.shape.as_ref().zip(other.shape.as_ref()).is_some_and(|(ours, theirs)| {
            ours.len() != theirs.len()
                || ours.iter().zip(theirs).any(|(ours, theirs)| ours.contradicts(theirs))
        });
        dtypes || shapes
    }

    /// What both say, this one first where they differ.
    #[must_use]
    pub fn or(self, other: &Type) -> Self {
        let shape = match (self.shape, &other.shape) {
            (Some(ours), Some(theirs)) if ours.len() == theirs.len() => {
                let more = |(ours, theirs): (Dim, &Dim)| match (&ours, theirs) {
                    (Dim::Unknown, known) | (Dim::Symbol(_), known @ Dim::Fixed(_)) => known.clone(),
                    _ => ours,
                };
                Some(ours.into_iter().zip(theirs).map(more).collect())
            }
            (ours, theirs) => ours.or_else(|| theirs.clone()),
        };
        Self { dtype: self.dtype.or(other.dtype), shape }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.map_or("?", name))?;
        let Some(shape) = &self.shape else { return Ok(()) };
        let dims = shape.iter().map(|dim| match dim {
            Dim::Fixed(number) => number.to_string(),
            Dim::Symbol(symbol) => symbol.to_string(),
            Dim::Unknown => "?".to_string(),
        });
        write!(f, "[{}]", dims.collect::<Vec<_>>().join(", "))
    }
}
