//! What is read is written: nothing that a file says is lost.

use prost::Message;
use zqc_ir::onnx::proto::tensor_proto::Segment;
use zqc_ir::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, OperatorSetIdProto, SparseTensorProto, TensorAnnotation,
    TensorProto, TrainingInfoProto, TypeProto, ValueInfoProto, type_proto,
};
use zqc_ir::onnx::{ModelError, Storage, from_proto, read, read_bytes, to_bytes, to_proto, write};
use zqc_ir::op::attribute;
use zqc_ir::tensor::DataType;

use crate::protos::{entry, floats, import, info, model, node, small, string, strings, tensor_type, tiny};
use crate::text_round_trip::assert_text_keeps;

/// Reads and writes through files.
fn round_trip(proto: &ModelProto) -> ModelProto {
    let folder = tempfile::tempdir().unwrap();
    let (source, copy) = (folder.path().join("source.onnx"), folder.path().join("copy.onnx"));
    std::fs::write(&source, proto.encode_to_vec()).unwrap();
    let written = write(&read(&source).unwrap(), &copy, Storage::Auto).unwrap();
    let bytes = std::fs::read(&copy).unwrap();
    assert_eq!(written, bytes.len() as u64);
    ModelProto::decode(bytes.as_slice()).unwrap()
}

fn assert_kept(proto: &ModelProto) {
    assert_eq!(round_trip(proto), *proto);
    let model = from_proto(proto.clone()).unwrap();
    assert_eq!(to_proto(&model).unwrap(), *proto);
    assert_text_keeps(&model);
}

#[test]
fn the_bundled_model_comes_back_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.onnx");
    write(&read(&tiny()).unwrap(), &copy, Storage::Auto).unwrap();
    let source = std::fs::read(tiny()).unwrap();
    assert!(source == std::fs::read(copy).unwrap(), "the bytes differ");
    assert!(source == to_bytes(&read_bytes(source.clone()).unwrap()).unwrap(), "the bytes differ");
}

#[test]
fn bytes_are_refused_as_files_are() {
    let bytes = small().encode_to_vec();
    let cut = bytes[..bytes.len() - 3].to_vec();
    assert!(matches!(read_bytes(cut), Err(ModelError::Decode(_))));
    assert!(matches!(read_bytes(Vec::new()), Err(ModelError::NotAModel { missing: "graph" })));
}

#[test]
fn an_import_without_a_version_is_refused() {
    let nothing = OperatorSetIdProto::default();
    let function =
        FunctionProto { name: string("Twice"), opset_import: vec![nothing.clone()], ..Default::default() };
    let of_model = ModelProto { opset_import: vec![import(None, 20), nothing], ..small() };
    for proto in [of_model, ModelProto { functions: vec![function], ..small() }] {
        let error = from_proto(proto).unwrap_err().to_string();
        assert_eq!(error, "this is not an ONNX model: it has no version for one of its opset imports");
    }
}

#[test]
fn everything_in_the_header_is_kept() {
    assert_kept(&ModelProto {
        opset_import: vec![import(Some(""), 21), import(Some("com.microsoft"), 1), import(Some("own"), 3)],
        producer_name: string("a producer"),
        producer_version: string("1.2"),
        domain: string("org.example"),
        model_version: Some(7),
        doc_string: string("documentation, ünïcode"),
        metadata_props: vec![entry("key", "value"), entry("empty", "")],
        training_info: vec![TrainingInfoProto {
            initialization: Some(GraphProto { name: string("start"), ..Default::default() }),
            initialization_binding: vec![entry("w", "w0")],
            ..Default::default()
        }],
        functions: vec![FunctionProto {
            name: string("Twice"),
            domain: string("own"),
            overload: string("f32"),
            input: strings(&["a"]),
            output: strings(&["b"]),
            attribute: strings(&["axis"]),
            attribute_proto: vec![attribute::float("alpha", 0.5)],
            node: vec![node("Add", "", &["a", "a"], &["b"])],
            opset_import: vec![import(None, 18)],
            doc_string: string("twice"),
            value_info: vec![info("b", DataType::Float, "?")],
            metadata_props: vec![entry("k", "v")],
        }],
        ..small()
    });
}

#[test]
fn everything_around_the_nodes_is_kept() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.doc_string = string("a graph");
    graph.metadata_props = vec![entry("scope", "root")];
    graph.quantization_annotation = vec![TensorAnnotation {
        tensor_name: string("xw"),
        quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", "scale")],
    }];
    graph.sparse_initializer = vec![SparseTensorProto {
        values: Some(floats("sparse", &[1], &[3.0])),
        indices: Some(TensorProto {
            dims: vec![1],
            data_type: Some(DataType::Int64 as i32),
            int64_data: vec![5],
            ..Default::default()
        }),
        dims: vec![16],
    }];
    graph.node.push(node("Add", "sum", &["y", "sparse"], &["z"]));
    graph.node[0].doc_string = string("a product");
    graph.node[0].metadata_props = vec![entry("scope", "/layers.0")];
    graph.node[1].name = None;
    assert_kept(&proto);
}

