//! ONNX Runtime, loaded at run time.

mod library;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use half::{bf16, f16};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::SessionInputValue;
use ort::session::builder::SessionBuilder;
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, TensorRef};
use prost::Message;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{ModelProto, TypeProto, type_proto};

use super::error::{BackendError, LibraryError};
use super::interface::{Backend, Session, Subgraph, UsedLibrary};
use super::io_types::{IoTypes, element_type};
use super::rewrite::decompose::Decomposition;
use super::rewrite::{externalize, inline_functions, widen};
use crate::array::{Array, ArrayData, ArrayError};

/// The name in errors.
const NAME: &str = "ONNX Runtime";

/// The back end: ONNX Runtime's process-wide environment.
#[derive(Clone)]
pub struct Ort {
    environment: Environment,
    path: PathBuf,
    threads: Option<usize>,
}

impl Ort {
    /// Finds and loads the library, once in a process; sessions run on `threads` threads.
    ///
    /// # Errors
    /// [`BackendError::Library`] when there is no usable library.
    pub fn new(threads: Option<usize>) -> Result<Self, BackendError> {
        static LOADED: OnceLock<Result<(Environment, PathBuf), LibraryError>> = OnceLock::new();
        let loaded = LOADED.get_or_init(|| {
            let path = library::load()?;
            let unusable = |error: ort::Error| LibraryError::Unusable { reason: message(&error) };
            let builder = ort::init().with_name("zqc").with_telemetry(false);
            Ok((builder.build().map_err(unusable)?, path))
        });
        let (environment, path) = loaded.as_ref().map_err(|error| BackendError::Library(error.clone()))?;
        // Errors come back as results; ONNX Runtime need not print them too.
        environment.set_log_level(LogLevel::Fatal);
        Ok(Self { environment: environment.clone(), path: path.clone(), threads })
    }

    /// What was loaded.
    pub fn library(&self) -> UsedLibrary {
        let version = library::version(&self.path);
        UsedLibrary { path: self.path.clone(), version, operators: BTreeSet::new() }
    }
}

impl Backend for Ort {
    fn name(&self) -> &'static str {
        "ort"
    }

    fn used_library(&self) -> Option<UsedLibrary> {
        Some(self.library())
    }

    fn load(&self, subgraph: &Subgraph) -> Result<Box<dyn Session>, BackendError> {
        let inputs = subgraph.model.graph.iter().flat_map(|graph| &graph.input);
        let is_typed = inputs.into_iter().all(|input| element_type(input).is_some());
        let mut current =
            Current { ort: self.clone(), loaded: None, subgraph: subgraph.clone(), is_decomposed: false };
        if is_typed {
            current.load(&[])?;
        }
        Ok(Box::new(OrtSession(Mutex::new(current))))
    }
}

/// Declares the types of inputs that are fed, where they are not: those that the subgraph tells, as far as the arrays fit.
fn declare_types(subgraph: &mut Subgraph, feeds: &[(&str, &Array)]) {
    let Some(graph) = &mut subgraph.model.graph else { return };
    for input in &mut graph.input {
        let fed = feeds.iter().find(|(name, _)| *name == input.name());
        let (None, Some((name, array))) = (element_type(input), fed) else { continue };
        let is_float = matches!(array.data, ArrayData::F32(_));
        let told = subgraph.types.get(*name).copied().filter(|&told| FLOATS.contains(&told) == is_float);
        let elem_type = told.unwrap_or(array.data.data_type()) as i32;
        let tensor = type_proto::Tensor { elem_type: Some(elem_type), shape: None };
        let value = Some(type_proto::Value::TensorType(tensor));
        input.r#type = Some(TypeProto { value, ..Default::default() });
    }
}

/// The types whose arrays are of `f32`.
const FLOATS: [DataType; 4] = [DataType::Float, DataType::Float16, DataType::Bfloat16, DataType::Double];

