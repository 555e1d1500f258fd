//! `zqc_model_*` and `zqc_scratch_*`.

use std::ffi::c_int;

use super::arguments::data_type;
use super::package::COpened;
use super::pointers::{borrowed, boxed, drop_boxed, give};
use super::status::{invalid, status};
use crate::device::Device;
use crate::model::Model;
use crate::scratch::Scratch;
use crate::variant::{Accumulation, Prologue};

#[unsafe(no_mangle)]
unsafe extern "C" fn zqc_model_load(
    opened: *const COpened,
    device: c_int,
    accumulation: u32,
    model: *mut *mut Model,
) -> u32 {
    status(|| {
        // SAFETY: `opened` is null or came from zqc_package_open and is not closed before this returns.
        let opened = unsafe { borrowed("the package", opened) }?;
        let load = || {
            let ordinal = usize::try_from(device).map_err(|_| invalid(format!("no device {device}")))?;
            let known = Accumulation::ALL.get(accumulation as usize).copied();
            let accumulation = known.ok_or_else(|| invalid(format!("no accumulation {accumulation}")))?;
            Ok(boxed(Model::load(&Device::new(ordinal)?, &opened.package, accumulation)?))
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
