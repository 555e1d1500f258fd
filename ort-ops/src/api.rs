//! ONNX Runtime's C API, as far as operators need it: statuses, tensors and attributes.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use bytemuck::Pod;
use ort_sys::{
    OrtApi, OrtErrorCode, OrtKernelContext, OrtKernelInfo, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtValue,
};

use crate::element::Element;

/// The version of the C API that the library is written against: that of ONNX Runtime 1.17, which every later one offers.
pub(crate) const VERSION: u32 = 17;

/// The functions of one loaded ONNX Runtime. A process can hold several, each with its own.
#[derive(Clone, Copy)]
pub(crate) struct Api(&'static OrtApi);

/// Why an operator cannot be made or run; the text goes to whoever called ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpError {
    /// What ONNX Runtime itself answered.
    #[error("{0}")]
    Runtime(String),
    /// An input that the function does not allow.
    #[error(
        "input {input} is {found}, not {wanted}: the model is damaged, or of another zqc than this library"
    )]
    Input {
        /// Name of the input in the function.
        input: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// An output of another type than its attribute says.
    #[error("the output is {found:?}, not {wanted:?} as its attribute says: the model is damaged")]
    Output {
        /// What the session takes it for.
        found: Element,
        /// What the attribute says.
        wanted: Element,
    },
    /// An attribute that the function does not allow.
    #[error("attribute {name} is {value}: the model is damaged, or of another zqc than this library")]
    Attribute {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: i64,
    },
    /// A row that a table does not have.
    #[error("index {index} is out of range: the table has {rows} rows")]
    Index {
        /// The index.
        index: i64,
        /// Rows of the table.
        rows: usize,
    },
    /// A type that ONNX Runtime cannot be told of in time.
    #[error(
        "an output of {0:?} needs ONNX Runtime 1.20 or later; without this library, this one runs the model"
    )]
    OldRuntime(Element),
    /// What the kernels refuse.
    #[error(transparent)]
    Pack(#[from] zqc_linear::PackError),
    /// What the kernels refuse.
    #[error(transparent)]
    Shape(#[from] zqc_linear::ShapeError),
    /// What the processor lacks.
    #[error(transparent)]
    Isa(#[from] zqc_linear::IsaError),
    /// An error of the library.
    #[error("internal error, please report it: {0}")]
    Panic(String),
}

impl Api {
    /// # Safety
    /// `api` is what ONNX Runtime's `GetApi` yields for [`VERSION`] or hands to an operator of it; such tables live as long as
    /// the loaded library.
    pub(crate) unsafe fn new(api: *const OrtApi) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe { api.as_ref() }.map(Self)
    }

    pub(crate) fn table(self) -> &'static OrtApi {
        self.0
    }

    /// Turns a status into a result, and frees it.
    pub(crate) fn check(self, status: OrtStatusPtr) -> Result<(), OpError> {
        if status.0.is_null() {
            return Ok(());
        }
        // SAFETY: a status that is not null has a message, valid until it is released, which happens once, here.
        let message = unsafe {
            let message = CStr::from_ptr((self.0.GetErrorMessage)(status.0)).to_string_lossy().into_owned();
            (self.0.ReleaseStatus)(status.0);
            message
        };
        Err(OpError::Runtime(message))
    }

    /// Runs what C calls: an error, or a panic, which must not cross into C++, becomes a status. `context` names the node.
    pub(crate) fn guard(self, context: &str, run: impl FnOnce() -> Result<(), OpError>) -> OrtStatusPtr {
        let result = catch_unwind(AssertUnwindSafe(run));
        let error = match result {
            Ok(Ok(())) => return OrtStatusPtr::default(),
            Ok(Err(error)) => error,
            Err(panic) => OpError::Panic(text(panic.as_ref())),
        };
        let code = match error {
            OpError::Panic(_) => OrtErrorCode::ORT_RUNTIME_EXCEPTION,
            _ => OrtErrorCode::ORT_INVALID_ARGUMENT,
        };
        let message = format!("zqc_ort: {context}: {error}").replace('\0', " ");
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: CreateStatus copies the text.
        unsafe { (self.0.CreateStatus)(code, message.as_ptr()) }
    }

    /// The name of the node that `info` is of.
    ///
    /// # Safety
    /// `info` comes from ONNX Runtime and is alive.
    pub(crate) unsafe fn node_name(self, info: *const OrtKernelInfo) -> Result<String, OpError> {
        let mut size = 0;
        // SAFETY: without a buffer the call yields the size that it needs, with its terminating zero.
        self.check(unsafe { (self.0.KernelInfo_GetNodeName)(info, ptr::null_mut(), &mut size) })?;
        let mut name = vec![0u8; size];
        // SAFETY: the buffer has the size that the call asked for.
        let status =
            unsafe { (self.0.KernelInfo_GetNodeName)(info, name.as_mut_ptr().cast::<c_char>(), &mut size) };
        self.check(status)?;
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_string())
    }

    /// An integer attribute of the node.
    ///
    /// # Safety
    /// `info` comes from ONNX Runtime and is alive.
    pub(crate) unsafe fn attribute(
        self,
        info: *const OrtKernelInfo,
        name: &'static str,
    ) -> Result<i64, OpError> {
        let mut value = 0;
        let key = CString::new(name).unwrap_or_default();
        // SAFETY: both pointers are valid for the call.
        self.check(unsafe { (self.0.KernelInfoGetAttribute_int64)(info, key.as_ptr(), &mut value) })?;
        Ok(value)
    }

    /// An input of the node, if it is constant.
    ///
    /// # Safety
    /// `info` comes from ONNX Runtime and is alive; the tensor is as long as the session.
    pub(crate) unsafe fn constant<'a>(
        self,
        info: *const OrtKernelInfo,
        input: usize,
        name: &'static str,
    ) -> Result<Option<Tensor<'a>>, OpError> {
        let (mut constant, mut value) = (0, ptr::null());
        // SAFETY: all pointers are valid for the call.
        let status =
            unsafe { (self.0.KernelInfoGetConstantInput_tensor)(info, input, &mut constant, &mut value) };
        self.check(status)?;
        if constant == 0 || value.is_null() {
            return Ok(None);
        }
        // SAFETY: the value is an initializer of the session.
        unsafe { self.tensor(value, name) }.map(Some)
    }

    /// What a value holds.
    ///
    /// # Safety
    /// `value` is a tensor that outlives `'a` unchanged.
    unsafe fn tensor<'a>(self, value: *const OrtValue, name: &'static str) -> Result<Tensor<'a>, OpError> {
        let mut info = ptr::null_mut();
        // SAFETY: the value is a tensor; `info` is released by the drop of `Info`.
        self.check(unsafe { (self.0.GetTensorTypeAndShape)(value, &mut info) })?;
        let info = Info { api: self, info };
        let (element, dims) = (info.element()?, info.dims()?);
        let dims: Vec<usize> = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
        let mut data: *mut c_void = ptr::null_mut();
        // SAFETY: the call only yields the address; nothing is written through it.
        self.check(unsafe { (self.0.GetTensorMutableData)(value.cast_mut(), &mut data) })?;
        let length = dims.iter().product::<usize>() * element.size();
        let bytes = if length == 0 || data.is_null() {
            &[]
        } else {
            // SAFETY: a tensor of these dimensions and of this element type has so many bytes, alive for 'a by the
            // caller's promise.
            unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) }
        };
        Ok(Tensor { name, element, dims, bytes })
    }
}

