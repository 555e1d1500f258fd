//! What ONNX Runtime knows of a value before it has one.

use std::ptr;

use ort_sys::OrtTensorTypeAndShapeInfo;

use crate::api::Api;
use crate::element::Element;
use crate::error::OpError;

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
