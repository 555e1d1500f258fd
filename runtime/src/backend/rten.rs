//! The embedded back end: rten, pure Rust, any shape.
//!
//! rten knows four element types. INT64 and BOOL travel as `i32`, saturating as rten's own constants do;
//! every float type is computed in `f32`. rten's graph optimizer is off: it saves no measurable time on language
//! models, holds folded copies of weights, and its shape inference panics on malformed graphs.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, PoisonError, RwLock};

use prost::Message;
use rten::{
    LoadErrorKind, Model, ModelOptions, NodeId, RunError, RunErrorKind, RunOptions, ThreadPool, Value,
    ValueOrView, ValueView,
};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use zqc_ir::onnx::proto::ModelProto;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::op::is_standard;

use super::error::BackendError;
use super::interface::{Backend, Session, Subgraph};
use super::io_types::IoTypes;
use super::rewrite::decompose::{self, Decomposition};
use super::rewrite::{externalize, flatten_axes, inline_functions, visit, widen};
use crate::array::{Array, ArrayData, ArrayError};
use crate::catch_panic::catch_panic;

const NAME: &str = "rten";

/// The back end: a thread pool shared by its sessions, or rten's own.
pub struct Rten {
    threads: Option<Arc<ThreadPool>>,
}

impl Rten {
    /// A back end on `threads` threads, or on one for each physical core.
    pub fn new(threads: Option<usize>) -> Self {
        Self { threads: threads.map(|n| Arc::new(ThreadPool::with_num_threads(n))) }
    }
}

impl Backend for Rten {
    fn name(&self) -> &'static str {
        NAME
    }

    fn knows_control(&self, op_type: &str) -> bool {
        op_type != "Scan"
    }

    fn load(&self, subgraph: &Subgraph) -> Result<Box<dyn Session>, BackendError> {
        let mut subgraph = subgraph.clone();
        prepare(&mut subgraph.model)?;
        let decomposition = Decomposition::of(&ALWAYS_DECOMPOSED);
        let io_types = IoTypes::of(&subgraph.model);
        let options = RunOptions::default().with_thread_pool(self.threads.clone());
        let loaded = RwLock::new(load_decomposed(&subgraph.model, decomposition)?);
        Ok(Box::new(RtenSession { subgraph, loaded, io_types, options }))
    }
}

/// What rten has never known, and one load less to find out.
const ALWAYS_DECOMPOSED: [&str; 1] = ["FusedMatMul"];

/// Names the nodes of a model without functions.
fn prepare(model: &mut ModelProto) -> Result<(), BackendError> {
    inline_functions(model).map_err(|reason| BackendError::Load { backend: NAME, reason })?;
    name_nodes(model);
    Ok(())
}

/// A model as rten has it.
struct Loaded {
    model: Model,
    /// The operators by the names of the nodes of the subgraph.
    operators: HashMap<String, Operator>,
    /// The operators that are decomposed.
    decomposition: Decomposition,
}

struct Operator {
    op_type: String,
    is_standard: bool,
}

/// Loads a model with the operators of `decomposition` decomposed, and those that rten refuses besides.
fn load_decomposed(model: &ModelProto, mut decomposition: Decomposition) -> Result<Loaded, BackendError> {
    loop {
        match load(model, &decomposition) {
            Err(error) if decompose_next(&error, &mut decomposition) => {}
            result => return result,
        }
    }
}

/// Adds the operator that is refused to those that are decomposed, if that may help.
fn decompose_next(refusal: &BackendError, decomposition: &mut Decomposition) -> bool {
    refusal.node().is_some_and(|(_, op_type)| decomposition.add(op_type))
}

fn load(model: &ModelProto, decomposition: &Decomposition) -> Result<Loaded, BackendError> {
    let mut model = model.clone();
    let operators = operators(&mut model);
    decomposition.apply(&mut model);
    flatten_axes(&mut model);
    widen(&mut model, &[DataType::Bfloat16]);
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(false);
    for (file, data) in externalize(&mut model) {
        options.external_data(&file, data.into());
    }
    let loaded = catch_panic(|| options.load(model.encode_to_vec()))
        .map_err(|reason| BackendError::Load { backend: NAME, reason })?;
    let model = loaded.map_err(|error| {
        let reason = error.source().map_or_else(|| error.to_string(), |source| source.to_string());
        match error.node().and_then(|node| find(&operators, node)) {
            Some((node, operator)) if error.kind() == LoadErrorKind::OperatorInvalid => {
                let (node, op_type) = (node.clone(), operator.op_type.clone());
                BackendError::UnsupportedNode { backend: NAME, node, op_type, reason }
            }
            _ => BackendError::Load { backend: NAME, reason: error.to_string() },
        }
    })?;
    Ok(Loaded { model, operators, decomposition: decomposition.clone() })
}

/// Gives every node without a name one, so that errors can name it.
fn name_nodes(model: &mut ModelProto) {
    let Some(graph) = &mut model.graph else { return };
    visit::for_each_node(graph, &mut |node| {
        if node.name().is_empty() {
            let output = node.output.first().cloned().unwrap_or_default();
            node.name = Some(format!("{}({output})", node.op_type()));
        }
    });
}

/// The operators by the names of their nodes.
fn operators(model: &mut ModelProto) -> HashMap<String, Operator> {
    let mut operators = HashMap::new();
    if let Some(graph) = &mut model.graph {
        visit::for_each_node(graph, &mut |node| {
            let operator =
                Operator { op_type: node.op_type().to_owned(), is_standard: is_standard(node.domain()) };
            operators.insert(node.name().to_owned(), operator);
        });
    }
    operators
}

