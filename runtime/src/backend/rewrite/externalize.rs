//! Moves weights out of the model message, so that back ends take them as buffers of their own.
//!
//! Encoding a model with its weights and parsing it again would hold three copies at once. With the weights
//! declared as external data, the message is small and a back end copies each weight once.

use bytes::Bytes;
use zqc_ir::onnx::proto::tensor_proto::DataLocation;
use zqc_ir::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};

use super::visit;

/// Tensors below this many bytes stay inline: shapes and axes must be visible to shape inference.
const INLINE_BYTES: usize = 1024;

/// Takes the data of every large initializer out of `model`; returns it by the file name that now stands for it.
pub fn externalize(model: &mut ModelProto) -> Vec<(String, Bytes)> {
    let mut files = Vec::new();
    if let Some(graph) = &mut model.graph {
        visit::for_each_graph(graph, &mut |graph| {
            for tensor in &mut graph.initializer {
                if let Some(data) = tensor.raw_data.take_if(|data| data.len() >= INLINE_BYTES) {
                    let file = format!("{}.data", files.len());
                    point_to(tensor, &file, data.len());
                    files.push((file, data));
                }
            }
        });
    }
    files
}

/// Declares that the tensor's data is the whole of `file`, `length` bytes.
fn point_to(tensor: &mut TensorProto, file: &str, length: usize) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    tensor.set_data_location(DataLocation::External);
    tensor.external_data = vec![
        entry("location", file.into()),
        entry("offset", "0".into()),
        entry("length", length.to_string()),
    ];
}
