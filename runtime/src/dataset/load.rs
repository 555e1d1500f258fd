//! Reads calibration files by their extension.

use std::path::{Path, PathBuf};

use super::arrays::split;
use super::error::DataError;
use super::sample::{CalibrationSample, SampleOptions};
use super::tokens::Tokens;
use super::{jsonl, npz, safetensors, text};
use crate::array::Array;
use crate::inputs::{Sample, make_inputs, token_input};

/// Reads up to `options.samples` samples from `files`, in order, and checks each against the model's inputs.
///
/// * `.txt` is one text: its tokens are cut into consecutive windows of `seq_len`, with `bos` as the first token of
///   each where given. A last, shorter window counts only when it is the only one.
/// * `.jsonl` has one sample a line: inputs by name as nested arrays, where the batch dimension may be left out, and
///   `"text": "..."`, cut to `seq_len` tokens (`bos` included), in place of the token ids. Other keys are ignored.
/// * `.npz` and `.safetensors` hold arrays by input name whose first dimension counts the samples. It is the batch dimension
///   of an input of the same rank; in front of one that has a dimension less, such as a scalar, it is left out of the sample. A
///   scalar without that dimension is the same in every sample. Other arrays are ignored.
///
/// # Errors
/// A [`DataError`] that names the file and, where there is one, the line or the number of the sample, the array or the input.
pub fn load_calibration(
    files: &[PathBuf],
    options: &SampleOptions,
) -> Result<Vec<CalibrationSample>, DataError> {
    let (specs, tokens) = (options.specs, Tokens::new(options));
    let mut loaded = Vec::new();
    for path in files {
        let wanted = options.samples - loaded.len();
        if wanted == 0 {
            break;
        }
        let mut read = match path.extension().and_then(|extension| extension.to_str()) {
            Some("txt") => numbered(path, text::read(path, &tokens, wanted)?),
            Some("jsonl") => jsonl::read(path, &tokens, wanted)?,
            Some("npz") => numbered(path, split(path, specs, npz::read(path, specs)?, wanted)?),
            Some("safetensors") => {
                numbered(path, split(path, specs, safetensors::read(path, specs)?, wanted)?)
            }
            _ => return Err(DataError::Extension { path: path.clone() }),
        };
        if read.is_empty() {
            return Err(DataError::Empty { path: path.clone() });
        }
        read.truncate(wanted);
        read.iter().try_for_each(|sample| check(sample, options))?;
        loaded.append(&mut read);
    }
    Ok(loaded)
}

/// Checks that the model can be run on a sample.
fn check(
    CalibrationSample { sample, place }: &CalibrationSample,
    options: &SampleOptions,
) -> Result<(), DataError> {
    make_inputs(options.specs, sample).map_err(|source| DataError::Input { place: place.clone(), source })?;
    let nan = |array: &Array| array.as_f32().is_some_and(|values| values.iter().any(|value| value.is_nan()));
    if let Some((input, _)) = sample.iter().find(|(_, array)| nan(array)) {
        return Err(DataError::NotANumber { place: place.clone(), input: input.clone() });
    }
    let Some(vocabulary) = options.vocabulary else { return Ok(()) };
    let tokens = token_input(options.specs).and_then(|input| sample.get_key_value(&input.name));
    // ONNX counts negative indices from the end.
    let unknown = |&id: &i64| id >= vocabulary as i64 || id < -(vocabulary as i64);
    match tokens.and_then(|(input, ids)| Some((input, ids.to_i64()?.into_iter().find(unknown)?))) {
        Some((input, id)) => {
            Err(DataError::UnknownToken { place: place.clone(), input: input.clone(), id, vocabulary })
        }
        None => Ok(()),
    }
}

/// The samples of a file with their numbers.
fn numbered(path: &Path, samples: Vec<Sample>) -> Vec<CalibrationSample> {
    let place = |index| format!("{}: sample {index}", path.display());
    let samples = samples.into_iter().enumerate();
    samples.map(|(index, sample)| CalibrationSample { sample, place: place(index) }).collect()
}