/// The message of a panic.
fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_string()
}

/// A tensor that ONNX Runtime holds.
pub(crate) struct Tensor<'a> {
    /// Name of the input in the function.
    pub name: &'static str,
    pub element: Element,
    pub dims: Vec<usize>,
    pub bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// Its elements, if they are of this type.
    pub(crate) fn elements<T: Pod>(&self, wanted: Element) -> Result<&'a [T], OpError> {
        // An empty tensor may lie at any address; another one of this type that does not fit it is not aligned.
        let elements =
            if self.bytes.is_empty() { Some(&[][..]) } else { bytemuck::try_cast_slice(self.bytes).ok() };
        elements
            .filter(|_| self.element == wanted)
            .ok_or_else(|| self.unexpected(format!("aligned {wanted:?}")))
    }

    /// Refuses it.
    pub(crate) fn unexpected(&self, wanted: String) -> OpError {
        OpError::Input { input: self.name, found: format!("{:?} {:?}", self.element, self.dims), wanted }
    }
}

/// The inputs and outputs of one run of a node.
pub(crate) struct Context<'a> {
    api: Api,
    context: *mut OrtKernelContext,
    run: PhantomData<&'a OrtKernelContext>,
}

impl<'a> Context<'a> {
    /// # Safety
    /// `context` is what ONNX Runtime hands to a run of a kernel, and `'a` is within that run.
    pub(crate) unsafe fn new(api: Api, context: *mut OrtKernelContext) -> Self {
        Self { api, context, run: PhantomData }
    }

