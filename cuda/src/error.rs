//! What can go wrong, one line each.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use thiserror::Error;

/// Why a model was not loaded or a kernel not launched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The CUDA driver is not installed.
    #[error("no CUDA driver on this machine: libcuda.so.1 was not found")]
    NoDriver,
    /// The driver is there, NVRTC is not.
    #[error(
        "no NVRTC: libnvrtc.so was not found; install a CUDA toolkit or the Python package \
         nvidia-cuda-nvrtc, or set {variable} to the folder that holds the library",
        variable = crate::environment::NVRTC_FOLDER
    )]
    NoCompiler,
    /// There is no device of this ordinal.
    #[error("no CUDA device {ordinal}: the driver knows {count}")]
    NoDevice {
        /// The ordinal asked for.
        ordinal: usize,
        /// How many devices there are.
        count: usize,
    },
    /// The kernels need compute capability 9.0.
    #[error(
        "device {ordinal}, {name}, has compute capability {major}.{minor}: the kernels need 9.0 (H100, H200)"
    )]
    UnsupportedDevice {
        /// The device's ordinal.
        ordinal: usize,
        /// The device's name.
        name: String,
        /// Its compute capability, before the point.
        major: i32,
        /// Its compute capability, behind the point.
        minor: i32,
    },
    /// A call of the driver failed.
    #[error("{action} failed: {code:?}", code = .source.0)]
    Driver {
        /// What was being done.
        action: &'static str,
        /// The driver's error.
        source: DriverError,
    },
    /// A call of the driver failed that cannot be made while a stream is captured.
    #[error(
        "{action} failed, as a stream is being captured ({code:?}): call prepare before the capture, and capture a stream \
         of its own instead of the default one",
        code = .source.0
    )]
    Capturing {
        /// What was being done.
        action: &'static str,
        /// The driver's error.
        source: DriverError,
    },
    /// NVRTC refused a kernel.
    #[error("{kernel} does not compile: {}", first_error(.log))]
    Compile {
        /// The source's file name and its macros.
        kernel: String,
        /// NVRTC's whole log.
        log: String,
    },
    /// A compiled kernel does not say how to launch it.
    #[error("{kernel} has an unusable zqc_launch: {reason}")]
    Launch {
        /// The source's file name and its macros.
        kernel: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The package cannot be read.
    #[error(transparent)]
    Package(#[from] zqc_kernels::OpenError),
    /// A layer cannot be packed.
    #[error(transparent)]
    Layer(#[from] zqc_kernels::LayerError),
    /// The dispatch table is damaged.
    #[error("dispatch table, line {line}: {reason}")]
    Dispatch {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A kernel was asked for that does not exist.
    #[error("no such kernel variant: {reason}")]
    Variant {
        /// What is out of range.
        reason: String,
    },
    /// The model has no layer of this name.
    #[error("the model has no layer {name:?}")]
    UnknownLayer {
        /// The name asked for.
        name: String,
    },
    /// A layer or an activation of another model.
    #[error("{what} belongs to another model")]
    OtherModel {
        /// What was handed in.
        what: &'static str,
    },
    /// A stream of another device.
    #[error("the stream belongs to another device than the model")]
    OtherDevice,
    /// A slice of the wrong length.
    #[error("{what} has {actual} elements instead of {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// How many elements it must have.
        expected: usize,
        /// How many it has.
        actual: usize,
    },
    /// A number, such as a stride, that no launch can use.
    #[error("{what} is {actual}: {reason}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// Its value.
        actual: i64,
        /// What it must be.
        reason: &'static str,
    },
    /// More tokens than the scratch was made for.
    #[error("{tokens} tokens do not fit a scratch made for {capacity}")]
    TooManyTokens {
        /// The tokens of the call.
        tokens: usize,
        /// What the scratch holds.
        capacity: usize,
    },
    /// A layer was applied to a scratch that holds no input of it.
    #[error("the scratch does not hold the quantized input of layer {layer:?}")]
    NotQuantized {
        /// The layer's name.
        layer: String,
    },
}

impl Error {
    /// Whether this machine lacks what the kernels need: a driver, NVRTC, or a device of compute capability 9.0.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NoDriver | Self::NoCompiler | Self::NoDevice { .. } | Self::UnsupportedDevice { .. }
        )
    }
}

/// A step of ours that the driver may refuse.
pub(crate) trait Action<T> {
    fn during(self, action: &'static str) -> Result<T, Error>;
}

impl<T> Action<T> for Result<T, DriverError> {
    fn during(self, action: &'static str) -> Result<T, Error> {
        self.map_err(|source| match source.0 {
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            | CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => Error::Capturing { action, source },
            _ => Error::Driver { action, source },
        })
    }
}

fn first_error(log: &str) -> &str {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines().find(|line| line.contains("error")).or_else(|| lines().next()).unwrap_or("NVRTC gave no reason")
}
