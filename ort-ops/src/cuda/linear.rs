//! The operators that compute a linear layer.

use std::sync::Arc;

use half::{bf16, f16};
use ort_sys::OrtKernelInfo;
use zqc_cuda::{
    Accumulation, CodedTokens, DataType, LayerParts, LoadedTable, Model, Package, TableInput, TableLinear,
};
use zqc_formats::{
    Factors, LowRank, QuantizedMatrix, Scales, Signature, transpose, transpose_nibbles, unpack_nibbles,
};
use zqc_linear::{Extra, Layer, Output};

use crate::api::Api;
use crate::context::Context;
use crate::cuda::gpu::{Gpu, read, stream, write};
use crate::cuda::{element, table};
use crate::element::Element;
use crate::error::OpError;
use crate::pool::SessionPool;
use crate::shared::{Key, Shared};
use crate::tensor::{Tensor, View};
use crate::{linear, pages};

/// The layers on devices of all sessions.
static LAYERS: Shared<OnDevice> = Shared::new();

/// A layer on a device.
enum OnDevice {
    /// Of 4-bit weights.
    Packed(zqc_cuda::Linear),
    /// Of 8-bit weights.
    Bytes(LoadedTable, Box<TableLinear>),
}

/// A node that computes a linear layer.
pub(crate) struct Linear {
    gpu: Arc<Gpu>,
    /// The node as the CPU has it, with its weight where the device has not.
    host: linear::Linear,
    output: DataType,
    /// The layer on the device; `None` where no kernel takes it, or its weight comes with every run.
    layer: Option<Arc<OnDevice>>,
}

impl Linear {
    /// A layer that kernels do not take runs on the CPU, with copies there and back.
    ///
    /// # Safety
    /// `info` is what ONNX Runtime hands to the callback that this runs in.
    pub(super) unsafe fn new(
        api: Api,
        info: *const OrtKernelInfo,
        signature: Signature,
        declared: Element,
        gpu: Arc<Gpu>,
    ) -> Result<Self, OpError> {
        // SAFETY: the caller's promise.
        let mut host = unsafe { linear::Linear::unpacked(api, info, signature, declared) }?;
        let output = element::data_type(host.output)?;
        // SAFETY: the caller's promise.
        let Some(operands) = unsafe { host.constants(api, info) }? else {
            return Ok(Self { gpu, host, output, layer: None });
        };
        let layer = host.layer(&operands)?;
        layer.check()?;
        let key = Key::of(signature, &layer, (gpu.device().context().ordinal(), output));
        let refused = match LAYERS.get(key, || OnDevice::load(&gpu, signature, &layer, output)) {
            Ok(loaded) => {
                operands.iter().for_each(|operand| pages::release(operand.bytes));
                return Ok(Self { gpu, host, output, layer: Some(loaded) });
            }
            Err(zqc_cuda::Error::Layer(refused)) => refused.source.to_string(),
            Err(refused @ zqc_cuda::Error::Argument { .. }) => refused.to_string(),
            Err(error) => return Err(error.into()),
        };
        // SAFETY: the caller's promise.
        unsafe {
            let name = api.node_name(info)?;
            api.warn(
                info,
                &format!("node \"{name}\" runs on the CPU, with copies there and back: {refused}"),
            )?;
        }
        host.pack(&operands)?;
        Ok(Self { gpu, host, output, layer: None })
    }

    pub(super) fn run(&self, context: &Context) -> Result<(), OpError> {
        let Some(layer) = &self.layer else { return self.run_on_host(context) };
        let x = context.view(0, self.host.signature.activation_inputs()[0])?;
        let [n, k] = layer.shape();
        let sizes = linear::Linear::sizes(&x.dims, [n, k]);
        let (tokens, dims) = sizes.ok_or_else(|| x.unexpected(format!("[..., {k}]")))?;
        let input = table::activation(context, self.host.signature, tokens)?;
        let y = context.output_address(0, self.host.output, &dims)? as u64;
        let stream = stream(context)?;
        // SAFETY: ONNX Runtime has given tensors of these dimensions and types on the device, and the stream that orders their use.
        unsafe {
            match (&**layer, input) {
                (OnDevice::Packed(layer), TableInput::Codes { codes, scales }) => {
                    let x = CodedTokens { codes, scales, tokens };
                    layer.forward_codes(x, y, self.output, &self.gpu.workspace, stream)?;
                }
                (OnDevice::Packed(_), TableInput::Floats(..)) => {
                    return Err(x.unexpected("codes".to_string()));
                }
                (OnDevice::Bytes(weight, kernel), input) => {
                    kernel.forward(input, tokens, weight.table(), y, stream)?;
                }
            }
        }
        Ok(())
    }

