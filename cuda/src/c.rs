//! The C interface of `include/zqc_cuda.h`, which documents it.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use cudarc::driver::sys::{CUdeviceptr, CUstream};
use zqc_kernels::Package;

use crate::device::Device;
use crate::error::Error;
use crate::input::{RawInput, check_stride};
use crate::loaded::{ForwardCall, RawOutput};
use crate::model::Model;
use crate::scratch::Scratch;
use crate::variant::{DataType, LinearKernel, LinearVariant, Prologue};

const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 1;
const BAD_PACKAGE: u32 = 2;
const UNAVAILABLE: u32 = 3;
const DRIVER_ERROR: u32 = 4;
const COMPILE_ERROR: u32 = 5;
const INTERNAL_ERROR: u32 = 6;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// `zqc_package`.
struct COpened {
    package: Package,
    names: Vec<CString>,
}

/// `zqc_layer`.
#[repr(C)]
struct CLayer {
    name: *const c_char,
    n: usize,
    k: usize,
    activation: usize,
    has_bias: c_int,
}

/// `zqc_input`.
#[repr(C)]
struct CInput {
    x: *const c_void,
    second: *const c_void,
    x_stride: usize,
    second_stride: usize,
    data_type: u32,
    prologue: u32,
    epsilon: f32,
}

/// `zqc_output`.
#[repr(C)]
struct COutput {
    y: *mut c_void,
    stride: usize,
    data_type: u32,
}

/// `zqc_variant`.
#[repr(C)]
struct CVariant {
    kernel: u32,
    tokens: u32,
    cluster: u32,
}

/// A status with its message.
struct Failure {
    status: u32,
    message: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            _ if error.is_unavailable() => UNAVAILABLE,
            Error::Package(_) => BAD_PACKAGE,
            Error::Driver { .. } => DRIVER_ERROR,
            Error::Compile { .. } | Error::Launch { .. } => COMPILE_ERROR,
            Error::Dispatch { .. } => INTERNAL_ERROR,
            _ => INVALID_ARGUMENT,
        };
        Self { status, message: error.to_string() }
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure { status: INVALID_ARGUMENT, message: message.into() }
}

/// Runs what a function does, and keeps its message where it fails.
fn status(body: impl FnOnce() -> Result<(), Failure>) -> u32 {
    let panicked = |_| Err(Failure { status: INTERNAL_ERROR, message: "a fault of the library".into() });
    match catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(panicked) {
        Ok(()) => OK,
        Err(Failure { status, message }) => {
            LAST_ERROR.with_borrow_mut(|last| *last = c_string(&message));
            status
        }
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// # Safety
/// The pointer is null or to a value that lives on.
unsafe fn borrowed<'a, T>(what: &str, pointer: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller vouches for it.
    unsafe { pointer.as_ref() }.ok_or_else(|| invalid(format!("{what} is null")))
}

/// # Safety
/// The pointer is null or to memory for a value.
unsafe fn give<T>(
    what: &str,
    place: *mut T,
    value: impl FnOnce() -> Result<T, Failure>,
) -> Result<(), Failure> {
    if place.is_null() {
        return Err(invalid(format!("the place for {what} is null")));
    }
    let value = value()?;
    // SAFETY: the caller vouches for the place.
    unsafe { place.write(value) };
    Ok(())
}

/// # Safety
/// The pointer is null or to a text that ends in a NUL byte.
unsafe fn text<'a>(what: &str, pointer: *const c_char) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(invalid(format!("{what} is null")));
    }
    // SAFETY: the caller vouches for it.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| invalid(format!("{what} is not UTF-8")))
}

/// # Safety
/// The pointer is null, or was given by [`boxed`] for the same type and is dropped once.
unsafe fn drop_boxed<T>(pointer: *mut T) {
    status(|| {
        if !pointer.is_null() {
            // SAFETY: the caller vouches for it.
            drop(unsafe { Box::from_raw(pointer) });
        }
        Ok(())
    });
}

