//! Runs a graph stage by stage: a back end computes the standard operators, we compute our own, and control flow that has
//! them in its bodies or that the back end does not know.
//!
//! Our own run here in float32 on dequantized values, so that no back end has to know FP8 or FP4; the numbers are
//! those of the lowered model up to the order of float additions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::sync::Arc;

use zqc_ir::onnx::{WriteError, extract};
use zqc_ir::op::port;
use zqc_ir::operands::{self, OperandError};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Graph, Model, NodeId, Op, ValueId};
use zqc_numerics::{LowRank, matmul, quantize_dequantize_tokens};

use crate::array::{Array, ArrayData};
use crate::backend::{Backend, BackendError, Piece, Session};
use crate::control::{self, Bodies, Control, LoadedBodies};
use crate::element_types::element_types;
use crate::partition::{Stage, partition};

/// Why a graph could not be run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum RunError {
    /// A stage cannot be cut out of the graph.
    #[error(transparent)]
    Extract(#[from] WriteError),
    /// The graph has a circle.
    #[error(transparent)]
    Cycle(#[from] zqc_ir::graph::Cycle),
    /// The back end failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A constant operand of one of our operators cannot be read.
    #[error("node {node}: {source}")]
    Operand { node: String, source: OperandError },
    /// An activation does not have the shape or type that its layer needs.
    #[error("node {node}: its input is {found}, expected float values [..., {expected}]")]
    Activation { node: String, found: String, expected: usize },
    /// What rows are looked up by is no integers.
    #[error("node {node}: its indices are {found}, expected integers")]
    Indices { node: String, found: String },
    /// What a layer reads is not finite.
    #[error("node {node}: its input holds NaN or infinity")]
    NotFinite { node: String },
    /// Control flow is not as ONNX defines it, or does not end in time.
    #[error("node {node}: {reason}")]
    Control { node: String, reason: String },
    /// A value that a stage reads was not fed.
    #[error("value \"{value}\" is read and was not fed; give it in the calibration or evaluation data")]
    NotFed { value: String },
}

/// The values of one sample that later stages still read.
pub type Live = HashMap<ValueId, Array>;

/// A graph, cut in stages.
pub struct Interpreter<'a> {
    model: Cow<'a, Model>,
    backend: &'a dyn Backend,
    wanted: Vec<ValueId>,
    controls: HashMap<NodeId, Control<'a>>,
    stages: Vec<Stage>,
    /// What inputs are that a caller may leave out.
    defaults: Live,
    /// The element types of results that are not declared.
    types: HashMap<ValueId, DataType>,
}

impl<'a> Interpreter<'a> {
    /// Prepares to compute `wanted`; nothing is loaded yet. Control flow is left to a back end that knows it.
    ///
    /// # Errors
    /// When the graph has a circle.
    pub fn new(model: &'a Model, backend: &'a dyn Backend, wanted: Vec<ValueId>) -> Result<Self, RunError> {
        Self::of(Cow::Borrowed(model), backend, wanted, Bodies::default())
    }

    /// As [`Interpreter::new`], but control flow with operators of ours in its bodies is run here.
    ///
    /// # Errors
    /// When the graph has a circle, or bodies are not what their operator asks for.
    pub fn with_bodies(
        model: &'a Model,
        backend: &'a dyn Backend,
        wanted: Vec<ValueId>,
        bodies: Bodies,
    ) -> Result<Self, RunError> {
        Self::of(Cow::Borrowed(model), backend, wanted, bodies)
    }

    /// As [`Interpreter::with_bodies`], of a model that it may own.
    pub(crate) fn of(
        model: Cow<'a, Model>,
        backend: &'a dyn Backend,
        wanted: Vec<ValueId>,
        bodies: Bodies,
    ) -> Result<Self, RunError> {
        let controls = control::ours(&model, backend, bodies)?;
        let stages = partition(&model.graph, &wanted, |id| controls.contains_key(&id))?;
        let (defaults, types) = (defaults(&model.graph), element_types(&model.graph));
        Ok(Self { model, backend, wanted, controls, stages, defaults, types })
    }

    /// The graph that is run.
    pub fn graph(&self) -> &Graph {
        &self.model.graph
    }

    /// The stages, in order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Loads the standard operators of a stage; `None` when it has none.
    ///
    /// # Errors
    /// When the back end refuses them.
    pub fn load(&self, stage: &Stage) -> Result<Option<Box<dyn Session>>, RunError> {
        if stage.outputs.is_empty() {
            return Ok(None);
        }
        let graph = &self.model.graph;
        let model = extract(&self.model, &stage.nodes, &stage.inputs, &stage.outputs)?;
        let known = |&id: &ValueId| Some((graph.value(id).name.clone(), *self.types.get(&id)?));
        let types = stage.inputs.iter().filter_map(known).collect();
        Ok(Some(self.backend.load(&Piece { model, types })?))
    }

