//! Rewrites types that a back end does not know as such that it does, wherever a model names the type or stores elements of it.
//!
//! rten computes in `f32`. It widens FLOAT16 and DOUBLE by itself as it loads a model, but refuses BFLOAT16; ONNX Runtime's
//! CPU has few operators for either half. Every value is exact in the wider type; only the rounding of intermediate values is lost.

use half::{bf16, f16};
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, type_proto};

use super::visit;

const FLOAT: i32 = DataType::Float as i32;

/// Integer attributes of standard operators that name an element type.
const TYPE_ATTRIBUTES: [&str; 2] = ["to", "dtype"];

/// Makes FLOAT of these types of 16 bits in a model, its subgraphs included. Functions must have been inlined.
pub fn widen(model: &mut ModelProto, types: &[DataType]) {
    let widening = Widening { types: types.iter().map(|&data_type| data_type as i32).collect() };
    if let Some(graph) = &mut model.graph {
        visit::for_each_graph(graph, &mut |graph| widening.declarations(graph));
        visit::for_each_node(graph, &mut |node| widening.node(node));
    }
}

struct Widening {
    types: Vec<i32>,
}

impl Widening {
    fn concerns(&self, data_type: Option<i32>) -> bool {
        data_type.is_some_and(|data_type| self.types.contains(&data_type))
    }

    fn declarations(&self, graph: &mut GraphProto) {
        graph.initializer.iter_mut().for_each(|tensor| self.tensor(tensor));
        let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        values.filter_map(|value| value.r#type.as_mut()).for_each(|r#type| self.declared(r#type));
    }

    fn node(&self, node: &mut NodeProto) {
        visit::tensors(node).for_each(|tensor| self.tensor(tensor));
        if node.domain().is_empty() {
            for attribute in &mut node.attribute {
                let named = attribute.i.and_then(|i| i32::try_from(i).ok());
                if TYPE_ATTRIBUTES.contains(&attribute.name()) && self.concerns(named) {
                    attribute.i = Some(FLOAT.into());
                }
            }
        }
    }

    fn declared(&self, r#type: &mut TypeProto) {
        match &mut r#type.value {
            Some(type_proto::Value::TensorType(tensor)) if self.concerns(tensor.elem_type) => {
                tensor.elem_type = Some(FLOAT);
            }
            Some(type_proto::Value::SequenceType(sequence)) => {
                sequence.elem_type.iter_mut().for_each(|element| self.declared(element));
            }
            _ => {}
        }
    }

    /// Converts the elements to `raw_data` of FLOAT. Data of a wrong length keeps a wrong length: loading reports it.
    fn tensor(&self, tensor: &mut TensorProto) {
        if !self.concerns(tensor.data_type) {
            return;
        }
        let is_bfloat = tensor.data_type == Some(DataType::Bfloat16 as i32);
        let float = |bits: u16| match is_bfloat {
            true => bf16::from_bits(bits).to_f32().to_le_bytes(),
            false => f16::from_bits(bits).to_f32().to_le_bytes(),
        };
        let bytes: Vec<u8> = match &tensor.raw_data {
            Some(raw) => raw.as_chunks().0.iter().flat_map(|&half| float(u16::from_le_bytes(half))).collect(),
            None => tensor.int32_data.iter().flat_map(|&half| float(half as u16)).collect(),
        };
        tensor.data_type = Some(FLOAT);
        tensor.int32_data.clear();
        tensor.raw_data = Some(bytes.into());
    }
}
