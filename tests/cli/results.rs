//! Runs that succeed: what they write and what they print.

use std::path::Path;

use prost::Message;
use serde_json::Value;
use zqc::ir::onnx::proto::{GraphProto, ModelProto};
use zqc::ir::tensor::DataType;

use crate::bench::Bench;
use crate::models::{info, matrix, model, node, npz, one_layer, one_layer_with};
use crate::support::{tiny, zqc, zqc_ok};

/// Few samples of the bundled text.
fn calibrated<'a>(text: &'a Path, tokenizer: &'a Path) -> [&'a str; 8] {
    let [text, tokenizer] = [text, tokenizer].map(|path| path.to_str().unwrap());
    ["--calibration", text, "--tokenizer", tokenizer, "--samples", "4", "--seq-len", "64"]
}

fn decoded(path: &Path) -> ModelProto {
    ModelProto::decode(std::fs::read(path).unwrap().as_slice()).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn inspect(path: &Path) -> Value {
    json(&zqc_ok(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]))
}

/// The number formats of the layers, with how many have each.
fn formats(inspection: &Value) -> Vec<(&str, usize)> {
    let linears = inspection["linears"].as_array().unwrap();
    let mut formats: Vec<_> = linears.iter().map(|linear| linear["format"].as_str().unwrap()).collect();
    formats.sort();
    formats.chunk_by(|a, b| a == b).map(|chunk| (chunk[0], chunk.len())).collect()
}

#[test]
fn the_same_bytes_every_time_and_for_any_number_of_threads() {
    let bench = Bench::new();
    let (text, tokenizer) = (tiny("calibration.txt"), tiny("tokenizer.json"));
    let compiled = ["1", "2", "2"].map(|threads| {
        let options = [&calibrated(&text, &tokenizer)[..], &["--threads", threads]].concat();
        bench.compile(&tiny("model.onnx"), &bench.output(), &options);
        std::fs::read(bench.output()).unwrap()
    });
    assert!(compiled[0] == compiled[1], "one thread and two");
    assert!(compiled[1] == compiled[2], "the second run and the third");
}

#[test]
fn more_threads_than_cores_change_nothing() {
    let bench = Bench::new();
    let options = |threads| ["--samples", "1", "--seq-len", "32", "--bos", "0", "--threads", threads];
    let since = std::time::Instant::now();
    let compiled = ["1", "1000"].map(|threads| {
        bench.compile(&tiny("model.onnx"), &bench.output(), &options(threads));
        std::fs::read(bench.output()).unwrap()
    });
    assert!(compiled[0] == compiled[1]);
    assert!(since.elapsed().as_secs() < 60, "a thousand threads look for work");
}

#[test]
fn inspection_of_source_and_output() {
    let source = inspect(&tiny("model.onnx"));
    assert_eq!(formats(&source), [("f32", 36)]);
    let bench = Bench::new();
    bench.compile(&tiny("model.onnx"), &bench.output(), &["--method", "rtn"]);
    let output = inspect(&bench.output());
    assert_eq!(formats(&output), [("e2m1", 35), ("int8", 1)]);
    let linears = output["linears"].as_array().unwrap();
    for (before, after) in source["linears"].as_array().unwrap().iter().zip(linears) {
        assert_eq!(
            [&before["layer"], &before["k"], &before["n"]],
            [&after["layer"], &after["k"], &after["n"]]
        );
        let head = after["layer"] == "lm_head";
        assert_eq!(after["format"] == "int8", head);
        assert_eq!(after["group_size"], if head { 192 } else { 16 });
    }
    assert_eq!(source["weights"], output["weights"]);
    assert!(output["constant_bytes"].as_u64().unwrap() < source["constant_bytes"].as_u64().unwrap() / 5);
}

