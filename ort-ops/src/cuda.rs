//! The operators for ONNX Runtime's CUDA provider, on the kernels of `zqc-cuda`. Their nodes put work on the stream of the session and
//! do not wait for it.
//!
//! The functions that [`runs`] names have such operators, where [`is_available`]. The nodes of all others run on the CPU, as those of every
//! function do elsewhere; ONNX Runtime copies what passes from one to the other.

mod linear;
mod quantize;
mod table;

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use ort_sys::OrtKernelInfo;
use zqc_cuda::cudarc::driver::result;
use zqc_cuda::cudarc::driver::sys::CUstream;
use zqc_cuda::{Device, RowQuantizer, Workspace};
use zqc_numerics::{ActivationFormat, Extra, FactorFormat, Format, Signature, WeightKind};

use crate::api::{Api, OpError};
use crate::context::Context;
use crate::element::Element;
use crate::operator::Function;

/// What ONNX Runtime calls the provider.
pub(crate) const PROVIDER: &CStr = c"CUDAExecutionProvider";

/// Whether the operators can be offered: ONNX Runtime has the provider, and this machine what the kernels need. Where it has devices
/// that the kernels cannot be had for, standard error says why.
pub(crate) fn is_available(api: Api) -> Result<bool, OpError> {
    if !api.offers(PROVIDER)? {
        return Ok(false);
    }
    match Device::check_all() {
        Ok(()) => Ok(true),
        Err(zqc_cuda::Error::NoDriver | zqc_cuda::Error::NoDevice { .. }) => Ok(false),
        Err(error) => {
            eprintln!(
                "zqc_ort: nodes of domain ai.zqc run on the CPU, as there are no kernels for CUDA: {error}"
            );
            Ok(false)
        }
    }
}

/// Whether a function has kernels for CUDA.
pub(crate) fn runs(function: Function) -> bool {
    const E4M3: Option<ActivationFormat> = Some(ActivationFormat::E4M3);
    match function {
        Function::Quantize(format) => Some(format) == E4M3,
        Function::Gather(_) => true,
        Function::Linear(Signature {
            weight: WeightKind { format, extra }, activation, low_rank, ..
        }) => match format {
            Format::E2M1 | Format::E3M0 => {
                activation == E4M3
                    && matches!(extra, None | Some(Extra::Shifts(_)))
                    && matches!(low_rank, None | Some(FactorFormat::E4M3))
            }
            Format::Int8 | Format::E4M3 => {
                matches!(activation, None | E4M3) && extra.is_none() && low_rank.is_none()
            }
            Format::E5M2 | Format::Int4 => false,
        },
    }
}

/// Whether an input lies in the memory of the host: operands that are packed there, on their way to the device.
pub(crate) fn is_on_host(function: Function, input: usize) -> bool {
    match function {
        Function::Linear(signature) => !signature.trans_b && input >= signature.activation_inputs().len(),
        _ => false,
    }
}

/// A node on a device.
pub(crate) enum Node {
    Quantize(quantize::Quantize),
    Linear(Box<linear::Linear>),
    Head(Box<table::Head>),
    Gather(table::Gather),
}

impl Node {
    /// `declared` is the type of the output that the operator states, if it is one.
    ///
    /// # Safety
    /// `info` is what ONNX Runtime hands to the callback that this runs in.
    pub(crate) unsafe fn new(
        api: Api,
        info: *const OrtKernelInfo,
        function: Function,
        declared: Element,
    ) -> Result<Self, OpError> {
        // SAFETY: the caller's promise holds for all calls.
        unsafe {
            let gpu = Gpu::of(api.device(info)?)?;
            Ok(match function {
                Function::Quantize(_) => Self::Quantize(quantize::Quantize::new(gpu)),
                Function::Gather(kind) => Self::Gather(table::Gather::new(api, info, kind, declared, gpu)?),
                Function::Linear(signature) if signature.trans_b => {
                    Self::Head(Box::new(table::Head::new(api, info, signature, declared, gpu)?))
                }
                Function::Linear(signature) => {
                    Self::Linear(Box::new(linear::Linear::new(api, info, signature, declared, gpu)?))
                }
            })
        }
    }