    /// Runs the standard operators of a stage on one sample; the results join `live`.
    ///
    /// # Errors
    /// When a value is missing or the back end fails.
    pub fn run_nodes(
        &self,
        stage: &Stage,
        session: &mut dyn Session,
        live: &mut Live,
    ) -> Result<(), RunError> {
        let name = |id: &ValueId| self.model.graph.value(*id).name.as_str();
        let mut feeds = Vec::with_capacity(stage.inputs.len());
        for id in &stage.inputs {
            let array = live.get(id).ok_or_else(|| RunError::NotFed { value: name(id).to_string() })?;
            feeds.push((name(id), array));
        }
        let fetch: Vec<&str> = stage.outputs.iter().map(name).collect();
        let results = session.run(&feeds, &fetch)?;
        live.extend(stage.outputs.iter().copied().zip(results));
        Ok(())
    }

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
        let Op::QuantizeActivation(quantize) = &node.op else { return Ok(()) };
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
            _ => return Ok(()),
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
            _ => Ok((Vec::new(), None)),
        }
    }

    /// Looks up rows of a quantized table on one sample.
    ///
    /// # Errors
    /// When the indices are missing, are no integers, or name a row that is not there.
    pub fn run_gather(&self, id: NodeId, live: &mut Live) -> Result<(), RunError> {
        let (graph, node) = (&self.model.graph, self.model.graph.node(id));
        let (Op::QuantizedGather(table), Some(value)) = (&node.op, node.input(port::X)) else {
            return Ok(());
        };
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

    /// Runs what of the `layers` of a stage is there before any layer is solved, on one sample: control flow, whose bodies are
    /// loaded when they are entered, quantized tables, and layers that are quantized already, with their activations.
    ///
    /// # Errors
    /// When a value is missing or does not fit, or a body cannot be run.
    pub fn run_control(
        &self,
        id: NodeId,
        loaded: &mut LoadedBodies,
        live: &mut Live,
    ) -> Result<(), RunError> {
        match self.model.graph.node(id).op {
            Op::QuantizedLinear(_) => return self.run_quantized(id, loaded, live),
            Op::QuantizedGather(_) => return self.run_gather(id, live),
            _ => {}
        }
        let Some(control) = self.controls.get(&id) else { return Ok(()) };
        let results = control.run(live, loaded, &mut |_, _, _| ControlFlow::Continue(()))?;
        live.extend(results.into_iter().flatten());
        Ok(())
    }

    /// Runs a layer that is quantized already, and the quantization of its activation, which stays for other readers.
    fn run_quantized(&self, id: NodeId, loaded: &mut LoadedBodies, live: &mut Live) -> Result<(), RunError> {
        let graph = &self.model.graph;
        let x = graph.node(id).input(port::X);
        if let Some(quantize) = x.filter(|x| !live.contains_key(x)).and_then(|x| graph.producer(x)) {
            let activation = graph.node(quantize).input(0);
            let activation = activation.and_then(|value| Some((value, live.get(&value)?.clone())));
            self.run_quantize(quantize, live)?;
            live.extend(activation);
        }
        if loaded.weight.is_none() {
            loaded.weight = Some(self.weight(id)?);
        }
        let Some((weight, low_rank)) = &loaded.weight else { return Ok(()) };
        self.run_linear(id, weight, low_rank.as_ref(), live)
    }

    /// Loads the bodies of control flow that is among the `layers` of a stage, and lets them go again.
    ///
    /// # Errors
    /// When the back end refuses one.
    pub fn try_control(&self, id: NodeId) -> Result<(), RunError> {
        self.controls.get(&id).map_or(Ok(()), Control::try_load)
    }

    /// Loads every stage and every body, and lets them go again.
    pub(crate) fn try_load(&self) -> Result<(), RunError> {
        self.stages.iter().try_for_each(|stage| self.load(stage).map(drop))?;
        self.controls.values().try_for_each(Control::try_load)
    }

    /// Loads every stage, to run the graph many times.
    ///
    /// # Errors
    /// When the back end refuses a stage.
    pub fn prepare(&self) -> Result<Prepared<'_>, RunError> {
        let mut sessions = Sessions::default();
        self.load_all(&mut sessions)?;
        Ok(Prepared { interpreter: self, sessions })
    }

    /// Computes the wanted values, in their order, from the fed ones; only one stage is loaded at a time.
    ///
    /// # Errors
    /// When the back end refuses a stage, a value is missing or an operator fails.
    pub fn run(&self, mut live: Live) -> Result<Vec<Array>, RunError> {
        for stage in &self.stages {
            let mut session = self.load(stage)?;
            self.run_stage(stage, &mut session, &mut Kept::default(), &mut live)?;
        }
        self.take_wanted(live)
    }

    /// As [`Interpreter::run`], with what is loaded already; the rest is loaded first.
    pub(crate) fn run_with(&self, sessions: &mut Sessions, mut live: Live) -> Result<Vec<Array>, RunError> {
        self.load_all(sessions)?;
        for (stage, session) in self.stages.iter().zip(&mut sessions.stages) {
            self.run_stage(stage, session, &mut sessions.kept, &mut live)?;
        }
        self.take_wanted(live)
    }

    /// Loads the stages that are not.
    fn load_all(&self, sessions: &mut Sessions) -> Result<(), RunError> {
        for stage in &self.stages[sessions.stages.len().min(self.stages.len())..] {
            sessions.stages.push(self.load(stage)?);
        }
        Ok(())
    }

    /// Runs a whole stage on one sample.
    fn run_stage(
        &self,
        stage: &Stage,
        session: &mut Option<Box<dyn Session>>,
        kept: &mut Kept,
        live: &mut Live,
    ) -> Result<(), RunError> {
        if let Some(session) = session {
            self.run_nodes(stage, session.as_mut(), live)?;
        }
        for &id in &stage.layers {
            match &self.model.graph.node(id).op {
                Op::QuantizeActivation(_) => self.run_quantize(id, live)?,
                Op::QuantizedGather(_) => self.run_gather(id, live)?,
                Op::Linear(_) | Op::QuantizedLinear(_) => {
                    let once;
                    let (weight, low_rank) = match kept.weights.as_mut().map(|weights| weights.entry(id)) {
                        Some(Entry::Occupied(place)) => &*place.into_mut(),
                        Some(Entry::Vacant(place)) => &*place.insert(self.weight(id)?),
                        None => {
                            once = self.weight(id)?;
                            &once
                        }
                    };
                    self.run_linear(id, weight, low_rank.as_ref(), live)?;
                }
                Op::Onnx(_) => {
                    let in_loop = kept.weights.is_some();
                    let loaded = kept.bodies.entry(id).or_insert_with(|| LoadedBodies::new(in_loop));
                    self.run_control(id, loaded, live)?;
                }
            }
        }
        stage.last_read.iter().for_each(|value| drop(live.remove(value)));
        Ok(())
    }

    fn take_wanted(&self, mut live: Live) -> Result<Vec<Array>, RunError> {
        let name = |id: &ValueId| self.model.graph.value(*id).name.clone();
        let take = |id: &ValueId| live.remove(id).ok_or_else(|| RunError::NotFed { value: name(id) });
        self.wanted.iter().map(take).collect()
    }

    /// The feeds of one sample by value, with the defaults of inputs that are not fed; names that are no inputs of the graph are
    /// left out.
    pub fn feed<'n>(&self, inputs: impl IntoIterator<Item = (&'n str, Array)>) -> Live {
        let graph = &self.model.graph;
        let known = |name: &str| graph.find(name).filter(|id| graph.inputs().contains(id));
        let mut live = self.defaults.clone();
        live.extend(inputs.into_iter().filter_map(|(name, array)| Some((known(name)?, array))));
        live
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
}

