//! The operators that compute a linear layer.

use std::sync::Arc;

use half::{bf16, f16};
use ort_sys::OrtKernelInfo;
use zqc_formats::{Extra as Kind, GROUP_SIZE, OUTPUT_TYPE, Operand, Signature, WeightKind};
use zqc_linear::{Activations, Extra, Isa, Layer, Layout, LowRank, Output, PackedLinear, Tokens};

use crate::api::Api;
use crate::context::Context;
use crate::element::Element;
use crate::error::OpError;
use crate::output_type::output_element;
use crate::pool::SessionPool;
use crate::shared::{Key, Shared};
use crate::tensor::Tensor;
use crate::{pages, quantize};

/// The packed weights of all sessions.
static PACKED: Shared<PackedLinear> = Shared::new();

/// A node that computes a linear layer.
pub(crate) struct Linear {
    isa: Isa,
    pub signature: Signature,
    group_size: usize,
    pub output: Element,
    /// The weight; `None` where it is no constant, and comes with every run.
    weight: Option<Weight>,
}

/// A packed weight `[K, N]`.
#[derive(Clone)]
pub(crate) struct Weight {
    pub packed: Arc<PackedLinear>,
    pub k: usize,
    pub n: usize,
}

impl Linear {
    /// The types of its inputs; `float` is that of the one whose type the model chooses, of which ONNX Runtime allows one: the
    /// activation in float, or else the scales of its tokens.
    pub(crate) fn inputs(signature: Signature, float: Element) -> Vec<Element> {
        let activation = match signature.activation {
            None => vec![float],
            Some(format) => [Element::of_activation(format), float, Element::U8]
                .into_iter()
                .take(format.quantized().len())
                .collect(),
        };
        let operands = signature.operands().map(|operand| element(signature, operand));
        activation.into_iter().chain(operands).collect()
    }

    /// `declared` is the type of the output that the operator states, if it is one.
    ///
    /// # Safety
    /// `info` is what ONNX Runtime hands to the callback that this runs in.
    pub(crate) unsafe fn new(
        api: Api,
        info: *const OrtKernelInfo,
        signature: Signature,
        declared: Element,
    ) -> Result<Self, OpError> {
        // SAFETY: the caller's promise.
        let mut linear = unsafe { Self::unpacked(api, info, signature, declared) }?;
        // SAFETY: the caller's promise.
        if let Some(operands) = unsafe { linear.constants(api, info) }? {
            linear.pack(&operands)?;
        }
        Ok(linear)
    }

    /// The node without its weight.
    ///
    /// # Safety
    /// As [`Linear::new`].
    pub(crate) unsafe fn unpacked(
        api: Api,
        info: *const OrtKernelInfo,
        signature: Signature,
        declared: Element,
    ) -> Result<Self, OpError> {
        // SAFETY: the caller's promise.
        let (group_size, output) =
            unsafe { (api.attribute(info, GROUP_SIZE)?, api.attribute(info, OUTPUT_TYPE)?) };
        let wrong = || OpError::Attribute { name: GROUP_SIZE, value: group_size };
        let size = usize::try_from(group_size).ok().filter(|&size| size > 0).ok_or_else(wrong)?;
        let output = output_element(output, declared)?;
        Ok(Self { isa: Isa::detect()?, signature, group_size: size, output, weight: None })
    }

