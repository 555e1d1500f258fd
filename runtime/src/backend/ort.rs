//! The fast back end: ONNX Runtime, loaded at run time.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use half::{bf16, f16};
use ort::environment::Environment;
use ort::session::SessionInputValue;
use ort::session::builder::SessionBuilder;
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, TensorRef};
use prost::Message;
use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::externalize::externalize;
use super::interface::Interface;
use super::{Backend, BackendError, Piece, Session};
use crate::array::{Array, ArrayData, ArrayError};

const NAME: &str = "ort";

/// The back end: ONNX Runtime's process-wide environment.
pub struct Ort {
    environment: Environment,
    threads: Option<usize>,
}

impl Ort {
    /// Finds and loads the library, once in a process; sessions run on `threads` threads.
    ///
    /// # Errors
    /// [`BackendError::Library`] when there is no usable library.
    pub fn new(threads: Option<usize>) -> Result<Self, BackendError> {
        static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
        let environment = ENVIRONMENT.get_or_init(|| {
            let library = find_library()?;
            let builder = ort::init_from(&library).map_err(|e| format!("{}: {e}", library.display()))?;
            builder.with_name("zqc").with_telemetry(false).build().map_err(|e| e.to_string())
        });
        match environment {
            Ok(environment) => Ok(Self { environment: environment.clone(), threads }),
            Err(reason) => Err(BackendError::Library { reason: reason.clone() }),
        }
    }
}

/// The library that ORT_DYLIB_PATH names, or else the one in the Python package onnxruntime.
fn find_library() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    const PRINT_PACKAGE: &str = "import onnxruntime; print(onnxruntime.__path__[0])";
    let output = Command::new("python3")
        .args(["-c", PRINT_PACKAGE])
        .output()
        .map_err(|e| format!("ORT_DYLIB_PATH is not set and python3 does not run: {e}"))?;
    if !output.status.success() {
        return Err("ORT_DYLIB_PATH is not set and python3 has no package onnxruntime".into());
    }
    let folder = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("capi");
    let entries = folder.read_dir().map_err(|e| format!("{}: {e}", folder.display()))?;
    let is_library = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        ["libonnxruntime.so", "libonnxruntime.dylib", "libonnxruntime.1.", "onnxruntime.dll"]
            .iter()
            .any(|stem| name.starts_with(stem))
    };
    let mut libraries: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(is_library).collect();
    libraries.sort();
    libraries.pop().ok_or_else(|| format!("{} holds no libonnxruntime", folder.display()))
}

impl Backend for Ort {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(&self, piece: &Piece) -> Result<Box<dyn Session>, BackendError> {
        let load_error = |error: ort::Error| BackendError::Load { backend: NAME, reason: error.to_string() };
        let mut model = piece.model.clone();
        let mut builder = ort::session::Session::builder(&self.environment).map_err(load_error)?;
        if let Some(threads) = self.threads {
            builder = builder.with_intra_threads(threads).map_err(|e| load_error(e.into()))?;
        }
        for (file, data) in externalize(&mut model) {
            builder = with_file(builder, &file, Arc::from(&*data)).map_err(load_error)?;
        }
        let session = builder.commit_from_memory(&model.encode_to_vec()).map_err(load_error)?;
        Ok(Box::new(OrtSession { session, interface: Interface::of(&piece.model) }))
    }
}

fn with_file(builder: SessionBuilder, file: &str, data: Arc<[u8]>) -> Result<SessionBuilder, ort::Error> {
    Ok(builder.with_external_initializer_file_in_memory(file, data)?)
}

struct OrtSession {
    session: ort::session::Session,
    interface: Interface,
}

impl Session for OrtSession {
    fn run(&mut self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError> {
        let run_error = |error: ort::Error| BackendError::Run { backend: NAME, reason: error.to_string() };
        let mut inputs = Vec::with_capacity(feeds.len());
        for &(name, array) in feeds {
            let data_type = self.interface.input(name)?.unwrap_or(array.data.data_type());
            inputs.push((name, to_ort(array, data_type).map_err(run_error)?));
        }
        for name in fetch {
            self.interface.output(name)?;
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
