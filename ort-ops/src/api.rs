//! ONNX Runtime's C API, as far as operators need it: statuses, what is known of a node, and constants.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use ort_sys::{OrtApi, OrtErrorCode, OrtKernelInfo, OrtLoggingLevel, OrtMemType, OrtStatusPtr, OrtValue};

use crate::element::Element;
use crate::tensor::{Info, Tensor, View};

/// The version of the C API that the library is written against: that of ONNX Runtime 1.18, which every later one offers.
pub(crate) const VERSION: u32 = 18;

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
    /// What CUDA refuses.
    #[error(transparent)]
    Cuda(#[from] zqc_cuda::Error),
    /// A type that there are no kernels for CUDA of.
    #[error("there are no kernels of {0:?} for CUDA; in a session without the CUDA provider, the model runs")]
    CudaType(Element),
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

    /// The number of the device that the provider of the node works on.
    ///
    /// # Safety
    /// `info` comes from ONNX Runtime and is alive.
    pub(crate) unsafe fn device(self, info: *const OrtKernelInfo) -> Result<usize, OpError> {
        let (mut allocator, mut memory, mut id) = (ptr::null_mut(), ptr::null(), 0);
        // SAFETY: all pointers are valid for the calls; the allocator is released once, and what it says of its memory is not used
        // after that.
        unsafe {
            let default = OrtMemType::OrtMemTypeDefault;
            self.check((self.0.KernelInfoGetAllocator)(info, default, &mut allocator))?;
            let found = self
                .check((self.0.AllocatorGetInfo)(allocator, &mut memory))
                .and_then(|()| self.check((self.0.MemoryInfoGetId)(memory, &mut id)));
            (self.0.ReleaseAllocator)(allocator);
            found?;
        }
        Ok(usize::try_from(id).unwrap_or(0))
    }

    /// Writes a warning to the log of the session.
    ///
    /// # Safety
    /// `info` comes from ONNX Runtime and is alive.
    pub(crate) unsafe fn warn(self, info: *const OrtKernelInfo, message: &str) -> Result<(), OpError> {
        let message = CString::new(format!("zqc_ort: {message}")).unwrap_or_default();
        let mut logger = ptr::null();
        // SAFETY: all pointers are valid for the calls; the logger is the session's.
        unsafe {
            self.check((self.0.KernelInfo_GetLogger)(info, &mut logger))?;
            let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
            let place = c"".as_ptr();
            self.check((self.0.Logger_LogMessage)(logger, level, message.as_ptr(), place, 0, place))
        }
    }

    /// Whether ONNX Runtime was built with a provider, whatever this machine has.
    pub(crate) fn offers(self, provider: &CStr) -> Result<bool, OpError> {
        let (mut names, mut count) = (ptr::null_mut(), 0);
        // SAFETY: the pointers are valid for the calls; there are as many names as it says, and they are released once.
        unsafe {
            self.check((self.0.GetAvailableProviders)(&mut names, &mut count))?;
            let length = if names.is_null() { 0 } else { usize::try_from(count).unwrap_or(0) };
            let found = (0..length).any(|at| CStr::from_ptr(*names.add(at)) == provider);
            self.check((self.0.ReleaseAvailableProviders)(names, count))?;
            Ok(found)
        }
    }

    /// What a value holds.
    ///
    /// # Safety
    /// `value` is a tensor in the memory of the host that outlives `'a` unchanged.
    pub(crate) unsafe fn tensor<'a>(
        self,
        value: *const OrtValue,
        name: &'static str,
    ) -> Result<Tensor<'a>, OpError> {
        // SAFETY: the value is a tensor.
        let View { element, dims, address, .. } = unsafe { self.view(value, name) }?;
        let length = dims.iter().product::<usize>() * element.size();
        let bytes = if length == 0 || address == 0 {
            &[]
        } else {
            // SAFETY: a tensor of these dimensions and of this element type has so many bytes, alive for 'a by the
            // caller's promise.
            unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(address), length) }
        };
        Ok(Tensor { name, element, dims, bytes })
    }

    /// What a value is, and where.
    ///
    /// # Safety
    /// `value` is a tensor.
    pub(crate) unsafe fn view(self, value: *const OrtValue, name: &'static str) -> Result<View, OpError> {
        let mut info = ptr::null_mut();
        // SAFETY: the value is a tensor; `info` is released by the drop of `Info`.
        self.check(unsafe { (self.0.GetTensorTypeAndShape)(value, &mut info) })?;
        let info = Info::new(self, info);
        let (element, dims) = (info.element()?, info.dims()?);
        let dims: Vec<usize> = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
        let mut data: *mut c_void = ptr::null_mut();
        // SAFETY: the call only yields the address; nothing is written through it.
        self.check(unsafe { (self.0.GetTensorMutableData)(value.cast_mut(), &mut data) })?;
        Ok(View { name, element, dims, address: data.expose_provenance() })
    }
}

/// The message of a panic.
pub(crate) fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_string()
}