#[test]
fn results_go_to_standard_output_and_nothing_else_does() {
    let (model, text, tokenizer) = (tiny("model.onnx"), tiny("heldout.txt"), tiny("tokenizer.json"));
    let inspected = zqc([Path::new("inspect"), &model]);
    let stdout = String::from_utf8(inspected.stdout).unwrap();
    assert_eq!((stdout.lines().count(), inspected.stderr.len()), (38, 0), "{stdout}");
    assert!(stdout.starts_with("layer ") && stdout.ends_with("constants take 9.08 MB\n"), "{stdout}");
    let paths = [Path::new("eval"), &model, Path::new("--text"), &text, Path::new("--tokenizer"), &tokenizer];
    let options = ["--window", "64", "--max-tokens", "128"].map(Path::new);
    let evaluated = zqc(paths.into_iter().chain(options));
    let stdout = String::from_utf8(evaluated.stdout).unwrap();
    assert_eq!((stdout.lines().count(), evaluated.stderr.len()), (1, 0), "{stdout}");
    assert!(stdout.starts_with("perplexity ") && stdout.contains("over 126 tokens"), "{stdout}");
}

#[test]
fn evaluation_prints_these_keys_and_no_others() {
    let (model, text, tokenizer) = (tiny("model.onnx"), tiny("heldout.txt"), tiny("tokenizer.json"));
    let paths = [Path::new("eval"), &model, Path::new("--text"), &text, Path::new("--tokenizer"), &tokenizer];
    let options = ["--json", "--window", "64", "--max-tokens", "640"].map(Path::new);
    let result = json(&zqc_ok(paths.into_iter().chain(options)));
    let mut keys: Vec<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort();
    let known = ["model", "nll", "onnxruntime", "perplexity", "text", "tokens", "window"];
    assert_eq!(keys, [&["bits_per_weight", "comparison"][..], &known].concat());
    assert_eq!((result["bits_per_weight"].as_f64(), result["comparison"].is_null()), (Some(32.0), true));
    assert_eq!((&result["model"], &result["text"]), (&model.to_str().into(), &text.to_str().into()));
    assert_eq!(result["tokens"], 630, "ten windows of 64, the first token of each given");
    let (perplexity, nll) = (result["perplexity"].as_f64().unwrap(), result["nll"].as_f64().unwrap());
    assert!(
        (perplexity / nll.exp() - 1.0).abs() < 1e-9 && (10.0..60.0).contains(&perplexity),
        "{perplexity}"
    );
}

#[test]
fn evaluation_beside_a_reference() {
    let bench = Bench::new();
    bench.compile(&tiny("model.onnx"), &bench.output(), &["--method", "rtn"]);
    let (reference, text) = (tiny("model.onnx"), tiny("heldout.txt"));
    let (reference, text) = (reference.to_str().unwrap(), text.to_str().unwrap());
    let options = ["--reference", reference, "--text", text, "--window", "64", "--max-tokens", "640"];
    let output = bench.output();
    let stdout = zqc_ok(["eval", output.to_str().unwrap()].into_iter().chain(options));
    let names: Vec<&str> = stdout.lines().map(|line| line.split("  ").next().unwrap()).collect();
    let measures = ["bits per weight", "reference", "ln ratio", "KL divergence", ""];
    assert_eq!(names[1..], [&measures[..], &["same most likely", "right token"]].concat(), "{stdout}");
    assert!(stdout.starts_with("perplexity ") && stdout.contains("over 630 tokens"), "{stdout}");

    // Another vocabulary is another model.
    let other = bench.path("other.onnx");
    let mut proto = decoded(Path::new(reference));
    let graph = proto.graph.as_mut().unwrap();
    let table = graph.node.iter().find(|node| node.op_type() == "Gather").unwrap().input[0].clone();
    let table = graph.initializer.iter_mut().find(|tensor| tensor.name() == table).unwrap();
    table.dims[0] -= 1;
    let row = table.dims[1] as usize * 4;
    table.raw_data = table.raw_data.take().map(|bytes| bytes.slice(row..));
    std::fs::write(&other, proto.encode_to_vec()).unwrap();
    let paths = [Path::new(reference), Path::new("--reference"), &other].map(Path::to_path_buf);
    let words = ["--reference", "tokens", "no versions of one model"];
    let tokenizer = tiny("tokenizer.json");
    let text = ["--text".into(), text.into(), "--tokenizer".into(), tokenizer];
    bench.refuse(3, Path::new("eval"), &[&paths[..], &text].concat(), &words);
}

