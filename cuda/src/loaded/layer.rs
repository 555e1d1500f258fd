//! The linear layers of a loaded model.

use std::sync::Arc;

use cudarc::driver::sys::{CUdeviceptr, CUstream, CUtensorMap};
use zqc_kernels::{Array, BLOCK, Geometry, PackedLayer};

use super::kernels::KernelTable;
use crate::device::Device;
use crate::dispatch::Plan;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::launch::{argument, launch};
use crate::scratch::{Held, INNER_VALUE_BYTES, Parts, padded};
use crate::tensor_map::tensor_map;
use crate::variant::{Accumulation, DataType, LinearKernel, LinearShape, LinearVariant, Specialization};

/// An output in device memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawOutput {
    pub y: CUdeviceptr,
    /// Elements from one token to the next.
    pub stride: usize,
    pub data_type: DataType,
}

/// A linear layer.
#[derive(Debug)]
pub(crate) struct LoadedLayer {
    pub name: String,
    pub geometry: Geometry,
    pub activation: usize,
    pub plan: Plan<LinearVariant>,
    accumulation: Accumulation,
    table: [u64; 16],
    rank_offset: usize,
    weights: CUdeviceptr,
    row_scales: CUdeviceptr,
    /// 0 without a bias.
    bias: CUdeviceptr,
    kernels: KernelTable<{ DataType::ALL.len() }>,
}

impl LoadedLayer {
    /// A layer of a package; `address` gives the place of an array on the device.
    pub fn new(
        packed: &PackedLayer<'_>,
        plan: Plan<LinearVariant>,
        accumulation: Accumulation,
        address: impl Fn(Array) -> CUdeviceptr,
    ) -> Self {
        let layer = packed.manifest;
        Self {
            name: layer.name.clone(),
            geometry: packed.geometry,
            accumulation,
            table: layer.table.words(),
            activation: layer.activation,
            rank_offset: layer.rank_offset,
            weights: address(layer.weights),
            row_scales: address(layer.row_scales),
            bias: layer.bias.map_or(0, address),
            kernels: KernelTable::new(plan.len()),
            plan,
        }
    }

    pub fn specialization(&self, tokens: usize, output: DataType) -> Specialization {
        Specialization::linear(&self.shape(output), self.plan.variant(self.plan.index(tokens)))
    }

    /// The kernel for `tokens` tokens.
    pub fn kernel(&self, device: &Device, tokens: usize, output: DataType) -> Result<&Arc<Kernel>, Error> {
        self.kernels
            .get(device, self.plan.index(tokens), output as usize, || self.specialization(tokens, output))
    }

    /// Launches the layer on the input that a scratch holds; without a `variant`, that of the plan. No tokens are no work.
    ///
    /// # Safety
    /// `parts` and `held` are those of one scratch of the model, which holds the layer's input; the output's address is valid
    /// for the rows that it describes; all of it until the kernel has run. The stream is of the device.
    pub unsafe fn launch(
        &self,
        device: &Device,
        variant: Option<LinearVariant>,
        held: Held,
        parts: Parts,
        output: RawOutput,
        stream: CUstream,
    ) -> Result<(), Error> {
        let Held { tokens, token_scales, .. } = held;
        if tokens == 0 {
            return Ok(());
        }
        let kernel = match variant {
            None => self.kernel(device, tokens, output.data_type)?,
            Some(variant) if !variant.covers(tokens) => {
                let reason = format!("{} of {} tokens for {tokens}", variant.kernel, variant.tokens);
                return Err(Error::Variant { reason });
            }
            Some(variant) if !variant.fits(self.geometry.k().div_ceil(BLOCK), self.accumulation) => {
                let LinearVariant { kernel, tokens, .. } = variant;
                let reason = format!("{kernel} of {tokens} tokens for {} columns", self.geometry.k());
                return Err(Error::Variant { reason });
            }
            Some(variant) => {
                &device.kernel(Specialization::linear(&self.shape(output.data_type), variant))?
            }
        };
        let inner = parts.inner + (self.rank_offset * padded(tokens) * INNER_VALUE_BYTES) as CUdeviceptr;
        let stride = output.stride as i64;
        let (m, m_pad) = (tokens as i32, padded(tokens) as i32);
        let chunks = match variant.unwrap_or_else(|| self.plan.variant(self.plan.index(tokens))).kernel {
            LinearKernel::Decode => CUtensorMap { opaque: [0; 16] },
            LinearKernel::Prefill => tensor_map(&output, self.geometry.n(), tokens)?,
        };
        let mut arguments = [
            argument(&self.weights),
            argument(&self.row_scales),
            argument(&self.bias),
            argument(&parts.codes),
            argument(&token_scales),
            argument(&inner),
            argument(&output.y),
            argument(&stride),
            argument(&m),
            argument(&m_pad),
            // Of prefill; decode has one argument fewer, and the driver reads no more.
            argument(&chunks),
        ];
        let shape = kernel.shape();
        let tiles = self.geometry.n().div_ceil(shape.rows as usize) * tokens.div_ceil(shape.tokens as usize);
        let clusters = tiles.min(kernel.resident_clusters() as usize) as u32;
        // SAFETY: the arguments are those of zqc_linear, and the arrays lie in the model's weights; the rest is the caller's
        // promise.
        unsafe { launch(device, kernel, clusters, stream, &mut arguments) }
    }

    fn shape(&self, output: DataType) -> LinearShape {
        LinearShape {
            n: self.geometry.n(),
            k: self.geometry.k(),
            steps_per_block: self.geometry.steps_per_block(),
            rank: self.geometry.rank16(),
            table: self.table,
            output,
            accumulation: self.accumulation,
        }
    }
}
