//! A device and the kernels loaded on it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::{CudaContext, result, sys};

use crate::capture::OutsideCapture;
use crate::compiler::Compiler;
use crate::context::CurrentContext;
use crate::error::{Action, Error};
use crate::kernel::Kernel;
use crate::nvrtc;
use crate::variant::Specialization;

/// The compute capability that the kernels are made for.
const CAPABILITY: (i32, i32) = (9, 0);

/// An H100 or H200, in its primary context, which PyTorch and the CUDA runtime share.
#[derive(Debug, Clone)]
pub struct Device(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    context: Arc<CudaContext>,
    compiler: Compiler,
    kernels: Mutex<Kernels>,
}

type Kernels = HashMap<Specialization, Arc<Kernel>>;

impl Device {
    /// The device of this ordinal.
    ///
    /// # Errors
    /// When this machine lacks the driver, NVRTC, the device, or compute capability 9.0: see
    /// [`Error::is_unavailable`].
    pub fn new(ordinal: usize) -> Result<Self, Error> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        check_capability(ordinal)?;
        let context = CudaContext::new(ordinal).during("opening the device's primary context")?;
        let compiler = Compiler::new()?;
        Ok(Self(Arc::new(Shared { context, compiler, kernels: Mutex::default() })))
    }

    /// Whether [`Device::new`] has what it needs for every device of this machine; opens none of them.
    ///
    /// # Errors
    /// When this machine lacks the driver, NVRTC, or a device, or one of its devices has another compute capability than 9.0.
    pub fn check_all() -> Result<(), Error> {
        let count = Self::count()?;
        if count == 0 {
            return Err(Error::NoDevice { ordinal: 0, count });
        }
        (0..count).try_for_each(check_capability)?;
        nvrtc::version().map(drop)
    }

    /// How many devices the driver knows.
    fn count() -> Result<usize, Error> {
        // SAFETY: loading the driver runs its initializers, which touch nothing of ours.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        match result::init() {
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
            initialized => initialized.during("starting the CUDA driver")?,
        }
        Ok(CudaContext::device_count().during("counting the devices")?.max(0) as usize)
    }

    /// The device's primary context, which makes streams and memory.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.0.context
    }

    /// How many streaming multiprocessors the device has.
    pub(crate) fn multiprocessors(&self) -> Result<usize, Error> {
        const COUNT: sys::CUdevice_attribute =
            sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.0.context.attribute(COUNT).during("counting the multiprocessors")?;
        Ok(count.max(1) as usize)
    }

    /// The kernel, compiled and loaded once.
    pub(crate) fn kernel(&self, name: Specialization) -> Result<Arc<Kernel>, Error> {
        if let Some(kernel) = self.kernels().get(&name) {
            return Ok(kernel.clone());
        }
        let cubin = self.0.compiler.compile(&name)?;
        let _current = self.make_current()?;
        let _outside = OutsideCapture::new()?;
        match self.kernels().entry(name) {
            Entry::Occupied(entry) => Ok(entry.get().clone()),
            Entry::Vacant(entry) => {
                let kernel = Arc::new(Kernel::load(&self.0.context, entry.key(), &cubin)?);
                Ok(entry.insert(kernel).clone())
            }
        }
    }

    /// The kernel of a cell, compiled and loaded at the first call.
    pub(crate) fn kernel_once<'a>(
        &self,
        cell: &'a OnceLock<Arc<Kernel>>,
        name: impl FnOnce() -> Specialization,
    ) -> Result<&'a Arc<Kernel>, Error> {
        if let Some(kernel) = cell.get() {
            return Ok(kernel);
        }
        let kernel = self.kernel(name())?;
        Ok(cell.get_or_init(|| kernel))
    }

    fn kernels(&self) -> MutexGuard<'_, Kernels> {
        self.0.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn make_current(&self) -> Result<CurrentContext, Error> {
        CurrentContext::new(&self.0.context)
    }
}

/// Refuses a device that the kernels are not made for.
fn check_capability(ordinal: usize) -> Result<(), Error> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(ordinal as i32).during("looking for the device")?;
    let attribute = |attribute| {
        // SAFETY: the device is one that the driver knows.
        unsafe { result::device::get_attribute(device, attribute) }
            .during("asking for the compute capability")
    };
    let (major, minor) = (attribute(MAJOR)?, attribute(MINOR)?);
    if (major, minor) == CAPABILITY {
        return Ok(());
    }
    let name = result::device::get_name(device).during("asking for the device's name")?;
    Err(Error::UnsupportedDevice { ordinal, name, major, minor })
}
