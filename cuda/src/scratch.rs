//! The memory that passes quantized inputs from kernel to kernel.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use zqc_kernels::{ALIGNMENT, BLOCK};

use crate::buffer::Buffer;
use crate::device::Device;
use crate::error::Error;
use crate::model_id::ModelId;

/// Tokens are padded to a multiple of this.
const TOKEN_MULTIPLE: usize = 8;

/// Kernels index tokens by 32-bit integers.
pub(crate) const LARGEST_CAPACITY: usize = i32::MAX as usize - TOKEN_MULTIPLE;

/// Room for one quantized input of any layer of a model: codes, token scales and the inner values of the low-rank
/// branches. It is allocated once and never grows.
///
/// Only one stream should use a scratch at a time: what a layer is applied to is whatever was quantized last. A
/// captured graph holds its address and must not be replayed once it is dropped.
#[derive(Debug)]
pub struct Scratch {
    model: ModelId,
    buffer: Arc<Buffer>,
    capacity: usize,
    scales_offset: usize,
    inner_offset: usize,
    held: Option<Held>,
}

/// The largest dimensions among the activations of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Widest {
    /// Columns.
    pub k: usize,
    /// Stacked rank of the low-rank branches, padded.
    pub rank: usize,
}

/// The input that a scratch holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub activation: usize,
    pub tokens: usize,
    pub token_scales: CUdeviceptr,
}

/// Device addresses of the parts of a scratch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub codes: CUdeviceptr,
    pub token_scales: CUdeviceptr,
    pub inner: CUdeviceptr,
}

impl Scratch {
    pub(crate) fn new(
        model: ModelId,
        device: &Device,
        widest: Widest,
        capacity: usize,
    ) -> Result<Self, Error> {
        let layout = Layout::new(widest, capacity)?;
        let _current = device.make_current()?;
        let buffer = Arc::new(Buffer::new(device, layout.bytes)?);
        Ok(Self::within(model, layout, buffer))
    }

    /// A scratch in a buffer of at least [`Layout::bytes`].
    pub(crate) fn within(model: ModelId, layout: Layout, buffer: Arc<Buffer>) -> Self {
        let Layout { capacity, scales_offset, inner_offset, .. } = layout;
        Self { model, buffer, capacity, scales_offset, inner_offset, held: None }
    }

    /// The most tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn model(&self) -> ModelId {
        self.model
    }

    pub(crate) fn held(&self) -> Option<Held> {
        self.held
    }

    pub(crate) fn hold(&mut self, held: Option<Held>) {
        self.held = held;
    }

    /// Makes the layers read the token scales at `address`, for tokens that came as codes.
    pub(crate) fn read_scales_at(&mut self, address: CUdeviceptr) {
        if let Some(held) = &mut self.held {
            held.token_scales = address;
        }
    }

    pub(crate) fn parts(&self) -> Parts {
        let address = self.buffer.address();
        Parts {
            codes: address,
            token_scales: address + self.scales_offset as CUdeviceptr,
            inner: address + self.inner_offset as CUdeviceptr,
        }
    }
}

/// Sizes and offsets of the parts of a scratch, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    capacity: usize,
    scales_offset: usize,
    inner_offset: usize,
    pub bytes: usize,
}

impl Layout {
    /// For `capacity` tokens of any layer of a model.
    pub fn new(widest: Widest, capacity: usize) -> Result<Self, Error> {
        let too_large =
            Error::Argument { what: "the scratch's capacity", actual: capacity as i64, reason: "too large" };
        if capacity > LARGEST_CAPACITY {
            return Err(too_large);
        }
        let padded = padded(capacity);
        let part = |bytes: Option<usize>| bytes?.checked_next_multiple_of(ALIGNMENT);
        let layout = || {
            let codes = part(widest.k.next_multiple_of(BLOCK).checked_mul(padded))?;
            let scales = part(padded.checked_mul(size_of::<f32>()))?;
            let inner = part(widest.rank.checked_mul(INNER_BYTES)?.checked_mul(padded))?;
            let inner_offset = codes.checked_add(scales)?;
            let bytes = inner_offset.checked_add(inner)?;
            Some(Self { capacity, scales_offset: codes, inner_offset, bytes })
        };
        layout().ok_or(too_large)
    }
}

/// Bytes of an inner value.
pub(crate) const INNER_BYTES: usize = 2;

/// The tokens that kernels work on: `m_pad`.
pub(crate) const fn padded(tokens: usize) -> usize {
    tokens.next_multiple_of(TOKEN_MULTIPLE)
}
