//! What the command line does by default is what the library does, and in which passes.

use zqc::ir::Model;
use zqc::passes::Observer;
use zqc::{Compiler, Emit, Events, Method, OnnxDialect, Options, Pipeline};

use crate::bench::Bench;
use crate::models::one_layer;

/// The names of the passes that have run.
#[derive(Default)]
struct Passes(Vec<String>);

impl Observer for Passes {}

impl Events for Passes {
    fn pass_finished(&mut self, pass: &str, _: &Model) {
        self.0.push(pass.to_string());
    }
}

#[test]
fn the_options_of_the_command_line_are_those_of_the_library() {
    let bench = Bench::new();
    let (model, report) = (bench.model(&one_layer()), bench.path("report.json"));
    // Round to nearest needs no data; its report names the other options all the same.
    bench.compile(&model, &bench.output(), &["--method", "rtn", "--report", report.to_str().unwrap()]);
    let theirs = std::fs::read(bench.output()).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();

    let compiler = Compiler::new(Options { method: Method::Rtn, ..Options::default() });
    let report = compiler.compile(&model, &bench.output()).unwrap();
    assert_eq!(said["options"], serde_json::to_value(&report.options).unwrap());
    assert!(!said["verification"].is_null() && !report.verification.is_empty(), "{said}");
    assert!(theirs == std::fs::read(bench.output()).unwrap());
}

#[test]
fn the_passes_that_run_are_those_that_are_listed() {
    let run = |emit, dialect| {
        let bench = Bench::new();
        let model = bench.model(&one_layer());
        let options = Options { method: Method::Rtn, emit, dialect, ..Options::default() };
        let mut passes = Passes::default();
        Compiler::new(options).compile_with(&model, &bench.output(), &mut passes).unwrap();
        passes.0
    };
    let listed = |emit, dialect| -> Vec<&str> {
        Pipeline::for_options(&Options { emit, dialect, ..Options::default() }).names().collect()
    };
    for emit in [Emit::Onnx, Emit::Ir, Emit::Cuda] {
        assert_eq!(run(emit, OnnxDialect::Portable), listed(emit, OnnxDialect::Portable));
    }
    let native = run(Emit::Onnx, OnnxDialect::Native);
    assert_eq!(native, listed(Emit::Onnx, OnnxDialect::Native));
    assert!(native.iter().all(|name| Pipeline::all_names().contains(&name.as_str())));
}

#[test]
fn the_documents_list_the_passes_in_their_order() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/architecture.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| phase | pass |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let listed: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert_eq!(listed, Pipeline::all_names());
}
