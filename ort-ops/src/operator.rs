//! One operator: what ONNX Runtime asks about it, and what it does.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use ort_sys::{
    ONNXTensorElementDataType, OrtApi, OrtCustomOp, OrtCustomOpInputOutputCharacteristic, OrtKernelContext,
    OrtKernelInfo, OrtMemType, OrtShapeInferContext, OrtStatusPtr,
};

use crate::api::Api;
use crate::context::Context;
use crate::cuda;
use crate::element::Element;
use crate::error::OpError;
use crate::function::Function;
use crate::gather::Gather;
use crate::infer;
use crate::linear::Linear;
use crate::quantize::Quantize;
use crate::schema::Schema;

/// What runs an operator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    Cpu,
    Cuda,
}

/// An operator, as ONNX Runtime holds it: `base` comes first, so that a pointer to it is one to the whole.
#[repr(C)]
pub(crate) struct Operator {
    base: OrtCustomOp,
    api: Api,
    provider: Provider,
    schema: Schema,
}

/// A node of a session.
enum Kernel {
    Quantize(Quantize),
    Linear(Box<Linear>),
    Gather(Gather),
    Cuda(cuda::Node),
}

/// A kernel with what it needs to answer ONNX Runtime.
struct Node {
    api: Api,
    /// The name of the node, for messages.
    name: String,
    kernel: Kernel,
}

impl Operator {
    pub(crate) fn new(api: Api, function: Function, provider: Provider, infers_types: bool) -> Self {
        Self { base: BASE, api, provider, schema: Schema::new(function, infers_types) }
    }

    pub(crate) fn base(&self) -> *const OrtCustomOp {
        &raw const self.base
    }

    fn create(&self, api: Api, info: *const OrtKernelInfo) -> Result<Kernel, OpError> {
        if self.provider == Provider::Cuda {
            // SAFETY: `info` is what ONNX Runtime hands to the callback that this runs in.
            return Ok(Kernel::Cuda(unsafe {
                cuda::Node::new(api, info, self.schema.function, self.schema.outputs[0])
            }?));
        }
        Ok(match self.schema.function {
            Function::Quantize(format) => Kernel::Quantize(Quantize::new(format)?),
            Function::Linear(signature) => {
                // SAFETY: `info` is what ONNX Runtime hands to the callback that this runs in.
                Kernel::Linear(Box::new(unsafe {
                    Linear::new(api, info, signature, self.schema.outputs[0])
                }?))
            }
            Function::Gather(kind) => {
                // SAFETY: the same.
                Kernel::Gather(unsafe { Gather::new(api, info, kind, self.schema.outputs[0]) }?)
            }
        })
    }
}

/// The operator that ONNX Runtime means.
///
/// # Safety
/// `op` is the `base` of an [`Operator`]; those that are registered are never freed.
unsafe fn operator<'a>(op: *const OrtCustomOp) -> &'a Operator {
    // SAFETY: `base` is the first field of the `repr(C)` struct.
    unsafe { &*op.cast::<Operator>() }
}

unsafe extern "system" fn name(op: *const OrtCustomOp) -> *const c_char {
    // SAFETY: ONNX Runtime passes the operator that was registered; so in the callbacks below.
    unsafe { operator(op) }.schema.name.as_ptr()
}

unsafe extern "system" fn provider(op: *const OrtCustomOp) -> *const c_char {
    // SAFETY: see `name`.
    match unsafe { operator(op) }.provider {
        Provider::Cpu => ptr::null(),
        Provider::Cuda => cuda::PROVIDER.as_ptr(),
    }
}

unsafe extern "system" fn input_type(op: *const OrtCustomOp, at: usize) -> ONNXTensorElementDataType {
    // SAFETY: see `name`.
    unsafe { operator(op) }.schema.inputs.get(at).copied().unwrap_or(Element::ANY).binding()
}

unsafe extern "system" fn input_count(op: *const OrtCustomOp) -> usize {
    // SAFETY: see `name`.
    unsafe { operator(op) }.schema.inputs.len()
}

unsafe extern "system" fn output_type(op: *const OrtCustomOp, at: usize) -> ONNXTensorElementDataType {
    // SAFETY: see `name`.
    unsafe { operator(op) }.schema.outputs.get(at).copied().unwrap_or(Element::ANY).binding()
}