impl Ort {
    fn load_model(&self, model: &ModelProto) -> Result<Loaded, BackendError> {
        let load_error = |error: ort::Error| BackendError::Load { backend: NAME, reason: message(&error) };
        let io_types = IoTypes::of(model);
        let mut model = model.clone();
        let mut builder = ort::session::Session::builder(&self.environment).map_err(load_error)?;
        if let Some(threads) = self.threads {
            builder = builder.with_intra_threads(threads).map_err(|e| load_error(e.into()))?;
        }
        for (file, data) in externalize(&mut model) {
            builder = with_file(builder, &file, Arc::from(&*data)).map_err(load_error)?;
        }
        let session = builder.commit_from_memory(&model.encode_to_vec()).map_err(load_error)?;
        Ok(Loaded { session, io_types })
    }

    /// Loads a model with its operators decomposed and in FLOAT, for those that its CPU does not have; `None` if it does not
    /// load so either.
    fn load_decomposed(&self, model: &ModelProto) -> Option<Loaded> {
        let mut model = model.clone();
        inline_functions(&mut model).ok()?;
        Decomposition::all().apply(&mut model);
        widen(&mut model, &[DataType::Bfloat16, DataType::Float16]);
        self.load_model(&model).ok()
    }
}

fn with_file(builder: SessionBuilder, file: &str, data: Arc<[u8]>) -> Result<SessionBuilder, ort::Error> {
    Ok(builder.with_external_initializer_file_in_memory(file, data)?)
}

/// Runs one sample at a time, each on all threads.
struct OrtSession(Mutex<Current>);

struct Current {
    ort: Ort,
    subgraph: Subgraph,
    /// What is run; nothing as long as the types of inputs are not known.
    loaded: Option<Loaded>,
    /// Whether the operators are decomposed.
    is_decomposed: bool,
}

impl Session for OrtSession {
    fn run(&self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).run(feeds, fetch)
    }
}

impl Current {
    fn load(&mut self, feeds: &[(&str, &Array)]) -> Result<(), BackendError> {
        declare_types(&mut self.subgraph, feeds);
        let model = &self.subgraph.model;
        self.loaded = Some(match self.ort.load_model(model) {
            Ok(loaded) => loaded,
            Err(refusal) => {
                self.is_decomposed = true;
                self.ort.load_decomposed(model).ok_or(refusal)?
            }
        });
        Ok(())
    }

