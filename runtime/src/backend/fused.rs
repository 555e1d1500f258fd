//! Rewrites products that ONNX Runtime's optimizer fused, which rten does not know, as standard operators.

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{ModelProto, NodeProto, TensorProto};
use zqc_ir::op::attribute;

use super::visit;

/// Takes every `FusedMatMul` of domain `com.microsoft` apart, subgraphs included, into an `Einsum` and a product with its
/// `alpha`. Those that swap batch dimensions stay.
pub fn take_apart(model: &mut ModelProto) {
    if let Some(graph) = &mut model.graph {
        visit::for_each_graph(graph, &mut |graph| {
            let nodes = std::mem::take(&mut graph.node);
            graph.node = nodes.into_iter().flat_map(apart).collect();
        });
    }
}

/// The nodes that compute what `node` does.
fn apart(node: NodeProto) -> Vec<NodeProto> {
    let swaps_batch = ["transBatchA", "transBatchB"].iter().any(|name| node.int_or(name, 0) != 0);
    let fused = node.domain() == "com.microsoft" && node.op_type() == "FusedMatMul" && !swaps_batch;
    let ([_, _], [output], true) = (&node.input[..], &node.output[..], fused) else { return vec![node] };
    let term = |flag, plain, transposed| if node.int_or(flag, 0) != 0 { transposed } else { plain };
    let equation = format!("...{},...{}->...mn", term("transA", "mk", "km"), term("transB", "kn", "nk"));
    let standard = |op_type: &str, input: Vec<String>, output: String, attributes| NodeProto {
        op_type: Some(op_type.to_string()),
        name: node.name.clone(),
        input,
        output: vec![output],
        attribute: attributes,
        ..Default::default()
    };
    let (product, alpha) = (format!("{output}/product"), format!("{output}/alpha"));
    let factor = TensorProto {
        data_type: Some(DataType::Float as i32),
        float_data: vec![node.float_or("alpha", 1.0)],
        ..Default::default()
    };
    vec![
        standard(
            "Einsum",
            node.input.clone(),
            product.clone(),
            vec![attribute::string("equation", &equation)],
        ),
        standard("Constant", Vec::new(), alpha.clone(), vec![attribute::tensor("value", factor)]),
        standard("Mul", vec![product, alpha], output.clone(), Vec::new()),
    ]
}