    /// The operands, if they are constants.
    ///
    /// # Safety
    /// As [`Linear::new`].
    pub(crate) unsafe fn constants<'a>(
        &self,
        api: Api,
        info: *const OrtKernelInfo,
    ) -> Result<Option<Vec<Tensor<'a>>>, OpError> {
        let first = self.signature.activation_inputs().len();
        let operands = self.signature.operands().zip(first..);
        // SAFETY: the caller's promise.
        operands.map(|(operand, at)| unsafe { api.constant(info, at, operand.name()) }).collect()
    }

    /// Packs the weight that the operands are.
    pub(crate) fn pack(&mut self, operands: &[Tensor]) -> Result<(), OpError> {
        let layer = self.layer(operands)?;
        let key = Key::of(self.signature, &layer, self.isa);
        let packed = PACKED.get(key, || PackedLinear::pack(&layer, self.isa))?;
        self.weight = Some(Weight { packed, k: layer.k, n: layer.n });
        for operand in operands {
            pages::release(operand.bytes);
        }
        Ok(())
    }

    /// The number of tokens of an activation of dimensions `x`, and the dimensions of the output of a weight of `n` rows and `k`
    /// columns; `None` where the last dimension is another than `k`.
    pub(crate) fn sizes(x: &[usize], [n, k]: [usize; 2]) -> Option<(usize, Vec<usize>)> {
        let (_, tokens) = x.split_last().filter(|&(&last, _)| last == k)?;
        Some((tokens.iter().product(), tokens.iter().copied().chain([n]).collect()))
    }

    /// The weight, packed now if it came with the run.
    pub(crate) fn weight(&self, context: &Context) -> Result<Weight, OpError> {
        if let Some(weight) = &self.weight {
            return Ok(weight.clone());
        }
        let operands = self.signature.operands().zip(self.signature.activation_inputs().len()..);
        let operands: Result<Vec<_>, _> =
            operands.map(|(operand, at)| context.input(at, operand.name())).collect();
        let operands = operands?;
        let layer = self.layer(&operands)?;
        let packed = Arc::new(PackedLinear::pack(&layer, self.isa)?);
        Ok(Weight { packed, k: layer.k, n: layer.n })
    }

    pub(crate) fn run(&self, context: &Context) -> Result<(), OpError> {
        let inputs = self.signature.activation_inputs();
        let activation: Result<Vec<_>, _> =
            inputs.iter().enumerate().map(|(at, name)| context.input(at, name)).collect();
        let activation = activation?;
        let Weight { packed, k, n } = self.weight(context)?;
        let x = &activation[0];
        let (_, dims) = Self::sizes(&x.dims, [n, k]).ok_or_else(|| x.unexpected(format!("[..., {k}]")))?;
        let mut narrowed = Vec::new();
        let tokens = self.tokens(&activation, &mut narrowed)?;
        let pool = SessionPool::new(context);
        match self.output {
            Element::F16 => {
                packed.forward(tokens, Output::F16(context.output::<f16>(0, Element::F16, &dims)?), &pool)?
            }
            Element::BF16 => packed.forward(
                tokens,
                Output::Bf16(context.output::<bf16>(0, Element::BF16, &dims)?),
                &pool,
            )?,
            Element::F64 => {
                let wide = context.output::<f64>(0, Element::F64, &dims)?;
                let mut y = vec![0.0; wide.len()];
                packed.forward(tokens, Output::F32(&mut y), &pool)?;
                wide.iter_mut().zip(y).for_each(|(to, from)| *to = from.into());
            }
            _ => {
                packed.forward(tokens, Output::F32(context.output::<f32>(0, Element::F32, &dims)?), &pool)?
            }
        }
        pool.end()
    }

    /// The layer that the operands are.
    pub(crate) fn layer<'a>(&self, operands: &[Tensor<'a>]) -> Result<Layer<'a>, OpError> {
        let Signature { weight: WeightKind { format, .. }, .. } = self.signature;
        let find = |wanted| {
            let at = self.signature.operands().position(|operand| operand == wanted);
            at.map(|at| &operands[at])
        };
        let floats = |tensor: &Tensor<'a>| tensor.elements::<f32>(Element::F32);
        let (codes, scales) = (&operands[0], &operands[1]);
        let (&[rows, columns], &[_, last]) = (&codes.dims[..], &scales.dims[..]) else {
            return Err(codes.unexpected("a matrix, as its scales".to_string()));
        };
        let (layout, k, n) = match self.signature.trans_b {
            false => (Layout::InputMajor, rows, last),
            true => (Layout::OutputMajor, columns, rows),
        };
        let rank = find(Operand::LowRankScales).map_or(0, |scales| scales.dims.iter().product());
        for (operand, tensor) in self.signature.operands().zip(operands) {
            let wanted = self.dims(operand, k, n, rank);
            if tensor.dims != wanted {
                return Err(tensor.unexpected(format!("{wanted:?}")));
            }
        }
        let extra = match self.signature.weight.extra {
            None => Extra::None,
            Some(Kind::Shifts(ladder)) => {
                Extra::Shifts(ladder, find(Operand::Shifts).map_or(&[], |tensor| tensor.bytes))
            }
            Some(Kind::ZeroPoints) => {
                let zero_points = find(Operand::ZeroPoints).map(|tensor| tensor.elements::<i8>(Element::I8));
                Extra::ZeroPoints(zero_points.transpose()?.unwrap_or_default())
            }
        };
        let branch = self.signature.low_rank.zip(find(Operand::LowRankDown)).zip(find(Operand::LowRankUp));
        let low_rank = match branch.zip(find(Operand::LowRankScales)) {
            None => None,
            Some((((format, down), up), scales)) => {
                let scales = floats(scales)?;
                let rank = scales.len();
                Some(LowRank { rank, format, down: down.bytes, up: up.bytes, scales })
            }
        };
        let scales = floats(scales)?;
        let group_size = self.group_size;
        let codes = codes.bytes;
        Ok(Layer { k, n, group_size, layout, format, codes, scales, extra, low_rank, bias: None })
    }

    /// The dimensions of an operand of a weight `[K, N]`.
    fn dims(&self, operand: Operand, k: usize, n: usize, rank: usize) -> Vec<usize> {
        let WeightKind { format, .. } = self.signature.weight;
        let (groups, packed) = (k.div_ceil(self.group_size), n.div_ceil(2));
        let scales = if self.signature.weight.ladder().is_some() { 1 } else { groups };
        match operand {
            Operand::Weight if self.signature.trans_b => vec![n, k],
            Operand::Scales if self.signature.trans_b => vec![n, scales],
            Operand::Weight => vec![k, if format.bits() == 4 { packed } else { n }],
            Operand::Scales => vec![scales, n],
            Operand::Shifts => vec![groups, packed],
            Operand::ZeroPoints => vec![groups, n],
            Operand::LowRankDown => vec![k, rank],
            Operand::LowRankUp => vec![rank, n],
            Operand::LowRankScales => vec![rank],
        }
    }

    /// The activation that the inputs are; one of 64 bits is rounded into `narrowed`, as the function's `Cast` does.
    pub(crate) fn tokens<'a>(
        &self,
        activation: &[Tensor<'a>],
        narrowed: &'a mut Vec<f32>,
    ) -> Result<Tokens<'a>, OpError> {
        let x = &activation[0];
        if let Some(format) = self.signature.activation {
            let scales = activation[1].elements::<f32>(Element::F32)?;
            let zero_points = activation.get(2).map_or(&[][..], |tensor| tensor.bytes);
            return Ok(Tokens::Quantized { format, codes: x.bytes, scales, zero_points });
        }
        Ok(match quantize::values(x, narrowed)? {
            Activations::F32(x) => Tokens::F32(x),
            Activations::F16(x) => Tokens::F16(x),
            Activations::Bf16(x) => Tokens::Bf16(x),
        })
    }
}

/// The type of an operand.
fn element(signature: Signature, operand: Operand) -> Element {
    match operand {
        Operand::Weight if signature.trans_b => Element::of_table(signature.weight.format),
        Operand::Weight => Element::of_weight(signature.weight.format),
        Operand::Shifts => Element::U8,
        Operand::ZeroPoints => Element::I8,
        Operand::LowRankDown | Operand::LowRankUp => {
            signature.low_rank.map_or(Element::ANY, Element::of_factors)
        }
        Operand::Scales | Operand::LowRankScales => Element::F32,
    }
}