    fn run(&mut self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError> {
        if self.loaded.is_none() {
            self.load(feeds)?;
        }
        let Some(loaded) = &mut self.loaded else { return Ok(Vec::new()) };
        let error = match loaded.run(feeds, fetch) {
            Err(error @ BackendError::Run { .. }) if !self.is_decomposed => error,
            result => return result,
        };
        let Some(mut decomposed) = self.ort.load_decomposed(&self.subgraph.model) else { return Err(error) };
        let results = decomposed.run(feeds, fetch).map_err(|_| error)?;
        (self.loaded, self.is_decomposed) = (Some(decomposed), true);
        Ok(results)
    }
}

struct Loaded {
    session: ort::session::Session,
    io_types: IoTypes,
}

impl Loaded {
    fn run(&mut self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError> {
        let run_error = |error: ort::Error| BackendError::Run { backend: NAME, reason: message(&error) };
        let (mut arrays, mut inputs) = (Vec::new(), Vec::with_capacity(feeds.len()));
        for &(name, array) in feeds {
            let data_type = self.io_types.input(name)?.unwrap_or(array.data.data_type());
            let misfit = |source| BackendError::Value { name: name.into(), source };
            let array = match FLOATS.contains(&data_type) || array.data.data_type() == data_type {
                true => Cow::Borrowed(array),
                false => Cow::Owned(array.clone().cast(data_type).map_err(misfit)?),
            };
            arrays.push((name, array, data_type));
        }
        for (name, array, data_type) in &arrays {
            inputs.push((*name, to_ort(array, *data_type).map_err(run_error)?));
        }
        for name in fetch {
            self.io_types.output(name)?;
        }
        let outputs = self.session.run(inputs).map_err(run_error)?;
        fetch
            .iter()
            .map(|&name| {
                let no_output = || BackendError::UnknownOutput { name: name.into() };
                from_ort(outputs.get(name).ok_or_else(no_output)?)
                    .map_err(|source| BackendError::Value { name: name.into(), source })
            })
            .collect()
    }
}

/// An array as a tensor of the declared type: floats are narrowed to it, all else is borrowed as it is.
fn to_ort(array: &Array, declared: DataType) -> Result<SessionInputValue<'_>, ort::Error> {
    fn borrowed<'a, T>(shape: &'a [usize], elements: &'a [T]) -> Result<SessionInputValue<'a>, ort::Error>
    where
        T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
    {
        Ok(TensorRef::from_array_view((shape, elements))?.into())
    }
    fn owned<T>(shape: &[usize], elements: Vec<T>) -> Result<SessionInputValue<'static>, ort::Error>
    where
        T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
    {
        Ok(Tensor::from_array((shape, elements))?.into())
    }
    let shape = array.shape.as_slice();
    match (&array.data, declared) {
        (ArrayData::F32(v), DataType::Float16) => owned(shape, v.iter().map(|&x| f16::from_f32(x)).collect()),
        (ArrayData::F32(v), DataType::Bfloat16) => {
            owned(shape, v.iter().map(|&x| bf16::from_f32(x)).collect())
        }
        (ArrayData::F32(v), DataType::Double) => owned(shape, v.iter().map(|&x| f64::from(x)).collect()),
        (ArrayData::F32(v), _) => borrowed(shape, v),
        (ArrayData::I64(v), _) => borrowed(shape, v),
        (ArrayData::I32(v), _) => borrowed(shape, v),
        (ArrayData::I8(v), _) => borrowed(shape, v),
        (ArrayData::U8(v), _) => borrowed(shape, v),
        (ArrayData::Bool(v), _) => borrowed(shape, v),
    }
}

/// What ONNX Runtime says, without the end of line that some of it has, for more to follow.
fn message(error: &ort::Error) -> String {
    error.to_string().trim_end().to_string()
}

/// A tensor of ONNX Runtime as an array.
fn from_ort(value: &DynValue) -> Result<Array, ArrayError> {
    fn array<T, U>(value: &DynValue, convert: impl Fn(&T) -> U) -> Result<Array, ArrayError>
    where
        T: PrimitiveTensorElementType,
        ArrayData: From<Vec<U>>,
    {
        let unsupported = |error: ort::Error| ArrayError::Unsupported(error.to_string());
        let (shape, elements) = value.try_extract_tensor::<T>().map_err(unsupported)?;
        let shape = shape.iter().map(|&dim| dim as usize).collect();
        Array::new(shape, elements.iter().map(convert).collect::<Vec<U>>())
    }
    match value.dtype().tensor_type() {
        Some(TensorElementType::Float32) => array(value, |&x: &f32| x),
        Some(TensorElementType::Float16) => array(value, |&x: &f16| x.to_f32()),
        Some(TensorElementType::Bfloat16) => array(value, |&x: &bf16| x.to_f32()),
        Some(TensorElementType::Float64) => array(value, |&x: &f64| x as f32),
        Some(TensorElementType::Int64) => array(value, |&x: &i64| x),
        Some(TensorElementType::Int32) => array(value, |&x: &i32| x),
        Some(TensorElementType::Int8) => array(value, |&x: &i8| x),
        Some(TensorElementType::Uint8) => array(value, |&x: &u8| x),
        Some(TensorElementType::Bool) => array(value, |&x: &bool| x),
        _ => Err(ArrayError::Unsupported(value.dtype().to_string())),
    }
}