#[test]
fn text_that_the_model_writes_itself() {
    let bench = Bench::new();
    let report = bench.path("report.json");
    let options = ["--samples", "2", "--seq-len", "32", "--report", report.to_str().unwrap()];
    bench.compile(&tiny("model.onnx"), &bench.output(), &options);
    let report = json(&std::fs::read_to_string(report).unwrap());
    assert_eq!(report["calibration"], "2 samples of 32 tokens that the model wrote itself");
}

#[test]
fn the_report_accounts_for_every_layer() {
    let bench = Bench::new();
    let report = bench.path("report.json");
    let (text, tokenizer) = (tiny("calibration.txt"), tiny("tokenizer.json"));
    let options = [&calibrated(&text, &tokenizer)[..], &["--report", report.to_str().unwrap()]].concat();
    let (stdout, stderr) = bench.compile(&tiny("model.onnx"), &bench.output(), &options);
    assert_eq!(stdout, "");
    assert!(stderr.contains("36 layers"));
    let report = json(&std::fs::read_to_string(report).unwrap());
    let layers = report["layers"].as_array().unwrap();
    let [head, layers @ ..] = &layers[..] else { panic!("{report}") };
    assert_eq!((layers.len(), report["kept"].as_array().unwrap().len()), (35, 0));
    assert_eq!((&head["layer"], &head["format"]), (&"lm_head".into(), &"int8".into()));
    for layer in layers {
        let error = |key: &str| layer[key].as_f64().unwrap();
        assert!(
            (0.0..0.4).contains(&error("weight_error")) && (0.0..0.2).contains(&error("output_error")),
            "{layer}"
        );
    }
    let [warning] = &report["warnings"].as_array().unwrap()[..] else { panic!("{}", report["warnings"]) };
    assert!(
        warning.as_str().unwrap().starts_with(
            "few calibration tokens for 5 layers (model.layers.0.mlp.down_proj: 256 tokens for 480 input features)"
        ),
        "{warning}"
    );
    let tokens = |layer: &Value| layer["calibration"]["tokens"].as_u64();
    assert!(layers.iter().all(|layer| tokens(layer) == Some(256)), "4 samples of 64 tokens");
    let (totals, weights) =
        (&report["totals"], |layer: &Value| layer["k"].as_u64().unwrap() * layer["n"].as_u64().unwrap());
    assert_eq!(totals["weights"], layers.iter().chain([head]).map(weights).sum::<u64>());
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert_eq!(totals["file_bytes_before"], size(&tiny("model.onnx")));
    assert_eq!(totals["file_bytes_after"], size(&bench.output()));
}

