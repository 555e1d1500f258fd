//! A quantized model with its factors as inputs, to be differentiated with respect to them.

use std::collections::HashMap;

use zqc_ir::graph::Port;
use zqc_ir::onnx::proto::ValueInfoProto;
use zqc_ir::op::{Layout, Linear, QuantizedLinear, is_standard, port};
use zqc_ir::tensor::DataType;
use zqc_ir::types::{Dim, Type};
use zqc_ir::{Graph, Model, Node, NodeId, Op, Patch, PatchBuilder, Tensor, ValueId, ValueRef, operands};

use crate::pass::PassError;

/// Operators that multiply by an input, a constant vector.
const NORMS: [(&str, usize); 5] = [
    ("LayerNormalization", 1),
    ("RMSNormalization", 1),
    ("SimplifiedLayerNormalization", 1),
    ("SkipLayerNormalization", 2),
    ("SkipSimplifiedLayerNormalization", 2),
];

/// A vector of factors, 1 at first.
#[derive(Debug)]
pub(super) struct Factors {
    /// The input of the surrogate that has them.
    pub input: ValueId,
    /// The constant of the quantized model that they multiply, along its first axis where it is a matrix.
    pub constant: ValueId,
    /// How many.
    pub count: usize,
}

/// A model that computes what the quantized one does, where all factors are 1.
#[derive(Debug)]
pub(super) struct Surrogate {
    pub model: Model,
    pub factors: Vec<Factors>,
}

impl Surrogate {
    /// Gives `model` a factor for every row of its quantized layers, branches excepted, if `rows` says so, and for every element of
    /// the constant vectors that activations are multiplied by: the gains of norms.
    ///
    /// # Errors
    /// When the operands of a layer cannot be read.
    pub(super) fn new(model: &Model, rows: bool) -> Result<Self, PassError> {
        let graph = &model.graph;
        let mut builder =
            Builder { patch: PatchBuilder::new(graph), inputs: Vec::new(), known: HashMap::new() };
        for (id, node) in graph.nodes() {
            match &node.op {
                Op::QuantizedLinear(linear) if rows => builder.layer(id, node, linear)?,
                _ => {}
            }
        }
        for (constant, tensor) in graph.initializers() {
            builder.gain(constant, tensor);
        }
        let Builder { patch, inputs, .. } = builder;
        let mut patch: Patch = patch.finish();
        patch.inputs = inputs.iter().map(|(_, _, info)| info.clone()).collect();
        let mut model = model.clone();
        patch.apply(&mut model).map_err(|source| PassError::Patch { pass: super::NAME, source })?;
        let factors = inputs.into_iter().filter_map(|(constant, count, info)| {
            Some(Factors { input: model.graph.find(info.name())?, constant, count })
        });
        Ok(Self { factors: factors.collect(), model })
    }
}

struct Builder<'g> {
    patch: PatchBuilder<'g>,
    /// The inputs to add: the constants that their factors multiply, how many, and the declaration.
    inputs: Vec<(ValueId, usize, ValueInfoProto)>,
    /// The inputs by these constants.
    known: HashMap<ValueId, ValueRef>,
}

