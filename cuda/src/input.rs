//! What is quantized.

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaStream, DevicePtr};

use crate::element::Element;
use crate::error::Error;
use crate::variant::{DataType, Prologue};

/// Rows on the device, with what is computed from them before they are quantized.
#[derive(Clone, Copy)]
pub struct Input<'a, T> {
    prologue: Prologue,
    x: &'a dyn DevicePtr<T>,
    second: Option<&'a dyn DevicePtr<T>>,
    strides: Option<(usize, usize)>,
    epsilon: f32,
}

/// An input in device memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawInput {
    pub prologue: Prologue,
    /// `None` where the input is codes already.
    pub data_type: Option<DataType>,
    pub x: CUdeviceptr,
    /// Elements from one token to the next.
    pub x_stride: usize,
    /// The weight of the norm, or the factor of the activated gate; 0 without.
    pub second: CUdeviceptr,
    pub second_stride: usize,
    pub epsilon: f32,
}

impl<'a, T: Element> Input<'a, T> {
    /// `x`, which is `[tokens][k]`.
    pub fn plain(x: &'a dyn DevicePtr<T>) -> Self {
        Self { prologue: Prologue::None, x, second: None, strides: None, epsilon: 0.0 }
    }

    /// The RMS norm of `x`, which is `[tokens][k]`, times `gamma`, which is `[k]`.
    pub fn rms_norm(x: &'a dyn DevicePtr<T>, gamma: &'a dyn DevicePtr<T>, epsilon: f32) -> Self {
        Self { prologue: Prologue::RmsNorm, x, second: Some(gamma), strides: None, epsilon }
    }

    /// `silu(gate) * up`, both `[tokens][k]`.
    pub fn silu_mul(gate: &'a dyn DevicePtr<T>, up: &'a dyn DevicePtr<T>) -> Self {
        Self { prologue: Prologue::SiluMul, x: gate, second: Some(up), strides: None, epsilon: 0.0 }
    }

    /// The same with rows that lie `x` and `second` elements apart: halves of a common output, say. `second` is of no
    /// concern to a norm.
    #[must_use]
    pub fn strided(mut self, x: usize, second: usize) -> Self {
        self.strides = Some((x, second));
        self
    }

    /// Checks the lengths for `tokens` rows of `k` columns.
    pub(crate) fn check(&self, k: usize, tokens: usize) -> Result<(), Error> {
        let (x, up) = match self.prologue {
            Prologue::SiluMul => ("gate", "up"),
            Prologue::None | Prologue::RmsNorm => ("x", "gamma"),
        };
        let rows = |what, slice: &dyn DevicePtr<T>, stride: Option<usize>| {
            let Some(stride) = stride else { return expect(what, slice.len(), tokens.saturating_mul(k)) };
            check_stride("a stride", stride, k)?;
            let least = tokens.saturating_sub(1).saturating_mul(stride).saturating_add(k);
            if tokens == 0 || slice.len() >= least { Ok(()) } else { expect(what, slice.len(), least) }
        };
        rows(x, self.x, self.strides.map(|(stride, _)| stride))?;
        match (self.prologue, self.second) {
            (Prologue::RmsNorm, Some(gamma)) => expect(up, gamma.len(), k),
            (_, Some(second)) => rows(up, second, self.strides.map(|(_, stride)| stride)),
            (_, None) => Ok(()),
        }
    }

    /// Calls `launch` with the addresses; the slices count as in use by what it puts on the stream.
    pub(crate) fn with_addresses(
        &self,
        stream: &CudaStream,
        k: usize,
        launch: impl FnOnce(RawInput) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (x, _x_in_use) = self.x.device_ptr(stream);
        let second = self.second.map(|second| second.device_ptr(stream));
        let (x_stride, second_stride) = self.strides.unwrap_or((k, k));
        launch(RawInput {
            prologue: self.prologue,
            data_type: Some(T::TYPE),
            x,
            x_stride,
            second: second.as_ref().map_or(0, |(address, _)| *address),
            second_stride,
            epsilon: self.epsilon,
        })
    }
}

/// Checks that rows of `columns` do not overlap and that kernels can step from one to the next.
pub(crate) fn check_stride(what: &'static str, stride: usize, columns: usize) -> Result<(), Error> {
    let actual = i64::try_from(stride).unwrap_or(i64::MAX);
    if stride < columns {
        return Err(Error::Argument { what, actual, reason: "rows would overlap" });
    }
    if stride > i64::MAX as usize / (1 << 32) {
        return Err(Error::Argument { what, actual, reason: "too large" });
    }
    Ok(())
}

fn expect(what: &'static str, actual: usize, expected: usize) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::Length { what, expected, actual }) }
}
