//! Folders with a model in them, as exporters write them.

use std::fs;
use std::path::{Path, PathBuf};

use zqc::ir::onnx::{self, Storage};

use crate::bench::Bench;
use crate::models::one_layer;
use crate::support::{tiny, zqc, zqc_ok};

/// A folder as the builder of onnxruntime-genai writes it, with more that lies in real ones; the model is called `decoder.onnx`.
fn genai_folder(bench: &Bench) -> PathBuf {
    let folder = bench.path("genai");
    fs::create_dir_all(folder.join("adapters")).unwrap();
    let model = onnx::from_proto(one_layer()).unwrap();
    onnx::write(&model, &folder.join("decoder.onnx"), Storage::External).unwrap();
    fs::write(
        folder.join("genai_config.json"),
        "\u{feff}{\"model\": {\"decoder\": {\"filename\": \"decoder.onnx\"}}}",
    )
    .unwrap();
    fs::write(folder.join("embedding.onnx"), "another part").unwrap();
    fs::write(folder.join("adapters/a.json"), "{}").unwrap();
    fs::write(folder.join(".gitattributes"), "hidden").unwrap();
    fs::write(folder.join("model.safetensors"), "the same weights").unwrap();
    fs::copy(tiny("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    folder
}

const RTN: [&str; 2] = ["--method", "rtn"];

/// Whether the model is one that zqc quantized.
fn is_quantized(model: &Path) -> bool {
    let listed = zqc_ok(["inspect".as_ref(), model.as_os_str(), "--json".as_ref()]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    listed["linears"][0]["format"] == "e2m1"
}

#[test]
fn a_folder_becomes_a_folder_with_all_that_belongs_to_the_model() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    let output = bench.path("out/quantized");
    let expected = [
        "adapters",
        "decoder.onnx",
        "decoder.onnx.data",
        "embedding.onnx",
        "genai_config.json",
        "tokenizer.json",
    ];
    // The second time an earlier result is replaced, with the library that was put there to run it.
    for _ in 0..2 {
        let (_, said) = bench.compile(&folder, &output, &RTN);
        assert!(
            said.contains("with it: adapters/a.json, embedding.onnx, genai_config.json, tokenizer.json"),
            "{said}"
        );
        assert_eq!(bench.names("out/quantized"), expected);
        assert_eq!(bench.names("out"), ["quantized"]);
        fs::write(output.join("libzqc_ort.so"), "the library").unwrap();
    }
    let same = |file: &str| fs::read(folder.join(file)).unwrap() == fs::read(output.join(file)).unwrap();
    assert!(same("tokenizer.json") && same("genai_config.json") && same("adapters/a.json"));
    assert!(!is_quantized(&folder) && is_quantized(&output) && is_quantized(&output.join("decoder.onnx")));
}

#[test]
fn what_is_not_of_the_model_is_not_replaced() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    for other in ["notes.txt", ".hidden", "adapters/b.json"] {
        let output = bench.path("out/quantized");
        fs::create_dir_all(output.join("adapters")).unwrap();
        fs::write(output.join("adapters/a.json"), "earlier").unwrap();
        fs::write(output.join(other), "mine").unwrap();
        let options = ["-o", output.to_str().unwrap(), "--method", "rtn"];
        bench.refuse(4, &folder, &options, &["cannot write", other, "which is not of this model"]);
        fs::remove_dir_all(&output).unwrap();
    }
    let output = bench.path("out/another");
    fs::create_dir(&output).unwrap();
    let another = onnx::from_proto(one_layer()).unwrap();
    onnx::write(&another, &output.join("decoder.onnx"), Storage::External).unwrap();
    let options = ["-o", output.to_str().unwrap(), "--method", "rtn"];
    bench.refuse(4, &folder, &options, &["decoder.onnx", "which zqc has not quantized"]);
    let file = bench.write("out/file", "mine");
    bench.refuse(4, &folder, &["-o", file.to_str().unwrap(), "--method", "rtn"], &["a file is there"]);
}

#[test]
fn compiled_to_where_it_is_only_the_model_of_a_folder_changes() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    let names = bench.names("genai");
    bench.compile(&folder, &bench.path("out/../genai"), &RTN);
    assert_eq!(bench.names("genai"), names);
    assert!(is_quantized(&folder));
}

#[test]
fn a_file_may_be_made_of_a_folder() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    bench.compile(&folder, &bench.output(), &RTN);
    assert!(is_quantized(&bench.output()));
    let package = bench.path("out/package");
    bench.compile(&folder, &package, &["--method", "rtn", "--emit", "cuda"]);
    assert_eq!(bench.names("out"), ["model.onnx", "package"]);
}

#[test]
fn without_a_configuration_the_model_is_the_one_that_stands_out() {
    let bench = Bench::new();
    let model = onnx::from_proto(one_layer()).unwrap();
    let folder = bench.path("hub");
    let write = |name: &str| {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        onnx::write(&model, &folder.join(name), Storage::External).unwrap();
    };
    let output = bench.path("out/quantized");
    let refuse = |words: &[&str]| {
        bench.refuse(3, &folder, &["-o", output.to_str().unwrap(), "--method", "rtn"], words);
    };
    fs::create_dir(&folder).unwrap();
    refuse(&["hub: it is a folder without an ONNX model"]);
    for name in ["onnx/decoder.onnx", "onnx/encoder.onnx"] {
        write(name);
    }
    refuse(&["several models", "name one: onnx/decoder.onnx, onnx/encoder.onnx"]);
    write("onnx/model.onnx");
    fs::write(folder.join("config.json"), "{}").unwrap();
    bench.compile(&folder, &output, &RTN);
    assert_eq!(bench.names("out/quantized"), ["config.json", "onnx"]);
    assert_eq!(bench.names("out/quantized/onnx"), ["model.onnx", "model.onnx.data"]);
}