impl Builder<'_> {
    /// The input with the factors of a constant.
    fn input(&mut self, constant: ValueId, count: usize, dtype: DataType) -> ValueRef {
        if let Some(known) = self.known.get(&constant) {
            return known.clone();
        }
        let graph = self.patch.graph();
        let value = self.patch.change("", graph.value(constant).name.as_str()).value("factors");
        let ty = Type::new(Some(dtype), vec![Dim::Fixed(count as i64)]);
        let info = ValueInfoProto {
            name: Some(self.patch.name(&value)),
            r#type: ty.to_proto(),
            ..Default::default()
        };
        self.inputs.push((constant, count, info));
        self.known.insert(constant, value.clone());
        value
    }

    /// The product with the codes times its factors, and beside it the branch in float and the bias.
    fn layer(&mut self, id: NodeId, node: &Node, linear: &QuantizedLinear) -> Result<(), PassError> {
        let graph = self.patch.graph();
        let (Some(x), Some(scales)) = (node.input(port::X), node.input(port::SCALES)) else { return Ok(()) };
        // A tied table looks the same rows up.
        let is_table = |id: NodeId| matches!(graph.node(id).op, Op::QuantizedGather(_));
        if graph.uses(scales).iter().any(|place| is_table(place.node)) {
            return Ok(());
        }
        let unfit = |source| PassError::Operands { layer: linear.layer.clone(), source };
        let branch = operands::low_rank(graph, node, linear).map_err(unfit)?;
        let factors = self.input(scales, linear.n, linear.dtype);
        let mut change = self.patch.change_of(id, format!("{}: factors of the rows", linear.layer));
        let codes = (port::WEIGHT..port::LOW_RANK_DOWN).filter_map(|at| Some((at, node.input(at)?.into())));
        let inputs = operands::inputs(x.into(), codes, None);
        let op = Op::QuantizedLinear(QuantizedLinear { rank: 0, ..linear.clone() });
        let product = change.node(op, inputs).output("product");
        let mut y = change.op("Mul", [product, factors]).output("scaled");
        if let Some(branch) = branch {
            let [up, down] = branch.dense_factors();
            let mut correction = ValueRef::from(x);
            for (weight, n, k) in [(down, branch.rank, linear.k), (up, linear.n, branch.rank)] {
                let weight = Tensor::from_f32_as(linear.dtype, &[n, k], weight);
                let weight = change.constant("factor", weight.map_err(|source| unfit(source.into()))?);
                let layer = Op::Linear(float_layer(linear, n, k));
                correction = change.node(layer, [Some(correction), Some(weight)]).output("branch");
            }
            y = change.op("Add", [y, correction]).output("repaired");
        }
        if let Some(bias) = node.input(port::QUANTIZED_BIAS) {
            let mut bias = ValueRef::from(bias);
            if let Some(beta) = change.scalar(linear.dtype, linear.beta).filter(|_| linear.beta != 1.0) {
                bias = change.op("Mul", [bias, beta]).output("bias");
            }
            y = change.op("Add", [y, bias]).output("biased");
        }
        change.replace(id, &y);
        Ok(())
    }

    /// A constant that features of activations are multiplied by, and nothing else: its elements times factors.
    fn gain(&mut self, constant: ValueId, tensor: &Tensor) {
        let graph = self.patch.graph();
        let count = tensor.dims().iter().product::<i64>().max(0) as usize;
        let is_vector = count > 1 && tensor.dims().last().is_some_and(|&dim| dim as usize == count);
        let Some(dtype) = tensor.dtype().ok().filter(|dtype| is_vector && is_float(*dtype)) else { return };
        let places = graph.uses(constant);
        let scales = |id: NodeId, at: Port| {
            let Port::Input(at) = at else { return None };
            multiplies(graph, graph.node(id), at, count).then_some((id, at))
        };
        let places: Option<Vec<_>> = places.iter().map(|place| scales(place.node, place.port)).collect();
        let Some(places) = places.filter(|places| !places.is_empty() && !graph.is_output(constant)) else {
            return;
        };
        let factors = self.input(constant, count, dtype);
        let mut change = self.patch.change("factors of a gain", graph.value(constant).name.as_str());
        let dims = tensor.dims().to_vec();
        let shape = change.integers(&[dims.len()], &dims);
        let factors = change.op("Reshape", [factors, shape]).output("shaped_factors");
        let product = change.op("Mul", [constant.into(), factors]).output("tuned");
        for (id, at) in places {
            change.rewire(id, at, &product);
        }
        change.finish();
    }
}

/// A part of a layer, with a float weight `[n, k]`.
fn float_layer(of: &QuantizedLinear, n: usize, k: usize) -> Linear {
    Linear {
        layer: of.layer.clone(),
        k,
        n,
        layout: Layout::OutputInput,
        alpha: 1.0,
        beta: 1.0,
        dtype: of.dtype,
        origin: Vec::new(),
    }
}

/// Whether `node` multiplies the features of an activation by its input `at`, one number a feature. Positions times the frequencies of
/// a rotary embedding are no such product: every frequency meets the same position.
fn multiplies(graph: &Graph, node: &Node, at: usize, count: usize) -> bool {
    let Op::Onnx(proto) = &node.op else { return false };
    if node.op.as_standard("Mul").is_some() {
        let Some(other) = node.input(1 - at.min(1)) else { return false };
        return graph.constant(other).is_none() && graph.ty(other).dim(-1).fixed() == Some(count as i64);
    }
    let is_known = is_standard(proto.domain()) || proto.domain() == "com.microsoft";
    is_known && NORMS.contains(&(proto.op_type(), at))
}

fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16)
}
