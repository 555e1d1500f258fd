//! Types and shapes of outputs, before anything runs.

use std::ffi::{CString, c_void};
use std::mem::ManuallyDrop;
use std::ptr;

use ort_sys::{OrtOpAttrType, OrtShapeInferContext};
use zqc_numerics::{OUTPUT_TYPE, Operand};

use crate::api::{Api, Info, OpError};
use crate::element::Element;
use crate::linear::output_element;
use crate::operator::{Function, Operator};

/// Tells ONNX Runtime the types and shapes of the outputs of a node.
///
/// # Safety
/// `context` is what ONNX Runtime hands to the callback that this runs in.
pub(crate) unsafe fn outputs(
    api: Api,
    operator: &Operator,
    context: *mut OrtShapeInferContext,
) -> Result<(), OpError> {
    // SAFETY: the caller's promise holds for all calls below.
    unsafe {
        match operator.function {
            Function::Quantize(_) => {
                for (at, &element) in operator.outputs.iter().enumerate() {
                    // Scales and zero points: one a token.
                    let last = (at > 0).then_some(1);
                    set(api, context, at, element, last)?;
                }
                Ok(())
            }
            Function::Linear(signature) => {
                let output_type = attribute(api, context, OUTPUT_TYPE)?;
                let element = output_element(output_type, operator.outputs[0]).inspect_err(|error| {
                    // ONNX Runtime before 1.20 goes on, and fails later with a word on types only.
                    eprintln!("zqc_ort: {}: {error}", signature.name());
                })?;
                let scales = signature.operands().position(|operand| operand == Operand::Scales);
                let scales = signature.activation_inputs().len() + scales.unwrap_or_default();
                let n = input(api, context, scales)?.dims()?.last().copied().unwrap_or(-1);
                set(api, context, 0, element, Some(n))
            }
        }
    }
}

/// Gives output `at` the shape of input 0, with `last` for its last dimension.
unsafe fn set(
    api: Api,
    context: *mut OrtShapeInferContext,
    at: usize,
    element: Element,
    last: Option<i64>,
) -> Result<(), OpError> {
    let table = api.table();
    // SAFETY: the context is alive; the names of dimensions live as long as the description of the input.
    unsafe {
        let x = input(api, context, 0)?;
        let mut dims = x.dims()?;
        let mut names = vec![ptr::null(); dims.len()];
        api.check((table.GetSymbolicDimensions)(x.pointer(), names.as_mut_ptr(), names.len()))?;
        if let (Some(last), Some(dim), Some(name)) = (last, dims.last_mut(), names.last_mut()) {
            *dim = last;
            *name = c"".as_ptr();
        }
        let y = Info::create(api)?;
        api.check((table.SetTensorElementType)(y.pointer(), element.binding()))?;
        api.check((table.SetDimensions)(y.pointer(), dims.as_ptr(), dims.len()))?;
        api.check((table.SetSymbolicDimensions)(y.pointer(), names.as_mut_ptr(), names.len()))?;
        api.check((table.ShapeInferContext_SetOutputTypeShape)(context, at, y.pointer()))
    }
}

/// What is known of an input. It belongs to the context.
unsafe fn input(
    api: Api,
    context: *mut OrtShapeInferContext,
    at: usize,
) -> Result<ManuallyDrop<Info>, OpError> {
    let mut info = ptr::null_mut();
    // SAFETY: the context is alive.
    unsafe {
        api.check((api.table().ShapeInferContext_GetInputTypeShape)(context, at, &mut info))?;
        Ok(ManuallyDrop::new(Info::borrow(api, info)))
    }
}

/// An integer attribute of the node.
unsafe fn attribute(
    api: Api,
    context: *mut OrtShapeInferContext,
    name: &'static str,
) -> Result<i64, OpError> {
    let key = CString::new(name).unwrap_or_default();
    let (mut attribute, mut value, mut size) = (ptr::null(), 0i64, 0);
    // SAFETY: the context is alive and the pointers are valid for the calls.
    unsafe {
        api.check((api.table().ShapeInferContext_GetAttribute)(context, key.as_ptr(), &mut attribute))?;
        let target = (&raw mut value).cast::<c_void>();
        let status = (api.table().ReadOpAttr)(
            attribute,
            OrtOpAttrType::ORT_OP_ATTR_INT,
            target,
            size_of::<i64>(),
            &mut size,
        );
        api.check(status)?;
    }
    Ok(value)
}