fn boxed<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

fn data_type(number: u32) -> Result<DataType, Failure> {
    let found = DataType::ALL.get(number as usize).copied();
    found.ok_or_else(|| invalid(format!("no element type {number}")))
}

fn address(pointer: *const c_void) -> CUdeviceptr {
    pointer as CUdeviceptr
}

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

fn raw_input(input: &CInput, k: usize, tokens: usize) -> Result<RawInput, Failure> {
    let number = input.prologue;
    let prologue = Prologue::ALL.get(number as usize).copied();
    let prologue = prologue.ok_or_else(|| invalid(format!("no prologue {number}")))?;
    if tokens > 0 && input.x.is_null() {
        return Err(invalid("x is null"));
    }
    if tokens > 0 && prologue != Prologue::None && input.second.is_null() {
        return Err(invalid("second is null"));
    }
    Ok(RawInput {
        prologue,
        data_type: data_type(input.data_type)?,
        x: address(input.x),
        x_stride: stride("x_stride", input.x_stride, k)?,
        second: address(input.second),
        second_stride: match prologue {
            Prologue::SiluMul => stride("second_stride", input.second_stride, k)?,
            Prologue::None | Prologue::RmsNorm => k,
        },
        epsilon: input.epsilon,
    })
}

fn raw_output(output: &COutput, n: usize) -> Result<RawOutput, Failure> {
    let data_type = data_type(output.data_type)?;
    Ok(RawOutput { y: address(output.y), stride: stride("stride", output.stride, n)?, data_type })
}

fn stride(what: &'static str, given: usize, columns: usize) -> Result<usize, Failure> {
    let stride = if given == 0 { columns } else { given };
    check_stride(what, stride, columns)?;
    Ok(stride)
}

