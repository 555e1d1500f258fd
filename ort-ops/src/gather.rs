//! The operators that look rows up in a quantized table.

use std::sync::Mutex;

use bytemuck::Pod;
use half::{bf16, f16};
use ort_sys::OrtKernelInfo;
use zqc_formats::{OUTPUT_TYPE, Operand, WeightKind};
use zqc_linear::Pool;

use crate::api::Api;
use crate::context::Context;
use crate::element::Element;
use crate::error::OpError;
use crate::output_type::output_element;
use crate::pool::SessionPool;
use crate::tensor::Tensor;

/// Values that one task should at least compute.
const MIN_TASK: usize = 1 << 14;

/// A node that looks rows up. It reads the table where it lies: of a mapped file, only what is looked up comes into memory.
pub(crate) struct Gather {
    kind: WeightKind,
    /// The values of the codes.
    values: Vec<f32>,
    output: Element,
}

/// A table `[V, K]` with a scale for every row.
struct Table<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    k: usize,
}

impl Gather {
    /// The types of its inputs.
    pub(crate) fn inputs(kind: WeightKind) -> Vec<Element> {
        let operands = kind.operands().map(|operand| match operand {
            Operand::Weight => Element::of_table(kind.format),
            _ => Element::F32,
        });
        [Element::ANY].into_iter().chain(operands).collect()
    }

    /// `declared` is the type of the output that the operator states, if it is one.
    ///
    /// # Safety
    /// `info` is what ONNX Runtime hands to the callback that this runs in.
    pub(crate) unsafe fn new(
        api: Api,
        info: *const OrtKernelInfo,
        kind: WeightKind,
        declared: Element,
    ) -> Result<Self, OpError> {
        // SAFETY: the caller's promise.
        let output = output_element(unsafe { api.attribute(info, OUTPUT_TYPE) }?, declared)?;
        Ok(Self { kind, values: kind.format.codebook(), output })
    }

    pub(crate) fn run(&self, context: &Context) -> Result<(), OpError> {
        let indices = context.input(0, "Indices")?;
        let operands = self.kind.operands().zip(1..);
        let operands: Result<Vec<_>, _> =
            operands.map(|(operand, at)| context.input(at, operand.name())).collect();
        let table = table(&operands?)?;
        let rows = rows(&indices, table.scales.len())?;
        let dims: Vec<usize> = indices.dims.iter().copied().chain([table.k]).collect();
        match self.output {
            Element::F16 => self.write(context, &dims, &table, &rows, f16::from_f32),
            Element::BF16 => self.write(context, &dims, &table, &rows, bf16::from_f32),
            Element::F64 => self.write(context, &dims, &table, &rows, f64::from),
            _ => self.write(context, &dims, &table, &rows, |value| value),
        }
    }

    fn write<T: Pod + Send>(
        &self,
        context: &Context,
        dims: &[usize],
        table: &Table,
        rows: &[usize],
        round: fn(f32) -> T,
    ) -> Result<(), OpError> {
        let output = context.output::<T>(0, self.output, dims)?;
        if output.is_empty() {
            return Ok(());
        }
        let share = MIN_TASK.div_ceil(table.k);
        let parts = output.chunks_mut(share * table.k).zip(rows.chunks(share));
        let parts: Vec<_> = parts.map(Mutex::new).collect();
        let pool = SessionPool::new(context);
        pool.run(parts.len(), &|at| {
            let mut part = parts[at].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (output, rows) = &mut *part;
            for (to, &row) in output.chunks_mut(table.k).zip(*rows) {
                let codes = &table.codes[row * table.k..];
                for (to, &code) in to.iter_mut().zip(codes) {
                    *to = round(self.values[usize::from(code)] * table.scales[row]);
                }
            }
        });
        pool.end()
    }
}

/// The table that the operands are.
fn table<'a>(operands: &[Tensor<'a>]) -> Result<Table<'a>, OpError> {
    let (codes, scales) = (&operands[0], &operands[1]);
    let &[rows, k] = &codes.dims[..] else {
        return Err(codes.unexpected("a matrix".to_string()));
    };
    if scales.dims != [rows, 1] {
        return Err(scales.unexpected(format!("[{rows}, 1]")));
    }
    Ok(Table { codes: codes.bytes, scales: scales.elements(Element::F32)?, k })
}

/// The rows that are looked up; negative indices count from the end.
fn rows(indices: &Tensor, rows: usize) -> Result<Vec<usize>, OpError> {
    let row = |index: i64| {
        let from_start = if index < 0 { index + rows as i64 } else { index };
        let row = usize::try_from(from_start).ok().filter(|&row| row < rows);
        row.ok_or(OpError::Index { index, rows })
    };
    match indices.element {
        Element::I32 => {
            indices.elements::<i32>(Element::I32)?.iter().map(|&index| row(index.into())).collect()
        }
        Element::I64 => indices.elements::<i64>(Element::I64)?.iter().map(|&index| row(index)).collect(),
        _ => Err(indices.unexpected("int32 or int64".to_string())),
    }
}
