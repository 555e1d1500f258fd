//! ONNX file to [`Model`]: weights are not copied, and nothing that the file says is dropped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::external::{ExternalError, ExternalFiles, map_file};
use super::proto::{GraphProto, ModelProto, NodeProto};
use super::unknown::has_unknown_fields;
use crate::functions::Functions;
use crate::graph::{Graph, NodeId, Source, ValueId};
use crate::model::Model;
use crate::op::Op;
use crate::tensor::{Tensor, TensorError};
use crate::text::lex::ParseError;
use crate::verify::{Faults, verify};

/// A file cannot be read as a model.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: ModelError,
}

/// Why there is no model in some bytes or in a protobuf message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum ModelError {
    /// The file cannot be opened or mapped.
    #[error("cannot read the model: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes are no ONNX protobuf.
    #[error("this is not an ONNX model, or it is truncated: {0}")]
    Decode(String),
    /// The text breaks the grammar of the textual form.
    #[error(transparent)]
    Text(#[from] ParseError),
    /// Decodes as protobuf, and has no graph in it.
    #[error("this is not an ONNX model: it has no {missing}")]
    NotAModel { missing: &'static str },
    /// A constant is broken.
    #[error("{tensor}: {source}; export the model again")]
    Tensor { tensor: String, source: TensorError },
    /// A constant's external payload cannot be loaded.
    #[error("{tensor}: {source}")]
    External { tensor: String, source: ExternalError },
    /// Two definitions of one name.
    #[error("value \"{value}\" is defined twice; every value of an ONNX graph has one definition")]
    Redefined { value: String },
    /// Model-local functions that call each other without end.
    #[error("functions call each other in a cycle: {}; ONNX has no recursion, export the model again", .0.join(" -> "))]
    RecursiveFunctions(Vec<String>),
    /// The graph breaks the rules of ONNX.
    #[error("this is not a valid ONNX graph: {0}")]
    Invalid(#[from] Faults),
}

/// Reads a model; the file and its external data are mapped and must not change while the model lives.
///
/// # Errors
/// When the file or one that it names is missing, truncated or malformed, or the graph is not valid.
pub fn read(path: &Path) -> Result<Model, ReadError> {
    let model = || {
        let bytes = map_file(path)?;
        let mut model = model_from_proto(decode(&bytes)?, ExternalFiles::new(Some(path)))?;
        model.source_bytes += bytes.len() as u64;
        model.newer = has_unknown_fields(&bytes).then_some(bytes);
        Ok(model)
    };
    model().map_err(|source| ReadError { path: path.to_path_buf(), source })
}

/// Reads a model of the bytes of its file; a copy is made of none, and constants must all be inline.
///
/// # Errors
/// When the bytes are truncated or malformed, a constant is external, or the graph is not valid.
pub fn read_bytes(bytes: impl Into<Bytes>) -> Result<Model, ModelError> {
    let bytes = bytes.into();
    let mut model = from_proto(decode(&bytes)?)?;
    model.newer = has_unknown_fields(&bytes).then_some(bytes);
    Ok(model)
}

/// The model that a protobuf message in memory holds; its constants must all be inline.
///
/// # Errors
/// When the message lacks a graph, a constant is malformed or external, or the graph is not valid.
pub fn from_proto(proto: ModelProto) -> Result<Model, ModelError> {
    model_from_proto(proto, ExternalFiles::new(None))
}

fn decode(bytes: &Bytes) -> Result<ModelProto, ModelError> {
    ModelProto::decode(bytes.clone()).map_err(|error| ModelError::Decode(error.to_string()))
}

/// Our own operators among the nodes of a graph and its regions, each with the nodes that it stands for. They are named by their
/// way from the graph: the place of a node, and for one in a region before it the place of the node that holds the region and
/// which of its regions it is.
pub(crate) type OwnOperators = HashMap<Vec<usize>, (Op, Vec<NodeProto>)>;

/// The model that a text means, in which the nodes at the places of `own` are operators of ours. In the file `path`, no constant
/// may be opaque; in memory, none may lie in another file.
pub(crate) fn from_text(
    proto: ModelProto,
    own: OwnOperators,
    path: Option<&Path>,
) -> Result<Model, ModelError> {
    let files = ExternalFiles::new(path);
    build(proto, own, if path.is_some() { files } else { files.keeping_opaque() })
}

fn model_from_proto(header: ModelProto, files: ExternalFiles) -> Result<Model, ModelError> {
    build(header, OwnOperators::new(), files)
}

fn build(mut header: ModelProto, own: OwnOperators, files: ExternalFiles) -> Result<Model, ModelError> {
    let source_bytes = files.inline(&mut header)?;
    let proto = header.graph.take().ok_or(ModelError::NotAModel { missing: "graph" })?;
    if header.ir_version.is_none() {
        return Err(ModelError::NotAModel { missing: "IR version" });
    }
    if header.opset_import.is_empty() {
        return Err(ModelError::NotAModel { missing: "opset import" });
    }
    let mut imports =
        header.opset_import.iter().chain(header.functions.iter().flat_map(|function| &function.opset_import));
    if imports.any(|import| import.version.is_none()) {
        return Err(ModelError::NotAModel { missing: "version for one of its opset imports" });
    }
    if let Some(cycle) = Functions::new(&header.functions).cycle() {
        return Err(ModelError::RecursiveFunctions(cycle));
    }
    let mut builder = Builder { own, way: Vec::new(), inputs_list_constants: header.ir_version() < 4 };
    let graph = builder.main(proto)?;
    let model = Model { graph, header, source_bytes, newer: None };
    verify(&model)?;
    Ok(model)
}

/// The regions of a node that comes from no file, in place of which its attributes get empty graphs.
///
/// # Errors
/// When a subgraph is no valid graph.
pub(crate) fn take_regions(node: &mut NodeProto) -> Result<Vec<Arc<Graph>>, ModelError> {
    Builder { own: OwnOperators::new(), way: Vec::new(), inputs_list_constants: false }.regions(node)
}

/// Makes graphs of messages.
struct Builder {
    own: OwnOperators,
    /// The way to the graph that is being made, see [`OwnOperators`].
    way: Vec<usize>,
    inputs_list_constants: bool,
}

impl Builder {
    fn main(&mut self, proto: GraphProto) -> Result<Graph, ModelError> {
        let mut graph = self.graph(proto)?;
        graph.bind_regions();
        Ok(graph)
    }

    fn graph(&mut self, mut proto: GraphProto) -> Result<Graph, ModelError> {
        let mut graph = Graph::default();
        graph.inputs_list_constants = self.inputs_list_constants;
        for info in std::mem::take(&mut proto.input) {
            let id = graph.intern(info.name());
            if !graph.define(id, Source::Input) {
                return Err(redefined(&graph, id));
            }
            graph.value_mut(id).info = Some(info);
            graph.inputs.push(id);
        }
        for tensor in std::mem::take(&mut proto.initializer) {
            let id = graph.intern(tensor.name());
            graph.define(id, Source::Initializer);
            let tensor = Tensor::from_proto(tensor);
            let check = if tensor.is_opaque() { tensor.elements().map(drop) } else { tensor.check() };
            check.map_err(|source| {
                let tensor = format!("initializer \"{}\"", graph.value(id).name);
                ModelError::Tensor { tensor, source }
            })?;
            if graph.initializers.insert(id, tensor).is_some() {
                return Err(redefined(&graph, id));
            }
        }
        for sparse in &proto.sparse_initializer {
            let id = graph.intern(sparse.values.as_ref().map_or("", |values| values.name()));
            if !graph.define(id, Source::Initializer) {
                return Err(redefined(&graph, id));
            }
        }
        for (place, node) in std::mem::take(&mut proto.node).into_iter().enumerate() {
            self.way.push(place);
            self.node(&mut graph, node)?;
            self.way.pop();
        }
        let is_region = !self.way.is_empty();
        // Outside of a main graph, a result may be left out.
        let results = proto.output.iter().filter(|info| !is_region || !info.name().is_empty());
        graph.outputs = results.map(|info| graph.intern(info.name())).collect();
        for info in proto.output.iter().chain(&proto.value_info) {
            if let Some(id) = graph.find(info.name()) {
                graph.value_mut(id).info.get_or_insert_with(|| info.clone());
            }
        }
        graph.rest = proto.into();
        if let Ok(order) = graph.order() {
            // No value has a type yet that another could contradict.
            let _ = graph.infer_types(&order);
        }
        Ok(graph)
    }

    /// Adds the node, to whose place the way leads, to its graph.
    fn node(&mut self, graph: &mut Graph, mut node: NodeProto) -> Result<(), ModelError> {
        let Some((mut op, origin)) = self.own.remove(&self.way) else {
            return self.insert(graph, node, None).map(drop);
        };
        if let Op::Linear(linear) = &mut op {
            // The nodes that a layer stands for name values of the graph, and are not in it.
            for node in origin {
                let id = self.insert(graph, node, None)?;
                linear.origin.extend(graph.remove(id));
            }
        }
        node.attribute.clear();
        self.insert(graph, node, Some(op)).map(drop)
    }

    fn insert(
        &mut self,
        graph: &mut Graph,
        mut node: NodeProto,
        own: Option<Op>,
    ) -> Result<NodeId, ModelError> {
        let regions = self.regions(&mut node)?;
        let mut connect = |names: Vec<String>| -> Vec<Option<ValueId>> {
            names.iter().map(|name| (!name.is_empty()).then(|| graph.intern(name))).collect()
        };
        let (inputs, outputs) =
            (connect(std::mem::take(&mut node.input)), connect(std::mem::take(&mut node.output)));
        let name = node.name().to_string();
        let op = own.unwrap_or_else(|| Op::Onnx(Box::new(node)));
        let place = self.way.last().map(|&place| place as u32);
        graph.insert(&name, op, inputs, outputs, regions, place).map_err(|id| redefined(graph, id))
    }

    /// The regions of the node to which the way leads.
    fn regions(&mut self, node: &mut NodeProto) -> Result<Vec<Arc<Graph>>, ModelError> {
        let mut regions = Vec::new();
        for (index, body) in node.bodies_mut().enumerate() {
            self.way.push(index);
            regions.push(Arc::new(self.graph(std::mem::take(body))?.into_region()));
            self.way.pop();
        }
        Ok(regions)
    }
}

fn redefined(graph: &Graph, id: ValueId) -> ModelError {
    ModelError::Redefined { value: graph.value(id).name.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{
        OperatorSetIdProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation,
    };
    use super::*;

    #[test]
    fn a_message_in_memory_has_no_external_data() {
        let location =
            StringStringEntryProto { key: Some("location".to_string()), value: Some("w.bin".to_string()) };
        let weight = TensorProto {
            name: Some("w".to_string()),
            dims: vec![2],
            data_type: Some(1),
            data_location: Some(DataLocation::External as i32),
            external_data: vec![location],
            ..Default::default()
        };
        let mut proto = ModelProto {
            ir_version: Some(10),
            opset_import: vec![OperatorSetIdProto { version: Some(20), ..Default::default() }],
            graph: Some(GraphProto { initializer: vec![weight], ..Default::default() }),
            ..Default::default()
        };
        let error = from_proto(proto.clone()).unwrap_err();
        assert!(matches!(error, ModelError::External { source: ExternalError::InMemory, .. }), "{error}");
        proto.graph = None;
        assert!(matches!(from_proto(proto), Err(ModelError::NotAModel { missing: "graph" })));
    }
}
