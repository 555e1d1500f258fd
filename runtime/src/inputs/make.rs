//! The inputs of a run: those that are given, checked and converted, and the rest derived from them.

use std::collections::BTreeMap;

use super::batches::fill;
use super::derive::Context;
use super::error::InputError;
use super::spec::InputSpec;
use super::tokens::{EMBEDDINGS, token_input};
use crate::array::Array;

/// All inputs of a model, in the order of `specs`: those `given`, checked and converted, and the rest derived.
///
/// Derived is what follows from the tokens, or else from `inputs_embeds`: masks, positions, token types, lengths, caches and
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
    let given = &fill(specs, given);
    let embeddings = specs.iter().filter(|spec| spec.name == EMBEDDINGS);
    let leading = token_input(specs).into_iter().chain(embeddings);
    let context =
        leading.filter_map(|leading| Some((leading, given.get(&leading.name)?))).find_map(|found| {
            let (leading, tokens) = found;
            let (&batch, &seq) = (tokens.shape.first()?, tokens.shape.get(1)?);
            Some(Context { batch, seq, leading, tokens, specs, given })
        });
    specs
        .iter()
        .map(|spec| {
            let missing =
                |reason| InputError::Missing { name: spec.name.clone(), spec: spec.to_string(), reason };
            let array = match (given.get(&spec.name), &context) {
                (Some(array), _) => array.clone(),
                (None, Some(context)) => {
                    let array = context.derive(spec).map_err(missing)?;
                    if !spec.admits(&array.shape) {
                        let (tokens, shape) = (context.seq, &array.shape);
                        return Err(missing(format!("for {tokens} tokens it would be of shape {shape:?}")));
                    }
                    array
                }
                (None, None) => {
                    return Err(missing("it follows from the tokens, and none are given".to_string()));
                }
            };
            Ok((spec.name.clone(), spec.admit(array)?))
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use zqc_ir::onnx::proto::tensor_proto::DataType;

    use super::*;
    use crate::inputs::spec::for_tests as spec;

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
    fn what_is_derived_and_does_not_fit_was_not_given() {
        let specs =
            [spec("input_ids", DataType::Int64, &[1, -1]), spec("cache_position", DataType::Int64, &[1])];
        let error = make_inputs(&specs, &ids(1, 3)).unwrap_err().to_string();
        assert!(error.contains("\"cache_position\" INT64[1] is not given"), "{error}");
        assert!(error.contains("for 3 tokens it would be of shape [3]; give it"), "{error}");
        assert!(make_inputs(&specs, &ids(1, 1)).is_ok());
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
