//! The operators that quantize activations.

use std::sync::Mutex;

use half::{bf16, f16};
use zqc_formats::ActivationFormat;
use zqc_linear::{Activations, Isa, Pool, quantize_tokens};

use crate::context::Context;
use crate::element::Element;
use crate::error::OpError;
use crate::pool::SessionPool;
use crate::tensor::Tensor;

/// Values that one task should at least quantize.
const MIN_TASK: usize = 1 << 14;

/// A node that quantizes an activation token by token.
pub(crate) struct Quantize {
    isa: Isa,
    format: ActivationFormat,
}

impl Quantize {
    pub(crate) fn new(format: ActivationFormat) -> Result<Self, OpError> {
        Ok(Self { isa: Isa::detect()?, format })
    }

    /// The types of its outputs: codes, scales, and zero points of integers.
    pub(crate) fn outputs(format: ActivationFormat) -> Vec<Element> {
        let types = [Element::of_activation(format), Element::F32, Element::U8];
        types.into_iter().take(format.quantized().len()).collect()
    }

    pub(crate) fn run(&self, context: &Context) -> Result<(), OpError> {
        let x = context.input(0, "X")?;
        let Some((&k, tokens)) = x.dims.split_last().filter(|&(&k, _)| k > 0) else {
            return Err(x.unexpected("a tensor whose last dimension is not 0".to_string()));
        };
        let dims: Vec<usize> = tokens.iter().copied().chain([1]).collect();
        let codes = context.output::<u8>(0, Element::of_activation(self.format), &x.dims)?;
        let scales = context.output::<f32>(1, Element::F32, &dims)?;
        let zero_points = match self.format.float() {
            Some(_) => &mut [],
            None => context.output::<u8>(2, Element::U8, &dims)?,
        };
        let mut narrowed = Vec::new();
        let x = values(&x, &mut narrowed)?;
        let rows = MIN_TASK.div_ceil(k);
        let mut zero_points = zero_points.chunks_mut(rows);
        let parts = codes.chunks_mut(rows * k).zip(scales.chunks_mut(rows)).enumerate();
        let parts: Vec<_> = parts
            .map(|(at, (codes, scales))| {
                let first = at * rows * k;
                let x = part(x, first, codes.len());
                let zero_points = zero_points.next().unwrap_or_default();
                Mutex::new(move || quantize_tokens(self.isa, self.format, x, k, codes, scales, zero_points))
            })
            .collect();
        let error = Mutex::new(None);
        let pool = SessionPool::new(context);
        pool.run(parts.len(), &|at| {
            let quantized = parts[at].lock().map(|mut quantize| quantize());
            if let Ok(Err(why)) = quantized {
                *error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(why);
            }
        });
        pool.end()?;
        error.into_inner().unwrap_or_default().map_or(Ok(()), |why| Err(why.into()))
    }
}

/// The values of a tensor of floats; those of 64 bits are rounded into `narrowed`, as the function's `Cast` does.
pub(crate) fn values<'a>(x: &Tensor<'a>, narrowed: &'a mut Vec<f32>) -> Result<Activations<'a>, OpError> {
    Ok(match x.element {
        Element::F32 => Activations::F32(x.elements::<f32>(Element::F32)?),
        Element::F16 => Activations::F16(x.elements::<f16>(Element::F16)?),
        Element::BF16 => Activations::Bf16(x.elements::<bf16>(Element::BF16)?),
        Element::F64 => {
            narrowed.extend(x.elements::<f64>(Element::F64)?.iter().map(|&x| x as f32));
            Activations::F32(narrowed)
        }
        _ => return Err(x.unexpected("a tensor of floats".to_string())),
    })
}

/// `length` of the values, from the one at `first`.
fn part(x: Activations<'_>, first: usize, length: usize) -> Activations<'_> {
    let range = first..first + length;
    match x {
        Activations::F32(x) => Activations::F32(&x[range]),
        Activations::F16(x) => Activations::F16(&x[range]),
        Activations::Bf16(x) => Activations::Bf16(&x[range]),
    }
}
