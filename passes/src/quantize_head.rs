//! The language-model head and the table of the token embeddings become low-precision.

use std::collections::HashMap;
use std::time::Instant;

use zqc_formats::{ActivationFormat, FormatError, QuantizedMatrix};
use zqc_ir::op::attribute::int;
use zqc_ir::op::{Linear, QuantizeActivation, QuantizedLinear, port};
use zqc_ir::operands;
use zqc_ir::tensor::DataType;
use zqc_ir::{ChangeBuilder, Graph, Model, Node, NodeId, Op, Patch, PatchBuilder, ValueId, ValueRef};
use zqc_solvers::{Grouping, rtn};

use crate::float_rows::FloatRows;
use crate::lm_head::Heads;
use crate::pass::{Context, Observer, Pass, PassError};
use crate::record::{Coding, LayerRecord};
use crate::select::Select;
use crate::token_table::TokenTable;

/// Rows that are read, rounded and let go together.
const BLOCK: usize = 4096;

/// Rounds the language-model head and the table of the token embeddings to nearest, without data, before anything is calibrated:
/// the layers between them are solved on what the rounded table gives. [`Select`] has chosen them. Where the head is tied to
/// the table, both read the same operands. The head may also be left to [`SolveWeights`](crate::SolveWeights), as any other layer,
/// with a weight of its own.
///
/// The table is read and rounded a block of rows at a time.
#[derive(Debug, Clone)]
pub struct QuantizeHead {
    /// What chose the layers.
    pub select: Select,
    /// What the weights become.
    pub grouping: Grouping,
    /// Whether the head is rounded too; else it is left as a layer to solve.
    pub head: bool,
    /// What the activation of the head becomes; `None` rounds it to bfloat16, which tensor cores and AMX multiply as it is: next to
    /// a weight of 8 bits the rounding does not show.
    pub activations: Option<ActivationFormat>,
}

impl Pass for QuantizeHead {
    fn name(&self) -> &'static str {
        "quantize_head"
    }

    fn runs_on_subgraphs(&self) -> bool {
        false
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut writer =
            Writer { pass: self, graph, patch: PatchBuilder::new(graph), quantized: HashMap::new() };
        let tables = TokenTable::all(graph);
        let (tables, left): (Vec<_>, Vec<_>) =
            tables.iter().partition(|table| self.select.reason_to_keep_table(graph, table).is_none());
        for table in &tables {
            let unreadable = |source| PassError::Weight { layer: table.path.clone(), source };
            let rows = FloatRows::of_table(graph, table).map_err(unreadable)?;
            let layers = table.layers.iter().filter(|_| self.head);
            let layers = layers.filter_map(|&id| Some((id, linear(graph, id)?)));
            let layers: Vec<(NodeId, &Linear)> = layers.collect();
            let layer = layers.first().map_or(&table.path, |(_, linear)| &linear.layer);
            let shared = writer.solve(layer, table.root, &rows, context.observer)?;
            for &(id, dtype) in &table.look_ups {
                writer.look_up(id, table, dtype, &shared);
            }
            layers.iter().for_each(|(id, linear)| writer.layer(*id, linear, &shared));
        }
        let heads = Heads::find(graph);
        for (id, node) in graph.nodes().filter(|_| self.head) {
            let (Some(linear), Some(weight)) = (linear(graph, id), node.input(port::WEIGHT)) else {
                continue;
            };
            let is_tied = tables.iter().chain(&left).any(|table| table.layers.contains(&id));
            if is_tied || heads.reason(id, linear.k, linear.n).is_none() {
                continue;
            }
            let unreadable = |source| PassError::Weight { layer: linear.layer.clone(), source };
            let rows = FloatRows::of_layer(graph, weight, linear).map_err(unreadable)?;
            let own = writer.solve(&linear.layer, weight, &rows, context.observer)?;
            writer.layer(id, linear, &own);
        }
        Ok(writer.patch.finish())
    }
}

fn linear(graph: &Graph, id: NodeId) -> Option<&Linear> {
    match &graph.node(id).op {
        Op::Linear(linear) => Some(linear),
        _ => None,
    }
}

/// Rounded rows.
struct Rounded {
    /// What they are, of float32.
    weight: QuantizedLinear,
    /// The operands, with their ports.
    operands: Vec<(usize, ValueRef)>,
}

struct Writer<'a> {
    pass: &'a QuantizeHead,
    graph: &'a Graph,
    patch: PatchBuilder<'a>,
    /// What activations are quantized or rounded to.
    quantized: HashMap<ValueId, ValueRef>,
}

