//! The kernels that a layer or an activation has in use.

use std::sync::{Arc, OnceLock};

use crate::device::Device;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::variant::Specialization;

/// Kernels by step of a dispatch plan and by element type, each looked up on the device once.
#[derive(Debug)]
pub(super) struct KernelTable<const TYPES: usize>(Vec<[OnceLock<Arc<Kernel>>; TYPES]>);

impl<const TYPES: usize> KernelTable<TYPES> {
    /// An empty table for a plan of `steps` steps.
    pub fn new(steps: usize) -> Self {
        Self((0..steps).map(|_| std::array::from_fn(|_| OnceLock::new())).collect())
    }

    /// The kernel of a step and an element type, which `specialization` describes.
    pub fn get(
        &self,
        device: &Device,
        step: usize,
        element_type: usize,
        specialization: impl FnOnce() -> Specialization,
    ) -> Result<&Arc<Kernel>, Error> {
        device.kernel_once(&self.0[step][element_type], specialization)
    }
}
