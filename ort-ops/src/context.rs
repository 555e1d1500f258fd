//! A run of a node.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use bytemuck::Pod;
use ort_sys::{OrtKernelContext, OrtValue};

use crate::api::Api;
use crate::element::Element;
use crate::error::{OpError, panic_message};
use crate::info::Info;
use crate::tensor::{Tensor, View};

/// The inputs and outputs of one run of a node.
pub(crate) struct Context<'a> {
    api: Api,
    context: *mut OrtKernelContext,
    run: PhantomData<&'a OrtKernelContext>,
}

impl<'a> Context<'a> {
    /// # Safety
    /// `context` is what ONNX Runtime hands to a run of a kernel, and `'a` is within that run.
    pub(crate) unsafe fn new(api: Api, context: *mut OrtKernelContext) -> Self {
        Self { api, context, run: PhantomData }
    }

    /// An input in the memory of the host.
    pub(crate) fn input(&self, at: usize, name: &'static str) -> Result<Tensor<'a>, OpError> {
        let value = self.value(at, name)?;
        // SAFETY: inputs stay as they are during a run, and operators that read this one say that it lies there.
        unsafe { self.api.tensor(value, name) }
    }

    /// An input in whatever memory.
    pub(crate) fn view(&self, at: usize, name: &'static str) -> Result<View, OpError> {
        let value = self.value(at, name)?;
        // SAFETY: the value is a tensor, as every input is.
        unsafe { self.api.view(value, name) }
    }

    fn value(&self, at: usize, name: &'static str) -> Result<*const OrtValue, OpError> {
        let mut value = ptr::null();
        // SAFETY: the context is alive.
        self.api.check(unsafe { (self.api.table().KernelContext_GetInput)(self.context, at, &mut value) })?;
        if value.is_null() {
            let (found, wanted) = ("missing".to_string(), "a tensor".to_string());
            return Err(OpError::Input { input: name, found, wanted });
        }
        Ok(value)
    }

    /// The stream of the provider that the node runs on.
    pub(crate) fn stream(&self) -> Result<*mut c_void, OpError> {
        let mut stream = ptr::null_mut();
        // SAFETY: the context is alive.
        self.api.check(unsafe {
            (self.api.table().KernelContext_GetGPUComputeStream)(self.context, &mut stream)
        })?;
        Ok(stream)
    }

    /// The memory of an output of `dims`, whose elements are of the type `element`, which `T` is. It is that of the host.
    pub(crate) fn output<T: Pod>(
        &self,
        at: usize,
        element: Element,
        dims: &[usize],
    ) -> Result<&'a mut [T], OpError> {
        let length: usize = dims.iter().product();
        let address = self.output_address(at, element, dims)?;
        if length == 0 || address == 0 {
            return Ok(&mut []);
        }
        if size_of::<T>() != element.size() {
            return Err(OpError::Panic(format!("{element:?} as elements of {} bytes", size_of::<T>())));
        }
        // SAFETY: it has so many elements of this type, and T has its size; each output is asked for once a run, so nothing
        // else refers to it.
        Ok(unsafe { std::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(address), length) })
    }

    /// The address of an output of `dims` in whatever memory, whose elements are of the type `element`; 0 where it is not wanted
    /// or empty.
    pub(crate) fn output_address(
        &self,
        at: usize,
        element: Element,
        dims: &[usize],
    ) -> Result<usize, OpError> {
        let sizes: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        let (mut value, mut data) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the context is alive and the dimensions are valid for the call.
        let status = unsafe {
            (self.api.table().KernelContext_GetOutput)(
                self.context,
                at,
                sizes.as_ptr(),
                sizes.len(),
                &mut value,
            )
        };
        self.api.check(status)?;
        let length: usize = dims.iter().product();
        if value.is_null() || length == 0 {
            return Ok(0);
        }
        let mut info = ptr::null_mut();
        // SAFETY: the value is the output just made; `info` is released by the drop of `Info`.
        self.api.check(unsafe { (self.api.table().GetTensorTypeAndShape)(value, &mut info) })?;
        // What the session takes for the type may come from the file, and the file may be damaged.
        let found = Info::new(self.api, info).element()?;
        if found != element {
            return Err(OpError::Output { found, wanted: element });
        }
        // SAFETY: the value is the output just made.
        self.api.check(unsafe { (self.api.table().GetTensorMutableData)(value, &mut data) })?;
        Ok(data.expose_provenance())
    }

    /// Runs `task` for every number below `tasks` on the threads of the session.
    pub(crate) fn parallel(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), OpError> {
        unsafe extern "C" fn call(task: *mut c_void, at: usize) {
            // SAFETY: what `parallel` hands over, alive until it returns.
            let task = unsafe { &*task.cast::<Task<'_>>() };
            // A panic must not cross into C++; that it happened is kept for the caller.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (task.run)(at))) {
                let mut first = task.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                first.get_or_insert_with(|| panic_message(panic.as_ref()));
            }
        }
        let task = Task { run: task, panic: Default::default() };
        let argument = (&raw const task).cast_mut().cast::<c_void>();
        // SAFETY: `task` outlives the call, which returns when all of it ran.
        let status =
            unsafe { (self.api.table().KernelContext_ParallelFor)(self.context, call, tasks, 0, argument) };
        self.api.check(status)?;
        match task.panic.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(panic) => Err(OpError::Panic(panic)),
            None => Ok(()),
        }
    }
}

/// What [`Context::parallel`] runs.
struct Task<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    /// The first panic.
    panic: std::sync::Mutex<Option<String>>,
}
