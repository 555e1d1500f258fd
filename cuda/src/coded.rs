//! Layers whose tokens come as codes, row by row, from [`RowQuantizer`](crate::RowQuantizer) or elsewhere.

use std::sync::Arc;

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use crate::buffer::Buffer;
use crate::device::Device;
use crate::error::Error;
use crate::input::RawInput;
use crate::loaded::{ForwardCall, RawOutput};
use crate::model::Linear;
use crate::pool::Pool;
use crate::scratch::{Layout, Scratch};
use crate::variant::{DataType, Prologue};

/// Scratch memory for the tokens of any layers on a device, one buffer for each stream. It grows with the largest call.
#[derive(Debug)]
pub struct Workspace {
    device: Device,
    pool: Pool<Arc<Buffer>>,
}

impl Workspace {
    /// An empty workspace.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), pool: Pool::default() }
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// Tokens in device memory: E4M3 codes `[tokens][k]` and a scale in f32 for each, `[tokens]`.
#[derive(Debug, Clone, Copy)]
pub struct CodedTokens {
    /// Address of the codes.
    pub codes: CUdeviceptr,
    /// Address of the scales.
    pub scales: CUdeviceptr,
    /// How many there are.
    pub tokens: usize,
}

impl Linear {
    /// `y = x W^T + bias`, put on the stream. `y` is the address of `[tokens][n]` elements of the type `output`.
    ///
    /// # Errors
    /// When a kernel does not compile or load, the workspace is of another device, memory is short, or the driver refuses.
    ///
    /// # Safety
    /// The addresses are of device memory, as long as is said and valid until the stream has done what is put on it here; the
    /// stream is of the model's device.
    pub unsafe fn forward_codes(
        &self,
        x: CodedTokens,
        y: CUdeviceptr,
        output: DataType,
        workspace: &Workspace,
        stream: CUstream,
    ) -> Result<(), Error> {
        let CodedTokens { codes, scales, tokens } = x;
        let (model, index, k) = (&self.model, self.index, self.k());
        if workspace.device.context().cu_ctx() != model.device.context().cu_ctx() {
            return Err(Error::OtherDevice);
        }
        let call = ForwardCall { layer: index, tokens, input: None, prologue: Prologue::None, output };
        model.load_kernels(&call)?;
        let layout = Layout::new(model.widest, tokens)?;
        let allocate = |bytes| {
            let _current = workspace.device.make_current()?;
            Buffer::new(&workspace.device, bytes).map(Arc::new)
        };
        workspace.pool.with(stream, layout.bytes, allocate, |buffer| {
            let mut scratch = Scratch::within(model.id, layout, buffer.clone());
            let input = RawInput {
                prologue: Prologue::None,
                data_type: None,
                x: codes,
                x_stride: k,
                second: 0,
                second_stride: k,
                epsilon: 0.0,
            };
            let output = RawOutput { y, stride: self.n(), data_type: output };
            // SAFETY: the caller's promise.
            unsafe {
                model.quantize(self.activation().index(), input, tokens, &mut scratch, stream)?;
                scratch.read_scales_at(scales);
                model.apply(index, None, &scratch, output, stream)
            }
        })
    }
}
