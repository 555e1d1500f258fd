//! Float weights become codes and scales, stage by stage: every stage is calibrated on what the already quantized
//! stages before it put out, so that it repairs what they lost.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use zqc_ir::op::{Linear, QuantizedLinear, port};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Change, Graph, Model, NewNode, Node, NodeId, Op, Patch, Tensor, ValueId};
use zqc_numerics::{GptqOptions, Hessian, QuantizedMatrix, SolveError, gptq, pack_nibbles, rtn};
use zqc_runtime::{Array, ArrayData, Backend, Interpreter, Live, RunError, Stage};

use crate::pass::{LayerRecord, Observer, Pass, PassError};

/// Solves the weights of every `zqc.linear`, which becomes `zqc.quantized_linear`. A weight that several layers share
/// is solved once, in the first stage that reads it, on the inputs of all its readers there.
pub struct SolveWeights<'a> {
    /// Format, group size, scale search, and what GPTQ needs besides. RTN reads the first three.
    pub options: GptqOptions,
    /// How the codes are found.
    pub method: Method<'a>,
}

/// How the codes are found.
pub enum Method<'a> {
    /// Round to nearest; needs no data.
    Rtn,
    /// GPTQ (Frantar et al., arXiv 2210.17323) on Hessians gathered from calibration data.
    Gptq(Calibration<'a>),
}

/// What a graph is calibrated on.
pub struct Calibration<'a> {
    /// Runs the standard operators.
    pub backend: &'a dyn Backend,
    /// Inputs of the graph by name, one entry a sample.
    pub samples: &'a [Vec<(String, Array)>],
}

/// What makes two layers share one solved weight.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct WeightKey {
    value: ValueId,
    transposed: bool,
    alpha: u32,
}

impl WeightKey {
    fn new(weight: ValueId, linear: &Linear) -> Self {
        let transposed = linear.layout == zqc_ir::op::Layout::InputOutput;
        Self { value: weight, transposed, alpha: linear.alpha.to_bits() }
    }
}

/// A layer to solve.
struct Layer<'g> {
    id: NodeId,
    linear: &'g Linear,
    x: ValueId,
    key: WeightKey,
}

impl Pass for SolveWeights<'_> {
    fn name(&self) -> &'static str {
        "solve_weights"
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let mut solver =
            Solver { model, options: &self.options, solved: HashMap::new(), patch: Patch::default() };
        match &self.method {
            Method::Rtn => {
                let order = model.graph.order().map_err(RunError::from)?;
                let layers = solver.layers(&order);
                observer.stage_started(0, 1, layers.len());
                for layer in &layers {
                    solver.solve(layer, 0, None, observer)?;
                }
            }
            Method::Gptq(calibration) => solver.walk(calibration, observer)?,
        }
        Ok(solver.patch)
    }
}

struct Solver<'a> {
    model: &'a Model,
    options: &'a GptqOptions,
    /// Solved weights that this stage or, when layers share them, a later one reads.
    solved: HashMap<WeightKey, Solved>,
    patch: Patch,
}

struct Solved {
    matrix: QuantizedMatrix,
    codes: String,
    scales: String,
}

