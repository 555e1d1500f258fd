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

/// A kernel that reads an element across its alignment fails, and with it every later call in the context.
fn address(what: &str, pointer: *const c_void, data_type: DataType) -> Result<CUdeviceptr, Failure> {
    let (address, size) = (pointer as CUdeviceptr, data_type.size());
    if address.is_multiple_of(size as CUdeviceptr) {
        return Ok(address);
    }
    Err(invalid(format!("{what} is {address:#x}, no multiple of the {size} bytes of its elements")))
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
    let data_type = data_type(input.data_type)?;
    Ok(RawInput {
        prologue,
        data_type: Some(data_type),
        x: address("x", input.x, data_type)?,
        x_stride: stride("x_stride", input.x_stride, k)?,
        second: match prologue {
            Prologue::None => 0,
            Prologue::RmsNorm | Prologue::SiluMul => address("second", input.second, data_type)?,
        },
        second_stride: match prologue {
            Prologue::SiluMul => stride("second_stride", input.second_stride, k)?,
            Prologue::None | Prologue::RmsNorm => k,
        },
        epsilon: input.epsilon,
    })
}

fn raw_output(output: &COutput, n: usize) -> Result<RawOutput, Failure> {
    let data_type = data_type(output.data_type)?;
    let y = address("y", output.y, data_type)?;
    Ok(RawOutput { y, stride: stride("stride", output.stride, n)?, data_type })
}

fn stride(what: &'static str, given: usize, columns: usize) -> Result<usize, Failure> {
    let stride = if given == 0 { columns } else { given };
    check_stride(what, stride, columns)?;
    Ok(stride)
}

/// A part of this crate's version, as the header's macros have them.
const fn version_part(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(part) => part,
        Err(_) => panic!("no number"),
    }
}

const VERSION: u32 = 1_000_000 * version_part(env!("CARGO_PKG_VERSION_MAJOR"))
    + 1_000 * version_part(env!("CARGO_PKG_VERSION_MINOR"))
    + version_part(env!("CARGO_PKG_VERSION_PATCH"));

#[unsafe(no_mangle)]
extern "C" fn zqc_cuda_version() -> u32 {
    VERSION
}