    /// An input.
    pub(crate) fn input(&self, at: usize, name: &'static str) -> Result<Tensor<'a>, OpError> {
        let mut value = ptr::null();
        // SAFETY: the context is alive.
        self.api.check(unsafe { (self.api.0.KernelContext_GetInput)(self.context, at, &mut value) })?;
        if value.is_null() {
            let (found, wanted) = ("missing".to_string(), "a tensor".to_string());
            return Err(OpError::Input { input: name, found, wanted });
        }
        // SAFETY: inputs stay as they are during a run.
        unsafe { self.api.tensor(value, name) }
    }

    /// The memory of an output of `dims`, whose elements are of the type `element`, which `T` is.
    pub(crate) fn output<T: Pod>(
        &self,
        at: usize,
        element: Element,
        dims: &[usize],
    ) -> Result<&'a mut [T], OpError> {
        let sizes: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        let (mut value, mut data) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the context is alive and the dimensions are valid for the call.
        let status = unsafe {
            (self.api.0.KernelContext_GetOutput)(self.context, at, sizes.as_ptr(), sizes.len(), &mut value)
        };
        self.api.check(status)?;
        let length: usize = dims.iter().product();
        if value.is_null() || length == 0 {
            return Ok(&mut []);
        }
        let mut info = ptr::null_mut();
        // SAFETY: the value is the output just made; `info` is released by the drop of `Info`.
        self.api.check(unsafe { (self.api.0.GetTensorTypeAndShape)(value, &mut info) })?;
        // What the session takes for the type may come from the file, and the file may be damaged.
        let found = Info { api: self.api, info }.element()?;
        if found != element || size_of::<T>() != element.size() {
            return Err(OpError::Output { found, wanted: element });
        }
        // SAFETY: the value is the output just made.
        self.api.check(unsafe { (self.api.0.GetTensorMutableData)(value, &mut data) })?;
        // SAFETY: it has so many elements of this type, and T has its size; each output is asked for once a run, so nothing
        // else refers to it.
        Ok(unsafe { std::slice::from_raw_parts_mut(data.cast::<T>(), length) })
    }

    /// Runs `task` for every number below `tasks` on the threads of the session.
    pub(crate) fn parallel(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), OpError> {
        unsafe extern "C" fn call(task: *mut c_void, at: usize) {
            // SAFETY: what `parallel` hands over, alive until it returns.
            let task = unsafe { &*task.cast::<Task<'_>>() };
            // A panic must not cross into C++; that it happened is kept for the caller.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (task.run)(at))) {
                let mut first = task.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                first.get_or_insert_with(|| text(panic.as_ref()));
            }
        }
        let task = Task { run: task, panic: Default::default() };
        let argument = (&raw const task).cast_mut().cast::<c_void>();
        // SAFETY: `task` outlives the call, which returns when all of it ran.
        let status =
            unsafe { (self.api.0.KernelContext_ParallelFor)(self.context, call, tasks, 0, argument) };
        self.api.check(status)?;
        match task.panic.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(panic) => Err(OpError::Panic(panic)),
            None => Ok(()),
        }
    }
}

/// What [`Context::parallel`] runs.
struct Task<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    /// The first panic.
    panic: std::sync::Mutex<Option<String>>,
}

/// Type and shape of a value, as ONNX Runtime describes them.
pub(crate) struct Info {
    api: Api,
    info: *mut OrtTensorTypeAndShapeInfo,
}

impl Info {
    /// One of no type and no dimensions.
    pub(crate) fn create(api: Api) -> Result<Self, OpError> {
        let mut info = ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        api.check(unsafe { (api.0.CreateTensorTypeAndShapeInfo)(&mut info) })?;
        Ok(Self { api, info })
    }

    /// One that ONNX Runtime owns, as long as it is not dropped.
    pub(crate) fn borrow(api: Api, info: *mut OrtTensorTypeAndShapeInfo) -> Self {
        Self { api, info }
    }

    pub(crate) fn pointer(&self) -> *mut OrtTensorTypeAndShapeInfo {
        self.info
    }

    /// The element type.
    pub(crate) fn element(&self) -> Result<Element, OpError> {
        // As a number, since a later ONNX Runtime may know types that the bindings do not.
        let mut code = 0i32;
        // SAFETY: the enum of the bindings has the representation of an i32.
        let status = unsafe { (self.api.0.GetTensorElementType)(self.info, (&raw mut code).cast()) };
        self.api.check(status)?;
        Ok(Element(code))
    }

    /// The dimensions, -1 for one that is not known.
    pub(crate) fn dims(&self) -> Result<Vec<i64>, OpError> {
        let mut rank = 0;
        // SAFETY: the pointers are valid for the call.
        self.api.check(unsafe { (self.api.0.GetDimensionsCount)(self.info, &mut rank) })?;
        let mut dims = vec![0i64; rank];
        // SAFETY: the buffer has room for the rank.
        self.api.check(unsafe { (self.api.0.GetDimensions)(self.info, dims.as_mut_ptr(), rank) })?;
        Ok(dims)
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: it was made by ONNX Runtime for us, and is released once.
        unsafe { (self.api.0.ReleaseTensorTypeAndShapeInfo)(self.info) }
    }
}
