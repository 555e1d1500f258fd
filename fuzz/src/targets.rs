//! What reads inputs. A new reader is a file here and a line in [`TARGETS`].

mod data;
mod external_data;
mod onnx;
mod package;
mod text;
mod tokenizer;

use std::path::Path;

use fastrand::Rng;

/// What came of an input, in words.
pub enum Outcome {
    /// It was read.
    Read(String),
    /// It was refused, with this message.
    Refused(String),
}

/// One thing that reads files.
pub struct Target {
    /// By this it is chosen.
    pub name: &'static str,
    /// The folder of its inputs in `fuzz/corpus`.
    pub corpus: &'static str,
    /// The name of the file that it reads.
    pub file: &'static str,
    /// Bytes that it may take whatever the input's size; 64 times the input come on top.
    pub memory: usize,
    /// Reads the input, which lies in the folder under the name above; gives the outcome, or what is wrong with it.
    pub read: fn(&Path) -> Result<Outcome, String>,
    /// Changes an input, perhaps by pieces of another.
    pub mutate: fn(&mut Rng, &mut Vec<u8>, &[u8]),
}

/// All of them.
pub static TARGETS: &[Target] = &[
    onnx::TARGET,
    external_data::TARGET,
    data::NPZ,
    data::SAFETENSORS,
    data::JSONL,
    tokenizer::TARGET,
    package::TARGET,
    text::TARGET,
];