#[unsafe(no_mangle)]
extern "C" fn zqc_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|last| last.as_ptr())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_open(folder: *const c_char, opened: *mut *mut COpened) -> u32 {
    status(|| {
        let open = || {
            // SAFETY: the header asks for a text.
            let folder = unsafe { text("the folder", folder) }?;
            let package = Package::open(Path::new(folder)).map_err(Error::from)?;
            let names = package.manifest().layers.iter().map(|layer| c_string(&layer.name)).collect();
            Ok(boxed(COpened { package, names }))
        };
        // SAFETY: the header asks for a place for the package.
        unsafe { give("the package", opened, open) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_close(opened: *mut COpened) {
    // SAFETY: the header asks for what zqc_package_open gave.
    unsafe { drop_boxed(opened) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_layer_count(opened: *const COpened) -> usize {
    // SAFETY: the header asks for an open package.
    unsafe { opened.as_ref() }.map_or(0, |opened| opened.names.len())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_layer(opened: *const COpened, layer: usize, info: *mut CLayer) -> u32 {
    status(|| {
        // SAFETY: the header asks for an open package.
        let opened = unsafe { borrowed("the package", opened) }?;
        let describe = || {
            let found = opened.package.manifest().layers.get(layer).zip(opened.names.get(layer));
            let (layer, name) = found.ok_or_else(|| invalid(format!("no layer {layer}")))?;
            let (n, k, activation) = (layer.n, layer.k, layer.activation);
            Ok(CLayer { name: name.as_ptr(), n, k, activation, has_bias: layer.bias.is_some().into() })
        };
        // SAFETY: the header asks for a place for the description.
        unsafe { give("the layer", info, describe) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_find(opened: *const COpened, name: *const c_char, layer: *mut usize) -> u32 {
    status(|| {
        // SAFETY: the header asks for an open package.
        let opened = unsafe { borrowed("the package", opened) }?;
        let find = || {
            // SAFETY: the header asks for a text.
            let name = unsafe { text("the name", name) }?;
            let place = opened.package.manifest().layers.iter().position(|layer| layer.name == name);
            Ok(place.ok_or_else(|| Error::UnknownLayer { name: name.into() })?)
        };
        // SAFETY: the header asks for a place for the number.
        unsafe { give("the layer", layer, find) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_model_load(opened: *const COpened, device: c_int, model: *mut *mut Model) -> u32 {
    status(|| {
        // SAFETY: the header asks for an open package.
        let opened = unsafe { borrowed("the package", opened) }?;
        let load = || {
            let ordinal = usize::try_from(device).map_err(|_| invalid(format!("no device {device}")))?;
            Ok(boxed(Device::new(ordinal)?.load(&opened.package)?))
        };
        // SAFETY: the header asks for a place for the model.
        unsafe { give("the model", model, load) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_model_destroy(model: *mut Model) {
    // SAFETY: the header asks for what zqc_model_load gave.
    unsafe { drop_boxed(model) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_model_prepare(
    model: *const Model,
    tokens: usize,
    input: u32,
    prologues: u32,
    output: u32,
) -> u32 {
    status(|| {
        // SAFETY: the header asks for a model.
        let model = unsafe { borrowed("the model", model) }?;
        let asked = |prologue: &Prologue| prologues & 1 << *prologue as u32 != 0;
        let prologues: Vec<_> = Prologue::ALL.into_iter().filter(asked).collect();
        Ok(model.prepare(tokens, data_type(input)?, &prologues, data_type(output)?)?)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_scratch_create(
    model: *const Model,
    tokens: usize,
    scratch: *mut *mut Scratch,
) -> u32 {
    status(|| {
        // SAFETY: the header asks for a model.
        let model = unsafe { borrowed("the model", model) }?;
        // SAFETY: the header asks for a place for the scratch.
        unsafe { give("the scratch", scratch, || Ok(boxed(model.scratch(tokens)?))) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_scratch_destroy(scratch: *mut Scratch) {
    // SAFETY: the header asks for what zqc_scratch_create gave.
    unsafe { drop_boxed(scratch) }
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
        // SAFETY: the header asks for a model, an input, and a scratch that no other thread uses.
        let (model, input, scratch) =
            unsafe { (borrowed("the model", model)?, borrowed("the input", input)?, scratch.as_mut()) };
        let scratch = scratch.ok_or_else(|| invalid("the scratch is null"))?;
        let place = place(model, layer)?;
        let input = raw_input(input, place.k, tokens)?;
        // SAFETY: the header asks for rows on the device and a stream of it.
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
    // SAFETY: as the header asks.
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
        // SAFETY: the header asks for a variant.
        let &CVariant { kernel, tokens, cluster } = unsafe { borrowed("the variant", variant) }?;
        let kernel = match kernel {
            0 => LinearKernel::Decode,
            1 => LinearKernel::Prefill,
            _ => return Err(invalid(format!("no linear kernel {kernel}"))),
        };
        let variant = LinearVariant { kernel, tokens, cluster }.check()?;
        // SAFETY: as the header asks.
        unsafe { apply(model, layer, Some(variant), scratch, output, stream) }
    })
}

/// # Safety
/// As the header asks of zqc_linear_apply.
unsafe fn apply(
    model: *const Model,
    layer: usize,
    variant: Option<LinearVariant>,
    scratch: *const Scratch,
    output: *const COutput,
    stream: CUstream,
) -> Result<(), Failure> {
    // SAFETY: the header asks for a model, a scratch that no other thread changes, and an output.
    let (model, scratch, output) = unsafe {
        (borrowed("the model", model)?, borrowed("the scratch", scratch)?, borrowed("the output", output)?)
    };
    let place = place(model, layer)?;
    let output = raw_output(output, place.n)?;
    if output.y == 0 && scratch.held().is_some_and(|held| held.tokens > 0) {
        return Err(invalid("y is null"));
    }
    // SAFETY: the header asks for rows on the device and a stream of it.
    Ok(unsafe { model.loaded().apply(place.index, variant, scratch, output, stream) }?)
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
        // SAFETY: the header asks for a model, an input and an output.
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
