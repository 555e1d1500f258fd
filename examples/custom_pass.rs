//! Adds a pass of one's own to the compiler: layers whose weights have outliers stay in float.
//!
//!     cargo run --release --example custom_pass

use zqc::ir::op::port;
use zqc::ir::{Change, Model, Op, Patch};
use zqc::passes::{Context, Pass, PassError};
use zqc::{Compiler, Method, Options};

/// Turns every selected linear layer back into the nodes it came from when its largest weight is more than `limit`
/// times the root mean square of all.
pub struct KeepOutliers {
    /// The largest weight that is no outlier.
    pub limit: f32,
}

impl Pass for KeepOutliers {
    fn name(&self) -> &'static str {
        "keep_outliers"
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut patch = Patch::default();
        for (id, node) in graph.nodes() {
            let Op::Linear(linear) = &node.op else { continue };
            let Some(weight) = node.input(port::WEIGHT).and_then(|value| graph.constant(value)) else {
                continue;
            };
            let weight = weight
                .to_f32()
                .map_err(|source| PassError::Weight { layer: linear.layer.clone(), source })?;
            let peak = weight.iter().fold(0f32, |peak, w| peak.max(w.abs()));
            let rms = (weight.iter().map(|w| w * w).sum::<f32>() / weight.len() as f32).sqrt();
            if peak > self.limit * rms {
                let reason = format!("its largest weight is {:.1} times the root mean square", peak / rms);
                context.observer.layer_kept(&linear.layer, &reason);
                let why = format!("{} stays in float: {reason}", linear.layer);
                patch.changes.extend(Change::restore_origin(graph, id, why));
            }
        }
        Ok(patch)
    }
}

fn main() -> Result<(), zqc::Error> {
    let options = Options { method: Method::Rtn, ..Options::default() };
    let mut compiler = Compiler::new(options);
    compiler.pipeline_mut().insert_after("select", Box::new(KeepOutliers { limit: 6.0 }))?;
    let output = std::env::temp_dir().join("tiny.custom.onnx");
    let report = compiler.compile("examples/tiny/model.onnx".as_ref(), &output)?;
    for kept in &report.kept {
        println!("{} stays in float: {}", kept.layer, kept.reason);
    }
    println!("{} layers quantized, written to {}", report.layers.len(), output.display());
    std::fs::remove_file(&output).map_err(|source| zqc::Error::Output { path: output, source })
}