impl<'a> Solver<'a> {
    fn layers(&self, nodes: &[NodeId]) -> Vec<Layer<'a>> {
        let graph = &self.model.graph;
        let layer = |&id: &NodeId| {
            let node = graph.node(id);
            let Op::Linear(linear) = &node.op else { return None };
            let (x, weight) = (node.input(port::X)?, node.input(port::WEIGHT)?);
            Some(Layer { id, linear, x, key: WeightKey::new(weight, linear) })
        };
        nodes.iter().filter_map(layer).collect()
    }

    fn walk(&mut self, calibration: &Calibration, observer: &mut dyn Observer) -> Result<(), PassError> {
        let graph = &self.model.graph;
        let wanted = last_layers(graph);
        if wanted.is_empty() {
            return Ok(());
        }
        let interpreter = Interpreter::new(self.model, calibration.backend, wanted)?;
        let feed = |sample: &Vec<(String, Array)>| {
            interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())))
        };
        let mut samples: Vec<Live> = calibration.samples.iter().map(feed).collect();
        let count = interpreter.stages().len();
        for (index, stage) in interpreter.stages().iter().enumerate() {
            let layers = self.layers(&stage.layers);
            observer.stage_started(index, count, layers.len());
            let hessians = gather(&interpreter, stage, &layers, &mut samples)?;
            for layer in &layers {
                let hessian = merged(&layers, layer.key, &hessians);
                self.solve(layer, index, Some(&hessian), observer)?;
            }
            if index + 1 < count {
                for layer in &layers {
                    let weight = self.solved[&layer.key].matrix.dequantize();
                    samples
                        .iter_mut()
                        .try_for_each(|live| interpreter.run_linear(layer.id, &weight, live))?;
                }
            }
            let unshared = |layer: &&Layer| graph.uses(layer.key.value).len() == 1;
            layers.iter().filter(unshared).for_each(|layer| drop(self.solved.remove(&layer.key)));
            for live in &mut samples {
                stage.last_read.iter().for_each(|value| drop(live.remove(value)));
            }
        }
        Ok(())
    }

    /// Solves the weight of a layer, unless another layer that shares it came first, and puts the change in the patch.
    fn solve(
        &mut self,
        layer: &Layer,
        stage: usize,
        hessian: Option<&Hessian>,
        observer: &mut dyn Observer,
    ) -> Result<(), PassError> {
        let graph = &self.model.graph;
        let &Layer { id, linear, key, .. } = layer;
        let mut change = Change::new(format!("{}: float weight becomes codes and scales", linear.layer));
        if !self.solved.contains_key(&key) {
            let started = Instant::now();
            let weight = self.weight(layer)?;
            let failed = |source| PassError::Solve { layer: linear.layer.clone(), source };
            let options = self.options;
            let nearest = || {
                let GptqOptions { format, group_size, scale_search, .. } = *options;
                rtn(&weight, linear.n, linear.k, format, group_size, scale_search).map_err(failed)
            };
            let (matrix, output_error) = match hessian.map(|h| gptq(&weight, linear.n, linear.k, h, options))
            {
                Some(Ok(solution)) => (solution.matrix, Some(solution.output_error.sqrt())),
                Some(Err(SolveError::NoTokens)) | None => (nearest()?, None),
                Some(Err(source)) => return Err(failed(source)),
            };
            let hint = graph.value(key.value).name.clone();
            let codes = graph.fresh_name(&format!("{hint}_{}", matrix.format));
            let scales = graph.fresh_name(&format!("{hint}_{}_scales", matrix.format));
            let unreadable = |source| PassError::Weight { layer: linear.layer.clone(), source };
            let [codes_tensor, scales_tensor] = tensors(&matrix).map_err(unreadable)?;
            change.initializers = vec![(codes.clone(), codes_tensor), (scales.clone(), scales_tensor)];
            observer.layer_solved(LayerRecord {
                layer: linear.layer.clone(),
                k: linear.k,
                n: linear.n,
                stage,
                source_bytes: self
                    .model
                    .graph
                    .constant(key.value)
                    .map_or(0, |w| w.byte_len().unwrap_or(0) as u64),
                bits_per_weight: matrix.bits_per_weight(),
                weight_error: matrix.relative_error(&weight),
                output_error,
                seconds: started.elapsed().as_secs_f64(),
            });
            self.solved.insert(key, Solved { matrix, codes, scales });
        }
        let solved = &self.solved[&key];
        let mut node = NewNode::restore(graph, graph.node(id));
        let bias = node.inputs.get(port::LINEAR_BIAS).cloned();
        node.inputs.truncate(port::WEIGHT);
        node.inputs.extend([Some(solved.codes.clone()), Some(solved.scales.clone())]);
        node.inputs.extend(bias);
        node.op = Op::QuantizedLinear(QuantizedLinear {
            layer: linear.layer.clone(),
            k: linear.k,
            n: linear.n,
            format: solved.matrix.format,
            group_size: solved.matrix.group_size,
            beta: linear.beta,
            dtype: linear.dtype,
        });
        change.remove.push(id);
        change.add.push(node);
        change.release.extend(linear.origin.iter().flat_map(Node::reads).chain([key.value]));
        self.patch.changes.push(change);
        Ok(())
    }

    /// The layer's weight as rows `[N, K]`.
    fn weight(&self, layer: &Layer) -> Result<Vec<f32>, PassError> {
        let tensor = self.model.graph.constant(layer.key.value).ok_or(TensorError::NotLoaded);
        let values = tensor.and_then(Tensor::to_f32);
        let values =
            values.map_err(|source| PassError::Weight { layer: layer.linear.layer.clone(), source })?;
        Ok(layer.linear.weight_rows(values))
    }
}

