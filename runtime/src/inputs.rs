//! What a model asks for, and how what a data set lacks is made up.
//!
//! A data set usually holds token ids only. Masks, positions, token types and empty caches follow from them, as
//! exporters mean those inputs; anything else must be given.

use std::collections::BTreeMap;

use crate::array::{Array, ArrayError};

mod batches;
mod rules;
mod sizes;
mod spec;

pub use batches::{Packed, pack};
use rules::Run;
pub use rules::{names_cache, names_positions};
pub use spec::{Dimension, InputSpec};

/// Inputs of more elements are not made up.
const MOST_VALUES: usize = 1 << 26;

/// Names of inputs that take token ids; of several, the first is what calibration text goes to.
const TOKENS: [&str; 2] = ["input_ids", "decoder_input_ids"];

/// The input that has the embeddings of tokens in place of the tokens, `[batch, seq, features]`.
pub const EMBEDDINGS: &str = "inputs_embeds";

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
        "input {name:?} {spec} is not given and cannot be made up: {reason}; give it under this name: in every line of a \
         .jsonl file, where it may stand beside \"text\", or as an array of all samples in an .npz or .safetensors file"
    )]
    Missing {
        /// Name of the input.
        name: String,
        /// Its type and shape.
        spec: String,
        /// Why it cannot be made up.
        reason: String,
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

impl InputSpec {
    /// The array as this input takes it.
    fn admit(&self, array: Array) -> Result<Array, InputError> {
        if !self.admits(&array.shape) {
            return Err(InputError::Shape {
                name: self.name.clone(),
                spec: self.to_string(),
                found: array.shape,
            });
        }
        array.cast(self.data_type).map_err(|source| InputError::Type { name: self.name.clone(), source })
    }
}

/// The inputs that take token ids: those that exporters name so, or else all of integers, of rank 1 or 2, that mean nothing else.
pub fn token_inputs(specs: &[InputSpec]) -> Vec<&InputSpec> {
    let named: Vec<_> =
        TOKENS.iter().filter_map(|name| specs.iter().find(|spec| spec.name == *name)).collect();
    if !named.is_empty() {
        return named;
    }
    let fits = |spec: &&InputSpec| {
        spec.is_integer() && spec.rank().is_none_or(|rank| matches!(rank, 1 | 2)) && spec.meaning().is_none()
    };
    specs.iter().filter(fits).collect()
}

/// The input that takes token ids, `[batch, seq]`: `input_ids`, else `decoder_input_ids`, or else the only one of integers of rank 2
/// that means nothing else.
pub fn token_input(specs: &[InputSpec]) -> Option<&InputSpec> {
    let candidates = token_inputs(specs);
    match candidates.first() {
        Some(first) if TOKENS.contains(&first.name.as_str()) => Some(*first),
        _ => {
            let mut matrices = candidates.into_iter().filter(|spec| spec.rank() == Some(2));
            matrices.next().filter(|_| matrices.next().is_none())
        }
    }
}

/// The input that says how many sequences of how many tokens there are: that of tokens, or of their embeddings.
fn leading_input(specs: &[InputSpec]) -> Option<&InputSpec> {
    token_input(specs).or_else(|| specs.iter().find(|spec| spec.name == EMBEDDINGS))
}

/// All inputs of a model, in the order of `specs`: those `given`, checked and converted, and the rest made up.
///
/// Made up is what follows from the tokens, or else from `inputs_embeds`: masks, positions, token types, lengths, caches and
/// states as they are before the first token. Where the batch is fixed above 1, a single sequence is given to all of it.
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
    let given = &batches::fill(specs, given);
    let embeddings = specs.iter().filter(|spec| spec.name == EMBEDDINGS);
    let leading = token_input(specs).into_iter().chain(embeddings);
    let run = leading.filter_map(|leading| Some((leading, given.get(&leading.name)?))).find_map(|found| {
        let (leading, tokens) = found;
        let (&batch, &seq) = (tokens.shape.first()?, tokens.shape.get(1)?);
        Some(Run { batch, seq, leading, tokens, specs, given })
    });
    specs
        .iter()
        .map(|spec| {
            let missing =
                |reason| InputError::Missing { name: spec.name.clone(), spec: spec.to_string(), reason };
            let array = match (given.get(&spec.name), &run) {
                (Some(array), _) => array.clone(),
                (None, Some(run)) => {
                    let array = run.make_up(spec).map_err(missing)?;
                    if !spec.admits(&array.shape) {
                        let (tokens, shape) = (run.seq, &array.shape);
                        return Err(missing(format!("for {tokens} tokens it would be of shape {shape:?}")));
                    }
                    array
                }
                (None, None) => return Err(missing("there are no tokens to go by".to_string())),
            };
            Ok((spec.name.clone(), spec.admit(array)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use zqc_ir::onnx::proto::tensor_proto::DataType;

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
    fn errors_name_the_input() {
        let tokens = spec("input_ids", DataType::Int64, &[1, -1]);
        let features = |shape| spec("features", DataType::Float, shape);
        let error = |specs: &[InputSpec], given| make_inputs(specs, &given).unwrap_err().to_string();

        let missing = error(&[tokens.clone(), features(&[-1, 1, -1, -1])], ids(1, 2));
        assert!(missing.contains("\"features\" FLOAT[n, 1, n, n]"), "{missing}");
        let no_tokens = error(std::slice::from_ref(&tokens), BTreeMap::new());
        assert!(no_tokens.contains("\"input_ids\""), "{no_tokens}");
        let shape = error(std::slice::from_ref(&tokens), ids(2, 2));
        assert!(shape.contains("INT64[1, n]") && shape.contains("[2, 2]"), "{shape}");
        let unknown = error(&[features(&[-1, -1])], ids(1, 2));
        assert!(unknown.contains("no input \"input_ids\"; it has: features"), "{unknown}");
        let floats = BTreeMap::from([("input_ids".into(), Array::new(vec![1, 1], vec![0.5f32]).unwrap())]);
        assert!(
            error(&[tokens], floats).contains("\"input_ids\": elements of type FLOAT cannot become INT64")
        );
    }

    #[test]
    fn what_is_made_up_and_does_not_fit_was_not_given() {
        let specs =
            [spec("input_ids", DataType::Int64, &[1, -1]), spec("cache_position", DataType::Int64, &[1])];
        let error = make_inputs(&specs, &ids(1, 3)).unwrap_err().to_string();
        assert!(error.contains("\"cache_position\" INT64[1] is not given"), "{error}");
        assert!(error.contains("for 3 tokens it would be of shape [3]; give it"), "{error}");
        assert!(make_inputs(&specs, &ids(1, 1)).is_ok());
    }

    #[test]
    fn tokens_go_where_integers_mean_nothing_else() {
        let a = spec("tokens", DataType::Int32, &[-1, -1]);
        let b = spec("segments", DataType::Int64, &[-1, -1]);
        let mask = spec("attention_mask", DataType::Int64, &[-1, -1]);
        let positions = spec("position_ids", DataType::Int64, &[-1, -1]);
        let decoder = spec("decoder_input_ids", DataType::Int64, &[-1, -1]);
        let floats = spec("features", DataType::Float, &[-1, -1]);
        assert_eq!(token_input(&[floats.clone(), a.clone()]), Some(&a));
        assert_eq!(token_input(&[mask.clone(), positions, a.clone()]), Some(&a));
        assert_eq!(token_input(&[a.clone(), b.clone(), decoder.clone()]), Some(&decoder));
        assert_eq!(token_inputs(&[a.clone(), floats.clone(), b.clone()]), [&a, &b]);
        assert_eq!(token_inputs(&[a.clone(), decoder.clone()]), [&decoder]);
        assert_eq!(token_input(&[a, b]), None);
        assert_eq!(token_input(&[floats, mask]), None);
    }

    #[test]
    fn embeddings_say_how_many_tokens_there_are() {
        let embeds = spec("inputs_embeds", DataType::Float, &[-1, -1, 4]);
        let mask = spec("attention_mask", DataType::Int64, &[-1, -1]);
        let given =
            BTreeMap::from([("inputs_embeds".into(), Array::new(vec![1, 2, 4], vec![0.5f32; 8]).unwrap())]);
        let inputs = make_inputs(&[embeds, mask], &given).unwrap();
        assert_eq!(inputs[1].1, Array::sequence(vec![1, 1]));
    }
}
