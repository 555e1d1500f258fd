use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zqc_ir::Patch;
use zqc_ir::onnx;
use zqc_ir::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use zqc_ir::op::attribute;
use zqc_ir::tensor::DataType;
use zqc_passes::{Context, Pass, PassError};
use zqc_runtime::{Session, Subgraph};

use super::*;

/// Changes nothing and counts how often it is run.
struct Count(Rc<Cell<usize>>);

impl Pass for Count {
    fn name(&self) -> &'static str {
        "count"
    }

    fn run(&self, _: &Model, _: &mut Context) -> Result<Patch, PassError> {
        self.0.set(self.0.get() + 1);
        Ok(Patch::default())
    }
}

fn compiler() -> Compiler {
    Compiler::new(Options { method: Method::Rtn, ..Options::default() })
}

/// A branch of an `If`, `y = x w`, and nothing else that could be quantized.
fn layer_in_a_body() -> Model {
    let string = |text: &str| Some(text.to_string());
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let node = |op_type: &str, inputs: &[&str], output: &str| NodeProto {
        op_type: string(op_type),
        input: names(inputs),
        output: names(&[output]),
        ..Default::default()
    };
    let value = |name: &str| ValueInfoProto { name: string(name), ..Default::default() };
    let weight = TensorProto {
        name: string("w"),
        data_type: Some(DataType::Float as i32),
        dims: vec![64, 64],
        raw_data: Some(0.5f32.to_le_bytes().repeat(64 * 64).into()),
        ..Default::default()
    };
    let body = |node: NodeProto| GraphProto {
        output: vec![value(&node.output[0])],
        node: vec![node],
        ..Default::default()
    };
    let mut branch = node("If", &["c"], "y");
    branch.attribute =
        [("then_branch", node("MatMul", &["x", "w"], "t")), ("else_branch", node("Neg", &["x"], "e"))]
            .map(|(name, node)| zqc_ir::onnx::proto::AttributeProto {
                name: string(name),
                g: Some(body(node)),
                r#type: Some(5),
                i: None,
                ..attribute::int(name, 0)
            })
            .to_vec();
    let graph = GraphProto {
        input: vec![value("c"), value("x")],
        output: vec![value("y")],
        initializer: vec![weight],
        node: vec![branch],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { version: Some(20), ..Default::default() };
    let proto = ModelProto {
        ir_version: Some(10),
        opset_import: vec![opset],
        graph: Some(graph),
        ..Default::default()
    };
    onnx::from_proto(proto).unwrap()
}

#[test]
fn passes_that_do_not_exist_are_told_with_those_that_do() {
    let pass = || Box::new(Count(Rc::default()));
    let mut compiler = compiler();
    let pipeline = compiler.pipeline_mut();
    let stop = |text: &str| text.parse().unwrap();
    let results = [
        pipeline.remove("selekt"),
        pipeline.insert_after("selekt", pass()),
        pipeline.remove(""),
        pipeline.stop_after(stop("selekt:3")),
    ];
    for result in results {
        let error = result.expect_err("an error");
        assert!(matches!(error, Error::UnknownPass { .. }) && error.exit_code() == 2);
        assert!(
            error.to_string().contains("canonicalize, select, quantize_head, quantize_activations"),
            "{error}"
        );
    }
    assert!(matches!(pipeline.stop_after(stop("lower_portable")), Err(Error::Usage(_))));
    let names: Vec<_> = pipeline.names().collect();
    for name in names {
        pipeline.insert_after(name, pass()).unwrap();
        pipeline.remove(name).unwrap();
    }
    assert!(pipeline.names().all(|name| name == "count"));
}

/// The layers that are quantized in the subgraph.
fn quantized(compiler: Compiler) -> usize {
    compiler.compile_model(layer_in_a_body(), []).unwrap().1.layers.len()
}

#[test]
fn pipelines_are_changed_for_subgraphs_too() {
    assert_eq!(quantized(compiler()), 1);
    for left_out in ["canonicalize", Pipeline::QUANTIZE_SUBGRAPHS] {
        let mut without = compiler();
        without.pipeline_mut().remove(left_out).unwrap();
        assert_eq!(quantized(without), 0, "{left_out}");
    }
    let count = Rc::default();
    let mut counted = compiler();
    counted.pipeline_mut().insert_after("select", Box::new(Count(Rc::clone(&count)))).unwrap();
    assert_eq!(quantized(counted), 1);
    assert!(count.get() >= 3, "once in the main graph, and in each subgraph: {}", count.get());
}

#[test]
fn text_leaves_the_layers_in_subgraphs_for_the_next_run() {
    let options = Options { emit: Emit::Ir, method: Method::Rtn, ..Options::default() };
    let (model, report) = Compiler::new(options).compile_model(layer_in_a_body(), []).unwrap();
    assert!(report.layers.is_empty() && report.warnings.iter().any(|line| line.contains("stay in float")));
    let read = zqc_ir::text::parse(&zqc_ir::text::exact(&model).unwrap()).unwrap();
    let [direct, by_text] =
        [layer_in_a_body(), read].map(|model| compiler().compile_model(model, []).unwrap());
    assert_eq!(by_text.1.layers.len(), 1);
    let bytes = |(model, _): &(Model, Report)| onnx::to_bytes(model).unwrap();
    assert_eq!(bytes(&by_text), bytes(&direct));
}

#[test]
fn a_pipeline_that_stops_in_a_subgraph_leaves_the_layers_in_float() {
    let stopped = |place: &str| {
        let mut compiler = compiler();
        compiler.pipeline_mut().stop_after(place.parse().unwrap()).unwrap();
        compiler.compile_model(layer_in_a_body(), []).unwrap()
    };
    for place in ["canonicalize", "solve_weights:0", "1"] {
        let (model, report) = stopped(place);
        let proto = onnx::to_proto(&model).unwrap();
        let node = proto.graph.unwrap().node.remove(0);
        let operators: Vec<&str> =
            node.bodies().flat_map(|body| &body.node).map(|node| node.op_type()).collect();
        assert!(
            ["MatMul", "Neg"].iter().all(|operator| operators.contains(operator)),
            "{place}: {operators:?}"
        );
        assert_eq!(operators.len(), 2, "{place}: {operators:?}");
        assert!(report.layers.is_empty() && report.warnings.iter().any(|line| line.contains(place)));
    }
    // Its operands, and the layer that reads them.
    assert_eq!(stopped("solve_weights:2").1.layers.len(), 1);
}

/// Leaves our operators as they are.
struct Canonical;

impl Target for Canonical {
    fn name(&self) -> &'static str {
        "canonical"
    }

    fn lowering(&self) -> Vec<Box<dyn Pass>> {
        Vec::new()
    }
}

