//! Tensors that ONNX Runtime holds.

use std::ptr;

use bytemuck::Pod;
use ort_sys::OrtTensorTypeAndShapeInfo;

use crate::api::{Api, OpError};
use crate::element::Element;

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

/// Type and shape of a value, as ONNX Runtime describes them.
pub(crate) struct Info {
    api: Api,
    info: *mut OrtTensorTypeAndShapeInfo,
}

impl Info {
    /// One of no type and no dimensions.
    pub(crate) fn create(api: Api) -> Result<Self, OpError> {
        let mut info = ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        api.check(unsafe { (api.table().CreateTensorTypeAndShapeInfo)(&mut info) })?;
        Ok(Self { api, info })
    }

    /// One that ONNX Runtime has made, released in the end; one that it keeps must not be dropped.
    pub(crate) fn new(api: Api, info: *mut OrtTensorTypeAndShapeInfo) -> Self {
        Self { api, info }
    }

    pub(crate) fn pointer(&self) -> *mut OrtTensorTypeAndShapeInfo {
        self.info
    }

    /// The element type.
    pub(crate) fn element(&self) -> Result<Element, OpError> {
        // As a number, since a later ONNX Runtime may know types that the bindings do not.
        let mut code = 0i32;
        // SAFETY: the enum of the bindings has the representation of an i32.
        let status = unsafe { (self.api.table().GetTensorElementType)(self.info, (&raw mut code).cast()) };
        self.api.check(status)?;
        Ok(Element(code))
    }

    /// The dimensions, -1 for one that is not known.
    pub(crate) fn dims(&self) -> Result<Vec<i64>, OpError> {
        let mut rank = 0;
        // SAFETY: the pointers are valid for the call.
        self.api.check(unsafe { (self.api.table().GetDimensionsCount)(self.info, &mut rank) })?;
        let mut dims = vec![0i64; rank];
        // SAFETY: the buffer has room for the rank.
        self.api.check(unsafe { (self.api.table().GetDimensions)(self.info, dims.as_mut_ptr(), rank) })?;
        Ok(dims)
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: it was made by ONNX Runtime for us, and is released once.
        unsafe { (self.api.table().ReleaseTensorTypeAndShapeInfo)(self.info) }
    }
}