/// The node of this name, or of which the node of this name is a part.
fn find<'o>(operators: &'o HashMap<String, Operator>, name: &str) -> Option<(&'o String, &'o Operator)> {
    let found = operators.get_key_value(name);
    found.or_else(|| operators.get_key_value(decompose::whole(name)?))
}

struct RtenSession {
    subgraph: Subgraph,
    /// Loaded again when a run shows that more is to be decomposed.
    loaded: RwLock<Loaded>,
    io_types: IoTypes,
    options: RunOptions,
}

impl Session for RtenSession {
    fn run(&self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let mut decomposition = loaded.decomposition.clone();
        let refusal = match self.attempt(&loaded, feeds, fetch) {
            Err(error) if decompose_next(&error, &mut decomposition) => error,
            result => return result,
        };
        drop(loaded);
        let Ok(loaded) = load_decomposed(&self.subgraph.model, decomposition) else {
            return Err(refusal);
        };
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        // What the node itself lacks says more than what its parts do.
        self.run(feeds, fetch).map_err(|error| if error.node() == refusal.node() { refusal } else { error })
    }
}

impl RtenSession {
    fn attempt(
        &self,
        loaded: &Loaded,
        feeds: &[(&str, &Array)],
        fetch: &[&str],
    ) -> Result<Vec<Array>, BackendError> {
        let inputs = feeds
            .iter()
            .map(|&(name, array)| {
                self.io_types.input(name)?;
                let value =
                    to_rten(array).map_err(|source| BackendError::Value { name: name.into(), source })?;
                Ok((loaded.node_id(name)?, value))
            })
            .collect::<Result<_, BackendError>>()?;
        let types = fetch.iter().map(|name| self.io_types.output(name)).collect::<Result<Vec<_>, _>>()?;
        let ids = fetch.iter().map(|name| loaded.node_id(name)).collect::<Result<Vec<_>, _>>()?;
        let values = catch_panic(|| loaded.model.run(inputs, &ids, Some(self.options.clone())))
            .map_err(|reason| BackendError::Panic { backend: NAME, reason })?
            .map_err(|error| loaded.run_error(error))?;
        values
            .into_iter()
            .zip(fetch.iter().zip(types))
            .map(|(value, (&name, data_type))| {
                from_rten(value, data_type)
                    .map_err(|source| BackendError::Value { name: name.into(), source })
            })
            .collect()
    }
}

impl Loaded {
    fn node_id(&self, name: &str) -> Result<NodeId, BackendError> {
        self.model.node_id(name).map_err(|error| self.run_error(error))
    }

    /// An operator of ONNX Runtime's domain that fails is one that rten knows in part; a standard one, or what stands for
    /// another, is given what it cannot take, unless rten says that it is not supported.
    fn run_error(&self, error: RunError) -> BackendError {
        let reason = error.to_string();
        let path = error.node_path();
        let node = path.last().copied().flatten().filter(|_| error.kind() == RunErrorKind::OperatorError);
        match node.and_then(|node| find(&self.operators, node)) {
            Some((node, operator))
                if is_unsupported(&reason)
                    || !operator.is_standard && !self.decomposition.holds(&operator.op_type) =>
            {
                let (node, op_type) = (node.clone(), operator.op_type.clone());
                BackendError::UnsupportedNode { backend: NAME, node, op_type, reason }
            }
            _ => BackendError::Run { backend: NAME, reason },
        }
    }
}

/// Whether this is what rten says of a form of an operator that it does not know.
fn is_unsupported(reason: &str) -> bool {
    reason.contains("unsupported") || reason.contains("not supported")
}

/// An array as rten takes it, borrowed where the element type is one of rten's.
fn to_rten(array: &Array) -> Result<ValueOrView<'_>, ArrayError> {
    let shape = array.shape.as_slice();
    let length = || ArrayError::Length { shape: shape.to_vec(), len: array.len() };
    let narrowed = |elements: Vec<i32>| Value::from_shape(shape, elements).map(ValueOrView::from);
    match &array.data {
        ArrayData::F32(v) => {
            ValueView::from_shape(shape, v.as_slice()).map(ValueOrView::from).map_err(|_| length())
        }
        ArrayData::I32(v) => {
            ValueView::from_shape(shape, v.as_slice()).map(ValueOrView::from).map_err(|_| length())
        }
        ArrayData::I8(v) => {
            ValueView::from_shape(shape, v.as_slice()).map(ValueOrView::from).map_err(|_| length())
        }
        ArrayData::U8(v) => {
            ValueView::from_shape(shape, v.as_slice()).map(ValueOrView::from).map_err(|_| length())
        }
        ArrayData::I64(v) => narrowed(v.iter().map(|&x| saturate(x)).collect()).map_err(|_| length()),
        ArrayData::Bool(v) => narrowed(v.iter().map(|&x| x.into()).collect()).map_err(|_| length()),
    }
}

fn saturate(x: i64) -> i32 {
    x.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

/// A value of rten as the array of the declared type.
fn from_rten(value: Value, declared: Option<DataType>) -> Result<Array, ArrayError> {
    fn array<T>(tensor: Tensor<T>) -> Result<Array, ArrayError>
    where
        T: Clone,
        ArrayData: From<Vec<T>>,
    {
        let shape = tensor.shape().to_vec();
        let mut elements = tensor.into_data();
        // The buffer may be one that rten had for a far larger value before.
        elements.shrink_to_fit();
        Array::new(shape, elements)
    }
    let array = match value {
        Value::FloatTensor(tensor) => array(tensor)?,
        Value::Int32Tensor(tensor) => array(tensor)?,
        Value::Int8Tensor(tensor) => array(tensor)?,
        Value::UInt8Tensor(tensor) => array(tensor)?,
        other => return Err(ArrayError::Unsupported(other.dtype().to_string())),
    };
    match declared {
        Some(data_type) => array.cast(data_type),
        None => Ok(array),
    }
}
