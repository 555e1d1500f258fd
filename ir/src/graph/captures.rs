//! The values that the subgraphs of control-flow operators read from around them.

use std::collections::HashSet;

use crate::onnx::proto::GraphProto;

/// Appends the names that `graph` reads and does not define; `defined` collects those that it does.
pub(crate) fn free_names(graph: &GraphProto, free: &mut Vec<String>, defined: &mut HashSet<String>) {
    let mut local: HashSet<&str> = HashSet::new();
    local.extend(graph.input.iter().map(|value| value.name()));
    local.extend(graph.initializer.iter().map(|tensor| tensor.name()));
    local.extend(
        graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref()).map(|t| t.name()),
    );
    local.extend(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
    let mut inner = Vec::new();
    for node in &graph.node {
        node.bodies().for_each(|body| free_names(body, &mut inner, defined));
    }
    let read = graph.node.iter().flat_map(|node| &node.input).cloned();
    let results = graph.output.iter().map(|value| value.name().to_string());
    free.extend(
        read.chain(inner).chain(results).filter(|name| !name.is_empty() && !local.contains(name.as_str())),
    );
    defined.extend(local.into_iter().map(str::to_string));
}
