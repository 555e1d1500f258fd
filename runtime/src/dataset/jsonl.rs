//! `.jsonl`: one JSON object a line: inputs as nested arrays, or a text in place of the token ids.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::DataError;
use super::sample::CalibrationSample;
use super::tokens::Tokens;
use crate::array::Array;
use crate::inputs::{InputSpec, Sample};

/// What some editors put in front of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the first lines that are not blank.
pub fn read(path: &Path, tokens: &Tokens, wanted: usize) -> Result<Vec<CalibrationSample>, DataError> {
    let bytes = fs::read(path).map_err(DataError::read(path))?;
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .take(wanted)
        .map(|(index, line)| {
            let sample = read_line(path, index + 1, line, tokens)?;
            Ok(CalibrationSample { sample, place: format!("{}:{}", path.display(), index + 1) })
        })
        .collect()
}

/// The sample in a line, which is number `number` from 1.
fn read_line(path: &Path, number: usize, line: &[u8], tokens: &Tokens) -> Result<Sample, DataError> {
    let error = |reason| DataError::Line { path: path.into(), line: number, reason };
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|reason| error(format!("not a JSON object: {reason}")))?;
    let mut sample = named_arrays(&object, tokens.options.specs).map_err(error)?;
    if let Some(Value::String(text)) = object.get("text") {
        let ids = tokens.encode(path, text)?;
        if ids.is_empty() {
            return Err(error("the text is empty".into()));
        }
        for (name, ids) in tokens.sample(path, &ids[..ids.len().min(tokens.window())])? {
            if sample.insert(name.clone(), ids).is_some() {
                return Err(error(format!("has both \"text\" and {name:?}; give one of them")));
            }
        }
    }
    if sample.is_empty() {
        return Err(error("neither \"text\" nor any input of the model is among its keys".into()));
    }
    Ok(sample)
}

/// The values whose keys are inputs of the model.
fn named_arrays(object: &Map<String, Value>, specs: &[InputSpec]) -> Result<Sample, String> {
    specs
        .iter()
        .filter_map(|spec| Some((spec, object.get(&spec.name)?)))
        .filter(|(spec, value)| !(spec.name == "text" && value.is_string()))
        .map(|(spec, value)| {
            let mut array =
                nested_array(value).map_err(|reason| format!("input {:?}: {reason}", spec.name))?;
            if spec.shape.as_ref().is_some_and(|shape| shape.len() == array.shape.len() + 1) {
                array.shape.insert(0, 1);
            }
            Ok((spec.name.clone(), array))
        })
        .collect()
}

/// Nested arrays of numbers or booleans; floats if any number is not an integer.
fn nested_array(value: &Value) -> Result<Array, String> {
    let mut shape = Vec::new();
    let mut level = value;
    while let Value::Array(items) = level {
        shape.push(items.len());
        match items.first() {
            Some(first) => level = first,
            None => break,
        }
    }
    let mut leaves = Vec::new();
    flatten(value, &shape, &mut leaves)?;
    let integers = || leaves.iter().map(|leaf| leaf.as_i64()).collect::<Option<Vec<_>>>();
    let booleans = || leaves.iter().map(|leaf| leaf.as_bool()).collect::<Option<Vec<_>>>();
    let floats = || leaves.iter().map(|leaf| leaf.as_f64().map(|x| x as f32)).collect::<Option<Vec<_>>>();
    let array = match (integers(), booleans(), floats()) {
        (Some(elements), ..) => Array::new(shape, elements),
        (_, Some(elements), _) => Array::new(shape, elements),
        (.., Some(elements)) => Array::new(shape, elements),
        _ => return Err("holds something that is neither a number nor a boolean".into()),
    };
    array.map_err(|error| error.to_string())
}

/// Appends the leaves of `value`, which must be nested as `shape` says.
fn flatten<'a>(value: &'a Value, shape: &[usize], leaves: &mut Vec<&'a Value>) -> Result<(), String> {
    match (value, shape) {
        (Value::Array(items), [extent, inner @ ..]) if items.len() == *extent => {
            items.iter().try_for_each(|item| flatten(item, inner, leaves))
        }
        (Value::Array(_), _) | (_, [_, ..]) => Err("its rows differ in length".into()),
        (leaf, []) => {
            leaves.push(leaf);
            Ok(())
        }
    }
}
