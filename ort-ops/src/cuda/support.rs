//! Which functions have kernels for CUDA, and whether they can run.

use std::ffi::CStr;

use zqc_cuda::Device;
use zqc_formats::{ActivationFormat, Extra, FactorFormat, Format, Signature, WeightKind};

use crate::api::Api;
use crate::error::OpError;
use crate::function::Function;

/// What ONNX Runtime calls the provider.
pub(crate) const PROVIDER: &CStr = c"CUDAExecutionProvider";

/// Whether the operators can be offered: ONNX Runtime has the provider, and this machine what the kernels need. Where it has devices
/// that the kernels cannot be loaded for, standard error says why.
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
            Format::E2M1 | Format::E3M0 | Format::Lut4 => {
                activation == E4M3
                    && matches!(extra, None | Some(Extra::Shifts(_)))
                    && matches!(low_rank, None | Some(FactorFormat::E4M3))
            }
            Format::Int8 | Format::E4M3 => {
                matches!(activation, None | E4M3) && extra.is_none() && low_rank.is_none()
            }
            _ => false,
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
            "W4A8Linear_M2",
            "W4A8Linear_M2_LowRank",
            "W4A8Linear_M3",
            "W4A8Linear_M3_LowRank",
            "W4A8Linear_E3M0",
            "W4A8Linear_E3M0_LowRank",
            "W4A8Linear_E3M0_M2",
            "W4A8Linear_E3M0_M2_LowRank",
            "W8A8Linear",
            "W8A16Linear",
            "W8A8Linear_Int8",
            "W8A16Linear_Int8",
            "W4A8Linear_Lut4",
            "W4A8Linear_Lut4_LowRank",
            "W4A8Linear_Lut4_M8",
            "W4A8Linear_Lut4_M8_LowRank",
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
        assert_eq!(on_host("W4A8Linear_M3_LowRank"), [2, 3, 4, 5, 6, 7]);
        assert_eq!(on_host("W8A16Linear_Int8")[..2], [1, 2]);
        assert_eq!(
            on_host("W8A16Linear_Int8_TransB"),
            [0; 0],
            "ONNX Runtime puts a table on the device itself"
        );
    }
}
