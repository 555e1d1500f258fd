//! Tensors that ONNX Runtime holds.

use std::ffi::c_void;
use std::ptr;

use bytemuck::Pod;
use ort_sys::{OrtKernelInfo, OrtValue};

use crate::api::Api;
use crate::element::Element;
use crate::error::OpError;
use crate::info::Info;

/// A tensor that ONNX Runtime holds, in whatever memory.
pub(crate) struct View {
    /// Name of the input in the function.
    pub name: &'static str,
    pub element: Element,
    pub dims: Vec<usize>,
    pub address: usize,
}

impl View {
    /// Its address, if its elements are of this type.
    pub(crate) fn of(&self, wanted: Element) -> Result<u64, OpError> {
        if self.element == wanted {
            return Ok(self.address as u64);
        }
        Err(self.unexpected(format!("{wanted:?}")))
    }

    /// The same in the memory of the host, where these are its elements.
    pub(crate) fn with_bytes<'a>(&self, bytes: &'a [u8]) -> Tensor<'a> {
        Tensor { name: self.name, element: self.element, dims: self.dims.clone(), bytes }
    }

    /// Refuses it.
    pub(crate) fn unexpected(&self, wanted: String) -> OpError {
        OpError::Input { input: self.name, found: format!("{:?} {:?}", self.element, self.dims), wanted }
    }
}

/// A tensor in the memory of the host.
pub(crate) struct Tensor<'a> {
    /// Name of the input in the function.
    pub name: &'static str,
    pub element: Element,
    pub dims: Vec<usize>,
    pub bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// Its elements, if they are of this type.
    pub(crate) fn elements<T: Pod>(&self, wanted: Element) -> Result<&'a [T], OpError> {
        // An empty tensor may lie at any address; another one of this type that does not fit it is not aligned.
        let elements =
            if self.bytes.is_empty() { Some(&[][..]) } else { bytemuck::try_cast_slice(self.bytes).ok() };
        elements
            .filter(|_| self.element == wanted)
            .ok_or_else(|| self.unexpected(format!("aligned {wanted:?}")))
    }

    /// Refuses it.
    pub(crate) fn unexpected(&self, wanted: String) -> OpError {
        OpError::Input { input: self.name, found: format!("{:?} {:?}", self.element, self.dims), wanted }
    }
}

impl Api {
    /// An input of the node, if it is constant.
    ///
    /// # Safety
    /// `info` comes from ONNX Runtime and is alive; the tensor is as long as the session.
    pub(crate) unsafe fn constant<'a>(
        self,
        info: *const OrtKernelInfo,
        input: usize,
        name: &'static str,
    ) -> Result<Option<Tensor<'a>>, OpError> {
        let (mut constant, mut value) = (0, ptr::null());
        // SAFETY: all pointers are valid for the call.
        let status = unsafe {
            (self.table().KernelInfoGetConstantInput_tensor)(info, input, &mut constant, &mut value)
        };
        self.check(status)?;
        if constant == 0 || value.is_null() {
            return Ok(None);
        }
        // SAFETY: the value is an initializer of the session.
        unsafe { self.tensor(value, name) }.map(Some)
    }

    /// A value in the memory of the host.
    ///
    /// # Safety
    /// `value` is a tensor in the memory of the host that outlives `'a` unchanged.
    pub(crate) unsafe fn tensor<'a>(
        self,
        value: *const OrtValue,
        name: &'static str,
    ) -> Result<Tensor<'a>, OpError> {
        // SAFETY: the value is a tensor.
        let View { element, dims, address, .. } = unsafe { self.view(value, name) }?;
        let length = dims.iter().product::<usize>() * element.size();
        let bytes = if length == 0 || address == 0 {
            &[]
        } else {
            // SAFETY: a tensor of these dimensions and of this element type has so many bytes, alive for 'a by the
            // caller's promise.
            unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(address), length) }
        };
        Ok(Tensor { name, element, dims, bytes })
    }

    /// A value in whatever memory.
    ///
    /// # Safety
    /// `value` is a tensor.
    pub(crate) unsafe fn view(self, value: *const OrtValue, name: &'static str) -> Result<View, OpError> {
        let mut info = ptr::null_mut();
        // SAFETY: the value is a tensor; `info` is released by the drop of `Info`.
        self.check(unsafe { (self.table().GetTensorTypeAndShape)(value, &mut info) })?;
        let info = Info::new(self, info);
        let (element, dims) = (info.element()?, info.dims()?);
        let dims: Vec<usize> = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
        let mut data: *mut c_void = ptr::null_mut();
        // SAFETY: the call only yields the address; nothing is written through it.
        self.check(unsafe { (self.table().GetTensorMutableData)(value.cast_mut(), &mut data) })?;
        Ok(View { name, element, dims, address: data.expose_provenance() })
    }
}
