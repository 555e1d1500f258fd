//! A device, its memory, and the kernels loaded on it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaContext, result};
use zqc_kernels::Package;

use crate::compiler::Compiler;
use crate::error::{Action, Error};
use crate::kernel::Kernel;
use crate::model::Model;
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

    /// Copies a package's arrays to the device. Kernels are compiled when they are first needed, or by
    /// [`Model::prepare`].
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn load(&self, package: &Package) -> Result<Model, Error> {
        Model::load(self, package)
    }

    /// The kernel, compiled and loaded once.
    pub(crate) fn kernel(&self, name: Specialization) -> Result<Arc<Kernel>, Error> {
        if let Some(kernel) = self.kernels().get(&name) {
            return Ok(kernel.clone());
        }
        let cubin = self.0.compiler.compile(&name)?;
        let _current = self.make_current()?;
        match self.kernels().entry(name) {
            Entry::Occupied(entry) => Ok(entry.get().clone()),
            Entry::Vacant(entry) => {
                let kernel = Arc::new(Kernel::load(&self.0.context, entry.key(), &cubin)?);
                Ok(entry.insert(kernel).clone())
            }
        }
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

/// A context made current on this thread; at the end the one before is current again.
pub(crate) struct CurrentContext {
    before: Option<sys::CUcontext>,
}

impl CurrentContext {
    pub fn new(context: &CudaContext) -> Result<Self, Error> {
        let before = result::ctx::get_current().during("asking for the current context")?;
        context.bind_to_thread().during("making the context current")?;
        Ok(Self { before: before.filter(|&before| before != context.cu_ctx()) })
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: the context was current on this thread. Where it is gone by now, ours stays current.
            let _ = unsafe { result::ctx::set_current(before) };
        }
    }
}

/// Device memory, freed at the end, when the device has done what it was given before.
#[derive(Debug)]
pub(crate) struct Buffer {
    context: Arc<CudaContext>,
    address: CUdeviceptr,
}

impl Buffer {
    /// Uninitialized memory. The context must be current.
    pub fn new(device: &Device, bytes: usize) -> Result<Self, Error> {
        // SAFETY: the size is not 0, and nothing reads the memory before a kernel or a copy has written it.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.during("allocating device memory")?;
        Ok(Self { context: device.context().clone(), address })
    }

    /// Memory with a copy of `bytes`. The context must be current.
    pub fn of(device: &Device, bytes: &[u8]) -> Result<Self, Error> {
        let buffer = Self::new(device, bytes.len())?;
        if !bytes.is_empty() {
            // SAFETY: the memory is as long as the bytes.
            unsafe { result::memcpy_htod_sync(buffer.address, bytes) }
                .during("copying weights to the device")?;
        }
        Ok(buffer)
    }

    pub fn address(&self) -> CUdeviceptr {
        self.address
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _current = CurrentContext::new(&self.context);
        // SAFETY: the memory was allocated by us and is freed once.
        self.context.record_err(unsafe { result::free_sync(self.address) });
    }
}