#[test]
fn a_target_of_ones_own_is_calibrated_on_samples_in_memory() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/model.onnx");
    let compiler =
        Compiler::for_target(Options { lorc_rank: Some(0), ..Options::default() }, Box::new(Canonical));
    let sample = |start: i64| {
        let tokens = (0..48).map(|at| (start + 7 * at) % 256).collect();
        Sample::from([("input_ids".to_string(), zqc_runtime::Array::sequence(tokens))])
    };
    let (model, report) = compiler.compile_model(onnx::read(&path).unwrap(), [sample(1), sample(2)]).unwrap();
    assert_eq!(report.calibration, "2 samples in memory");
    assert_eq!(report.layers.len(), 35, "all but the head, as the target holds no table");
    assert!(report.layers.iter().all(|layer| layer.output_error.is_some_and(|error| error > 0.0)));
    let quantized = model.graph.nodes().filter(|(_, node)| node.op.kind() == "zqc.quantized_linear");
    assert_eq!(quantized.count(), 35);
}

/// Runs on rten, and counts what it loads.
struct Counting(Box<dyn Backend>, AtomicUsize);

impl Backend for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn load(&self, subgraph: &Subgraph) -> Result<Box<dyn Session>, BackendError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.load(subgraph)
    }
}

#[test]
fn a_back_end_of_ones_own_runs_calibration_and_verification() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/model.onnx");
    let backend = Arc::new(Counting(zqc_runtime::backend("rten", None).unwrap(), AtomicUsize::new(0)));
    let options = Options { samples: Some(1), seq_len: Some(16), ..Options::default() };
    let loaded = |verify| {
        let options = Options { verify, ..options.clone() };
        let before = backend.1.load(Ordering::Relaxed);
        let compiler = Compiler::new(options).with_backend(backend.clone());
        let report = compiler.compile(&source, &folder.path().join("out.onnx")).unwrap();
        assert!(report.options.iter().any(|option| option.name == "--backend" && option.value == "counting"));
        backend.1.load(Ordering::Relaxed) - before
    };
    let calibration = loaded(false);
    assert!(calibration > 0);
    assert!(loaded(true) > calibration, "the output is not verified on it");
}
