//! The ONNX front end, `zqc inspect`, and the passes that look at a graph before anything runs.

use std::path::Path;

use zqc::ir::Model;
use zqc::ir::onnx::{Content, Storage, WriteError, read, write};
use zqc::passes::{PassError, Silent, run};
use zqc::{Options, Phase, Pipeline, inspect};

use super::text::read_back;
use super::{Outcome, Target};
use crate::mutate::change_wire;

pub const TARGET: Target = Target {
    name: "onnx",
    corpus: "onnx",
    file: "model.onnx",
    memory: 8 << 20,
    read: read_model,
    mutate: |random, bytes, other| change_wire(random, bytes, other, WORDS),
};

const WORDS: &[&[u8]] = &[
    b"",
    b"x",
    b"y",
    b"w",
    b"MatMul",
    b"Gemm",
    b"Transpose",
    b"Identity",
    b"If",
    b"Loop",
    b"Constant",
    b"Reshape",
    b"Add",
    b"Gather",
    b"GatherND",
    b"Conv",
    b"Einsum",
    b"abc,cde->abde",
    b"Scan",
    b"DequantizeLinear",
    b"QuantizeActivationE4M3",
    b"W4A8Linear_M3_LowRank",
    b"ai.zqc",
    b"ai.onnx",
    b"transA",
    b"perm",
    b"\xff",
];

fn read_model(folder: &Path) -> Result<Outcome, String> {
    let model = match read(&folder.join(TARGET.file)) {
        Ok(model) => model,
        Err(error) => return Ok(Outcome::Refused(error.source.to_string())),
    };
    read_back(&model)?;
    let copy = folder.join("copy.onnx");
    write(&model, &copy, Storage::Inline).map_err(|error| format!("read and not written: {error}"))?;
    let again = read(&copy).map_err(|error| format!("written and not read: {error}"))?;
    let differs = || Ok::<_, WriteError>(Content::of(&model)? != Content::of(&again)?);
    if differs().map_err(|error| error.to_string())? {
        return Err("what was written is not what was read".to_string());
    }
    match inspect(&copy) {
        Err(fault) if fault.exit_code() == 5 => return Err(format!("inspect: {fault}")),
        _ => {}
    }
    let pipeline = Pipeline::for_options(&Options { requantize: true, ..Options::default() });
    let mut changed: Model = model;
    for pass in pipeline.passes(Phase::FindLayers) {
        match run(pass, &mut changed, &mut Silent) {
            Ok(()) => {}
            Err(fault @ (PassError::Patch { .. } | PassError::Broken { .. })) => {
                return Err(fault.to_string());
            }
            Err(error) => return Ok(Outcome::Refused(error.to_string())),
        }
    }
    let mut kinds: Vec<&str> = changed.graph.nodes().map(|(_, node)| node.op.kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    read_back(&changed)?;
    Ok(Outcome::Read(kinds.join(" ")))
}
