//! Runs a graph stage by stage: a back end computes the standard operators, we compute our own, and control flow that has
//! them in its subgraphs or that the back end does not know.
//!
//! Our own run here in float32 on dequantized values, so that no back end has to know FP8 or FP4; the numbers are
//! those of the lowered model up to the order of float additions.

mod operators;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use zqc_ir::onnx::extract;
use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, Model, NodeId, Op, Source, ValueId};

use crate::array::Array;
use crate::backend::{Backend, Session, Subgraph};
use crate::element_types::element_types;
use crate::partition::{Stage, partition};
use crate::run_error::RunError;
use crate::sessions::{Kept, LoadedRegions, LoadedWeight, Sessions};

/// The values of one sample that later stages still read.
pub type Live = HashMap<ValueId, Array>;

/// An operator with subgraphs, which the interpreter has run without knowing how.
pub(crate) trait ControlOperator: Send + Sync {
    /// Runs the operator on one sample; its results by value.
    fn run(&self, live: &Live, loaded: &mut LoadedRegions) -> Result<Live, RunError>;

    /// Loads its subgraphs, and those inside them, and drops them.
    fn try_load(&self) -> Result<(), RunError>;
}

/// A graph, cut into stages.
pub struct Interpreter<'a> {
    model: Cow<'a, Model>,
    backend: &'a dyn Backend,
    wanted: Vec<ValueId>,
    controls: HashMap<NodeId, Box<dyn ControlOperator + 'a>>,
    stages: Vec<Stage>,
    /// The values of inputs that a caller may leave out.
    defaults: Live,
    /// The element types of results that are not declared.
    types: HashMap<ValueId, DataType>,
}

impl<'a> Interpreter<'a> {
    /// An interpreter that computes `wanted` of `model` and runs the operators in `controls` itself; nothing is loaded yet.
    ///
    /// # Errors
    /// When the graph has a cycle.
    pub(crate) fn with_controls(
        model: Cow<'a, Model>,
        backend: &'a dyn Backend,
        wanted: Vec<ValueId>,
        controls: HashMap<NodeId, Box<dyn ControlOperator + 'a>>,
    ) -> Result<Self, RunError> {
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
        Ok(Some(self.backend.load(&Subgraph { model, types })?))
    }

    /// Runs the standard operators of a stage on one sample; the results join `live`.
    ///
    /// # Errors
    /// When a value is missing or the back end fails.
    pub fn run_nodes(&self, stage: &Stage, session: &dyn Session, live: &mut Live) -> Result<(), RunError> {
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

    /// Runs a control-flow operator on one sample, whose subgraphs are loaded when they are entered.
    ///
    /// # Errors
    /// When a value is missing or does not fit, or a subgraph cannot be run.
    pub fn run_control(
        &self,
        id: NodeId,
        loaded: &mut LoadedRegions,
        live: &mut Live,
    ) -> Result<(), RunError> {
        let results = self.control(id)?.run(live, loaded)?;
        live.extend(results);
        Ok(())
    }

    fn control(&self, id: NodeId) -> Result<&dyn ControlOperator, RunError> {
        let node = || self.model.graph.label(id);
        let control = self.controls.get(&id).map(Box::as_ref);
        control.ok_or_else(|| RunError::Kind { node: node(), expected: "control flow that is run here" })
    }

    /// Loads the subgraphs of a control-flow operator and drops them: to see whether the back end takes them.
    ///
    /// # Errors
    /// When the back end refuses one.
    pub fn try_control(&self, id: NodeId) -> Result<(), RunError> {
        self.control(id)?.try_load()
    }

    /// Loads every stage and every subgraph and drops them.
    pub(crate) fn try_load(&self) -> Result<(), RunError> {
        self.stages.iter().try_for_each(|stage| self.load(stage).map(drop))?;
        self.controls.values().try_for_each(|control| control.try_load())
    }

    /// Loads every stage, to run the graph many times. The weights of our own operators are read again in each run.
    ///
    /// # Errors
    /// When the back end refuses a stage.
    pub fn prepare(&self) -> Result<Prepared<'_>, RunError> {
        let stages = self.stages.iter().map(|stage| self.load(stage)).collect::<Result<_, _>>()?;
        Ok(Prepared { interpreter: self, stages, weights: None, kept: Mutex::default() })
    }

