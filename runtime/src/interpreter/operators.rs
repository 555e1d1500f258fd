//! Our operators on one sample: quantization of activations, linear layers, quantized tables.

use std::sync::Arc;

use zqc_formats::{LowRank, matmul, quantize_dequantize_tokens};
use zqc_ir::op::{QuantizedLinear, port};
use zqc_ir::operands::{self, OperandError};
use zqc_ir::tensor::TensorError;
use zqc_ir::{NodeId, Op, ValueId};

use super::{Interpreter, Live};
use crate::array::{Array, ArrayData};
use crate::run_error::RunError;
use crate::sessions::LoadedWeight;

impl Interpreter<'_> {
    /// Runs a quantization operator on one sample: its result is the dequantized activation.
    ///
    /// # Errors
    /// When the activation is missing or is not of floats.
    pub fn run_quantize(&self, id: NodeId, live: &mut Live) -> Result<(), RunError> {
        self.quantize(id, live, true)
    }

    /// Passes a quantization operator by on one sample: its result is the activation itself.
    ///
    /// # Errors
    /// When the activation is missing or is not of floats.
    pub fn pass_quantize(&self, id: NodeId, live: &mut Live) -> Result<(), RunError> {
        self.quantize(id, live, false)
    }

    fn quantize(&self, id: NodeId, live: &mut Live, rounds: bool) -> Result<(), RunError> {
        let node = self.model.graph.node(id);
        let Op::QuantizeActivation(quantize) = &node.op else {
            return Err(self.kind(id, "quantization of an activation"));
        };
        let (input, output) = (node.input(0), node.output(0));
        self.activation(id, input, live, None)?;
        let is_free =
            |value: &ValueId| self.model.graph.uses(*value).len() == 1 && !self.wanted.contains(value);
        let taken = input.filter(is_free).and_then(|value| live.remove(&value));
        let Some(mut array) = taken.or_else(|| input.and_then(|value| live.get(&value).cloned())) else {
            return Ok(());
        };
        let width = array.shape.last().copied().unwrap_or(1);
        if let ArrayData::F32(values) = &mut array.data
            && rounds
        {
            quantize_dequantize_tokens(Arc::<Vec<f32>>::make_mut(values), width, quantize.format);
        }
        live.extend(output.map(|output| (output, array)));
        Ok(())
    }

    /// Runs a linear layer on one sample with `weight` `[N, K]`, dequantized and with Gemm's `alpha` in it, and with the
    /// low-rank branch beside it.
    ///
    /// # Errors
    /// When the activation is missing or has another width than K.
    pub fn run_linear(
        &self,
        id: NodeId,
        weight: &[f32],
        low_rank: Option<&LowRank>,
        live: &mut Live,
    ) -> Result<(), RunError> {
        let node = self.model.graph.node(id);
        let (k, n, beta, bias) = match &node.op {
            Op::Linear(linear) => (linear.k, linear.n, linear.beta, port::LINEAR_BIAS),
            Op::QuantizedLinear(linear) => (linear.k, linear.n, linear.beta, port::QUANTIZED_BIAS),
            _ => return Err(self.kind(id, "linear layer")),
        };
        let x = self.activation(id, node.input(port::X), live, Some(k))?;
        let ArrayData::F32(values) = &x.data else { return Ok(()) };
        let tokens = values.len() / k;
        let mut y = vec![0.0; tokens * n];
        matmul(values, weight, &mut y, tokens, k, n);
        if let Some(low_rank) = low_rank {
            low_rank.add_product(values, &mut y, tokens);
        }
        if node.input(bias).is_some() {
            let bias = self.constant(id, bias)?;
            for row in y.chunks_exact_mut(n) {
                row.iter_mut().zip(&bias).for_each(|(y, b)| *y += beta * b);
            }
        }
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        live.extend(node.output(0).map(|output| (output, Array { shape, data: y.into() })));
        Ok(())
    }

    /// The weight `[N, K]` and the low-rank branch of a linear layer as [`Interpreter::run_linear`] takes them.
    ///
    /// # Errors
    /// When the operands cannot be read.
    pub fn weight(&self, id: NodeId) -> Result<(Vec<f32>, Option<LowRank>), RunError> {
        let (graph, node) = (&self.model.graph, self.model.graph.node(id));
        let bad = |source| RunError::Operand { node: graph.label(id), source };
        match &node.op {
            Op::Linear(linear) => Ok((linear.weight_rows(self.constant(id, port::WEIGHT)?), None)),
            Op::QuantizedLinear(linear) => {
                let matrix = operands::matrix(graph, node, linear).map_err(bad)?;
                Ok((matrix.dequantize(), operands::low_rank(graph, node, linear).map_err(bad)?))
            }
            _ => Err(self.kind(id, "linear layer")),
        }
    }

    /// Runs an operator on quantized weights on one sample: a look-up in a table, or a linear layer with the quantization of its
    /// activation where that was not run. The activation stays for other readers.
    ///
    /// # Errors
    /// When an input is missing or does not fit, or the weight cannot be read.
    pub fn run_quantized(
        &self,
        id: NodeId,
        loaded: &mut LoadedWeight,
        live: &mut Live,
    ) -> Result<(), RunError> {
        let graph = &self.model.graph;
        match &graph.node(id).op {
            Op::QuantizedGather(table) => return self.run_gather(id, table, live),
            Op::QuantizedLinear(_) => {}
            _ => return Err(self.kind(id, "operator on quantized weights")),
        }
        let x = graph.node(id).input(port::X);
        if let Some(quantize) = x.filter(|x| !live.contains_key(x)).and_then(|x| graph.producer(x)) {
            let activation = graph.node(quantize).input(0);
            let activation = activation.and_then(|value| Some((value, live.get(&value)?.clone())));
            self.run_quantize(quantize, live)?;
            live.extend(activation);
        }
        let (weight, low_rank) = loaded.get_or_load(|| self.weight(id))?;
        self.run_linear(id, weight, low_rank.as_ref(), live)
    }

    /// Looks up rows of a quantized table on one sample.
    ///
    /// # Errors
    /// When the indices are missing, are not integers, or name a row that is not there.
    fn run_gather(&self, id: NodeId, table: &QuantizedLinear, live: &mut Live) -> Result<(), RunError> {
        let (graph, node) = (&self.model.graph, self.model.graph.node(id));
        let missing = || RunError::NotFed { value: String::new() };
        let value = node.input(port::X).ok_or_else(missing)?;
        let name = || graph.value(value).name.clone();
        let array = live.get(&value).ok_or_else(|| RunError::NotFed { value: name() })?;
        let bad = |source| RunError::Operand { node: graph.label(id), source };
        let found = || format!("{:?} {:?}", array.data.data_type(), array.shape);
        let indices =
            array.integers().ok_or_else(|| RunError::Indices { node: graph.label(id), found: found() })?;
        let row = |&index: &i64| {
            let from_the_end = if index < 0 { table.n as i64 } else { 0 };
            let row = usize::try_from(index.saturating_add(from_the_end)).ok();
            row.filter(|&row| row < table.n).ok_or(OperandError::Row { index, rows: table.n })
        };
        let indices: Vec<usize> = indices.iter().map(row).collect::<Result<_, _>>().map_err(bad)?;
        let rows = operands::rows(graph, node, table, &indices).map_err(bad)?.dequantize();
        let shape = array.shape.iter().copied().chain([table.k]).collect();
        live.extend(node.output(0).map(|output| (output, Array { shape, data: rows.into() })));
        Ok(())
    }

    /// What a node reads or yields as `value` on one sample: float values `[..., width]`.
    ///
    /// # Errors
    /// When the value is missing, is not of floats or of another width.
    pub fn floats<'l>(
        &self,
        id: NodeId,
        value: ValueId,
        width: usize,
        live: &'l Live,
    ) -> Result<&'l [f32], RunError> {
        let array = self.activation(id, Some(value), live, Some(width))?;
        Ok(array.as_f32().unwrap_or_default())
    }

    fn activation<'l>(
        &self,
        id: NodeId,
        value: Option<ValueId>,
        live: &'l Live,
        width: Option<usize>,
    ) -> Result<&'l Array, RunError> {
        let graph = &self.model.graph;
        let missing =
            || RunError::NotFed { value: value.map_or(String::new(), |v| graph.value(v).name.clone()) };
        let array = value.and_then(|value| live.get(&value)).ok_or_else(missing)?;
        let last = array.shape.last().copied();
        let fits =
            matches!(array.data, ArrayData::F32(_)) && last.is_some() && (width.is_none() || width == last);
        if fits {
            return Ok(array);
        }
        let found = format!("{:?} {:?}", array.data.data_type(), array.shape);
        Err(RunError::Activation { node: graph.label(id), found, expected: width.unwrap_or(1) })
    }

    /// The values of the constant that a node reads at an input.
    fn constant(&self, id: NodeId, port: usize) -> Result<Vec<f32>, RunError> {
        let graph = &self.model.graph;
        let tensor = graph.node(id).input(port).and_then(|value| graph.constant(value));
        let values = tensor.ok_or(TensorError::NotLoaded).and_then(|tensor| tensor.to_f32());
        values.map_err(|source| RunError::Operand { node: graph.label(id), source: source.into() })
    }

    fn kind(&self, id: NodeId, expected: &'static str) -> RunError {
        RunError::Kind { node: self.model.graph.label(id), expected }
    }
}
