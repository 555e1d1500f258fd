//! The library of kernels in ONNX Runtime: the same bits in every version, on every instruction set, with any number of threads and
//! tokens; what is damaged, or registered twice, is refused with a line that says why.

mod support;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{python, repository, script, tiny, versions, zqc_ok};

const INSTRUCTION_SETS: [&str; 6] = ["scalar", "neon", "avx2", "avx512", "vnni", "amx"];

/// The shared library, which cargo builds beside the tests.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("the test's path");
    let path = program.parent().expect("a folder").join("libzqc_ort.so");
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// The models that `tests/ort/library.py` makes, compiled with these options.
struct Models(tempfile::TempDir);

impl Models {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        script(&python(), "library.py", [OsStr::new("make"), folder.path().as_os_str()]);
        Self(folder)
    }

    fn compile(&self, model: &str, options: &[&str]) -> PathBuf {
        let path = |name: String| self.0.path().join(name);
        let output = path(format!("{model}{}.onnx", options.join("")));
        let calibration = path(format!("{}.npz", if model == "half" { "half" } else { "layers" }));
        let arguments = [path(format!("{model}.onnx")), "-o".into(), output.clone()];
        let calibration = [PathBuf::from("--calibration"), calibration];
        zqc_ok(arguments.into_iter().chain(calibration).chain(options.iter().map(PathBuf::from)));
        output
    }
}

/// A run of a model.
struct Run<'a> {
    model: &'a Path,
    /// Whether the library is registered.
    library: bool,
    onnxruntime: Option<&'a Path>,
    instructions: &'a str,
    tokens: usize,
    threads: usize,
    level: &'a str,
}

impl<'a> Run<'a> {
    fn of(model: &'a Path) -> Self {
        Self {
            model,
            library: true,
            onnxruntime: None,
            instructions: "",
            tokens: 13,
            threads: 1,
            level: "all",
        }
    }

    fn output(&self) -> Output {
        let mut command = Command::new(python());
        command.arg(repository("tests/ort/library.py")).arg("run").arg(self.model);
        command.arg(if self.library { library() } else { "-".into() });
        command.args([self.tokens.to_string(), self.threads.to_string(), self.level.to_string()]);
        command.env("ZQC_CPU", self.instructions);
        if let Some(folder) = self.onnxruntime {
            command.env("PYTHONPATH", folder);
        }
        command.output().expect("Python starts")
    }

