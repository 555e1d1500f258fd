//! Quantized graphs to packages.

use std::path::Path;

use zqc_formats::{ActivationFormat, Format, Ladder};
use zqc_ir::onnx::from_proto;
use zqc_ir::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use zqc_ir::op::{QuantizeActivation, QuantizedLinear};
use zqc_ir::operands::{inputs, operands};
use zqc_ir::tensor::DataType;
use zqc_ir::{Change, Graph, Model, NewNode, Op, Patch, Tensor};
use zqc_kernels::{EmitError, LayerParts, Package, write};

use crate::parts::{PLAIN, Random, Shape, layer};

/// A graph of no nodes that has the inputs `x`, `y` and `bias`, and yields `q`, `k`, `v`, `o`.
fn empty() -> Model {
    let values = |names: &[&str]| -> Vec<ValueInfoProto> {
        let value = |name: &&str| ValueInfoProto { name: Some(name.to_string()), ..Default::default() };
        names.iter().map(value).collect()
    };
    from_proto(ModelProto {
        ir_version: Some(10),
        opset_import: vec![OperatorSetIdProto { version: Some(20), ..Default::default() }],
        graph: Some(GraphProto {
            input: values(&["x", "y", "bias"]),
            initializer: vec![TensorProto {
                name: Some("unused".to_string()),
                data_type: Some(DataType::Float as i32),
                dims: vec![0],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    })
    .unwrap()
}

fn apply(model: &mut Model, change: Change) {
    Patch { changes: vec![change], ..Patch::default() }.apply(model).unwrap();
}

/// Quantizes `x` as `xq`.
fn quantize(model: &mut Model, x: &str, format: ActivationFormat) {
    let node = NewNode {
        name: String::new(),
        op: Op::QuantizeActivation(QuantizeActivation { format }),
        inputs: vec![Some(x.to_string())],
        outputs: vec![Some(format!("{x}q"))],
        regions: Vec::new(),
        source_index: None,
    };
    apply(model, Change { add: vec![node], ..Change::new("test") });
}

/// Adds a layer that reads `x`; `bias` is a constant, or the input of the model that has this name.
fn add(model: &mut Model, x: &str, parts: &LayerParts, bias: Option<Bias>, beta: f32) {
    let name = &parts.name;
    let op = Op::QuantizedLinear(QuantizedLinear {
        layer: name.clone(),
        k: parts.matrix.cols,
        n: parts.matrix.rows,
        format: parts.matrix.format,
        group_size: parts.matrix.group_size,
        ladder: parts.matrix.scales.ladder(),
        rank: parts.low_rank.as_ref().map_or(0, |branch| branch.rank),
        beta,
        dtype: DataType::Float,
    });
    let mut initializers = Vec::new();
    let mut ports = Vec::new();
    for operand in operands(&parts.matrix, parts.low_rank.as_ref()).unwrap() {
        let value = format!("{name}.{}", operand.suffix);
        ports.push((operand.port, value.clone()));
        initializers.push((value, operand.tensor));
    }
    let bias = bias.map(|bias| match bias {
        Bias::Input(input) => input.to_string(),
        Bias::Constant { dims, values } => {
            let tensor = Tensor::from_f32(&dims, values).unwrap();
            initializers.push((format!("{name}.bias"), tensor));
            format!("{name}.bias")
        }
    });
    let node = NewNode {
        name: name.clone(),
        op,
        inputs: inputs(x.to_string(), ports, bias),
        outputs: vec![Some(format!("{name}.y"))],
        regions: Vec::new(),
        source_index: None,
    };
    apply(model, Change { initializers, add: vec![node], ..Change::new("test") });
}

enum Bias {
    Constant { dims: Vec<usize>, values: Vec<f32> },
    Input(&'static str),
}

fn vector(dims: &[usize], values: Vec<f32>) -> Option<Bias> {
    Some(Bias::Constant { dims: dims.to_vec(), values })
}

fn emit(graph: &Graph, use_package: impl FnOnce(&Path)) -> Result<(), EmitError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    let size = write(graph, &path)?;
    let sizes =
        ["manifest.json", "weights.bin"].map(|name| std::fs::metadata(path.join(name)).unwrap().len());
    assert_eq!(size, sizes.iter().sum::<u64>());
    use_package(&path);
    Ok(())
}

/// Three layers that read `x` and one that reads `y`, as in an attention block.
fn attention() -> Model {
    let mut model = empty();
    let mut random = Random(2);
    let mut build = |name, shape| layer(name, shape, &mut random);
    let narrow = Shape { n: 24, k: 192, group_size: 128, rank: 8, ..PLAIN };
    quantize(&mut model, "x", ActivationFormat::E4M3);
    quantize(&mut model, "y", ActivationFormat::E4M3);
    let bias = (0..24).map(|row| row as f32).collect();
    add(&mut model, "xq", &build("q", narrow), vector(&[1, 24], bias), 0.5);
    add(&mut model, "xq", &build("k", Shape { rank: 0, ..narrow }), vector(&[], vec![2.0]), 1.0);
    let wide = Shape { n: 130, group_size: 32, rank: 20, ladder: Some(Ladder::M2), ..narrow };
    add(&mut model, "yq", &build("o", Shape { k: 72, group_size: 0, ..wide }), None, 1.0);
    add(&mut model, "xq", &build("v", Shape { format: Format::E3M0, ..wide }), None, 1.0);
    model
}

#[test]
fn the_manifest_of_an_attention_block() {
    emit(&attention().graph, |path| {
        let package = Package::open(path).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(package.manifest()).unwrap());
    })
    .unwrap();
}

#[test]
fn a_bias_is_a_value_a_row_with_its_factor() {
    emit(&attention().graph, |path| {
        let package = Package::open(path).unwrap();
        let bias = |name| package.unpack(name).unwrap().bias;
        assert_eq!(bias("q"), Some((0..24).map(|row| 0.5 * row as f32).collect()));
        assert_eq!(bias("k"), Some(vec![2.0; 24]));
        assert_eq!(bias("v"), None);
    })
    .unwrap();
}

/// Why a layer with this bias is refused.
fn with_bias(bias: Option<Bias>) -> EmitError {
    let mut model = empty();
    quantize(&mut model, "x", ActivationFormat::E4M3);
    let parts = layer("layer", Shape { n: 24, k: 64, ..PLAIN }, &mut Random(2));
    add(&mut model, "xq", &parts, bias, 1.0);
    emit(&model.graph, |_| ()).unwrap_err()
}

#[test]
fn a_bias_that_is_no_vector() {
    let matrix = || vector(&[2, 24], vec![0.0; 48]);
    for bias in [Some(Bias::Input("bias")), matrix(), vector(&[24, 1], vec![0.0; 24])] {
        let error = with_bias(bias);
        assert!(matches!(&error, EmitError::Bias { layer, n: 24 } if layer == "layer"), "{error}");
        assert!(error.to_string().contains("--keep"));
    }
}

#[test]
fn activations_that_kernels_do_not_take() {
    for (format, found) in
        [(None, "float"), (Some(ActivationFormat::E5M2), "e5m2"), (Some(ActivationFormat::Int8), "int8")]
    {
        let mut model = empty();
        format.into_iter().for_each(|format| quantize(&mut model, "x", format));
        let parts = layer("layer", Shape { n: 24, k: 64, ..PLAIN }, &mut Random(2));
        add(&mut model, if format.is_some() { "xq" } else { "x" }, &parts, None, 1.0);
        let error = emit(&model.graph, |_| ()).unwrap_err().to_string();
        let words = ["layer layer", found, "--activations fp8"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn a_graph_without_quantized_layers() {
    emit(&empty().graph, |path| {
        assert_eq!(Package::open(path).unwrap().layers().count(), 0);
    })
    .unwrap();
}
