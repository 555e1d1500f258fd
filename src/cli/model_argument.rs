//! The MODEL of a compilation, wherever it stands on the command line.
//!
//! Options that take several values take all words up to the next option: in `zqc -o OUT --keep lm_head MODEL` the model is a
//! value of `--keep`. Where no MODEL is left, the last value of such an option is it.

use std::ffi::OsStr;
use std::path::Path;

use clap::ArgMatches;

use super::compile::Arguments;

/// A last value that an option with several values took.
struct Candidate<'a> {
    option: &'static str,
    /// Its place among the values of the option.
    index: usize,
    value: &'a OsStr,
}

/// Gives the arguments their model, which an option may have taken.
///
/// # Errors
/// When there is none, or when it could be one or the other; the message says so.
pub(super) fn find(arguments: &mut Arguments, matches: &ArgMatches) -> Result<(), String> {
    if arguments.model.is_some() {
        return Ok(());
    }
    let mut candidates: Vec<Candidate> = ["calibration", "keep", "only"]
        .into_iter()
        .flat_map(|option| last_values(option, matches))
        .filter(|candidate| may_be_model(candidate.value))
        .collect();
    if candidates.len() > 1 && candidates.iter().any(|candidate| Path::new(candidate.value).exists()) {
        candidates.retain(|candidate| Path::new(candidate.value).exists());
    }
    const FIRST: &str = "put MODEL before the options, or after --";
    match candidates[..] {
        [Candidate { option, index, value }] => {
            match option {
                "calibration" => drop(arguments.options.calibration.remove(index)),
                "keep" => drop(arguments.options.keep.remove(index)),
                _ => drop(arguments.options.only.remove(index)),
            }
            arguments.model = Some(value.into());
            Ok(())
        }
        [] => Err(format!(
            "MODEL is missing; --calibration, --keep and --only take all values up to the next option: {FIRST}"
        )),
        [..] => {
            let values: Vec<String> =
                candidates.iter().map(|c| format!("{:?} of --{}", c.value, c.option)).collect();
            Err(format!("MODEL may be {}: {FIRST}", values.join(" or ")))
        }
    }
}

/// The last values of the occurrences of an option that have more than one.
fn last_values<'a>(option: &'static str, matches: &'a ArgMatches) -> Vec<Candidate<'a>> {
    let mut end = 0;
    let mut last = Vec::new();
    for occurrence in matches.get_raw_occurrences(option).into_iter().flatten() {
        let values: Vec<&OsStr> = occurrence.collect();
        end += values.len();
        if let [_, .., value] = values[..] {
            last.push(Candidate { option, index: end - 1, value });
        }
    }
    last
}

/// Whether a word names a model rather than calibration data or layers.
fn may_be_model(value: &OsStr) -> bool {
    let path = Path::new(value);
    match path.extension().and_then(OsStr::to_str) {
        Some("onnx" | "zir") => true,
        Some("txt" | "jsonl" | "npz" | "safetensors") => false,
        _ => path.exists(),
    }
}
