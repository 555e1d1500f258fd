//! What a model asks for, and how what a data set lacks is made up.
//!
//! A data set usually holds token ids only. Masks, positions, token types and empty caches follow from them, as
//! exporters mean those inputs; anything else must be given.

use std::collections::BTreeMap;
use std::fmt;

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::tensor_shape_proto::dimension::Value;
use zqc_ir::onnx::proto::{GraphProto, TensorShapeProto, ValueInfoProto, type_proto};

use crate::array::{Array, ArrayData, ArrayError};

/// Rotary embeddings of several axes have a row of positions for each.
const MOST_POSITION_ROWS: usize = 16;

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

/// Why the inputs of a model could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The model declares an input that is no tensor of a known element type.
    #[error("input {name:?} of the model is no tensor of a known element type")]
    NotATensor {
        /// Name of the input.
        name: String,
    },
    /// A given array is for no input.
    #[error("the model has no input {name:?}; it has: {inputs}")]
    Unknown {
        /// Name of the array.
        name: String,
        /// The model's inputs.
        inputs: String,
    },
    /// An input is not given and does not follow from those that are.
    #[error(
        "input {name:?} {spec} is not given and cannot be made up; give it under this name: in every line of a .jsonl file, \
         where it may stand beside \"text\", or as an array of all samples in an .npz or .safetensors file"
    )]
    Missing {
        /// Name of the input.
        name: String,
        /// Its type and shape.
        spec: String,
    },
    /// A given array has the wrong rank or extents.
    #[error("input {name:?} must be {spec}, not of shape {found:?}")]
    Shape {
        /// Name of the input.
        name: String,
        /// Its type and shape.
        spec: String,
        /// Shape of the array.
        found: Vec<usize>,
    },
    /// A given array has the wrong element type.
    #[error("input {name:?}: {source}")]
    Type {
        /// Name of the input.
        name: String,
        /// The conversion that failed.
        source: ArrayError,
    },
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
    /// The inputs that a caller of `graph` must provide: those that no initializer stands for.
    ///
    /// # Errors
    /// [`InputError::NotATensor`].
    pub fn of_graph(graph: &GraphProto) -> Result<Vec<Self>, InputError> {
        let is_initializer = |name| graph.initializer.iter().any(|tensor| tensor.name() == name);
        graph.input.iter().filter(|input| !is_initializer(input.name())).map(Self::of_input).collect()
    }

    /// The input that `input` declares.
    ///
    /// # Errors
    /// [`InputError::NotATensor`].
    pub fn of_input(input: &ValueInfoProto) -> Result<Self, InputError> {
        let not_a_tensor = || InputError::NotATensor { name: input.name().into() };
        let Some(type_proto::Value::TensorType(tensor)) =
            input.r#type.as_ref().and_then(|t| t.value.as_ref())
        else {
            return Err(not_a_tensor());
        };
        match DataType::try_from(tensor.elem_type()) {
            Ok(data_type) if data_type != DataType::Undefined => Ok(Self {
                name: input.name().into(),
                data_type,
                shape: tensor.shape.as_ref().map(dimensions),
            }),
            _ => Err(not_a_tensor()),
        }
    }

    pub(crate) fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// Whether its elements are of a floating-point type that has a host form.
    pub fn is_float(&self) -> bool {
        use DataType::{Bfloat16, Double, Float, Float16};
        matches!(self.data_type, Float | Float16 | Bfloat16 | Double)
    }

    fn is_integer(&self) -> bool {
        matches!(self.data_type, DataType::Int64 | DataType::Int32)
    }

    /// The array as this input takes it.
    fn admit(&self, array: Array) -> Result<Array, InputError> {
        let fits = self.shape.as_ref().is_none_or(|dims| {
            let extents = || dims.iter().zip(&array.shape);
            dims.len() == array.shape.len() && extents().all(|(dim, &extent)| dim.admits(extent))
        });
        if !fits {
            return Err(InputError::Shape {
                name: self.name.clone(),
                spec: self.to_string(),
                found: array.shape,
            });
        }
        array.cast(self.data_type).map_err(|source| InputError::Type { name: self.name.clone(), source })
    }

    /// What exporters mean by an input of this name, for `batch` sequences of `seq` tokens and no past.
    fn make_up(&self, batch: usize, seq: usize) -> Option<Array> {
        let array = |shape: Vec<usize>, data: ArrayData| Some(Array { shape, data });
        match (self.name.as_str(), self.rank()) {
            ("attention_mask", Some(2)) => array(vec![batch, seq], vec![1i64; batch * seq].into()),
            ("token_type_ids", Some(2)) => array(vec![batch, seq], vec![0i64; batch * seq].into()),
            ("position_ids", Some(2)) => {
                let rows = match self.shape.as_deref() {
                    Some([Dimension::Fixed(rows), _]) if *rows <= batch.max(MOST_POSITION_ROWS) => *rows,
                    Some([Dimension::Fixed(_), _]) => return None,
                    _ => batch,
                };
                array(vec![rows, seq], (0..rows).flat_map(|_| 0..seq as i64).collect::<Vec<_>>().into())
            }
            ("position_ids" | "cache_position", Some(1)) => {
                array(vec![seq], (0..seq as i64).collect::<Vec<_>>().into())
            }
            ("use_cache_branch", _) => array(vec![1], vec![false].into()),
            (name, Some(4 | 5)) if name.starts_with("past") || name.contains("cache") => {
                array(self.empty_cache(batch)?, Vec::<f32>::new().into())
            }
            _ => None,
        }
    }

    /// Shape of a cache of no tokens: its symbolic dimensions are the batch, unless that is fixed, and the length.
    fn empty_cache(&self, batch: usize) -> Option<Vec<usize>> {
        let dims = self.shape.as_ref()?;
        let is_symbolic = |dim: &Dimension| matches!(dim, Dimension::Symbolic(_));
        let first_is_symbolic = dims.first().is_some_and(is_symbolic);
        let mut symbols = match (dims.iter().filter(|&dim| is_symbolic(dim)).count(), first_is_symbolic) {
            (2, _) => vec![batch, 0],
            (1, false) => vec![0],
            _ => return None,
        }
        .into_iter();
        dims.iter()
            .map(|dim| match dim {
                Dimension::Fixed(extent) => Some(*extent),
                Dimension::Symbolic(_) => symbols.next(),
            })
            .collect()
    }
}

