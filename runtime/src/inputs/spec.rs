//! The declaration of an input: its name, its element type and its dimensions.

use std::collections::BTreeMap;
use std::fmt;

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::types::{Dim, Type};
use zqc_ir::{Graph, ValueId};

use super::error::InputError;
use crate::array::Array;

/// What a data set gives for one run of a model: arrays by input name, batch 1. [`make_inputs`](super::make_inputs) completes it.
pub type Sample = BTreeMap<String, Array>;

/// One input of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub data_type: DataType,
    /// Its dimensions, `None` when the model does not even declare the rank.
    pub shape: Option<Vec<Dimension>>,
}

/// One dimension of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Always this extent.
    Fixed(usize),
    /// Any extent; the symbol is empty when the model gives none.
    Symbolic(String),
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dimension::Fixed(extent) => write!(f, "{extent}"),
            Dimension::Symbolic(symbol) if symbol.is_empty() => f.write_str("?"),
            Dimension::Symbolic(symbol) => f.write_str(symbol),
        }
    }
}

/// Type and shape, such as `INT64[batch, 16]`.
impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.data_type.as_str_name())?;
        match &self.shape {
            None => f.write_str(" of any shape"),
            Some(dims) => {
                write!(f, "[{}]", dims.iter().map(Dimension::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl InputSpec {
    /// What the model declares of a value, as of an input.
    ///
    /// # Errors
    /// [`InputError::NotATensor`].
    pub fn of_value(graph: &Graph, value: ValueId) -> Result<Self, InputError> {
        let value = graph.value(value);
        let declared = value.info.as_ref().and_then(|info| info.r#type.as_ref());
        let declared = declared.map(Type::from_proto).unwrap_or_default();
        let not_a_tensor = || InputError::NotATensor { name: value.name.clone() };
        Ok(Self {
            name: value.name.clone(),
            data_type: declared.dtype.ok_or_else(not_a_tensor)?,
            shape: declared.shape.map(|dims| dims.iter().map(Dimension::of).collect()),
        })
    }

    pub(crate) fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// Whether its elements are of a floating-point type that has a host form.
    pub fn is_float(&self) -> bool {
        use DataType::{Bfloat16, Double, Float, Float16};
        matches!(self.data_type, Float | Float16 | Bfloat16 | Double)
    }

    pub(super) fn is_integer(&self) -> bool {
        matches!(self.data_type, DataType::Int64 | DataType::Int32)
    }

    /// Whether the input takes arrays of this shape.
    pub(super) fn admits(&self, shape: &[usize]) -> bool {
        self.shape.as_ref().is_none_or(|dims| {
            dims.len() == shape.len() && dims.iter().zip(shape).all(|(dim, &extent)| dim.admits(extent))
        })
    }
}

impl Dimension {
    fn of(dim: &Dim) -> Self {
        match dim {
            Dim::Fixed(extent) => {
                usize::try_from(*extent).map_or(Dimension::Symbolic(String::new()), Dimension::Fixed)
            }
            Dim::Symbol(symbol) => Dimension::Symbolic(symbol.to_string()),
            Dim::Unknown => Dimension::Symbolic(String::new()),
        }
    }

    fn admits(&self, extent: usize) -> bool {
        match self {
            Dimension::Fixed(fixed) => *fixed == extent,
            Dimension::Symbolic(_) => true,
        }
    }
}

/// An input of the given type; a negative extent is symbolic.
#[cfg(test)]
pub(super) fn for_tests(name: &str, data_type: DataType, shape: &[i64]) -> InputSpec {
    let symbolic = |_| Dimension::Symbolic("n".into());
    let dimension = |&extent: &i64| usize::try_from(extent).map_or_else(symbolic, Dimension::Fixed);
    InputSpec { name: name.into(), data_type, shape: Some(shape.iter().map(dimension).collect()) }
}
