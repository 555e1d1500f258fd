//! ONNX Runtime's C API, as far as operators need it: statuses, and what it tells of a node.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use ort_sys::{OrtApi, OrtErrorCode, OrtKernelInfo, OrtLoggingLevel, OrtMemType, OrtStatusPtr};

use crate::error::{OpError, panic_message};

/// The version of the C API that the library is written against: that of ONNX Runtime 1.18, which every later one offers.
pub(crate) const VERSION: u32 = 18;

/// The functions of one loaded ONNX Runtime. A process can hold several, each with its own.
#[derive(Clone, Copy)]
pub(crate) struct Api(&'static OrtApi);

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
            Err(panic) => OpError::Panic(panic_message(panic.as_ref())),
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
}
