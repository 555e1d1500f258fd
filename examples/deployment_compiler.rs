//! A compiler of one's own that links zqc: the model comes as bytes, samples come from an iterator, and the quantized layers
//! go into a format of one's own.
//!
//!     cargo run --release --example deployment_compiler

use std::error::Error;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use zqc::ir::op::port;
use zqc::ir::{Model, Op, onnx};
use zqc::passes::Pass;
use zqc::runtime::{Array, Sample};
use zqc::{Compiler, Options, Report, Target, Writer};

/// The quantized layers and nothing else: the length of a JSON header (8 bytes, little-endian), the header, the operands. The header
/// has for each layer its sizes, its format and where its operands begin and end.
pub struct Bundle;

impl Target for Bundle {
    fn name(&self) -> &'static str {
        "bundle"
    }

    /// The layers stay operators of zqc, whose operands are codes and scales.
    fn lowering(&self) -> Vec<Box<dyn Pass>> {
        Vec::new()
    }

    fn writer(&self, _: &Path, output: &Path, _: &Options) -> Result<Box<dyn Writer>, zqc::Error> {
        onnx::check_writable(output)?;
        Ok(Box::new(BundleFile(output.to_path_buf())))
    }
}

/// A bundle on its way to this file.
struct BundleFile(PathBuf);

impl Writer for BundleFile {
    fn write(
        &self,
        model: &Model,
        _verify: &mut dyn FnMut(&Path) -> Result<(), zqc::Error>,
    ) -> Result<u64, zqc::Error> {
        let bytes = bundle(model).map_err(|error| zqc::Error::Model(error.to_string()))?;
        onnx::write_file(&self.0, &bytes)?;
        Ok(bytes.len() as u64)
    }
}

/// The operands of a layer; see [`port`] for how each of them lies.
const OPERANDS: [(&str, usize); 6] = [
    ("codes", port::WEIGHT),
    ("row_scales", port::SCALES),
    ("group_shifts", port::SHIFTS),
    ("low_rank_down", port::LOW_RANK_DOWN),
    ("low_rank_up", port::LOW_RANK_UP),
    ("low_rank_scales", port::LOW_RANK_SCALES),
];

/// The bundle of a quantized graph.
fn bundle(model: &Model) -> Result<Vec<u8>, Box<dyn Error>> {
    let (mut header, mut payload) = (Map::new(), Vec::new());
    for (_, node) in model.graph.nodes() {
        let Op::QuantizedLinear(linear) = &node.op else { continue };
        let mut operands = Map::new();
        for (name, port) in OPERANDS {
            let Some(tensor) = node.input(port).and_then(|value| model.graph.constant(value)) else {
                continue;
            };
            let begin = payload.len();
            payload.extend_from_slice(&tensor.bytes()?);
            operands.insert(name.to_string(), json!([begin, payload.len()]));
        }
        let (k, n, group_size) = (linear.k, linear.n, linear.group_size);
        let format = linear.format.to_string();
        let layer = json!({"k": k, "n": n, "format": format, "group_size": group_size, "operands": operands});
        header.insert(linear.layer.clone(), layer);
    }
    let header = serde_json::to_vec(&Value::Object(header))?;
    Ok([&(header.len() as u64).to_le_bytes()[..], &header, &payload].concat())
}

/// Token ids by the name of the input that takes them. All else that a model wants, such as positions and an attention mask, follows
/// from them.
fn samples(count: i64) -> impl Iterator<Item = Sample> {
    (0..count).map(|start| {
        let ids = (0..64).map(|at| (31 * start + 7 * at) % 256).collect();
        Sample::from([("input_ids".to_string(), Array::sequence(ids))])
    })
}

/// Quantizes the model in these bytes, and writes its bundle to `output`.
pub fn compile(model: Vec<u8>, output: &Path) -> Result<Report, Box<dyn Error>> {
    let options = Options::default();
    let writer = Bundle.writer(Path::new("memory"), output, &options)?;
    let compiler = Compiler::for_target(options, Box::new(Bundle));
    let (model, report) = compiler.compile_model(onnx::read_bytes(model)?, samples(4))?;
    writer.write(&model, &mut |_| Ok(()))?;
    Ok(report)
}

fn main() -> Result<(), Box<dyn Error>> {
    let output = std::env::temp_dir().join("tiny.bundle");
    let report = compile(std::fs::read("examples/tiny/model.onnx")?, &output)?;
    for layer in &report.layers {
        println!("{}: [{}, {}], {:.2} bits per weight", layer.layer, layer.n, layer.k, layer.bits_per_weight);
    }
    let bytes = std::fs::metadata(&output)?.len();
    println!("{} layers in {bytes} bytes, written to {}", report.layers.len(), output.display());
    Ok(std::fs::remove_file(&output)?)
}
