//! The operators that read a quantized table where ONNX Runtime has put it on the device: look-ups, and a head that is tied to it.

use std::sync::Arc;

use ort_sys::OrtKernelInfo;
use zqc_cuda::{IndexType, Table, TableCodes, TableGather, TableInput, TableLinear};
use zqc_formats::{Format, GROUP_SIZE, OUTPUT_TYPE, Signature, WeightKind};

use crate::api::Api;
use crate::context::Context;
use crate::cuda::element;
use crate::cuda::gpu::{Gpu, stream};
use crate::element::Element;
use crate::error::OpError;
use crate::linear::Linear;
use crate::output_type::output_element;

/// A node that looks rows up. As in ONNX Runtime's own `Gather` for CUDA, a row that the table does not have is zeros.
pub(crate) struct Gather {
    kind: WeightKind,
    output: Element,
    kernel: TableGather,
}

impl Gather {
    /// # Safety
    /// `info` is what ONNX Runtime hands to the callback that this runs in.
    pub(super) unsafe fn new(
        api: Api,
        info: *const OrtKernelInfo,
        kind: WeightKind,
        declared: Element,
        gpu: Arc<Gpu>,
    ) -> Result<Self, OpError> {
        // SAFETY: the caller's promise.
        let output = output_element(unsafe { api.attribute(info, OUTPUT_TYPE) }?, declared)?;
        let kernel = TableGather::new(gpu.device(), codes(kind), element::data_type(output)?);
        Ok(Self { kind, output, kernel })
    }

    pub(super) fn run(&self, context: &Context) -> Result<(), OpError> {
        let indices = context.view(0, "Indices")?;
        let table = table(context, self.kind, 1)?;
        let index = match indices.element {
            Element::I32 => IndexType::I32,
            Element::I64 => IndexType::I64,
            _ => return Err(indices.unexpected("int32 or int64".to_string())),
        };
        let dims: Vec<usize> = indices.dims.iter().copied().chain([table.k]).collect();
        let y = context.output_address(0, self.output, &dims)? as u64;
        let number = if table.k == 0 { 0 } else { indices.dims.iter().product() };
        let from = (indices.address as u64, index);
        // SAFETY: ONNX Runtime has given tensors of these dimensions and types on the device, and the stream that orders their use.
        unsafe { self.kernel.gather(from, number, table, y, stream(context)?) }?;
        Ok(())
    }
}

/// A node that computes a linear layer whose weight is a table.
pub(crate) struct Head {
    signature: Signature,
    group_size: i64,
    output: Element,
    kernel: TableLinear,
}

impl Head {
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
        let (group_size, output) =
            unsafe { (api.attribute(info, GROUP_SIZE)?, api.attribute(info, OUTPUT_TYPE)?) };
        let output = output_element(output, declared)?;
        // A table has a scale for every row.
        let kernel =
            TableLinear::new(gpu.device(), codes(signature.weight), usize::MAX, element::data_type(output)?);
        Ok(Self { signature, group_size, output, kernel })
    }

    pub(super) fn run(&self, context: &Context) -> Result<(), OpError> {
        let inputs = self.signature.activation_inputs();
        let x = context.view(0, inputs[0])?;
        let table = table(context, self.signature.weight, inputs.len())?;
        let sizes = Linear::sizes(&x.dims, [table.rows, table.k]);
        let (tokens, dims) = sizes.ok_or_else(|| x.unexpected(format!("[..., {}]", table.k)))?;
        if usize::try_from(self.group_size).is_ok_and(|size| size < table.k) || self.group_size < 1 {
            return Err(OpError::Attribute { name: GROUP_SIZE, value: self.group_size });
        }
        let input = activation(context, self.signature, tokens)?;
        let y = context.output_address(0, self.output, &dims)? as u64;
        // SAFETY: ONNX Runtime has given tensors of these dimensions and types on the device, and the stream that orders their use.
        unsafe { self.kernel.forward(input, tokens, table, y, stream(context)?) }?;
        Ok(())
    }
}

/// The activation of a layer, of so many tokens.
pub(super) fn activation(
    context: &Context,
    signature: Signature,
    tokens: usize,
) -> Result<TableInput, OpError> {
    let inputs = signature.activation_inputs();
    let x = context.view(0, inputs[0])?;
    let &[_, scales] = inputs else {
        return Ok(TableInput::Floats(x.address as u64, element::data_type(x.element)?));
    };
    let scales = context.view(1, scales)?;
    if scales.dims.iter().product::<usize>() != tokens {
        return Err(scales.unexpected(format!("{tokens} scales")));
    }
    Ok(TableInput::Codes { codes: x.of(Element::E4M3)?, scales: scales.of(Element::F32)? })
}

/// The codes of a kind of table.
pub(super) fn codes(kind: WeightKind) -> TableCodes {
    match kind.format {
        Format::Int8 => TableCodes::Int8,
        _ => TableCodes::E4M3,
    }
}

/// The table that the inputs from `first` on are.
fn table(context: &Context, kind: WeightKind, first: usize) -> Result<Table, OpError> {
    let mut views = kind.operands().zip(first..).map(|(operand, at)| context.view(at, operand.name()));
    let (Some(codes), Some(scales)) = (views.next(), views.next()) else {
        return Err(OpError::Panic("a table of no codes and scales".to_string()));
    };
    let (codes, scales) = (codes?, scales?);
    let &[rows, k] = &codes.dims[..] else {
        return Err(codes.unexpected("a matrix".to_string()));
    };
    if scales.dims != [rows, 1] {
        return Err(scales.unexpected(format!("[{rows}, 1]")));
    }
    let address = codes.of(Element::of_table(kind.format))?;
    Ok(Table { codes: address, scales: scales.of(Element::F32)?, rows, k })
}
