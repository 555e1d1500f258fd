//! The memory that passes quantized inputs from kernel to kernel.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use zqc_kernels::BLOCK;

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
    layout: Layout,
    held: Option<Held>,
}

/// What is kept of a token of an activation; of any activation of a model where both are the largest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenShape {
    /// Columns.
    pub k: usize,
    /// Stacked rank of the low-rank branches, padded.
    pub rank: usize,
}

impl TokenShape {
    /// Bytes of a token's codes.
    fn code_bytes(self) -> usize {
        self.k.next_multiple_of(BLOCK)
    }

    /// Bytes of a token's codes, inner values and scale.
    pub fn bytes(self) -> usize {
        self.code_bytes() + self.rank * INNER_VALUE_BYTES + size_of::<f32>()
    }
}

/// The input that a scratch holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub activation: usize,
    pub tokens: usize,
    pub token_scales: CUdeviceptr,
}

/// Device addresses of the parts of a quantized input.
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
        widest: TokenShape,
        capacity: usize,
    ) -> Result<Self, Error> {
        let layout = Layout::new(widest, capacity)?;
        let _current = device.make_current()?;
        let buffer = Arc::new(Buffer::new(device, layout.bytes)?);
        Ok(Self::within(model, layout, buffer))
    }

    /// A scratch in a buffer of at least [`Layout::bytes`].
    pub(crate) fn within(model: ModelId, layout: Layout, buffer: Arc<Buffer>) -> Self {
        Self { model, buffer, layout, held: None }
    }

    /// The most tokens that fit.
    pub fn capacity(&self) -> usize {
        self.layout.capacity
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
        self.layout.parts(self.buffer.address())
    }
}

/// Where the parts of a quantized input lie in memory, in bytes: the codes of all tokens, their inner values, their scales. As tokens
/// are padded and ranks are multiples of 16, the parts are aligned to 256 bytes without gaps between them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    capacity: usize,
    inner_offset: usize,
    scales_offset: usize,
    pub bytes: usize,
}

impl Layout {
    /// For `capacity` tokens.
    pub fn new(shape: TokenShape, capacity: usize) -> Result<Self, Error> {
        let too_large =
            || Error::Argument { what: "the number of tokens", actual: capacity as i64, reason: "too large" };
        if capacity > LARGEST_CAPACITY {
            return Err(too_large());
        }
        let padded = padded(capacity);
        let bytes = shape.bytes().checked_mul(padded).ok_or_else(too_large)?;
        let inner_offset = shape.code_bytes() * padded;
        let scales_offset = inner_offset + shape.rank * INNER_VALUE_BYTES * padded;
        Ok(Self { capacity, inner_offset, scales_offset, bytes })
    }

    /// The parts in memory at an address that is a multiple of [`zqc_kernels::ALIGNMENT`].
    pub fn parts(&self, address: CUdeviceptr) -> Parts {
        Parts {
            codes: address,
            token_scales: address + self.scales_offset as CUdeviceptr,
            inner: address + self.inner_offset as CUdeviceptr,
        }
    }
}

/// Bytes of an inner value.
pub(crate) const INNER_VALUE_BYTES: usize = 2;

/// The tokens that kernels work on: `m_pad`.
pub(crate) const fn padded(tokens: usize) -> usize {
    tokens.next_multiple_of(TOKEN_MULTIPLE)
}

#[cfg(test)]
mod tests {
    use zqc_kernels::ALIGNMENT;

    use super::*;

    #[test]
    fn parts_are_aligned_and_as_large_as_their_tokens() {
        for (k, rank) in [(4096, 48), (72, 0), (1, 16), (28672, 96)] {
            let shape = TokenShape { k, rank };
            for tokens in [0, 1, 8, 9, 1000] {
                let layout = Layout::new(shape, tokens).unwrap();
                assert_eq!(layout.bytes, tokens.next_multiple_of(8) * shape.bytes());
                let Parts { codes, inner, token_scales } = layout.parts(ALIGNMENT as CUdeviceptr);
                for part in [codes, inner, token_scales] {
                    assert!(
                        part.is_multiple_of(ALIGNMENT as CUdeviceptr),
                        "{k} columns, rank {rank}, {tokens} tokens"
                    );
                }
                let end = token_scales + (tokens.next_multiple_of(8) * 4) as CUdeviceptr;
                assert_eq!(end, (ALIGNMENT + layout.bytes) as CUdeviceptr);
            }
        }
        assert!(Layout::new(TokenShape { k: 128, rank: 0 }, LARGEST_CAPACITY + 1).is_err());
        assert!(Layout::new(TokenShape { k: usize::MAX / 2, rank: 0 }, 8).is_err());
    }
}
