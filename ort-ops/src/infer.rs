//! Types and shapes of outputs, before anything runs.

use std::ffi::{CStr, CString, c_void};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use ort_sys::{OrtOpAttrType, OrtShapeInferContext};
use zqc_formats::{OUTPUT_TYPE, Operand};

use crate::api::Api;
use crate::element::Element;
use crate::error::OpError;
use crate::function::Function;
use crate::info::Info;
use crate::output_type::output_element;
use crate::schema::Schema;

/// A dimension that is not known.
const UNKNOWN: i64 = -1;

/// Tells ONNX Runtime the types and shapes of the outputs of a node.
///
/// # Safety
/// `context` is what ONNX Runtime hands to the callback that this runs in.
pub(crate) unsafe fn outputs(
    api: Api,
    schema: &Schema,
    context: *mut OrtShapeInferContext,
) -> Result<(), OpError> {
    // SAFETY: the caller's promise holds for all calls below.
    unsafe {
        match schema.function {
            Function::Quantize(_) if is_unranked(api, context)? => Ok(()),
            Function::Quantize(_) => {
                for (at, &element) in schema.outputs.iter().enumerate() {
                    // Scales and zero points: one a token.
                    let shape = if at > 0 { Shape::Last(1) } else { Shape::Same };
                    set(api, context, at, element, shape)?;
                }
                Ok(())
            }
            Function::Linear(signature) => {
                let scales = signature.operands().position(|operand| operand == Operand::Scales);
                let scales = signature.activation_inputs().len() + scales.unwrap_or_default();
                let scales = input(api, context, scales)?.dims()?;
                let n = if signature.trans_b { scales.first() } else { scales.last() };
                let element = output(api, context, schema)?;
                // What ONNX Runtime takes for the type of the output is that of the one input whose type is open.
                let open = schema.inputs.iter().position(|&element| element == Element::ANY);
                let default = match open {
                    Some(at) => input(api, context, at)?.element()?,
                    None => Element::F32,
                };
                if is_unranked(api, context)? && element == default {
                    return Ok(());
                }
                let n = n.copied().unwrap_or(UNKNOWN);
                set(api, context, 0, element, Shape::Last(n))
            }
            Function::Gather(_) => {
                let k = input(api, context, 1)?.dims()?.last().copied().unwrap_or(UNKNOWN);
                set(api, context, 0, output(api, context, schema)?, Shape::Append(k))
            }
        }
    }
}

/// The type of the output that the attribute of the node names.
unsafe fn output(api: Api, context: *mut OrtShapeInferContext, schema: &Schema) -> Result<Element, OpError> {
    // SAFETY: the caller's promise.
    let output_type = unsafe { attribute(api, context, OUTPUT_TYPE)? };
    output_element(output_type, schema.outputs[0]).inspect_err(|error| {
        // ONNX Runtime before 1.20 goes on, and fails later with a word on types only.
        eprintln!("zqc_ort: {}: {error}", schema.name());
    })
}

/// Whether nothing is known of the shape of input 0. It has at least one dimension.
unsafe fn is_unranked(api: Api, context: *mut OrtShapeInferContext) -> Result<bool, OpError> {
    // SAFETY: the caller's promise.
    Ok(unsafe { input(api, context, 0) }?.dims()?.is_empty())
}

/// How the shape of an output differs from that of input 0.
#[derive(Clone, Copy)]
enum Shape {
    /// It does not.
    Same,
    /// The last dimension is this.
    Last(i64),
    /// There is one more dimension.
    Append(i64),
}

/// A name for a dimension of which nothing is known: to ONNX Runtime, -1 is a size like any other, and dimensions of one name are
/// the same.
fn name() -> CString {
    static NAMED: AtomicU64 = AtomicU64::new(0);
    CString::new(format!("zqc_{}", NAMED.fetch_add(1, Ordering::Relaxed))).unwrap_or_default()
}

/// Gives output `at` its type and shape.
unsafe fn set(
    api: Api,
    context: *mut OrtShapeInferContext,
    at: usize,
    element: Element,
    shape: Shape,
) -> Result<(), OpError> {
    let table = api.table();
    // SAFETY: the context is alive; the names of dimensions live as long as the description of the input.
    unsafe {
        let x = input(api, context, 0)?;
        let mut dims = x.dims()?;
        let is_known = !dims.is_empty();
        let mut names = vec![c"".as_ptr(); dims.len()];
        api.check((table.GetSymbolicDimensions)(x.pointer(), names.as_mut_ptr(), names.len()))?;
        if matches!(shape, Shape::Last(_)) {
            dims.pop();
            names.pop();
        }
        if let Shape::Last(dim) | Shape::Append(dim) = shape {
            dims.push(if is_known { dim } else { UNKNOWN });
            names.push(c"".as_ptr());
        }
        let own: Vec<CString> = dims.iter().map(|_| name()).collect();
        for ((dim, name), own) in dims.iter().zip(&mut names).zip(&own) {
            if *dim < 0 && CStr::from_ptr(*name).is_empty() {
                *name = own.as_ptr();
            }
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
        Ok(ManuallyDrop::new(Info::new(api, info)))
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
