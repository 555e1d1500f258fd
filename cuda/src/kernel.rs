//! A loaded kernel and its launch.

use std::ffi::{CString, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute, CUlaunchAttributeID};
use cudarc::driver::{CudaContext, result};

use crate::capture::OutsideCapture;
use crate::context::CurrentContext;
use crate::error::{Action, Error};
use crate::variant::Specialization;

/// A cluster of up to this many blocks is launched without asking for more.
const PORTABLE_CLUSTER: u32 = 8;

/// What a kernel says about its launch, in its global `zqc_launch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchShape {
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    /// Output rows that a cluster covers.
    pub rows: u32,
    /// Tokens that a cluster covers.
    pub tokens: u32,
}

impl LaunchShape {
    const WORDS: usize = 5;

    fn check([threads, shared_bytes, cluster, rows, tokens]: [u32; Self::WORDS]) -> Result<Self, String> {
        let within = |what, value, range: std::ops::RangeInclusive<u32>| {
            let (start, end) = (range.start(), range.end());
            if range.contains(&value) {
                Ok(value)
            } else {
                Err(format!("{what} is {value}, not {start} to {end}"))
            }
        };
        Ok(Self {
            threads: within("the number of threads", threads, 1..=1024)?,
            shared_bytes: within("the dynamic shared memory", shared_bytes, 0..=232_448)?,
            cluster: within("the cluster size", cluster, 1..=16)?,
            rows: within("the rows of a cluster", rows, 1..=u32::MAX)?,
            tokens: within("the tokens of a cluster", tokens, 1..=u32::MAX)?,
        })
    }
}

/// A function of a module loaded in a context.
#[derive(Debug)]
pub struct Kernel {
    context: Arc<CudaContext>,
    module: sys::CUmodule,
    function: sys::CUfunction,
    shape: LaunchShape,
    resident_clusters: u32,
}

// SAFETY: the driver's modules and functions may be used from every thread; a kernel only reads its fields.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Loads a cubin. The context must be current.
    pub fn load(context: &Arc<CudaContext>, name: &Specialization, cubin: &[u8]) -> Result<Self, Error> {
        // SAFETY: the bytes are a cubin of NVRTC, from this process or from the cache, where nobody else can have put it and a
        // hash says that it is whole; its own header gives its length.
        let module =
            unsafe { result::module::load_data(cubin.as_ptr().cast()) }.during("loading a kernel")?;
        let mut kernel = Self {
            context: context.clone(),
            module,
            function: ptr::null_mut(),
            shape: LaunchShape { threads: 1, shared_bytes: 0, cluster: 1, rows: 1, tokens: 1 },
            resident_clusters: 1,
        };
        kernel.shape = kernel.read_shape(name)?;
        let entry = CString::new(name.entry()).unwrap_or_default();
        // SAFETY: the module is loaded.
        kernel.function =
            unsafe { result::module::get_function(module, entry) }.during("finding a kernel's entry")?;
        kernel.allow_shape()?;
        kernel.resident_clusters = kernel.count_resident_clusters()?;
        Ok(kernel)
    }

    pub fn shape(&self) -> LaunchShape {
        self.shape
    }

    /// How many clusters the whole device runs at a time.
    pub fn resident_clusters(&self) -> u32 {
        self.resident_clusters
    }

    fn read_shape(&self, name: &Specialization) -> Result<LaunchShape, Error> {
        let unusable = |reason: String| Error::Launch { kernel: name.to_string(), reason };
        // SAFETY: the module is loaded.
        let (address, length) = unsafe { result::module::get_global(self.module, c"zqc_launch".to_owned()) }
            .during("reading zqc_launch")?;
        let mut words = [0_u32; LaunchShape::WORDS];
        if length != size_of_val(&words) {
            return Err(unusable(format!("{length} bytes instead of {}", size_of_val(&words))));
        }
        // SAFETY: the global has as many bytes as the words.
        unsafe { result::memcpy_dtoh_sync(&mut words, address) }.during("reading zqc_launch")?;
        LaunchShape::check(words).map_err(unusable)
    }

    /// Lifts the limits of shared memory and cluster size that hold without asking.
    fn allow_shape(&self) -> Result<(), Error> {
        let set = |attribute, value: u32| {
            // SAFETY: the function is loaded; the value is in the range that the shape was checked for.
            unsafe { result::function::set_function_attribute(self.function, attribute, value as i32) }
                .during("setting up a kernel")
        };
        set(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, self.shape.shared_bytes)?;
        if self.shape.cluster > PORTABLE_CLUSTER {
            set(CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)?;
        }
        Ok(())
    }

    fn count_resident_clusters(&self) -> Result<u32, Error> {
        let mut attributes = self.attributes();
        let config = self.config(1, ptr::null_mut(), &mut attributes);
        let mut clusters = 0;
        // SAFETY: the function is loaded, and the configuration's attributes live until the call returns.
        unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, self.function, &raw const config) }
            .result()
            .during("counting the clusters of a kernel")?;
        Ok(clusters.max(1) as u32)
    }

    /// The cluster's size, and leave to start before the kernel ahead has ended: the kernels wait for its results
    /// themselves.
    fn attributes(&self) -> [sys::CUlaunchAttribute; 2] {
        let attribute = |id, value| sys::CUlaunchAttribute { id, pad: [0; 4], value };
        let dimension = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: self.shape.cluster, y: 1, z: 1 };
        [
            attribute(
                CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                sys::CUlaunchAttributeValue { clusterDim: dimension },
            ),
            attribute(
                CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            ),
        ]
    }

    fn config(
        &self,
        clusters: u32,
        stream: sys::CUstream,
        attributes: &mut [sys::CUlaunchAttribute],
    ) -> sys::CUlaunchConfig {
        sys::CUlaunchConfig {
            gridDimX: clusters.saturating_mul(self.shape.cluster),
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shape.shared_bytes,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as c_uint,
        }
    }

    /// Puts a launch of `clusters` clusters on the stream. The context must be current.
    ///
    /// # Safety
    /// `arguments` point to values of the types that the entry takes, in its order; the device pointers among them
    /// are valid for what the kernel reads and writes until it has run; the stream is of this context.
    pub unsafe fn launch(
        &self,
        clusters: u32,
        stream: sys::CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Error> {
        let mut attributes = self.attributes();
        let config = self.config(clusters, stream, &mut attributes);
        // SAFETY: the attributes live until the call returns; the caller vouches for the rest.
        unsafe {
            sys::cuLaunchKernelEx(&raw const config, self.function, arguments.as_mut_ptr(), ptr::null_mut())
        }
        .result()
        .during("launching a kernel")
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _current = CurrentContext::new(&self.context);
        let _outside = OutsideCapture::new();
        // SAFETY: the module was loaded by us, and nothing else holds it.
        self.context.record_err(unsafe { result::module::unload(self.module) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_shape_is_checked() {
        let error = |words| LaunchShape::check(words).unwrap_err();
        assert!(LaunchShape::check([384, 200_000, 2, 128, 256]).is_ok());
        assert_eq!(error([0, 0, 1, 1, 1]), "the number of threads is 0, not 1 to 1024");
        assert_eq!(error([1, 300_000, 1, 1, 1]), "the dynamic shared memory is 300000, not 0 to 232448");
        assert_eq!(error([1, 0, 17, 1, 1]), "the cluster size is 17, not 1 to 16");
        assert_eq!(error([1, 0, 1, 0, 1]), "the rows of a cluster is 0, not 1 to 4294967295");
        assert_eq!(error([1, 0, 1, 1, 0]), "the tokens of a cluster is 0, not 1 to 4294967295");
    }
}
