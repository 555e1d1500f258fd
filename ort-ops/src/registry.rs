//! The operators of each ONNX Runtime in the process.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::{LazyLock, Mutex};

use ort_sys::{OrtApiBase, OrtCustomOpDomain, OrtSessionOptions};
use zqc_formats::FUNCTION_DOMAIN;

use crate::api::Api;
use crate::cuda;
use crate::error::OpError;
use crate::function::Function;
use crate::operator::{Operator, Provider};

/// The version of an ONNX Runtime.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

/// The first one that asks an operator for the type of its output.
const INFERS_TYPES: Version = Version(1, 20);

impl Version {
    /// # Safety
    /// `base` is that of a loaded ONNX Runtime.
    pub(crate) unsafe fn of(base: &OrtApiBase) -> Self {
        // SAFETY: the string is a constant of ONNX Runtime.
        let text = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy();
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        Self(parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

/// The domain with its operators, by the API of the ONNX Runtime that made it, as addresses. They stay: a session may use them as
/// long as the library is loaded.
static DOMAINS: LazyLock<Mutex<HashMap<usize, usize>>> = LazyLock::new(Mutex::default);

/// Adds the operators to the options of a session.
///
/// # Safety
/// `options` are those that ONNX Runtime handed over.
pub(crate) unsafe fn register(
    api: Api,
    version: Version,
    options: *mut OrtSessionOptions,
) -> Result<(), OpError> {
    let mut domains = DOMAINS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let key = ptr::from_ref(api.table()) as usize;
    let domain = match domains.get(&key) {
        Some(&domain) => domain as *mut OrtCustomOpDomain,
        None => {
            let domain = domain(api, version)?;
            domains.insert(key, domain as usize);
            domain
        }
    };
    // SAFETY: the caller's promise; the domain is never freed.
    api.check(unsafe { (api.table().AddCustomOpDomain)(options, domain) })
}

/// A domain with every operator.
fn domain(api: Api, version: Version) -> Result<*mut OrtCustomOpDomain, OpError> {
    let name = CString::new(FUNCTION_DOMAIN).unwrap_or_default();
    let mut domain = ptr::null_mut();
    // SAFETY: the name is copied.
    api.check(unsafe { (api.table().CreateCustomOpDomain)(name.as_ptr(), &mut domain) })?;
    let on_cpu = Function::all().map(|function| (function, Provider::Cpu));
    let has_cuda = version >= INFERS_TYPES && cuda::is_available(api)?;
    let on_cuda = Function::all().filter(|&function| has_cuda && cuda::runs(function));
    for (function, provider) in on_cpu.chain(on_cuda.map(|function| (function, Provider::Cuda))) {
        let operator = Operator::new(api, function, provider, version >= INFERS_TYPES);
        let operator: &Operator = Box::leak(Box::new(operator));
        // SAFETY: the operator is never freed.
        api.check(unsafe { (api.table().CustomOpDomain_Add)(domain, operator.base()) })?;
    }
    Ok(domain)
}
