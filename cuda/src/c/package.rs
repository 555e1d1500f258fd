//! `zqc_package_*`.

use std::ffi::{CString, c_char, c_int};
use std::path::Path;

use zqc_kernels::Package;

use super::pointers::{borrowed, boxed, drop_boxed, give, text};
use super::status::{c_string, invalid, status};
use crate::error::Error;
use crate::scratch::TokenShape;

/// `zqc_package`.
pub(super) struct COpened {
    pub(super) package: Package,
    pub(super) names: Vec<CString>,
}

/// `zqc_layer`.
#[repr(C)]
struct CLayer {
    name: *const c_char,
    n: usize,
    k: usize,
    activation: usize,
    token_bytes: usize,
    has_bias: c_int,
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
            let manifest = opened.package.manifest();
            let found = manifest.layers.get(layer).zip(opened.names.get(layer));
            let (layer, name) = found.ok_or_else(|| invalid(format!("no layer {layer}")))?;
            let shape = TokenShape { k: layer.k, rank: manifest.activations[layer.activation].rank };
            Ok(CLayer {
                name: name.as_ptr(),
                n: layer.n,
                k: layer.k,
                activation: layer.activation,
                token_bytes: shape.bytes(),
                has_bias: layer.bias.is_some().into(),
            })
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
