//! ONNX Runtime's custom operators for the functions of domain `ai.zqc`: a session that registers this library runs the
//! layers of a compiled model as kernels on their codes, where any other one inlines the functions and folds the weights to
//! float. The file is the same.
//!
//! ```text
//! options.register_custom_ops_library("libzqc_ort.so")                            Python
//! RegisterCustomOpsLibrary_V2(options, "libzqc_ort.so")                           C
//! ```
//!
//! It runs in ONNX Runtime 1.18 and later, on the threads of the session; in 1.20 and later with the CUDA provider on Hopper GPUs, too. What the kernels compute is said in `zqc-linear`:
//! the bits do not depend on the processor or on the number of threads. `ZQC_CPU` names the instructions to use.

mod api;
mod context;
mod cuda;
mod element;
mod error;
mod function;
mod gather;
mod infer;
mod info;
mod linear;
mod operator;
mod output_type;
mod pages;
mod pool;
mod quantize;
mod registry;
mod schema;
mod shared;
mod tensor;

use ort_sys::{OrtApiBase, OrtSessionOptions, OrtStatusPtr};

use api::Api;

/// What ONNX Runtime calls to register the library in the options of a session.
///
/// # Safety
/// `options` and `base` are what ONNX Runtime hands over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    // SAFETY: `base` is alive as long as ONNX Runtime is loaded; the functions that it offers may be called from here.
    let (api, version) = unsafe {
        let Some(base) = base.as_ref() else { return OrtStatusPtr::default() };
        (Api::new((base.GetApi)(api::VERSION)), registry::Version::of(base))
    };
    // Without its API not even an error can be made; ONNX Runtime has said on standard error which versions it offers, and the
    // model runs without kernels.
    let Some(api) = api else { return OrtStatusPtr::default() };
    // SAFETY: the options are those that ONNX Runtime handed over.
    api.guard("RegisterCustomOps", || unsafe { registry::register(api, version, options) })
}
