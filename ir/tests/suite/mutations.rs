//! Damaged files give errors, never a panic.

use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message;
use zqc_ir::Model;
use zqc_ir::onnx::proto::tensor_shape_proto::dimension;
use zqc_ir::onnx::proto::{AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, type_proto};
use zqc_ir::onnx::{ModelError, from_proto, to_proto};
use zqc_ir::op::attribute;
use zqc_ir::tensor::{DataType, TensorError};

use crate::protos::{model, node, small, string, tensor_type, tiny};

/// Reads `bytes`; a model that comes out of them can be printed and written.
fn exercise(bytes: &[u8]) -> Option<Model> {
    let model = from_proto(ModelProto::decode(bytes).ok()?).ok()?;
    let written = to_proto(&model).unwrap();
    assert_eq!(written.graph.unwrap().node.len(), model.graph.nodes().count());
    assert!(model.to_string().parse::<Model>().is_ok());
    Some(model)
}

fn small_bytes() -> Vec<u8> {
    small().encode_to_vec()
}

/// The bundled model with its large constants cut out: mostly graph.
static GRAPH: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut proto = ModelProto::decode(std::fs::read(tiny()).unwrap().as_slice()).unwrap();
    for tensor in &mut proto.graph.as_mut().unwrap().initializer {
        if tensor.raw_data.as_ref().is_some_and(|raw| raw.len() > 64) {
            tensor.dims = vec![0];
            tensor.raw_data = Some(Default::default());
        }
    }
    proto.encode_to_vec()
});

proptest! {
    #[test]
    fn random_bytes_are_no_model(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(exercise(&bytes).is_none());
    }

    #[test]
    fn changed_bytes_do_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = small_bytes();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        exercise(&bytes);
    }

    #[test]
    fn moved_pieces_do_no_harm(from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), length in 1..64usize) {
        let mut bytes = small_bytes();
        let from = from.index(bytes.len());
        let piece: Vec<u8> = bytes[from..].iter().take(length).copied().collect();
        let to = to.index(bytes.len());
        bytes.splice(to..to, piece);
        exercise(&bytes);
    }
}

#[test]
fn a_model_cut_anywhere_is_an_error_or_another_model() {
    let bytes = small_bytes();
    let whole = exercise(&bytes).unwrap().to_string();
    for end in 0..bytes.len() {
        if let Some(model) = exercise(&bytes[..end]) {
            assert_ne!(model.to_string(), whole, "{end} bytes");
        }
    }
}

#[test]
fn a_changed_byte_in_the_bundled_graph_does_no_harm() {
    assert!(exercise(&GRAPH).is_some());
    assert!(GRAPH.len() > 10_000);
    let mut models = 0;
    for step in 0..1500 {
        let mut bytes = GRAPH.clone();
        // A stride that is prime spreads the changes over the file.
        let at = step * 7919 % bytes.len();
        bytes[at] = bytes[at].wrapping_add(1 + (step * 31 % 255) as u8);
        models += usize::from(exercise(&bytes).is_some());
    }
    assert!((1..1500).contains(&models), "{models} of 1500 are still models");
}

#[test]
fn nesting_without_end_is_refused() {
    let mut graph = GraphProto::default();
    for _ in 0..50 {
        let mut outer = node("If", "", &[], &[]);
        outer.attribute.push(AttributeProto { g: Some(graph), ..attribute::int("then_branch", 0) });
        graph = GraphProto { node: vec![outer], ..Default::default() };
    }
    let error = ModelProto::decode(model(graph).encode_to_vec().as_slice()).unwrap_err();
    assert!(error.to_string().contains("recursion limit"), "{error}");
    let mut list = tensor_type(DataType::Float, "");
    for _ in 0..100 {
        let inner = type_proto::Sequence { elem_type: Some(Box::new(list)) };
        list =
            TypeProto { value: Some(type_proto::Value::SequenceType(Box::new(inner))), ..Default::default() };
    }
    assert!(TypeProto::decode(list.encode_to_vec().as_slice()).is_err());
}

#[test]
fn absurd_dimensions_are_refused_before_memory_is_taken() {
    let refusal = |dims: &[i64], dtype: i32| {
        let mut proto = small();
        proto.graph.as_mut().unwrap().initializer.push(TensorProto {
            name: string("huge"),
            dims: dims.to_vec(),
            data_type: Some(dtype),
            ..Default::default()
        });
        match from_proto(proto).unwrap_err() {
            ModelError::Tensor { tensor, source } => {
                assert_eq!(tensor, "initializer \"huge\"");
                source
            }
            other => panic!("{other}"),
        }
    };
    let (float, complex) = (DataType::Float as i32, DataType::Complex128 as i32);
    for dims in [&[i64::MAX, 4][..], &[i64::MAX], &[-1], &[1 << 40, 1 << 40], &[i64::MIN, 0]] {
        assert!(matches!(refusal(dims, complex), TensorError::Dimensions(_)), "{dims:?}");
    }
    let size = refusal(&[1 << 50], float);
    assert!(matches!(size, TensorError::Size { found: 0, .. }), "{size}");
    for dtype in [0, -1, 29, i32::MAX] {
        assert_eq!(refusal(&[1], dtype), TensorError::UnknownType(dtype));
    }
}

#[test]
fn absurd_dimensions_of_values_are_printed_and_kept() {
    let mut proto = small();
    for input in &mut proto.graph.as_mut().unwrap().input {
        let Some(type_proto::Value::TensorType(tensor)) =
            input.r#type.as_mut().and_then(|t| t.value.as_mut())
        else {
            panic!("an input that is no tensor")
        };
        tensor.shape.as_mut().unwrap().dim[0].value = Some(dimension::Value::DimValue(i64::MIN));
        tensor.elem_type = Some(i32::MAX);
    }
    let model = exercise(&proto.encode_to_vec()).unwrap();
    assert!(model.to_string().contains("(%x: ?2147483647[-9223372036854775808, 32])"), "{model}");
    assert_eq!(to_proto(&model).unwrap(), proto);
}