#[test]
fn a_configuration_that_names_no_decoder_is_told() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    for (config, words) in [
        ("{", ["genai_config.json", "it is no JSON"]),
        ("{\"model\": {\"decoder\": {\"pipeline\": []}}}", ["genai_config.json", "model.decoder.filename"]),
        (
            "{\"model\": {\"decoder\": {\"filename\": \"../x.onnx\"}}}",
            ["genai_config.json", "model.decoder.filename"],
        ),
        ("{\"model\": {\"decoder\": {\"filename\": \"gone.onnx\"}}}", ["gone.onnx", "which is not there"]),
    ] {
        fs::write(folder.join("genai_config.json"), config).unwrap();
        for command in [vec!["inspect"], vec!["--method", "rtn", "-o", bench.output().to_str().unwrap()]] {
            let output = zqc(command.into_iter().chain([folder.to_str().unwrap()]));
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(3), "{message}");
            words.iter().for_each(|word| assert!(message.contains(word), "no {word:?} in {message}"));
        }
    }
    assert_eq!(bench.names("out"), [""; 0]);
}

#[test]
fn a_file_whose_name_begins_as_the_models_is_kept() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    let output = bench.path("out/quantized");
    bench.compile(&folder, &output, &RTN);
    for other in ["decoder.onnx.bak", "decoder.onnx.data.old", "decoder.onnx.0123.data"] {
        fs::write(output.join(other), "mine").unwrap();
        let options = ["-o", output.to_str().unwrap(), "--method", "rtn"];
        bench.refuse(4, &folder, &options, &["cannot write", other, "which is not of this model"]);
        assert_eq!(fs::read(output.join(other)).unwrap(), b"mine");
        fs::remove_file(output.join(other)).unwrap();
    }
}

#[test]
fn a_part_keeps_the_weights_that_it_shares_with_the_model() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    fs::copy(folder.join("decoder.onnx"), folder.join("embedding.onnx")).unwrap();
    let output = bench.path("out/quantized");
    for _ in 0..2 {
        bench.compile(&folder, &output, &RTN);
        let data = |file: &str| fs::read(folder.join(file)).unwrap() == fs::read(output.join(file)).unwrap();
        assert!(data("decoder.onnx.data") && data("embedding.onnx"));
        assert!(is_quantized(&output) && !is_quantized(&output.join("embedding.onnx")));
    }
}

#[test]
fn an_earlier_result_in_the_folder_does_not_go_along() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    let output = folder.join("quantized");
    bench.compile(&folder, &output, &RTN);
    let names = bench.names("genai/quantized");
    bench.compile(&folder, &output, &RTN);
    assert_eq!(bench.names("genai/quantized"), names);
}

#[cfg(unix)]
#[test]
fn links_in_a_cycle_are_not_followed() {
    use std::os::unix::fs::symlink;

    let bench = Bench::new();
    let folder = genai_folder(&bench);
    fs::create_dir(bench.path("beside")).unwrap();
    bench.write("beside/file", "not of the model");
    symlink(".", folder.join("self")).unwrap();
    symlink("../..", folder.join("adapters/up")).unwrap();
    let output = bench.path("out/quantized");
    let (_, said) = bench.compile(&folder, &output, &RTN);
    assert!(
        said.contains("with it: adapters/a.json, embedding.onnx, genai_config.json, tokenizer.json"),
        "{said}"
    );
    assert_eq!(bench.names("out/quantized/adapters"), ["a.json"]);
}

#[test]
fn the_name_of_a_folder_may_end_as_that_of_a_model() {
    let bench = Bench::new();
    let folder = bench.path("genai.onnx");
    fs::rename(genai_folder(&bench), &folder).unwrap();
    let config = r#"{"model": {"decoder": {"filename": "./decoder.onnx"}}}"#;
    fs::write(folder.join("genai_config.json"), config).unwrap();
    bench.compile(&folder, &folder, &RTN);
    assert!(is_quantized(&folder));
}

#[test]
fn no_report_is_written_into_a_folder_that_is_replaced() {
    let bench = Bench::new();
    let folder = genai_folder(&bench);
    let output = bench.path("out/quantized");
    let report = output.join("report.html");
    let (to, report) = (output.to_str().unwrap(), report.to_str().unwrap());
    let options = ["-o", to, "--method", "rtn", "--report", report];
    bench.refuse(2, &folder, &options, &["--report", "replaced as a whole"]);
    let report = folder.join("report.json");
    bench.compile(&folder, &folder, &[&RTN[..], &["--report", report.to_str().unwrap()]].concat());
    assert!(report.is_file());
}

#[cfg(unix)]
#[test]
fn what_folders_of_a_cache_share_is_not_replaced() {
    use std::os::unix::fs::symlink;

    let bench = Bench::new();
    let blobs = genai_folder(&bench);
    let snapshot = bench.path("snapshot");
    fs::create_dir(&snapshot).unwrap();
    for file in ["decoder.onnx", "decoder.onnx.data", "genai_config.json"] {
        symlink(blobs.join(file), snapshot.join(file)).unwrap();
    }
    let options = ["-o", snapshot.to_str().unwrap(), "--method", "rtn"];
    bench.refuse(4, &snapshot, &options, &["cannot write", "genai/decoder.onnx", "name another folder"]);
    bench.compile(&snapshot, &bench.path("out/quantized"), &RTN);
    assert!(!is_quantized(&blobs) && is_quantized(&bench.path("out/quantized")));
}