impl Writer<'_> {
    /// Rounds the rows of `layer`; the operands are called after `source`.
    fn solve(
        &mut self,
        layer: &str,
        source: ValueId,
        rows: &FloatRows,
        observer: &mut dyn Observer,
    ) -> Result<Rounded, PassError> {
        let started = Instant::now();
        let (matrix, coding, weight_error) = round(layer, rows, &self.pass.grouping)?;
        let unfit = |source| PassError::Operands { layer: layer.to_string(), source };
        let hint = &self.graph.value(source).name;
        let operands = operands::operands(&matrix, None).map_err(unfit)?;
        let mut change = self.patch.change(format!("{layer}: codes and scales of the weight"), hint);
        let operands = operands::add(&mut change, hint, operands);
        change.finish();
        let [n, k] = rows.shape();
        observer.layer_solved(LayerRecord {
            layer: layer.to_string(),
            k,
            n,
            stage: 0,
            source_bytes: rows.bytes(),
            coding,
            bits_per_weight: matrix.bits_per_weight(),
            weight_error,
            output_error: None,
            calibration: None,
            seconds: started.elapsed().as_secs_f64(),
        });
        let weight = QuantizedLinear {
            layer: layer.to_string(),
            k,
            n,
            format: matrix.format,
            group_size: matrix.group_size,
            ladder: matrix.scales.ladder(),
            rank: 0,
            beta: 1.0,
            dtype: DataType::Float,
        };
        Ok(Rounded { weight, operands })
    }

    /// Looks rows of a table up in its codes.
    fn look_up(&mut self, id: NodeId, table: &TokenTable, dtype: DataType, rounded: &Rounded) {
        let (graph, node) = (self.graph, self.graph.node(id));
        let table_name = &graph.value(table.root).name;
        let why = format!("{} looks codes of \"{table_name}\" up", graph.label(id));
        let weight = QuantizedLinear { layer: table.path.clone(), dtype, ..rounded.weight.clone() };
        let Some(indices) = node.input(1) else { return };
        let inputs = operands::inputs(indices.into(), rounded.operands.iter().cloned(), None);
        let mut change = self.patch.change_of(id, why);
        change.node(Op::QuantizedGather(weight), inputs).replaces(id);
        change.remove_if_unused(node.input(0));
        change.finish();
    }

    /// Lets a layer read codes.
    fn layer(&mut self, id: NodeId, linear: &Linear, rounded: &Rounded) {
        let node = self.graph.node(id);
        let Some(x) = node.input(port::X) else { return };
        let why = format!("{}: float weight becomes codes and scales", linear.layer);
        let mut change = self.patch.change_of(id, why);
        let x = match (self.pass.activations, linear.dtype) {
            (None, DataType::Bfloat16) => x.into(),
            (format, _) => activation(&mut self.quantized, &mut change, x, format),
        };
        let bias = node.input(port::LINEAR_BIAS).map(ValueRef::from);
        let inputs = operands::inputs(x, rounded.operands.iter().cloned(), bias);
        let op = Op::QuantizedLinear(QuantizedLinear {
            layer: linear.layer.clone(),
            beta: linear.beta,
            dtype: linear.dtype,
            ..rounded.weight.clone()
        });
        change.node(op, inputs).replaces(id);
        change.remove_if_unused(linear.origin.iter().flat_map(Node::reads).chain(node.input(port::WEIGHT)));
        change.finish();
    }
}

/// What `x` is quantized or rounded to; a node joins `change` if it is new.
fn activation(
    quantized: &mut HashMap<ValueId, ValueRef>,
    change: &mut ChangeBuilder,
    x: ValueId,
    format: Option<ActivationFormat>,
) -> ValueRef {
    let name = &change.graph().value(x).name;
    let quantize = || {
        let (op, suffix) = match format {
            Some(format) => (Op::QuantizeActivation(QuantizeActivation { format }), "quantized"),
            None => (Op::standard("Cast", vec![int("to", DataType::Bfloat16 as i64)]), "bfloat16"),
        };
        change.node(op, [Some(x.into())]).output_named(&format!("{name}_{suffix}_head"))
    };
    quantized.entry(x).or_insert_with(quantize).clone()
}

/// Rounds rows block by block: what they become, how, and the relative error.
fn round(
    layer: &str,
    rows: &FloatRows,
    grouping: &Grouping,
) -> Result<(QuantizedMatrix, Coding, f64), PassError> {
    let [n, k] = rows.shape();
    let mut whole: Option<(QuantizedMatrix, Coding)> = None;
    let (mut lost, mut energy) = (0.0, 0.0);
    for first in (0..n).step_by(BLOCK) {
        let count = BLOCK.min(n - first);
        let block = rows.block(first, count);
        let block = block.map_err(|source| PassError::Weight { layer: layer.to_string(), source })?;
        let matrix = rtn(&block, count, k, grouping);
        let matrix = matrix.map_err(|source| PassError::Solve { layer: layer.to_string(), source })?;
        for (value, rounded) in block.iter().zip(matrix.dequantize()) {
            lost += f64::from(value - rounded).powi(2);
            energy += f64::from(*value).powi(2);
        }
        let coding = Coding::new(&block, &matrix);
        match &mut whole {
            None => whole = Some((matrix, coding)),
            Some((upper, known)) => {
                upper.append(matrix);
                known.add(&coding);
            }
        }
    }
    let empty = FormatError::Empty { rows: n, cols: k }.into();
    let (matrix, coding) = whole.ok_or(PassError::Solve { layer: layer.to_string(), source: empty })?;
    Ok((matrix, coding, if lost == 0.0 { 0.0 } else { (lost / energy).sqrt() }))
}