/// The defaults of the graph's inputs; one of a type that no array has must be fed.
fn defaults(graph: &Graph) -> Live {
    let default = |&input: &ValueId| Some((input, Array::of_tensor(graph.default_of(input)?).ok()?));
    graph.inputs().iter().filter_map(default).collect()
}

/// What is loaded of a graph.
#[derive(Default)]
pub(crate) struct Sessions {
    /// The first stages.
    stages: Vec<Option<Box<dyn Session>>>,
    kept: Kept,
}

impl Sessions {
    /// Of a graph that `repeats` on one sample, or not; nothing is loaded yet.
    pub(crate) fn new(repeats: bool) -> Self {
        let weights = repeats.then(HashMap::new);
        Self { stages: Vec::new(), kept: Kept { weights, ..Kept::default() } }
    }
}

/// What stages keep from one run to the next.
#[derive(Default)]
struct Kept {
    /// Bodies that were entered, by their operator.
    bodies: HashMap<NodeId, LoadedBodies>,
    /// Dequantized weights, in a graph that is run many times on few tokens.
    weights: Option<HashMap<NodeId, Weight>>,
}

/// A weight `[N, K]` and the low-rank branch beside it.
pub(crate) type Weight = (Vec<f32>, Option<LowRank>);

/// An interpreter with every stage loaded.
pub struct Prepared<'a> {
    interpreter: &'a Interpreter<'a>,
    sessions: Sessions,
}

impl Prepared<'_> {
    /// Computes the wanted values, in their order, from the fed ones.
    ///
    /// # Errors
    /// When a value is missing or an operator fails.
    pub fn run(&mut self, live: Live) -> Result<Vec<Array>, RunError> {
        self.interpreter.run_with(&mut self.sessions, live)
    }
}
