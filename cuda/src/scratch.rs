//! Where quantized inputs lie between the kernels.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use cudarc::driver::sys::{CUdeviceptr, CUstream};
use zqc_kernels::{ALIGNMENT, BLOCK};

use crate::device::Buffer;
use crate::error::Error;
use crate::loaded::{Loaded, ModelId};

/// Tokens are padded to a multiple of this.
const TOKEN_MULTIPLE: usize = 8;

/// Kernels index tokens by 32-bit integers.
const LARGEST_CAPACITY: usize = i32::MAX as usize - TOKEN_MULTIPLE;

/// Room for one quantized input of any layer of a model: codes, token scales and the inner values of the low-rank
/// branches. It is allocated once and never grows.
///
/// Only one stream should use a scratch at a time: what a layer is applied to is whatever was quantized last. A
/// captured graph holds its address and must not be replayed once it is dropped.
#[derive(Debug)]
pub struct Scratch {
    model: ModelId,
    buffer: Buffer,
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
        let too_large =
            Error::Argument { what: "the scratch's capacity", actual: capacity as i64, reason: "too large" };
        if capacity > LARGEST_CAPACITY {
            return Err(too_large);
        }
        let padded = padded(capacity);
        let part = |bytes: Option<usize>| bytes?.checked_next_multiple_of(ALIGNMENT);
        let sizes = || {
            let codes = part(model.largest_k().next_multiple_of(BLOCK).checked_mul(padded))?;
            let scales = part(padded.checked_mul(size_of::<f32>()))?;
            let inner = part(model.largest_rank().checked_mul(INNER_BYTES)?.checked_mul(padded))?;
            Some((codes, codes.checked_add(scales)?, codes.checked_add(scales)?.checked_add(inner)?))
        };
        let Some((scales_offset, inner_offset, bytes)) = sizes() else { return Err(too_large) };
        let _current = model.device.make_current()?;
        let buffer = Buffer::new(&model.device, bytes)?;
        Ok(Self { model: model.id, buffer, capacity, scales_offset, inner_offset, held: None })
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

    pub(crate) fn parts(&self) -> Parts {
        let address = self.buffer.address();
        Parts {
            codes: address,
            token_scales: address + self.scales_offset as CUdeviceptr,
            inner: address + self.inner_offset as CUdeviceptr,
        }
    }
}

/// Bytes of an inner value.
pub(crate) const INNER_BYTES: usize = 2;

/// The tokens that kernels work on: `m_pad`.
pub(crate) const fn padded(tokens: usize) -> usize {
    tokens.next_multiple_of(TOKEN_MULTIPLE)
}

/// Scratches of a model by the stream that uses them, for calls that are given none.
///
/// One that has become too small is kept: a captured graph may hold its address.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<HashMap<StreamKey, Vec<Scratch>>>);

/// A stream, and the thread where the handle means another stream on each.
type StreamKey = (usize, Option<ThreadId>);

/// The handle of the default stream that every thread has for itself.
const PER_THREAD_STREAM: usize = 2;

impl Pool {
    const SMALLEST: usize = 64;

    /// Calls `work` with a scratch that holds `tokens` and that no other stream uses.
    pub fn with<T>(
        &self,
        model: &Loaded,
        stream: CUstream,
        tokens: usize,
        work: impl FnOnce(&mut Scratch) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let handle = stream.cast::<c_void>() as usize;
        let key = (handle, (handle == PER_THREAD_STREAM).then(|| thread::current().id()));
        let mut scratches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_stream = scratches.entry(key).or_default();
        if let Some(scratch) = of_stream.last_mut().filter(|scratch| scratch.capacity >= tokens) {
            return work(scratch);
        }
        let capacity = tokens.max(Self::SMALLEST).checked_next_power_of_two().unwrap_or(tokens);
        let mut scratch = Scratch::new(model, capacity.min(LARGEST_CAPACITY).max(tokens))?;
        let result = work(&mut scratch);
        of_stream.push(scratch);
        result
    }
}