#[unsafe(no_mangle)]
extern "C" fn zqc_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|last| last.as_ptr())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_open(folder: *const c_char, opened: *mut *mut COpened) -> u32 {
    status(|| {
        let open = || {
            // SAFETY: `folder` is null or a text that ends in a NUL byte.
            let folder = unsafe { text("the folder", folder) }?;
            let package = Package::open(Path::new(folder)).map_err(Error::from)?;
            let names = package.manifest().layers.iter().map(|layer| c_string(&layer.name)).collect();
            Ok(boxed(COpened { package, names }))
        };
        // SAFETY: `opened` is null or points to memory for a pointer.
        unsafe { give("the package", opened, open) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_close(opened: *mut COpened) {
    // SAFETY: `opened` is null or came from zqc_package_open, and is used no more: this is the one call that closes it.
    unsafe { drop_boxed(opened) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_layer_count(opened: *const COpened) -> usize {
    // SAFETY: `opened` is null or came from zqc_package_open and is not closed before this returns.
    unsafe { opened.as_ref() }.map_or(0, |opened| opened.names.len())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_layer(opened: *const COpened, layer: usize, info: *mut CLayer) -> u32 {
    status(|| {
        // SAFETY: `opened` is null or came from zqc_package_open and is not closed before this returns.
        let opened = unsafe { borrowed("the package", opened) }?;
        let describe = || {
            let found = opened.package.manifest().layers.get(layer).zip(opened.names.get(layer));
            let (layer, name) = found.ok_or_else(|| invalid(format!("no layer {layer}")))?;
            let (n, k, activation) = (layer.n, layer.k, layer.activation);
            Ok(CLayer { name: name.as_ptr(), n, k, activation, has_bias: layer.bias.is_some().into() })
        };
        // SAFETY: `info` is null or points to memory for a `zqc_layer`.
        unsafe { give("the layer", info, describe) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_package_find(opened: *const COpened, name: *const c_char, layer: *mut usize) -> u32 {
    status(|| {
        // SAFETY: `opened` is null or came from zqc_package_open and is not closed before this returns.
        let opened = unsafe { borrowed("the package", opened) }?;
        let find = || {
            // SAFETY: `name` is null or a text that ends in a NUL byte.
            let name = unsafe { text("the name", name) }?;
            let place = opened.package.manifest().layers.iter().position(|layer| layer.name == name);
            Ok(place.ok_or_else(|| Error::UnknownLayer { name: name.into() })?)
        };
        // SAFETY: `layer` is null or points to memory for a number.
        unsafe { give("the layer", layer, find) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_model_load(opened: *const COpened, device: c_int, model: *mut *mut Model) -> u32 {
    status(|| {
        // SAFETY: `opened` is null or came from zqc_package_open and is not closed before this returns.
        let opened = unsafe { borrowed("the package", opened) }?;
        let load = || {
            let ordinal = usize::try_from(device).map_err(|_| invalid(format!("no device {device}")))?;
            Ok(boxed(Device::new(ordinal)?.load(&opened.package)?))
        };
        // SAFETY: `model` is null or points to memory for a pointer.
        unsafe { give("the model", model, load) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_model_destroy(model: *mut Model) {
    // SAFETY: `model` is null or came from zqc_model_load, and is used no more: this is the one call that destroys it.
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
        // SAFETY: `model` is null or came from zqc_model_load and is not destroyed before this returns.
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
        // SAFETY: `model` is null or came from zqc_model_load and is not destroyed before this returns.
        let model = unsafe { borrowed("the model", model) }?;
        // SAFETY: `scratch` is null or points to memory for a pointer.
        unsafe { give("the scratch", scratch, || Ok(boxed(model.scratch(tokens)?))) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_scratch_destroy(scratch: *mut Scratch) {
    // SAFETY: `scratch` is null or came from zqc_scratch_create, and is used no more: this is the one call that destroys it.
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
        let &CVariant { kernel, tokens, cluster } = unsafe { borrowed("the variant", variant) }?;
        let kernel = match kernel {
            0 => LinearKernel::Decode,
            1 => LinearKernel::Prefill,
            _ => return Err(invalid(format!("no linear kernel {kernel}"))),
        };
        let variant = LinearVariant { kernel, tokens, cluster }.check()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_header() {
        let header = include_str!("../include/zqc_cuda.h");
        let parts = ["MAJOR", "MINOR", "PATCH"].map(|part| {
            let name = format!("#define ZQC_CUDA_VERSION_{part} ");
            let line = header.lines().find_map(|line| line.strip_prefix(&*name));
            line.unwrap_or_else(|| panic!("no {name}"))
        });
        assert_eq!(parts.join("."), env!("CARGO_PKG_VERSION"));
        let [major, minor, patch] = parts.map(|part| part.parse::<u32>().unwrap());
        assert_eq!(zqc_cuda_version(), 1_000_000 * major + 1_000 * minor + patch);
    }

    #[test]
    fn addresses_are_multiples_of_the_size_of_an_element() {
        let input = |x: usize, second: usize, data_type: DataType, prologue: Prologue| {
            let input = CInput {
                x: x as *const c_void,
                second: second as *const c_void,
                x_stride: 0,
                second_stride: 0,
                data_type: data_type as u32,
                prologue: prologue as u32,
                epsilon: 0.0,
            };
            raw_input(&input, 8, 1).map(|raw| (raw.x, raw.second)).map_err(|failure| failure.message)
        };
        use DataType::{Bf16, F16, F32};
        use Prologue::{None, RmsNorm, SiluMul};
        assert_eq!(input(0x1002, 0, Bf16, None), Ok((0x1002, 0)));
        assert_eq!(input(0x1004, 0x1008, F32, SiluMul), Ok((0x1004, 0x1008)));
        assert_eq!(input(0x1002, 0x1001, F16, None), Ok((0x1002, 0)), "nothing reads it");
        for (x, second, data_type, prologue, message) in [
            (0x1001, 0, Bf16, None, "x is 0x1001, no multiple of the 2 bytes of its elements"),
            (0x1002, 0, F32, None, "x is 0x1002, no multiple of the 4 bytes of its elements"),
            (0x1000, 0x1003, F16, RmsNorm, "second is 0x1003, no multiple of the 2 bytes of its elements"),
            (0x1000, 0x1006, F32, SiluMul, "second is 0x1006, no multiple of the 4 bytes of its elements"),
        ] {
            assert_eq!(input(x, second, data_type, prologue), Err(message.to_string()));
        }
        let output = COutput { y: 0x1002 as *mut c_void, stride: 0, data_type: F32 as u32 };
        let message = raw_output(&output, 8).map(|raw| raw.y).map_err(|failure| failure.message);
        assert_eq!(message, Err("y is 0x1002, no multiple of the 4 bytes of its elements".to_string()));
    }
}