    fn result(&self) -> Value {
        let output = self.output();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn error(&self) -> String {
        let output = self.output();
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// Holds a run against another: the same bits, from kernels.
fn assert_same(found: &Value, expected: &Value) {
    assert_eq!(
        (&found["hash"], &found["shape"]),
        (&expected["hash"], &expected["shape"]),
        "{found} {expected}"
    );
    assert_eq!(found["layers"], 5, "every layer is run by a kernel: {found}");
    assert_eq!(found["one_by_one"], 0.0, "tokens do not depend on each other: {found}");
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn the_bits_are_the_same_everywhere() {
    let models = Models::make();
    let model = models.compile("layers", &["--lorc-rank", "8"]);
    let expected = Run { instructions: "scalar", ..Run::of(&model) }.result();
    assert_same(&expected, &expected);
    let stock = Run { library: false, ..Run::of(&model) }.result();
    assert_eq!(stock["shape"], expected["shape"]);
    let [norm, float] = [&expected, &stock].map(|run| run["norm"].as_f64().unwrap());
    assert!((norm / float - 1.0).abs() < 1e-2, "the library {norm}, stock ONNX Runtime {float}");
    for version in versions() {
        let found = Run { onnxruntime: version.as_deref(), ..Run::of(&model) }.result();
        assert_same(&found, &expected);
        println!("onnxruntime {}: the same bits", found["version"]);
    }
    let mut ran = 0;
    for instructions in INSTRUCTION_SETS {
        let run = Run { instructions, ..Run::of(&model) };
        let output = run.output();
        let error = String::from_utf8_lossy(&output.stderr);
        if error.contains("does not offer") {
            println!("{instructions}: not on this processor");
            continue;
        }
        assert_same(&run.result(), &expected);
        println!("{instructions}: the same bits");
        ran += 1;
    }
    assert!(ran >= 2, "no instruction set but scalar ran");
    for threads in [2, 3] {
        assert_same(&Run { threads, ..Run::of(&model) }.result(), &expected);
    }
    for level in ["none", "basic", "extended"] {
        assert_same(&Run { level, ..Run::of(&model) }.result(), &expected);
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn every_kind_of_layer_has_a_kernel() {
    let models = Models::make();
    let kinds: [&[&str]; 11] = [
        &["--group-size", "64"],
        &["--weights", "int8", "--activations", "int8"],
        &["--weights", "int4", "--activations", "e5m2", "--lorc-rank", "0"],
        &["--weights", "e3m0", "--activations", "none"],
        &["--weights", "fp8", "--lorc-rank", "3", "--lorc-factors", "bf16"],
        &["--weights", "int4-sym", "--group-size", "40"],
        &["--scale", "m2", "--group-size", "0"],
        &["--scale", "m2", "--weights", "e3m0"],
        &["--weights", "lut4"],
        &["--weights", "lut4", "--scale", "none", "--group-size", "40", "--lorc-rank", "0"],
        &["--scale", "none", "--group-size", "7"],
    ];
    for options in kinds {
        let model = models.compile("layers", options);
        let expected = Run { instructions: "scalar", ..Run::of(&model) }.result();
        assert_same(&Run { threads: 2, ..Run::of(&model) }.result(), &expected);
        let stock = Run { library: false, ..Run::of(&model) }.result();
        let [norm, float] = [&expected, &stock].map(|run| run["norm"].as_f64().unwrap());
        assert!(
            (norm / float - 1.0).abs() < 1e-2,
            "{options:?}: the library {norm}, stock ONNX Runtime {float}"
        );
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn halves_branches_unknown_shapes_and_no_tokens_run() {
    let models = Models::make();
    let half = models.compile("half", &[]);
    let branches = models.compile("branches", &[]);
    let layers = models.compile("layers", &[]);
    let mut hashes = Vec::new();
    for version in versions() {
        let name =
            version.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let onnxruntime = version.as_deref();
        if name.starts_with("1.18") {
            let error = Run { onnxruntime, ..Run::of(&half) }.error();
            assert!(error.contains("an output of float16 needs ONNX Runtime 1.20 or later"), "{error}");
        } else {
            let found = Run { onnxruntime, ..Run::of(&half) }.result();
            assert_eq!((&found["type"], &found["layers"]), (&"float16".into(), &5.into()), "{found}");
            hashes.push(found["hash"].clone());
        }
        let found = Run { onnxruntime, ..Run::of(&branches) }.result();
        assert_eq!(found["layers"], 2, "both branches: {found}");
        for model in ["reshaped", "unranked"] {
            let model = models.compile(model, &[]);
            let run = Run { onnxruntime, ..Run::of(&model) };
            let (found, stock) = (run.result(), Run { library: false, ..run }.result());
            assert_eq!((&found["shape"], &found["layers"]), (&stock["shape"], &1.into()), "{found} {stock}");
        }
        let found = Run { onnxruntime, tokens: 0, ..Run::of(&layers) }.result();
        assert_eq!(found["shape"], serde_json::json!([1, 0, 40]), "{found}");
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

/// A whole model: the table of the tokens and the head that is tied to it are kernels too.
#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn a_language_model_is_as_good_as_in_stock_onnxruntime() {
    let folder = tempfile::tempdir().unwrap();
    for head in ["int8", "fp8"] {
        let output = folder.path().join(format!("{head}.onnx"));
        let options = ["--method", "rtn", "--external-data", "--head", head].map(PathBuf::from);
        zqc_ok([tiny("model.onnx"), "-o".into(), output.clone()].into_iter().chain(options));
        let library = library();
        let perplexity = |library: Option<&Path>| {
            let files = [output.clone(), tiny("heldout.txt"), tiny("tokenizer.json")];
            let numbers = ["256", "2560"].map(PathBuf::from);
            let arguments = files.into_iter().chain(numbers).chain(library.map(PathBuf::from));
            let result = script(&python(), "perplexity.py", arguments);
            serde_json::from_str::<Value>(&result).unwrap()["perplexity"].as_f64().unwrap()
        };
        let (found, stock) = (perplexity(Some(&library)), perplexity(None));
        assert!(
            (found / stock - 1.0).abs() < 2e-3,
            "{head}: the library {found}, stock ONNX Runtime {stock}"
        );
        let kernels =
            script(&python(), "library.py", ["kernels".as_ref(), output.as_os_str(), library.as_os_str()]);
        let kernels: Value = serde_json::from_str(&kernels).unwrap();
        let gather = format!("Gather{}", if head == "int8" { "Int8" } else { "E4M3" });
        assert_eq!(kernels[&gather], 1, "{kernels}");
        let linear = if head == "int8" { "W8A16Linear_Int8_TransB" } else { "W8A8Linear_TransB" };
        assert_eq!((&kernels[linear], &kernels["W4A8Linear_M3"]), (&1.into(), &35.into()), "{kernels}");
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn what_cannot_run_says_why() {
    let models = Models::make();
    let model = models.compile("layers", &["--group-size", "64"]);
    let error = Run { instructions: "mmx", ..Run::of(&model) }.error();
    assert!(error.contains("ZQC_CPU names no instruction set: 'mmx' (this processor has: scalar"), "{error}");
    let faults =
        script(&python(), "library.py", ["faults".as_ref(), model.as_os_str(), library().as_os_str()]);
    let faults: Vec<Value> = faults.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |fault: &str| {
        let found =
            faults.iter().find(|row| row["fault"] == fault).unwrap_or_else(|| panic!("no row {fault}"));
        found["error"].as_str().unwrap_or_default().to_string()
    };
    for (fault, expected) in [
        ("group_size 0", "node \"layer0\" (W4A8Linear_M3_LowRank): attribute group_size is 0"),
        ("output_type int64", "attribute output_type is 7"),
        ("no attributes", "No attribute with name:'group_size'"),
        ("half of the codes", "input We is uint8 [2, 40], not [1, 40]"),
        ("other width", "input Xq is float8e4m3fn [1, 3, 50], not [..., 96]"),
        ("registered twice", "Domain already set in registry"),
        // What is not wrong: a newer version of the domain is run by the functions in the file, one without them by kernels, weights
        // that the caller can override by kernels too.
        ("ai.zqc 2", ""),
        ("no functions", ""),
        ("weights as inputs", ""),
        ("no shapes", ""),
    ] {
        let error = said(fault);
        assert!(
            if expected.is_empty() { error.is_empty() } else { error.contains(expected) },
            "{fault}: {error}"
        );
    }
}
