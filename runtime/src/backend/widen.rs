//! Rewrites BFLOAT16 as FLOAT.
//!
//! rten computes in `f32`. It widens FLOAT16 and DOUBLE by itself as it loads a model, but refuses BFLOAT16, so
//! that is done here, wherever a model names the type or stores elements of it. Every BFLOAT16 value is exact in
//! FLOAT; only the rounding of intermediate values is lost.

use half::bf16;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, type_proto};

use super::visit;

const BFLOAT16: i32 = DataType::Bfloat16 as i32;
const FLOAT: i32 = DataType::Float as i32;

/// Integer attributes of standard operators that name an element type.
const TYPE_ATTRIBUTES: [&str; 2] = ["to", "dtype"];

/// Widens a model in place, its subgraphs included. Functions must have been inlined.
pub fn widen(model: &mut ModelProto) {
    if let Some(graph) = &mut model.graph {
        visit::for_each_graph(graph, &mut widen_declarations);
        visit::for_each_node(graph, &mut widen_node);
    }
}

fn widen_declarations(graph: &mut GraphProto) {
    graph.initializer.iter_mut().for_each(widen_tensor);
    let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    values.filter_map(|value| value.r#type.as_mut()).for_each(widen_type);
}

fn widen_node(node: &mut NodeProto) {
    visit::tensors(node).for_each(widen_tensor);
    if node.domain().is_empty() {
        for attribute in &mut node.attribute {
            if TYPE_ATTRIBUTES.contains(&attribute.name()) && attribute.i == Some(BFLOAT16.into()) {
                attribute.i = Some(FLOAT.into());
            }
        }
    }
}

fn widen_type(r#type: &mut TypeProto) {
    match &mut r#type.value {
        Some(type_proto::Value::TensorType(tensor)) if tensor.elem_type == Some(BFLOAT16) => {
            tensor.elem_type = Some(FLOAT);
        }
        Some(type_proto::Value::SequenceType(sequence)) => {
            if let Some(element) = &mut sequence.elem_type {
                widen_type(element);
            }
        }
        _ => {}
    }
}

/// Converts the elements to `raw_data` of FLOAT. Data of a wrong length keeps a wrong length: loading reports it.
fn widen_tensor(tensor: &mut TensorProto) {
    if tensor.data_type != Some(BFLOAT16) {
        return;
    }
    let float = |bits: u16| bf16::from_bits(bits).to_f32().to_le_bytes();
    let bytes: Vec<u8> = match &tensor.raw_data {
        Some(raw) => raw.as_chunks().0.iter().flat_map(|&half| float(u16::from_le_bytes(half))).collect(),
        None => tensor.int32_data.iter().flat_map(|&half| float(half as u16)).collect(),
    };
    tensor.data_type = Some(FLOAT);
    tensor.int32_data.clear();
    tensor.raw_data = Some(bytes.into());
}