/// The results of the linear layers that no other linear layer comes after: computing them computes all others.
fn last_layers(graph: &Graph) -> Vec<ValueId> {
    let layers: Vec<NodeId> =
        graph.nodes().filter(|(_, node)| matches!(node.op, Op::Linear(_))).map(|(id, _)| id).collect();
    let mut before = HashSet::new();
    let mut open: Vec<NodeId> = layers.iter().flat_map(|&id| graph.predecessors(id)).collect();
    while let Some(id) = open.pop() {
        if before.insert(id) {
            open.extend(graph.predecessors(id));
        }
    }
    layers.iter().filter(|id| !before.contains(id)).filter_map(|&id| graph.node(id).output(0)).collect()
}

/// Runs a stage up to its linear layers on every sample; the Hessian of each distinct input.
fn gather(
    interpreter: &Interpreter,
    stage: &Stage,
    layers: &[Layer],
    samples: &mut [Live],
) -> Result<HashMap<ValueId, Hessian>, RunError> {
    let mut session = interpreter.load(stage)?;
    let mut gathered: HashMap<ValueId, Gathered> =
        layers.iter().map(|layer| (layer.x, Gathered::new(layer.linear.k))).collect();
    for live in samples {
        if let Some(session) = &mut session {
            interpreter.run_nodes(stage, session.as_mut(), live)?;
        }
        for &id in &stage.layers {
            interpreter.run_quantize(id, live)?;
        }
        for (x, gathered) in &mut gathered {
            if let Some(array) = live.get(x) {
                gathered.add(array);
            }
        }
    }
    Ok(gathered.into_iter().map(|(x, gathered)| (x, gathered.finish())).collect())
}

/// A Hessian in the making; short samples wait for each other, because every accumulation touches all `K²` sums.
struct Gathered {
    hessian: Hessian,
    waiting: Vec<f32>,
}

impl Gathered {
    /// Tokens that are accumulated together.
    const BLOCK: usize = 2048;

    fn new(k: usize) -> Self {
        Self { hessian: Hessian::new(k), waiting: Vec::new() }
    }

    fn add(&mut self, x: &Array) {
        let k = self.hessian.k();
        if let ArrayData::F32(values) = &x.data
            && x.shape.last() == Some(&k)
        {
            self.waiting.extend_from_slice(values);
        }
        if self.waiting.len() >= Self::BLOCK * k {
            self.hessian.accumulate(&self.waiting);
            self.waiting.clear();
        }
    }

    fn finish(mut self) -> Hessian {
        self.hessian.accumulate(&self.waiting);
        self.hessian
    }
}

/// The Hessian of a weight: the sum over the distinct inputs of the layers that share it.
fn merged(layers: &[Layer], key: WeightKey, hessians: &HashMap<ValueId, Hessian>) -> Hessian {
    let mut inputs: Vec<ValueId> =
        layers.iter().filter(|layer| layer.key == key).map(|layer| layer.x).collect();
    inputs.sort();
    inputs.dedup();
    let mut sum = hessians[&inputs[0]].clone();
    inputs[1..].iter().for_each(|x| sum.merge(&hessians[x]));
    sum
}

/// The operands of a [`QuantizedLinear`]: packed codes `u8 [N, row bytes]` and scales `f32 [N, groups]`.
fn tensors(matrix: &QuantizedMatrix) -> Result<[Tensor; 2], TensorError> {
    let codes: Vec<u8> = if matrix.format.bits() == 4 {
        matrix.codes.chunks(matrix.cols).flat_map(pack_nibbles).collect()
    } else {
        matrix.codes.clone()
    };
    let row_bytes = codes.len() / matrix.rows;
    Ok([
        Tensor::new(DataType::Uint8, &[matrix.rows, row_bytes], codes)?,
        Tensor::from_f32(&[matrix.rows, matrix.groups()], matrix.scales.clone())?,
    ])
}
