//! Where quantized inputs lie between the kernels.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use zqc_kernels::{ALIGNMENT, BLOCK};

use crate::device::Buffer;
use crate::error::Error;
use crate::loaded::{Loaded, ModelId};

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
    pub(crate) fn new(model: &Loaded, capacity: usize) -> Result<Self, Error> {
        let layout = Layout::new(model, capacity)?;
        let _current = model.device.make_current()?;
        let buffer = Arc::new(Buffer::new(&model.device, layout.bytes)?);
        Ok(Self::within(model, layout, buffer))
    }

    /// One in memory that is there already, of [`Layout::bytes`] at least.
    pub(crate) fn within(model: &Loaded, layout: Layout, buffer: Arc<Buffer>) -> Self {
        let Layout { capacity, scales_offset, inner_offset, .. } = layout;
        Self { model: model.id, buffer, capacity, scales_offset, inner_offset, held: None }
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

    /// Has the layers read the scales of the tokens elsewhere, where these came as codes.
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

/// Where the parts of a scratch lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    capacity: usize,
    scales_offset: usize,
    inner_offset: usize,
    pub bytes: usize,
}

impl Layout {
    /// For `capacity` tokens of any layer of the model.
    pub fn new(model: &Loaded, capacity: usize) -> Result<Self, Error> {
        let too_large =
            Error::Argument { what: "the scratch's capacity", actual: capacity as i64, reason: "too large" };
        if capacity > LARGEST_CAPACITY {
            return Err(too_large);
        }
        let padded = padded(capacity);
        let part = |bytes: Option<usize>| bytes?.checked_next_multiple_of(ALIGNMENT);
        let layout = || {
            let codes = part(model.largest_k().next_multiple_of(BLOCK).checked_mul(padded))?;
            let scales = part(padded.checked_mul(size_of::<f32>()))?;
            let inner = part(model.largest_rank().checked_mul(INNER_BYTES)?.checked_mul(padded))?;
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