#[test]
fn types_of_every_kind_are_kept() {
    let boxed = |dims| Some(Box::new(tensor_type(DataType::Float16, dims)));
    let value = |name: &str, value| ValueInfoProto {
        name: string(name),
        r#type: Some(TypeProto { denotation: string("KIND"), value: Some(value) }),
        doc_string: string("a value"),
        metadata_props: vec![entry("k", "v")],
    };
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.input.extend([
        info("no_shape_known", DataType::Int64, ""),
        ValueInfoProto { name: string("no_type_known"), ..Default::default() },
        value(
            "list",
            type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: boxed("n ? 3") })),
        ),
        value(
            "maybe",
            type_proto::Value::OptionalType(Box::new(type_proto::Optional { elem_type: boxed("") })),
        ),
    ]);
    graph.value_info = vec![info("xw", DataType::Float, "batch 16"), info("gone", DataType::Bool, "?")];
    assert_kept(&proto);
}

#[test]
fn a_value_with_several_declarations_keeps_each() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.output.push(info("x", DataType::Float, "rows 32"));
    graph.value_info = vec![info("y", DataType::Float, "? ?"), info("w", DataType::Float, "32 16")];
    assert_kept(&proto);
}

#[test]
fn bodies_that_read_outer_values_are_kept() {
    let branch = |name: &str, op_type: &str| GraphProto {
        name: string(name),
        node: vec![node(op_type, "", &["xw", "", "bound"], &["clipped"])],
        initializer: vec![floats("bound", &[], &[6.0])],
        output: vec![ValueInfoProto { name: string("clipped"), ..Default::default() }],
        ..Default::default()
    };
    let mut choice = node("If", "choice", &["flag"], &["y"]);
    for (name, op_type) in [("then_branch", "Clip"), ("else_branch", "Own")] {
        let mut attribute = attribute::int(name, 0);
        (attribute.i, attribute.r#type) = (None, Some(5));
        attribute.g = Some(branch(name, op_type));
        choice.attribute.push(attribute);
    }
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.input.push(info("flag", DataType::Bool, ""));
    graph.node[1] = choice;
    assert_kept(&proto);

    let model = from_proto(proto).unwrap();
    let captured = model.graph.find("xw").unwrap();
    let reader = model.graph.uses(captured)[0].node;
    assert_eq!(model.graph.node(reader).captures(), [captured], "and nothing that the body defines itself");
}

#[test]
fn optional_inputs_and_outputs_keep_their_places() {
    let mut proto = small();
    proto.graph.as_mut().unwrap().node[1] = node("Own", "", &["", "xw", ""], &["", "y", ""]);
    assert_kept(&proto);
}

#[test]
fn payloads_in_typed_fields_are_kept() {
    let empty = |name: &str, dtype: DataType, dims: &[i64]| TensorProto {
        name: string(name),
        data_type: Some(dtype as i32),
        dims: dims.to_vec(),
        doc_string: string("a constant"),
        metadata_props: vec![entry("k", "v")],
        ..Default::default()
    };
    let constants = vec![
        TensorProto { float_data: vec![1.0, -0.0], ..empty("f32", DataType::Float, &[2]) },
        TensorProto { float_data: vec![1.0, 2.0], ..empty("c64", DataType::Complex64, &[1]) },
        TensorProto { double_data: vec![0.1], ..empty("f64", DataType::Double, &[]) },
        TensorProto { int64_data: vec![-1, i64::MAX], ..empty("i64", DataType::Int64, &[2, 1]) },
        TensorProto { uint64_data: vec![u64::MAX], ..empty("u64", DataType::Uint64, &[1]) },
        TensorProto { uint64_data: vec![7], ..empty("u32", DataType::Uint32, &[1]) },
        TensorProto { int32_data: vec![0x3c00, 0x3e00], ..empty("f16", DataType::Float16, &[2]) },
        TensorProto { int32_data: vec![0x21, 0x03], ..empty("i4", DataType::Int4, &[3]) },
        TensorProto { int32_data: vec![1, 2, 3, 4, 5], ..empty("f6", DataType::Float6e3m2, &[5]) },
        TensorProto { int32_data: vec![1, 0], ..empty("bool", DataType::Bool, &[2]) },
        TensorProto { string_data: vec![b"a".to_vec(), vec![0xff]], ..empty("str", DataType::String, &[2]) },
        TensorProto { raw_data: Some(Default::default()), ..empty("none", DataType::Float, &[0, 4]) },
        TensorProto {
            float_data: vec![0.5],
            segment: Some(Segment { begin: Some(0), end: Some(1) }),
            ..empty("segment", DataType::Float, &[1])
        },
    ];
    let mut proto = small();
    proto.graph.as_mut().unwrap().initializer.extend(constants);
    assert_kept(&proto);
}

#[test]
fn inputs_with_a_default_are_kept_in_every_ir_version() {
    for ir_version in [3, 10] {
        let mut proto = ModelProto { ir_version: Some(ir_version), ..small() };
        proto.graph.as_mut().unwrap().input.push(info("w", DataType::Float, "32 16"));
        assert_kept(&proto);
        let model = from_proto(proto).unwrap();
        let weight = model.graph.find("w").unwrap();
        assert_eq!(model.graph.constant(weight).is_some(), ir_version == 3, "IR version {ir_version}");
    }
}

#[test]
fn nodes_out_of_order_are_put_in_order() {
    let mut proto = small();
    proto.graph.as_mut().unwrap().node.reverse();
    assert_eq!(round_trip(&proto), small());
}

#[test]
fn an_empty_graph_is_kept() {
    assert_kept(&model(GraphProto::default()));
}
