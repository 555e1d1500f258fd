//! The textual form: what reads can be printed, and reads back as the same.

use std::path::Path;

use zqc::ir::Model;
use zqc::ir::onnx::ReadError;
use zqc::ir::text::{exact, parse, read};

use super::{Outcome, Target};
use crate::mutate::change_bytes;

pub const TARGET: Target = Target {
    name: "text",
    corpus: "text",
    file: "model.zir",
    memory: (64 << 20) + (8 << 20), // splats may unpack to 64 MiB from nothing
    read: read_text,
    mutate: |random, bytes, other| change_bytes(random, bytes, other, WORDS),
};

const WORDS: &[&[u8]] = &[
    b"const ",
    b"types(",
    b"imports(",
    b":overload",
    b"node proto<0x>",
    b"proto<0x0a0178>",
    b"graph ",
    b"zqc.linear(",
    b"zqc.quantized_linear(",
    b"f32[1000000000]",
    b"i64[9223372036854775807, 2]",
    b"splat<0.5>",
    b"dense<",
    b"opaque",
    b"external<\"model.zir\", 0, 4>",
    b"external<\"../secret\", 0, 4>",
    b"ints []",
    b"int @axis",
    b"type seq(",
    b"%\"\\u{0}\"",
    b"\\xff",
    b"0x7fc00000",
    b"18446744073709551615",
    b"-1",
    b"_",
    b"{",
    b"}",
    b"//",
];

/// Reads what `model` prints, all of it and the summary.
pub(super) fn read_back(model: &Model) -> Result<(), String> {
    let Ok(text) = exact(model) else { return Err("a model with a circle was read".to_string()) };
    let again = parse(&text).map_err(|error| format!("printed and not read: {error}"))?;
    if exact(&again).ok().as_ref() != Some(&text) {
        return Err("printed and read, it is another model".to_string());
    }
    let summary = model.to_string();
    parse(&summary).map_err(|error| format!("a summary that is not read: {error}"))?;
    Ok(())
}

fn read_text(folder: &Path) -> Result<Outcome, String> {
    let path = folder.join(TARGET.file);
    let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
    // In memory, where constants may be left out.
    let in_memory = std::str::from_utf8(&bytes).ok().map(parse);
    if let Some(Ok(model)) = &in_memory {
        read_back(model)?;
    }
    match read(&path) {
        Ok(model) => Ok(Outcome::Read(format!("{} nodes", model.graph.nodes().count().min(16)))),
        Err(ReadError { source, .. }) => Ok(Outcome::Refused(source.to_string())),
    }
}