#[test]
fn the_page_of_the_report_names_every_layer() {
    let bench = Bench::new();
    let (text, tokenizer) = (tiny("calibration.txt"), tiny("tokenizer.json"));
    let [page, data] = ["report.html", "report.json"].map(|name| {
        let report = bench.path(name);
        let with_branch = ["--lorc-rank", "8", "--report", report.to_str().unwrap()];
        let options = [&calibrated(&text, &tokenizer)[..], &with_branch].concat();
        bench.compile(&tiny("model.onnx"), &bench.output(), &options);
        std::fs::read_to_string(report).unwrap()
    });
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let page = roxmltree::Document::parse_with_options(&page, options).expect("well-formed XML");
    let cells: Vec<&str> =
        page.descendants().filter(|node| node.has_tag_name("td")).filter_map(|cell| cell.text()).collect();
    let data = json(&data);
    let layers = data["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 36);
    // But of the head, which is rounded without data.
    for layer in &layers[1..] {
        let row = cells.iter().position(|&cell| cell == layer["layer"]).expect("a row");
        let percent = |key: &str| format!("{:.2} %", 100.0 * layer[key].as_f64().unwrap());
        let errors = ["weight_error", "output_error_before", "output_error"].map(percent);
        assert_eq!(cells[row + 6..row + 9], errors, "{layer}");
        let counts = layer["weights"]["counts"].as_array().unwrap().iter();
        let counted: u64 = counts.chain([&layer["weights"]["beyond"]]).map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(counted, layer["k"].as_u64().unwrap() * layer["n"].as_u64().unwrap());
    }
    let activations = data["activations"].as_array().unwrap();
    assert_eq!((activations.len(), data["stages"].as_array().unwrap().len()), (20, 21));
    let readers = activations.iter().flat_map(|activation| activation["layers"].as_array().unwrap());
    assert_eq!(readers.count(), 35);
    for activation in activations {
        let maxima = activation["token_max"].as_array().unwrap().iter();
        let tokens: u64 = maxima.map(|octave| octave["tokens"].as_u64().unwrap()).sum();
        assert_eq!((tokens, &activation["tokens"]), (256, &256.into()), "4 samples of 64 tokens");
    }
    let circles = page.descendants().filter(|node| node.attribute("class") == Some("disc"));
    assert!(circles.count() >= 35 + 20, "a mark for each layer and each activation");
    let words = data["options"].as_array().unwrap().iter();
    assert!(words.clone().any(|option| option["name"] == "--samples" && option["value"] == "4"));
}

#[test]
fn nothing_to_quantize() {
    let proto = model(GraphProto {
        name: Some("no layers".to_string()),
        input: vec![info("x", DataType::Float, &["batch", "64"])],
        output: vec![info("y", DataType::Float, &["batch", "64"])],
        node: vec![node("Relu", "relu", &["x"], "y")],
        ..Default::default()
    });
    let bench = Bench::new();
    let (_, message) = bench.compile(&bench.model(&proto), &bench.output(), &[]);
    assert!(message.contains("warning: no linear layer is left to quantize"), "{message}");
    assert_eq!(decoded(&bench.output()), proto);
}

#[test]
fn layers_of_no_width_stay_as_they_are() {
    for (rows, columns) in [(0, 32), (64, 0), (0, 0)] {
        let proto = one_layer_with(|graph| graph.initializer[0] = matrix("w", rows, columns));
        let bench = Bench::new();
        let path = bench.model(&proto);
        let (_, message) = bench.compile(&path, &bench.output(), &["--only", "proj", "--method", "rtn"]);
        assert!(message.contains("too small"), "{message}");
        assert_eq!(decoded(&bench.output()), proto);
    }
}

#[test]
fn an_expression_that_names_no_layer() {
    for (option, quantized) in [("--only", false), ("--keep", true)] {
        let bench = Bench::new();
        let options = ["--method", "rtn", option, "no_such_layer$"];
        let (_, message) = bench.compile(&tiny("model.onnx"), &bench.output(), &options);
        assert!(
            message.contains(&format!("warning: {option} \"no_such_layer$\" matches no linear layer")),
            "{message}"
        );
        let expected = if quantized { &[("e2m1", 35), ("int8", 1)][..] } else { &[("f32", 36)] };
        assert_eq!(formats(&inspect(&bench.output())), expected);
        if !quantized {
            assert!(decoded(&bench.output()) == decoded(&tiny("model.onnx")), "the model as it came");
        }
    }
}

#[test]
fn kept_layers_stay_in_float() {
    let bench = Bench::new();
    let options = ["--method", "rtn", "--keep", r"\.0\.", "down_proj"];
    bench.compile(&tiny("model.onnx"), &bench.output(), &options);
    let output = inspect(&bench.output());
    for linear in output["linears"].as_array().unwrap() {
        let layer = linear["layer"].as_str().unwrap();
        let kept = layer.contains(".0.") || layer.ends_with("down_proj");
        assert_eq!(linear["format"] == "f32", kept, "{layer}");
    }
}

#[test]
fn the_graph_after_a_pass() {
    let bench = Bench::new();
    let options = ["--method", "rtn", "--print-ir-after", "canonicalize"];
    let (stdout, _) = bench.compile(&tiny("model.onnx"), &bench.output(), &options);
    assert!(stdout.starts_with("model ir_version=10 imports(\"\"=20)"));
    assert_eq!(stdout.matches("= zqc.linear(").count(), 36);
    assert!(!stdout.contains("zqc.quantize"));
}

#[test]
fn the_quantized_graph_as_text() {
    let bench = Bench::new();
    let (output, report) = (bench.path("out/model.ir"), bench.path("report.json"));
    let options = ["--method", "rtn", "--emit", "ir", "--report", report.to_str().unwrap()];
    bench.compile(&tiny("model.onnx"), &output, &options);
    let text = std::fs::read_to_string(&output).unwrap();
    assert_eq!(text.matches("= zqc.quantized_linear(").count(), 36);
    assert_eq!(text.matches("= zqc.quantized_gather(").count(), 1);
    assert_eq!(text.matches("= zqc.quantize_activation(").count(), 20);
    let report = json(&std::fs::read_to_string(report).unwrap());
    assert_eq!(report["output"], output.to_str().unwrap());
    let data = std::fs::metadata(bench.path("out/model.ir.data")).unwrap().len();
    assert_eq!(report["totals"]["file_bytes_after"], text.len() as u64 + data);
}

#[test]
fn a_graph_as_text_compiles_to_what_the_model_does() {
    let bench = Bench::new();
    let (text, direct, other) = (bench.path("model.zir"), bench.output(), bench.path("out/other.onnx"));
    bench.compile(&tiny("model.onnx"), &direct, &["--method", "rtn"]);
    bench.compile(&tiny("model.onnx"), &text, &["--method", "rtn", "--emit", "ir"]);
    let (_, messages) = bench.compile(&text, &other, &["--method", "rtn"]);
    assert!(!messages.contains("no linear layer"), "{messages}");
    assert!(std::fs::read(&direct).unwrap() == std::fs::read(&other).unwrap(), "the bytes differ");
    assert_eq!(formats(&inspect(&text)), formats(&inspect(&direct)));

    // Text that was written over: the data file goes along.
    bench.compile(&text, &text, &["--method", "rtn", "--emit", "ir"]);
    assert_eq!(bench.names("."), ["model.zir", "model.zir.data", "out"]);
    bench.compile(&text, &other, &["--method", "rtn"]);
    assert!(std::fs::read(&direct).unwrap() == std::fs::read(&other).unwrap(), "the bytes differ");
}

#[test]
fn a_text_that_leaves_constants_out_is_refused() {
    let bench = Bench::new();
    let model = zqc::ir::onnx::read(&tiny("model.onnx")).unwrap();
    let summary = bench.write("model.zir", model.to_string());
    let words = ["has no payload and names no file with one", "--emit ir"];
    bench.refuse_to_compile(3, &summary, &[], &words);
    let text = bench.write("model.zir", "model ir_version=10 imports(20)\ngraph () -> () { %x }");
    bench.refuse_to_compile(3, &text, &[], &["model.zir: line 2, column 21: expected '=', found '}'"]);
    let text = bench.write("model.zir", b"model \xff");
    bench.refuse_to_compile(3, &text, &[], &["model.zir: line 1, column 7: this is not UTF-8"]);
}

#[test]
fn arrays_by_name_calibrate_any_model() {
    let bench = Bench::new();
    let data = bench.write("data.npz", npz(&[("x", [3, 64]), ("shift", [3, 32])]));
    let source = bench.model(&one_layer());
    bench.compile(&source, &bench.output(), &["--calibration", data.to_str().unwrap()]);
    assert_eq!(formats(&inspect(&bench.output())), [("e2m1", 1)]);
}

#[test]
fn the_output_may_take_the_place_of_the_input() {
    let bench = Bench::new();
    let path = bench.write("model.onnx", std::fs::read(tiny("model.onnx")).unwrap());
    bench.compile(&path, &path, &["--method", "rtn"]);
    assert_eq!(formats(&inspect(&path)), [("e2m1", 35), ("int8", 1)]);
}

#[test]
fn what_was_verified_is_said() {
    let bench = Bench::new();
    let (model, half) = (tiny("model.onnx"), bench.path("half.onnx"));
    let run =
        "verified: the file was read back and matches, and its outputs are those of the quantized model";
    let (_, stderr) = bench.compile(&model, &half, &["--method", "rtn", "--only", "q_proj"]);
    assert!(stderr.contains(run), "{stderr}");
    let (_, stderr) = bench.compile(&half, &bench.output(), &["--method", "rtn"]);
    assert!(stderr.contains(run), "layers of two runs: {stderr}");
    let (_, stderr) = bench.compile(&model, &bench.output(), &["--method", "rtn", "--target", "native"]);
    assert!(stderr.contains("verified: the file was read back and matches\n"), "{stderr}");
    let (_, stderr) = bench.compile(&model, &bench.output(), &["--method", "rtn", "--no-verify"]);
    assert!(!stderr.contains("verified"), "{stderr}");
}