    /// The same on the CPU, which a captured graph cannot hold.
    fn run_on_host(&self, context: &Context) -> Result<(), OpError> {
        let linear::Weight { packed, k, n } = self.host.weight(context)?;
        let stream = stream(context)?;
        let inputs = self.host.signature.activation_inputs().iter().enumerate();
        let views: Vec<View> = inputs.map(|(at, name)| context.view(at, name)).collect::<Result<_, _>>()?;
        let mut copies = Vec::new();
        for view in &views {
            let bytes = view.dims.iter().product::<usize>() * view.element.size();
            // As words, so that elements of every type are aligned.
            let mut copy = vec![0u64; bytes.div_ceil(size_of::<u64>())];
            let to = &mut bytemuck::cast_slice_mut(&mut copy)[..bytes];
            // SAFETY: the address is that of an input of the run, of this size.
            unsafe { read(view.address as u64, to, stream) }?;
            copies.push((copy, bytes));
        }
        let tensors: Vec<Tensor> = views
            .iter()
            .zip(&copies)
            .map(|(view, (copy, bytes))| view.with_bytes(&bytemuck::cast_slice(copy)[..*bytes]))
            .collect();
        let sizes = linear::Linear::sizes(&views[0].dims, [n, k]);
        let (tokens, dims) = sizes.ok_or_else(|| views[0].unexpected(format!("[..., {k}]")))?;
        let y = context.output_address(0, self.host.output, &dims)? as u64;
        let mut narrowed = Vec::new();
        let (x, length, pool) =
            (self.host.tokens(&tensors, &mut narrowed)?, tokens * n, SessionPool::new(context));
        let bytes = match self.output {
            DataType::F32 => computed(length, |y| packed.forward(x, Output::F32(y), &pool))?,
            DataType::F16 => computed::<f16>(length, |y| packed.forward(x, Output::F16(y), &pool))?,
            DataType::Bf16 => computed::<bf16>(length, |y| packed.forward(x, Output::Bf16(y), &pool))?,
        };
        pool.end()?;
        // SAFETY: the address is that of the output, of this size.
        unsafe { write(&bytes, y, stream) }
    }
}

impl OnDevice {
    /// Packs a layer for the device, and puts it there.
    fn load(
        gpu: &Gpu,
        signature: Signature,
        layer: &Layer<'_>,
        output: DataType,
    ) -> Result<Self, zqc_cuda::Error> {
        let &Layer { k, n, group_size, format, .. } = layer;
        if format.bits() == 4 {
            let package = Package::pack(&[parts(layer)])?;
            return Ok(Self::Packed(Model::load(gpu.device(), &package, Accumulation::Fast)?.linear(NAME)?));
        }
        TableLinear::check_groups(group_size, k)?;
        let (codes, scales) = (transpose(layer.codes, k, n), transpose(layer.scales, layer.groups(), n));
        let kernel = TableLinear::new(gpu.device(), table::codes(signature.weight), group_size, output);
        Ok(Self::Bytes(LoadedTable::new(gpu.device(), &codes, &scales, [n, k])?, Box::new(kernel)))
    }

    /// `N` and `K`.
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Packed(layer) => [layer.n(), layer.k()],
            Self::Bytes(weight, _) => [weight.table().rows, weight.table().k],
        }
    }
}

/// The bytes of what `compute` writes.
fn computed<T: bytemuck::Pod>(
    length: usize,
    compute: impl FnOnce(&mut [T]) -> Result<(), zqc_linear::ShapeError>,
) -> Result<Vec<u8>, OpError> {
    let mut y = vec![T::zeroed(); length];
    compute(&mut y)?;
    Ok(bytemuck::cast_slice(&y).to_vec())
}

/// What its package calls a layer, which has no other.
const NAME: &str = "layer";

/// A layer of 4-bit weights, which lies input by input as its file has it, output by output.
fn parts(layer: &Layer<'_>) -> LayerParts {
    let &Layer { k, n, group_size, format, .. } = layer;
    let groups = layer.groups();
    let by_output = |nibbles: &[u8], rows: usize| -> Vec<u8> {
        let transposed = transpose_nibbles(nibbles, rows, n);
        transposed.chunks(rows.div_ceil(2)).flat_map(|row| unpack_nibbles(row, rows)).collect()
    };
    let scales = match layer.extra {
        Extra::Shifts(ladder, shifts) => {
            Scales::Shifted { ladder, rows: layer.scales.to_vec(), shifts: by_output(shifts, groups) }
        }
        Extra::None | Extra::ZeroPoints(_) => Scales::Grouped(transpose(layer.scales, groups, n)),
    };
    let low_rank = layer.low_rank.map(|branch| {
        let (rank, scales) = (branch.rank, branch.scales.to_vec());
        let (up, down) = (transpose(branch.up, rank, n), transpose(branch.down, k, rank));
        LowRank { rank, rows: n, cols: k, factors: Factors::E4M3 { up, down }, scales }
    });
    let codes = by_output(layer.codes, k);
    let matrix = QuantizedMatrix { format, rows: n, cols: k, group_size, codes, scales, zero_points: None };
    LayerParts { name: NAME.to_string(), matrix, low_rank, bias: None }
}