    pub(crate) fn run(&self, context: &Context) -> Result<(), OpError> {
        match self {
            Self::Quantize(quantize) => quantize.run(context),
            Self::Linear(linear) => linear.run(context),
            Self::Head(head) => head.run(context),
            Self::Gather(gather) => gather.run(context),
        }
    }
}

/// A device with what its nodes share, as long as there are any.
struct Gpu {
    workspace: Workspace,
    quantizer: RowQuantizer,
}

impl Gpu {
    /// The device of this number.
    fn of(ordinal: usize) -> Result<Arc<Self>, OpError> {
        static GPUS: LazyLock<Mutex<HashMap<usize, Weak<Gpu>>>> = LazyLock::new(Mutex::default);
        let mut gpus = GPUS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = gpus.get(&ordinal).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let device = Device::new(ordinal)?;
        let gpu =
            Arc::new(Self { workspace: Workspace::new(&device), quantizer: RowQuantizer::new(&device) });
        gpus.insert(ordinal, Arc::downgrade(&gpu));
        Ok(gpu)
    }

    fn device(&self) -> &Device {
        self.workspace.device()
    }
}

/// The stream of a run.
fn stream(context: &Context) -> Result<CUstream, OpError> {
    Ok(context.stream()?.cast())
}

/// Copies device memory to the host, and waits for it.
///
/// # Safety
/// The memory is that of a tensor of the run that `stream` is of, as long as `bytes`.
unsafe fn read(address: u64, bytes: &mut [u8], stream: CUstream) -> Result<(), OpError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: both have so many bytes, and the stream has copied them before they are used.
    let copied = unsafe {
        result::memcpy_dtoh_async(bytes, address, stream).and_then(|()| result::stream::synchronize(stream))
    };
    copied.map_err(refused)
}

/// Copies bytes of the host to device memory, and waits for it.
///
/// # Safety
/// As [`read`].
unsafe fn write(bytes: &[u8], address: u64, stream: CUstream) -> Result<(), OpError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: both have so many bytes, and the stream has copied them before they are let go.
    let copied = unsafe {
        result::memcpy_htod_async(address, bytes, stream).and_then(|()| result::stream::synchronize(stream))
    };
    copied.map_err(refused)
}

fn refused(source: zqc_cuda::cudarc::driver::DriverError) -> OpError {
    zqc_cuda::Error::Driver { action: "copying between the host and the device", source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_with_kernels() {
        let names: Vec<String> =
            Function::all().filter(|&function| runs(function)).map(Function::name).collect();
        let expected = [
            "QuantizeActivationE4M3",
            "W4A8Linear",
            "W4A8Linear_LowRank",
            "W4A8Linear_Octaves",
            "W4A8Linear_Octaves_LowRank",
            "W4A8Linear_Thirds",
            "W4A8Linear_Thirds_LowRank",
            "W4A8Linear_E3M0",
            "W4A8Linear_E3M0_LowRank",
            "W4A8Linear_E3M0_Octaves",
            "W4A8Linear_E3M0_Octaves_LowRank",
            "W8A8Linear",
            "W8A16Linear",
            "W8A8Linear_Int8",
            "W8A16Linear_Int8",
            "W8A8Linear_Int8_TransB",
            "W8A16Linear_Int8_TransB",
            "W8A8Linear_TransB",
            "W8A16Linear_TransB",
            "GatherInt8",
            "GatherE4M3",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn operands_that_are_packed_lie_on_the_host() {
        let on_host = |name: &str| -> Vec<usize> {
            let function = Signature::parse(name).map(Function::Linear).expect("a layer");
            (0..8).filter(|&input| is_on_host(function, input)).collect()
        };
        assert_eq!(on_host("W4A8Linear_Thirds_LowRank"), [2, 3, 4, 5, 6, 7]);
        assert_eq!(on_host("W8A16Linear_Int8")[..2], [1, 2]);
        assert_eq!(
            on_host("W8A16Linear_Int8_TransB"),
            [0; 0],
            "ONNX Runtime puts a table on the device itself"
        );
    }
}