    /// As [`Interpreter::prepare`], with the weights of linear layers dequantized in memory.
    ///
    /// # Errors
    /// When the back end refuses a stage, or a weight cannot be read.
    pub fn prepare_with_weights(&self) -> Result<Prepared<'_>, RunError> {
        let layers = self.stages.iter().flat_map(|stage| stage.linears.iter().chain(&stage.quantized));
        let is_layer = |id: &&NodeId| !matches!(self.model.graph.node(**id).op, Op::QuantizedGather(_));
        let load = |&id: &NodeId| Ok((id, LoadedWeight::new(self.weight(id)?)));
        let weights = layers.filter(is_layer).map(load).collect::<Result<_, RunError>>()?;
        Ok(Prepared { weights: Some(weights), ..self.prepare()? })
    }

    /// Computes the wanted values, in their order, from the fed ones; only one stage is loaded at a time.
    ///
    /// # Errors
    /// When the back end refuses a stage, a value is missing or an operator fails.
    pub fn run(&self, mut live: Live) -> Result<Vec<Array>, RunError> {
        for stage in &self.stages {
            let session = self.load(stage)?;
            self.run_stage(stage, session.as_deref(), &mut Kept::default(), &mut live)?;
        }
        self.take_wanted(live)
    }

    /// As [`Interpreter::run`], with what is loaded already; the rest is loaded first.
    pub(crate) fn run_with(&self, sessions: &mut Sessions, mut live: Live) -> Result<Vec<Array>, RunError> {
        self.load_all(sessions)?;
        for (stage, session) in self.stages.iter().zip(&sessions.stages) {
            self.run_stage(stage, session.as_deref(), &mut sessions.kept, &mut live)?;
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
        session: Option<&dyn Session>,
        kept: &mut Kept,
        live: &mut Live,
    ) -> Result<(), RunError> {
        if let Some(session) = session {
            self.run_nodes(stage, session, live)?;
        }
        for &id in &stage.controls {
            self.run_control(id, kept.regions(id), live)?;
        }
        for &id in &stage.quantizations {
            self.run_quantize(id, live)?;
        }
        for &id in &stage.linears {
            let mut once = LoadedWeight::default();
            let (weight, low_rank) = kept.weight(id, &mut once).get_or_load(|| self.weight(id))?;
            self.run_linear(id, weight, low_rank.as_ref(), live)?;
        }
        for &id in &stage.quantized {
            let mut once = LoadedWeight::default();
            self.run_quantized(id, kept.weight(id, &mut once), live)?;
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
    /// left out. Those of a region are its captures too.
    pub fn feed<'n>(&self, inputs: impl IntoIterator<Item = (&'n str, Array)>) -> Live {
        let graph = &self.model.graph;
        let known = |name: &str| {
            let is_given = |id: &ValueId| matches!(graph.source(*id), Source::Input | Source::Capture);
            graph.find(name).filter(is_given)
        };
        let mut live = self.defaults.clone();
        live.extend(inputs.into_iter().filter_map(|(name, array)| Some((known(name)?, array))));
        live
    }
}

/// The defaults of the graph's inputs; one of a type that no array has must be fed.
fn defaults(graph: &Graph) -> Live {
    let default = |&input: &ValueId| Some((input, Array::of_tensor(graph.default_of(input)?).ok()?));
    graph.inputs().iter().filter_map(default).collect()
}

/// An interpreter with every stage loaded, which several threads may run at a time.
pub struct Prepared<'a> {
    interpreter: &'a Interpreter<'a>,
    stages: Vec<Option<Box<dyn Session>>>,
    /// The weights of all linear layers, if they are kept.
    weights: Option<HashMap<NodeId, LoadedWeight>>,
    /// What the runs that ended have kept, for the next ones.
    kept: Mutex<Vec<Kept>>,
}

impl Prepared<'_> {
    /// Computes the wanted values, in their order, from the fed ones.
    ///
    /// # Errors
    /// When a value is missing or an operator fails.
    pub fn run(&self, mut live: Live) -> Result<Vec<Array>, RunError> {
        let pool = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = pool().pop().unwrap_or_else(|| Kept::new(self.weights.clone()));
        for (stage, session) in self.interpreter.stages.iter().zip(&self.stages) {
            self.interpreter.run_stage(stage, session.as_deref(), &mut kept, &mut live)?;
        }
        pool().push(kept);
        self.interpreter.take_wanted(live)
    }
}
