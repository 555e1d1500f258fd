//! Calibration data.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use zqc::ir::tensor::DataType;
use zqc::runtime::{Dimension, InputSpec, SampleOptions, Tokenizer, load_calibration};

use super::{Outcome, Target};
use crate::mutate::{change_archive, change_bytes, change_json};

pub const NPZ: Target = Target {
    name: "npz",
    corpus: "npz",
    file: "data.npz",
    memory: 80 << 20, // an array may unpack to 64 MiB from nothing
    read: |folder| read_data(&folder.join(NPZ.file)),
    mutate: |random, bytes, other| change_archive(random, bytes, other, WORDS),
};

pub const SAFETENSORS: Target = Target {
    name: "safetensors",
    corpus: "safetensors",
    file: "data.safetensors",
    memory: 8 << 20,
    read: |folder| read_data(&folder.join(SAFETENSORS.file)),
    mutate: |random, bytes, other| {
        change_bytes(random, bytes, other, WORDS);
        let header = bytes.iter().rposition(|&byte| byte == b'}').and_then(|end| (end + 1).checked_sub(8));
        if let Some(header) = header
            && random.bool()
        {
            bytes[..8].copy_from_slice(&(header as u64).to_le_bytes());
        }
    },
};

pub const JSONL: Target = Target {
    name: "jsonl",
    corpus: "jsonl",
    file: "data.jsonl",
    memory: 8 << 20,
    read: |folder| read_data(&folder.join(JSONL.file)),
    mutate: |random, bytes, other| change_json(random, bytes, other, WORDS),
};

const WORDS: &[&[u8]] = &[
    b"input_ids",
    b"x",
    b"text",
    b"'descr': '<i8'",
    b"'<f4'",
    b"'|b1'",
    b"'shape': (2, 0), ",
    b"(1152921504606846976, 0)",
    b"True",
    b"\"I64\"",
    b"\"F16\"",
    b"\"shape\":[2,2]",
    b"\"data_offsets\":[0,32]",
    b"[[1,2],[3]]",
    b"1e400",
    b"-0.5",
    b"[",
    b"{",
    b"\\ud800",
    b"\n",
];

/// A model of token ids, and of an array that cannot be synthesized.
fn specs() -> [InputSpec; 2] {
    let symbol = |name: &str| Dimension::Symbolic(name.to_string());
    let ids = vec![symbol("batch"), symbol("tokens")];
    let x = vec![symbol("batch"), Dimension::Fixed(4)];
    [
        InputSpec { name: "input_ids".to_string(), data_type: DataType::Int64, shape: Some(ids) },
        InputSpec { name: "x".to_string(), data_type: DataType::Float, shape: Some(x) },
    ]
}

fn tokenizer() -> Result<Arc<Tokenizer>, String> {
    static TOKENIZER: OnceLock<Result<Arc<Tokenizer>, String>> = OnceLock::new();
    let load = || {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/tokenizer/words.json");
        Tokenizer::load(&path).map(Arc::new).map_err(|error| error.to_string())
    };
    TOKENIZER.get_or_init(load).clone()
}

fn read_data(path: &Path) -> Result<Outcome, String> {
    let both = specs();
    // Text gives the token ids only.
    let specs = if path.extension().is_some_and(|ending| ending == "jsonl") { &both[..1] } else { &both[..] };
    let known = tokenizer()?;
    let tokenizer = &|| Ok(Some(known.clone()));
    let options =
        SampleOptions { specs, vocabulary: Some(100), tokenizer, samples: 4, seq_len: 16, bos: Some(1) };
    match load_calibration(&[path.to_path_buf()], &options) {
        Ok(samples) if samples.len() > 4 => Err(format!("{} samples where 4 were asked for", samples.len())),
        Ok(samples) => Ok(Outcome::Read("+".repeat(samples.len()))),
        Err(error) => {
            let path = path.display().to_string();
            Ok(Outcome::Refused(error.to_string().replace(&path, "")))
        }
    }
}
