//! The default back end: rten, pure Rust, any shape.
//!
//! rten knows four element types. INT64 and BOOL travel as `i32`, saturating as rten's own constants do;
//! every float type is computed in `f32`. rten's graph optimizer is off: it saves no measurable time on language
//! models, holds folded copies of weights, and its shape inference panics on malformed graphs.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use prost::Message;
use rten::{
    LoadErrorKind, Model, ModelOptions, NodeId, RunError, RunOptions, ThreadPool, Value, ValueOrView,
    ValueView,
};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use zqc_ir::onnx::proto::ModelProto;
use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::externalize::externalize;
use super::fused::take_apart;
use super::inline::inline_functions;
use super::interface::Interface;
use super::softmax::flatten_axes;
use super::widen::widen;
use super::{Backend, BackendError, Piece, Session, visit};
use crate::array::{Array, ArrayData, ArrayError};
use crate::guard::guarded;

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

    fn load(&self, piece: &Piece) -> Result<Box<dyn Session>, BackendError> {
        let mut model = piece.model.clone();
        inline_functions(&mut model).map_err(|reason| BackendError::Load { backend: NAME, reason })?;
        take_apart(&mut model);
        flatten_axes(&mut model);
        widen(&mut model);
        let op_types = name_nodes(&mut model);

        let mut options = ModelOptions::with_all_ops();
        options.enable_optimization(false);
        for (file, data) in externalize(&mut model) {
            options.external_data(&file, data.into());
        }
        let loaded = guarded(|| options.load(model.encode_to_vec()))
            .map_err(|reason| BackendError::Load { backend: NAME, reason })?;
        let model = loaded.map_err(|error| {
            let reason = error.source().map_or_else(|| error.to_string(), |source| source.to_string());
            match error.node().and_then(|node| op_types.get_key_value(node)) {
                Some((node, op_type)) if error.kind() == LoadErrorKind::OperatorInvalid => {
                    let (node, op_type) = (node.clone(), op_type.clone());
                    BackendError::UnsupportedNode { backend: NAME, node, op_type, reason }
                }
                _ => BackendError::Load { backend: NAME, reason: error.to_string() },
            }
        })?;
        Ok(Box::new(RtenSession {
            model,
            interface: Interface::of(&piece.model),
            options: RunOptions::default().with_thread_pool(self.threads.clone()),
        }))
    }
}

/// Gives every node without a name one, so that errors can name it; returns the operator type by node name.
fn name_nodes(model: &mut ModelProto) -> HashMap<String, String> {
    let mut op_types = HashMap::new();
    if let Some(graph) = &mut model.graph {
        visit::for_each_node(graph, &mut |node| {
            if node.name().is_empty() {
                let output = node.output.first().cloned().unwrap_or_default();
                node.name = Some(format!("{}({output})", node.op_type()));
            }
            op_types.insert(node.name().to_owned(), node.op_type().to_owned());
        });
    }
    op_types
}

struct RtenSession {
    model: Model,
    interface: Interface,
    options: RunOptions,
}

impl Session for RtenSession {
    fn run(&mut self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError> {
        let inputs = feeds
            .iter()
            .map(|&(name, array)| {
                self.interface.input(name)?;
                let value =
                    to_rten(array).map_err(|source| BackendError::Value { name: name.into(), source })?;
                Ok((self.node_id(name)?, value))
            })
            .collect::<Result<_, BackendError>>()?;
        let types = fetch.iter().map(|name| self.interface.output(name)).collect::<Result<Vec<_>, _>>()?;
        let ids = fetch.iter().map(|name| self.node_id(name)).collect::<Result<Vec<_>, _>>()?;
        let values = guarded(|| self.model.run(inputs, &ids, Some(self.options.clone())))
            .map_err(|reason| BackendError::Run { backend: NAME, reason })?
            .map_err(run_error)?;
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

impl RtenSession {
    fn node_id(&self, name: &str) -> Result<NodeId, BackendError> {
        self.model.node_id(name).map_err(run_error)
    }
}

fn run_error(error: RunError) -> BackendError {
    BackendError::Run { backend: NAME, reason: error.to_string() }
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