impl Dimension {
    fn admits(&self, extent: usize) -> bool {
        match self {
            Dimension::Fixed(fixed) => *fixed == extent,
            Dimension::Symbolic(_) => true,
        }
    }
}

fn dimensions(shape: &TensorShapeProto) -> Vec<Dimension> {
    let dimension = |value: &Option<Value>| match value {
        Some(Value::DimValue(extent)) => {
            usize::try_from(*extent).map_or(Dimension::Symbolic(String::new()), Dimension::Fixed)
        }
        Some(Value::DimParam(symbol)) => Dimension::Symbolic(symbol.clone()),
        None => Dimension::Symbolic(String::new()),
    };
    shape.dim.iter().map(|dim| dimension(&dim.value)).collect()
}

/// The input that takes token ids, `[batch, seq]`: `input_ids`, or else the only integer input of rank 2.
pub fn token_input(specs: &[InputSpec]) -> Option<&InputSpec> {
    let by_name = specs.iter().find(|spec| spec.name == "input_ids");
    by_name.or_else(|| {
        let mut candidates = specs.iter().filter(|spec| spec.is_integer() && spec.rank() == Some(2));
        candidates.next().filter(|_| candidates.next().is_none())
    })
}

/// All inputs of a model, in the order of `specs`: those `given`, checked and converted, and the rest made up.
///
/// Made up are `attention_mask` (ones), `token_type_ids` (zeros), `position_ids` and `cache_position` (0, 1, ...),
/// caches (empty, from names that start with `past` or contain `cache`) and `use_cache_branch` (false); batch and
/// length are those of the token input, or else of `inputs_embeds`.
///
/// # Errors
/// An [`InputError`] that names the input.
pub fn make_inputs(
    specs: &[InputSpec],
    given: &BTreeMap<String, Array>,
) -> Result<Vec<(String, Array)>, InputError> {
    if let Some(name) = given.keys().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
        let inputs = specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(InputError::Unknown { name: name.clone(), inputs });
    }
    let leading = token_input(specs).and_then(|spec| given.get(&spec.name)).or(given.get("inputs_embeds"));
    let extents = leading.and_then(|array| Some((*array.shape.first()?, *array.shape.get(1)?)));
    specs
        .iter()
        .map(|spec| {
            let missing = || InputError::Missing { name: spec.name.clone(), spec: spec.to_string() };
            let array = match given.get(&spec.name) {
                Some(array) => array.clone(),
                None => extents.and_then(|(batch, seq)| spec.make_up(batch, seq)).ok_or_else(missing)?,
            };
            Ok((spec.name.clone(), spec.admit(array)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input of the given type; a negative extent is symbolic.
    fn spec(name: &str, data_type: DataType, shape: &[i64]) -> InputSpec {
        let symbolic = |_| Dimension::Symbolic("n".into());
        let dimension = |&extent: &i64| usize::try_from(extent).map_or_else(symbolic, Dimension::Fixed);
        InputSpec { name: name.into(), data_type, shape: Some(shape.iter().map(dimension).collect()) }
    }

    fn ids(batch: usize, seq: usize) -> BTreeMap<String, Array> {
        let tokens = (0..(batch * seq) as i64).collect::<Vec<_>>();
        BTreeMap::from([("input_ids".into(), Array::new(vec![batch, seq], tokens).unwrap())])
    }

    #[test]
    fn what_follows_from_the_tokens_is_made_up() {
        use DataType::{Bool, Float16, Int32, Int64};
        let cases: [(InputSpec, Array); 9] = [
            (spec("attention_mask", Int64, &[-1, -1]), Array::new(vec![2, 3], vec![1i64; 6]).unwrap()),
            (spec("attention_mask", Bool, &[-1, -1]), Array::new(vec![2, 3], vec![true; 6]).unwrap()),
            (spec("token_type_ids", Int32, &[-1, -1]), Array::new(vec![2, 3], vec![0i32; 6]).unwrap()),
            (
                spec("position_ids", Int64, &[-1, -1]),
                Array::new(vec![2, 3], vec![0i64, 1, 2, 0, 1, 2]).unwrap(),
            ),
            (spec("position_ids", Int64, &[1, -1]), Array::sequence(vec![0, 1, 2])),
            (spec("cache_position", Int64, &[-1]), Array::new(vec![3], vec![0i64, 1, 2]).unwrap()),
            (spec("use_cache_branch", Bool, &[1]), Array::new(vec![1], vec![false]).unwrap()),
            (
                spec("past_key_values.0.key", Float16, &[-1, 4, -1, 8]),
                Array::new(vec![2, 4, 0, 8], Vec::<f32>::new()).unwrap(),
            ),
            (
                spec("past_0", DataType::Float, &[2, -1, 4, -1, 8]),
                Array::new(vec![2, 2, 4, 0, 8], Vec::<f32>::new()).unwrap(),
            ),
        ];
        for (wanted, expected) in cases {
            let specs = [spec("input_ids", Int64, &[-1, -1]), wanted];
            let inputs = make_inputs(&specs, &ids(2, 3)).unwrap();
            assert_eq!(inputs[1], (specs[1].name.clone(), expected));
        }
    }

    #[test]
    fn errors_name_the_input() {
        let tokens = spec("input_ids", DataType::Int64, &[1, -1]);
        let mask = |shape| spec("attention_mask", DataType::Float, shape);
        let error = |specs: &[InputSpec], given| make_inputs(specs, &given).unwrap_err().to_string();

        let missing = error(&[tokens.clone(), mask(&[-1, 1, -1, -1])], ids(1, 2));
        assert!(missing.contains("\"attention_mask\" FLOAT[n, 1, n, n]"), "{missing}");
        let no_tokens = error(std::slice::from_ref(&tokens), BTreeMap::new());
        assert!(no_tokens.contains("\"input_ids\""), "{no_tokens}");
        let shape = error(std::slice::from_ref(&tokens), ids(2, 2));
        assert!(shape.contains("INT64[1, n]") && shape.contains("[2, 2]"), "{shape}");
        let unknown = error(&[mask(&[-1, -1])], ids(1, 2));
        assert!(unknown.contains("no input \"input_ids\"; it has: attention_mask"), "{unknown}");
        let floats = BTreeMap::from([("input_ids".into(), Array::new(vec![1, 1], vec![0.5f32]).unwrap())]);
        assert!(
            error(&[tokens], floats).contains("\"input_ids\": elements of type FLOAT cannot become INT64")
        );
        let ambiguous = spec("past.key", DataType::Float, &[-1, -1, -1, 8]);
        assert!(ambiguous.make_up(1, 2).is_none());
    }

    #[test]
    fn tokens_go_to_the_only_integer_matrix_without_a_name_to_go_by() {
        let a = spec("tokens", DataType::Int32, &[-1, -1]);
        let b = spec("segments", DataType::Int64, &[-1, -1]);
        let floats = spec("features", DataType::Float, &[-1, -1]);
        assert_eq!(token_input(&[floats.clone(), a.clone()]), Some(&a));
        assert_eq!(token_input(&[a, b]), None);
        assert_eq!(token_input(&[floats]), None);
    }
}