unsafe extern "system" fn output_count(op: *const OrtCustomOp) -> usize {
    // SAFETY: see `name`.
    unsafe { operator(op) }.schema.outputs.len()
}

unsafe extern "system" fn required(_: *const OrtCustomOp, _: usize) -> OrtCustomOpInputOutputCharacteristic {
    OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_REQUIRED
}

unsafe extern "system" fn memory(op: *const OrtCustomOp, at: usize) -> OrtMemType {
    // SAFETY: see `name`.
    let operator = unsafe { operator(op) };
    match operator.provider {
        Provider::Cuda if cuda::is_on_host(operator.schema.function, at) => OrtMemType::OrtMemTypeCPUInput,
        _ => OrtMemType::OrtMemTypeDefault,
    }
}

/// No operator is variadic; ONNX Runtime asks all the same.
unsafe extern "system" fn one(_: *const OrtCustomOp) -> c_int {
    1
}

/// The first version of the domain that has the operator, and the last.
unsafe extern "system" fn version(_: *const OrtCustomOp) -> c_int {
    zqc_formats::FUNCTION_VERSION as c_int
}

unsafe extern "system" fn create(
    op: *const OrtCustomOp,
    _: *const OrtApi,
    info: *const OrtKernelInfo,
    kernel: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: see `name`.
    let operator = unsafe { operator(op) };
    let api = operator.api;
    // SAFETY: `info` is alive during the callback.
    let name = unsafe { api.node_name(info) }.unwrap_or_default();
    let context = format!("node \"{name}\" ({})", operator.schema.name());
    api.guard(&context, || {
        let made = operator.create(api, info)?;
        let node = Box::new(Node { api, name: context.clone(), kernel: made });
        // SAFETY: ONNX Runtime wants the kernel there.
        unsafe { *kernel = Box::into_raw(node).cast() };
        Ok(())
    })
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: what `create` made; runs may be concurrent and only read it.
    let node = unsafe { &*kernel.cast::<Node>() };
    node.api.guard(&node.name, || {
        // SAFETY: the context is used during this run only.
        let context = unsafe { Context::new(node.api, context) };
        match &node.kernel {
            Kernel::Quantize(quantize) => quantize.run(&context),
            Kernel::Linear(linear) => linear.run(&context),
            Kernel::Gather(gather) => gather.run(&context),
            Kernel::Cuda(node) => node.run(&context),
        }
    })
}

unsafe extern "system" fn destroy(kernel: *mut c_void) {
    // SAFETY: what `create` made; ONNX Runtime destroys it once.
    let node = unsafe { Box::from_raw(kernel.cast::<Node>()) };
    // A panic must not cross into C++; the status of it would have nowhere to go.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(node)));
}

unsafe extern "system" fn infer_shapes(
    op: *const OrtCustomOp,
    context: *mut OrtShapeInferContext,
) -> OrtStatusPtr {
    // SAFETY: see `name`.
    let operator = unsafe { operator(op) };
    let name = operator.schema.name();
    // SAFETY: the context is alive during the callback.
    operator.api.guard(&name, || unsafe { infer::outputs(operator.api, &operator.schema, context) })
}

/// The version of the struct below: that of ONNX Runtime 1.17.
const VERSION: u32 = 17;

/// The callbacks. `version` says which fields ONNX Runtime may read, so those of later ones stay empty.
const BASE: OrtCustomOp = OrtCustomOp {
    version: VERSION,
    CreateKernel: None,
    GetName: Some(name),
    GetExecutionProviderType: Some(provider),
    GetInputType: Some(input_type),
    GetInputTypeCount: Some(input_count),
    GetOutputType: Some(output_type),
    GetOutputTypeCount: Some(output_count),
    KernelCompute: None,
    KernelDestroy: Some(destroy),
    GetInputCharacteristic: Some(required),
    GetOutputCharacteristic: Some(required),
    GetInputMemoryType: Some(memory),
    GetVariadicInputMinArity: Some(one),
    GetVariadicInputHomogeneity: Some(one),
    GetVariadicOutputMinArity: Some(one),
    GetVariadicOutputHomogeneity: Some(one),
    CreateKernelV2: Some(create),
    KernelComputeV2: Some(compute),
    InferOutputShapeFn: Some(infer_shapes),
    GetStartVersion: Some(version),
    GetEndVersion: Some(version),
    GetMayInplace: None,
    ReleaseMayInplace: None,
    GetAliasMap: None,
    ReleaseAliasMap: None,
};
