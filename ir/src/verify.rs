//! Checks a graph between passes and reports every fault, not only the first.

use std::fmt;

use indexmap::IndexMap;
use zqc_formats::FormatError;

use crate::graph::{Graph, NodeId, Port, Source, Use, ValueId};
use crate::model::Model;
use crate::op::{Op, QuantizedLinear, port};
use crate::operands::{codes_dtype, factor_format};
use crate::tensor::DataType;

/// One fault of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The node, value or initializer that it is about.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

/// All faults of a graph; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (i, fault) in self.0.iter().take(SHOWN).enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", fault.place, fault.message)?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Faults {}

/// Checks of a graph and of all regions in it that every value read has a definition, that no nodes read each other in a cycle, that the readers and the
/// definitions noted at values are those of the nodes, and that our own operators have the operands they declare.
///
/// # Errors
/// Every fault found.
pub fn verify(model: &Model) -> Result<(), Faults> {
    let mut faults = Vec::new();
    check(&model.graph, &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

fn check(graph: &Graph, faults: &mut Vec<Fault>) {
    definitions(graph, faults);
    connections(graph, faults);
    for (id, node) in graph.nodes() {
        let mut fault =
            |message: String| faults.push(Fault { place: format!("node {}", graph.label(id)), message });
        match &node.op {
            Op::Onnx(_) | Op::QuantizeActivation(_) => {}
            Op::Linear(linear) => {
                let weight = node.input(port::WEIGHT).and_then(|w| graph.constant(w));
                let dims = weight.and_then(|w| w.matrix_dims());
                let expected = match linear.layout {
                    crate::op::Layout::InputOutput => [linear.k, linear.n],
                    crate::op::Layout::OutputInput => [linear.n, linear.k],
                };
                if dims != Some(expected) {
                    fault(format!("its weight is {dims:?}, not the constant {expected:?} that it declares"));
                }
            }
            Op::QuantizedLinear(linear) => quantized_operands(graph, id, linear, &mut fault),
            Op::QuantizedGather(table) => {
                if table.rank > 0 || node.input(port::QUANTIZED_BIAS).is_some() {
                    fault("it has a low-rank branch or a bias, which no table has".to_string());
                }
                quantized_operands(graph, id, table, &mut fault);
            }
        }
    }
    if let Err(cycle) = graph.order() {
        faults.push(Fault { place: "graph".to_string(), message: cycle.to_string() });
    }
    for (id, region) in graph.regions() {
        let known = faults.len();
        check(region, faults);
        for fault in &mut faults[known..] {
            fault.place = format!("{} in a subgraph of {}", fault.place, graph.label(id.node));
        }
    }
}

fn definitions(graph: &Graph, faults: &mut Vec<Fault>) {
    for (id, value) in graph.values() {
        if graph.source(id) != Source::Undefined {
            continue;
        }
        let reader = graph.uses(id).first().map(|place| format!("node {}", graph.label(place.node)));
        let reader = reader.or_else(|| graph.is_output(id).then(|| "graph output".to_string()));
        if let Some(place) = reader {
            let message = format!("it reads \"{}\", which nothing defines", value.name);
            faults.push(Fault { place, message });
        }
    }
}

/// Both directions of connectivity: what nodes read against who reads values, what nodes define against who defines values.
fn connections(graph: &Graph, faults: &mut Vec<Fault>) {
    let mut uses: IndexMap<(ValueId, Use), i64> = IndexMap::new();
    for (id, node) in graph.nodes() {
        let inputs = node.inputs().iter().enumerate();
        let inputs = inputs.filter_map(|(port, value)| value.map(|value| (Port::Input(port), value)));
        for (port, value) in inputs.chain(node.captures().iter().map(|&value| (Port::Capture, value))) {
            *uses.entry((value, Use { node: id, port })).or_default() += 1;
        }
        let captured = node.regions().iter().flat_map(|region| region.captures().map(|id| region.value(id)));
        for value in captured {
            if !node.captures().iter().any(|&outer| graph.value(outer).name == value.name) {
                let message =
                    format!("a region of it reads \"{}\", which it is not said to read", value.name);
                faults.push(Fault { place: format!("node {}", graph.label(id)), message });
            }
        }
        for (port, value) in node.outputs().iter().enumerate() {
            if let Some(value) = *value
                && graph.source(value) != (Source::Node { node: id, port })
            {
                let message = format!("it defines \"{}\", which says otherwise", graph.value(value).name);
                faults.push(Fault { place: format!("node {}", graph.label(id)), message });
            }
        }
    }
    for (value, _) in graph.values() {
        graph.uses(value).iter().for_each(|&place| *uses.entry((value, place)).or_default() -= 1);
    }
    for ((value, place), count) in uses {
        if count != 0 {
            let message = format!("the readers of \"{}\" are not those noted there", graph.value(value).name);
            faults.push(Fault { place: format!("node {:?}", place.node), message });
        }
    }
}

fn quantized_operands(graph: &Graph, id: NodeId, linear: &QuantizedLinear, fault: &mut impl FnMut(String)) {
    if linear.group_size == 0 {
        return fault("its group size is 0".to_string());
    }
    let &QuantizedLinear { k, n, format, ladder, rank, .. } = linear;
    let [whole_rows, groups, factors] = [[n, 1], [n, linear.groups()], [n, rank]];
    let node = graph.node(id);
    let constant = |at: usize| node.input(at).and_then(|value| graph.constant(value));
    let has = |at: usize| node.input(at).is_some();
    let mut operand = |name: &str, at: usize, dtype: DataType, dims: &[usize]| {
        let found = constant(at).map(|tensor| (tensor.dtype().ok(), tensor.dims()));
        let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        if found != Some((Some(dtype), dims.as_slice())) {
            fault(format!("its {name} are {found:?}, not the constant {dtype:?} {dims:?} that it declares"));
        }
    };
    operand("codes", port::WEIGHT, codes_dtype(format), &[n, linear.row_bytes()]);
    operand("scales", port::SCALES, DataType::Float, if ladder.is_some() { &whole_rows } else { &groups });
    if ladder.is_some() {
        operand("shifts", port::SHIFTS, DataType::Uint8, &groups);
    }
    if has(port::ZERO_POINTS) {
        operand("zero points", port::ZERO_POINTS, DataType::Int8, &groups);
    }
    let branch = [port::LOW_RANK_DOWN, port::LOW_RANK_UP, port::LOW_RANK_SCALES];
    if rank > 0 {
        let down = constant(port::LOW_RANK_DOWN).and_then(|tensor| tensor.dtype().ok());
        let dtype = down.filter(|&dtype| factor_format(dtype).is_ok()).unwrap_or(DataType::Float8e4m3fn);
        operand("low-rank factors V", port::LOW_RANK_DOWN, dtype, &[rank, k]);
        operand("low-rank factors U", port::LOW_RANK_UP, dtype, &factors);
        operand("low-rank scales", port::LOW_RANK_SCALES, DataType::Float, &[rank]);
    } else if branch.into_iter().any(has) {
        fault("it has operands of a low-rank branch, and its rank is 0".to_string());
    }
    match ladder {
        None if has(port::SHIFTS) => fault("it has shifts, and no ladder that they are steps of".to_string()),
        Some(ladder) if ladder.max_shift(format).is_none() => {
            fault(FormatError::Shifted { format, ladder }.to_string());
        }
        _ => {}
    }
    if has(port::ZERO_POINTS) && !format.is_integer() {
        fault(FormatError::ZeroPoints(format).to_string());
    }
}
