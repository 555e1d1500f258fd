//! `zqc_quantize` and `zqc_linear_*`.

use std::ffi::c_void;

use cudarc::driver::sys::CUstream;

use super::arguments::{CInput, COutput, CVariant, linear_variant, quantized_address, raw_input, raw_output};
use super::pointers::borrowed;
use super::status::{Failure, invalid, status};
use crate::loaded::ForwardCall;
use crate::model::Model;
use crate::scratch::Scratch;
use crate::variant::LinearVariant;

/// A layer's place, checked, with its columns.
struct Place {
    index: usize,
    activation: usize,
    n: usize,
    k: usize,
}

fn place(model: &Model, layer: usize) -> Result<Place, Failure> {
    let linear = model.linear_at(layer).ok_or_else(|| invalid(format!("no layer {layer}")))?;
    let (n, k) = (linear.n(), linear.k());
    Ok(Place { index: layer, activation: linear.activation().index(), n, k })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_quantize(
    model: *const Model,
    layer: usize,
    input: *const CInput,
    tokens: usize,
    scratch: *mut Scratch,
    stream: CUstream,
) -> u32 {
    status(|| {
        // SAFETY: each is null or points to a live object of its type, which for the scratch no other thread uses until this
        // returns.
        let (model, input, scratch) =
            unsafe { (borrowed("the model", model)?, borrowed("the input", input)?, scratch.as_mut()) };
        let scratch = scratch.ok_or_else(|| invalid("the scratch is null"))?;
        let place = place(model, layer)?;
        let input = raw_input(input, place.k, tokens)?;
        // SAFETY: `x` and `second` are device memory with `tokens` rows of `k` elements at their strides (a row for the weight
        // of a norm), which stays until the stream has run the kernel; the stream is null or one of the model's context.
        Ok(unsafe { model.loaded().quantize(place.activation, input, tokens, scratch, stream) }?)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_linear_apply(
    model: *const Model,
    layer: usize,
    scratch: *const Scratch,
    output: *const COutput,
    stream: CUstream,
) -> u32 {
    // SAFETY: the caller keeps the contract of `apply`, which is that of this function.
    status(|| unsafe { apply(model, layer, None, scratch, output, stream) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_linear_apply_variant(
    model: *const Model,
    layer: usize,
    variant: *const CVariant,
    scratch: *const Scratch,
    output: *const COutput,
    stream: CUstream,
) -> u32 {
    status(|| {
        // SAFETY: `variant` is null or points to a `zqc_variant`.
        let variant = linear_variant(unsafe { borrowed("the variant", variant) }?)?;
        // SAFETY: the caller keeps the contract of `apply`, which is that of this function.
        unsafe { apply(model, layer, Some(variant), scratch, output, stream) }
    })
}

/// # Safety
/// `model`, `scratch` and `output` are null or point to live objects of their types, of which no other thread changes the
/// scratch until this returns. `y` is device memory for as many rows of `n` elements, at the output's stride, as the scratch
/// holds tokens; it and the scratch stay until the stream has run the kernel. The stream is null or one of the model's context.
unsafe fn apply(
    model: *const Model,
    layer: usize,
    variant: Option<LinearVariant>,
    scratch: *const Scratch,
    output: *const COutput,
    stream: CUstream,
) -> Result<(), Failure> {
    // SAFETY: each is null or points to a live object that no other thread changes, as the caller vouches.
    let (model, scratch, output) = unsafe {
        (borrowed("the model", model)?, borrowed("the scratch", scratch)?, borrowed("the output", output)?)
    };
    let place = place(model, layer)?;
    let output = raw_output(output, place.n)?;
    if output.y == 0 && scratch.held().is_some_and(|held| held.tokens > 0) {
        return Err(invalid("y is null"));
    }
    // SAFETY: `y` has room for the rows until the stream, which is of the model's context, has run the kernel, as the caller
    // vouches.
    Ok(unsafe { model.loaded().apply(place.index, variant, scratch, output, stream) }?)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_quantize_into(
    model: *const Model,
    layer: usize,
    input: *const CInput,
    tokens: usize,
    quantized: *mut c_void,
    stream: CUstream,
) -> u32 {
    status(|| {
        // SAFETY: each is null or points to a live object of its type.
        let (model, input) = unsafe { (borrowed("the model", model)?, borrowed("the input", input)?) };
        let place = place(model, layer)?;
        let input = raw_input(input, place.k, tokens)?;
        let memory = quantized_address(quantized, tokens)?;
        // SAFETY: `x` and `second` are device memory with `tokens` rows of `k` elements at their strides (a row for the weight
        // of a norm), `quantized` is device memory of the layer's bytes a token for the padded tokens; both stay until the stream has
        // run the kernel. The stream is null or one of the model's context.
        Ok(unsafe { model.loaded().quantize_into(place.activation, input, tokens, memory, stream) }?)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_linear_apply_from(
    model: *const Model,
    layer: usize,
    quantized: *const c_void,
    tokens: usize,
    output: *const COutput,
    stream: CUstream,
) -> u32 {
    status(|| {
        // SAFETY: each is null or points to a live object of its type.
        let (model, output) = unsafe { (borrowed("the model", model)?, borrowed("the output", output)?) };
        let place = place(model, layer)?;
        let output = raw_output(output, place.n)?;
        if output.y == 0 && tokens > 0 {
            return Err(invalid("y is null"));
        }
        let memory = quantized_address(quantized, tokens)?;
        // SAFETY: `quantized` is what zqc_quantize_into has put there on the stream for a layer of the same activation and as many
        // tokens, and `y` has room for the rows; both stay until the stream, which is of the model's context, has run the kernel.
        Ok(unsafe { model.loaded().apply_from(place.index, memory, tokens, output, stream) }?)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_linear_forward(
    model: *const Model,
    layer: usize,
    input: *const CInput,
    tokens: usize,
    output: *const COutput,
    stream: CUstream,
) -> u32 {
    status(|| {
        // SAFETY: each is null or points to a live object of its type.
        let (model, input, output) = unsafe {
            (borrowed("the model", model)?, borrowed("the input", input)?, borrowed("the output", output)?)
        };
        let place = place(model, layer)?;
        let input = raw_input(input, place.k, tokens)?;
        let output = raw_output(output, place.n)?;
        if output.y == 0 && tokens > 0 {
            return Err(invalid("y is null"));
        }
        let model = model.loaded();
        let call = ForwardCall {
            layer: place.index,
            tokens,
            input: input.data_type,
            prologue: input.prologue,
            output: output.data_type,
        };
        Ok(model.with_scratch(&call, stream, |scratch| {
            // SAFETY: `x`, `second` and `y` are device memory for `tokens` rows of `k` and `n` elements at their strides (a row
            // for the weight of a norm), which stays until the stream has run the kernels; the stream is null or one of the
            // model's context; no other stream uses the scratch.
            unsafe {
                model.quantize(place.activation, input, tokens, scratch, stream)?;
                model.apply(place.index, None, scratch, output, stream)
            }
        })?)
    })
}
