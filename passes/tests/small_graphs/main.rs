//! Each pass on small graphs, one a form; `tests/snapshots/<pass>/` holds what comes out.

mod agreement;
mod builder;
mod context_length;
mod expand_attention;
mod expand_fused;
mod expand_moe;
mod inline_functions;
mod kinds;
mod lm_head;
mod lower;
mod native;
mod nbits;
mod parts;
mod quantize_activations;
mod quantize_head;
mod raise;
mod restore_float;
mod share_constants;
mod solve_weights;
mod tables;
mod token_weights;
mod tune;
mod unknown;

use std::fmt::Write;

use zqc_ir::Model;
use zqc_passes::{Observer, Pass};

/// Writes down what the passes report.
#[derive(Default)]
struct Log(String);

impl Observer for Log {
    fn layer_kept(&mut self, layer: &str, reason: &str) {
        let _ = writeln!(self.0, "kept {layer}: {reason}");
    }

    fn layer_requantized(&mut self, layer: &str, from: &str, bytes: u64) {
        let _ = writeln!(self.0, "requantized {layer}: {from}, {bytes} bytes");
    }

    fn unmatched(&mut self, option: &str, regex: &str) {
        let _ = writeln!(self.0, "unmatched {option} {regex}");
    }
}

/// Runs the passes on `model`; gives the graph and the reports of the last one as text.
fn run(passes: &[&dyn Pass], model: &mut Model) -> String {
    let mut log = Log::default();
    for &pass in passes {
        log = Log::default();
        zqc_passes::run(pass, model, &mut log).unwrap();
    }
    format!("{}\n{}", model, log.0)
}

fn assert_snapshot(folder: &str, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("../snapshots/{folder}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
