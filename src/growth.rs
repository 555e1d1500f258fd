//! Why an output is larger than its model.

use std::collections::HashSet;

use indicatif::DecimalBytes;
use zqc_ir::Graph;

use crate::report::Totals;

/// How many constants a warning names.
const MOST_NAMES: usize = 3;

/// The warning that the output `lowered` is larger than the model that its layers come from, where it is; `weights` are the
/// names of the constants that these were made of.
pub(crate) fn warning(totals: &Totals, weights: &HashSet<String>, lowered: &Graph) -> Option<String> {
    let Totals { file_bytes_before, file_bytes_after, weight_bytes_before, weight_bytes_after, .. } = *totals;
    // Without layers it is the model as it came.
    (file_bytes_after > file_bytes_before && !weights.is_empty()).then_some(())?;
    let still_there = lowered.initializers().filter(|&(id, _)| weights.contains(&lowered.value(id).name));
    let still_there: Vec<(&str, u64)> = still_there
        .map(|(id, tensor)| (lowered.value(id).name.as_str(), tensor.byte_len().unwrap_or(0) as u64))
        .collect();
    let mut reasons = Vec::new();
    if !still_there.is_empty() {
        let names: Vec<String> =
            still_there.iter().take(MOST_NAMES).map(|(name, _)| format!("\"{name}\"")).collect();
        let more = match still_there.len().saturating_sub(MOST_NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let bytes = DecimalBytes(still_there.iter().map(|(_, bytes)| bytes).sum());
        let names = names.join(", ");
        reasons.push(format!(
            "constants stay beside the layers made of them, as other nodes read them: {names}{more} ({bytes})"
        ));
    }
    if weight_bytes_after > weight_bytes_before {
        let [before, after] = [weight_bytes_before, weight_bytes_after].map(DecimalBytes);
        reasons.push(format!(
            "the layers take {after} where they took {before}; a larger --group-size or a smaller --lorc-rank makes them smaller"
        ));
    }
    if reasons.is_empty() {
        reasons
            .push("the operators that the layers become take more than their weights gave back".to_string());
    }
    Some(format!("the output is larger than the model: {}", reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use zqc_ir::Tensor;
    use zqc_ir::onnx::from_proto;
    use zqc_ir::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto};

    use super::*;

    fn totals(weights: [u64; 2], files: [u64; 2]) -> Totals {
        Totals {
            weight_bytes_before: weights[0],
            weight_bytes_after: weights[1],
            file_bytes_before: files[0],
            file_bytes_after: files[1],
            ..Default::default()
        }
    }

    #[test]
    fn the_parts_that_grew_are_named() {
        let stack = Tensor::from_f32(&[2, 500], vec![0.0; 1000]).unwrap();
        let graph = GraphProto { initializer: vec![stack.to_proto("stack")], ..Default::default() };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(20) }];
        let proto =
            ModelProto { ir_version: Some(10), opset_import, graph: Some(graph), ..Default::default() };
        let graph = from_proto(proto).unwrap().graph;
        let stack = HashSet::from(["stack".to_string()]);
        assert_eq!(warning(&totals([8, 2], [10, 10]), &stack, &graph), None);
        let shared = warning(&totals([8, 2], [10, 12]), &stack, &graph).unwrap();
        assert!(shared.contains("read them: \"stack\" (4.00 kB)"), "{shared}");
        let gone = HashSet::from(["other".to_string()]);
        let codes = warning(&totals([8, 9], [10, 12]), &gone, &graph).unwrap();
        assert!(codes.contains("take 9 B where they took 8 B"), "{codes}");
        let operators = warning(&totals([8, 2], [10, 12]), &gone, &graph).unwrap();
        assert!(operators.contains("operators"), "{operators}");
    }
}
