//! The gradient of a graph: its nodes from the last to the first, each with the rule of its operator.

use std::collections::{HashMap, HashSet};

use zqc_ir::onnx::proto::ValueInfoProto;
use zqc_ir::tensor::DataType;
use zqc_ir::types::Type;
use zqc_ir::verify::verify;
use zqc_ir::{Graph, Model, Node, NodeId, PatchBuilder, Source, ValueId, ValueRef};

use crate::backward::Backward;
use crate::error::GradientError;
use crate::flow::{active, is_float};
use crate::rules;

/// The first opset in which the axes of `ReduceSum`, `Squeeze` and `Unsqueeze` are an input, as the rules write them.
const FIRST_OPSET: i64 = 13;

/// A model that computes gradients.
#[derive(Debug, Clone)]
pub struct Differentiated {
    /// The nodes of the source that the gradients need, under the names and ids of values that they have there, and the nodes of
    /// the gradients. Its results are the gradients that exist, in the order in which they were asked for.
    pub model: Model,
    /// The input that was added, `OUTPUT_gradient`: the gradient of the loss with respect to the output, of the output's type.
    pub output_gradient: ValueId,
    /// The gradient with respect to every value that was asked for, `VALUE_gradient`, of that value's type; `None` where
    /// the output does not depend on it, or where no gradient comes as far.
    pub gradients: Vec<Option<ValueId>>,
    /// The nodes at which a gradient stopped, from the output on. What lies behind them lacks their part.
    pub stopped: Vec<Stopped>,
}

/// A node that a gradient reached and did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The node, as messages name it.
    pub node: String,
    /// The type of its operator.
    pub op_type: String,
    /// Why the gradient stopped.
    pub reason: &'static str,
}

/// Differentiates `output` with respect to the values `wrt`: activations anywhere in the graph, inputs or initializers of
/// floating-point numbers. What is computed of integers, truth values and shapes has no gradient and stops none.
///
/// # Errors
/// When the model imports an opset below 13, `output` or a value of `wrt` is undefined or is not of floating-point numbers, or the
/// graph has a cycle.
pub fn differentiate(
    model: &Model,
    output: ValueId,
    wrt: &[ValueId],
) -> Result<Differentiated, GradientError> {
    let graph = &model.graph;
    if model.opset() < FIRST_OPSET {
        return Err(GradientError::Opset { found: model.opset() });
    }
    for &value in wrt.iter().chain([&output]) {
        check(graph, value)?;
    }
    let order = graph.order()?;
    let active = active(graph, &order, output, wrt);
    let mut patch = PatchBuilder::new(graph);
    let name = &graph.value(output).name;
    let seed = patch.change("the gradient of the output is an input", name.as_str()).value("gradient");
    let mut sweep =
        Sweep { patch, active, sums: HashMap::from([(output, vec![seed.clone()])]), stopped: Vec::new() };
    for &id in order.iter().rev() {
        sweep.node(model, id);
    }
    let gradients: Vec<Option<String>> = wrt.iter().map(|&value| sweep.result(value)).collect();
    let Sweep { patch, stopped, .. } = sweep;
    let seed = patch.name(&seed);
    let mut patch = patch.finish();
    patch.inputs.push(input(&seed, graph.ty(output)));
    patch.outputs = Some(gradients.iter().flatten().cloned().collect());
    let mut model = model.clone();
    patch.apply(&mut model)?;
    verify(&model)?;
    let find = |name: &String| {
        let undefined = || GradientError::Undefined { value: name.clone() };
        model.graph.find(name).ok_or_else(undefined)
    };
    let output_gradient = find(&seed)?;
    let gradients =
        gradients.iter().map(|name| name.as_ref().map(find).transpose()).collect::<Result<_, _>>()?;
    Ok(Differentiated { model, output_gradient, gradients, stopped })
}

fn check(graph: &Graph, value: ValueId) -> Result<(), GradientError> {
    let (name, ty) = (&graph.value(value).name, graph.ty(value));
    if graph.source(value) == Source::Undefined {
        return Err(GradientError::Undefined { value: name.clone() });
    }
    if ty.dtype.is_some_and(|dtype| !is_float(dtype)) {
        return Err(GradientError::NotFloat { value: name.clone(), ty: Box::new(ty) });
    }
    Ok(())
}

fn input(name: &str, ty: Type) -> ValueInfoProto {
    let ty = Type::new(ty.dtype.unwrap_or(DataType::Float), ty.shape);
    ValueInfoProto { name: Some(name.to_string()), r#type: ty.to_proto(), ..Default::default() }
}

/// The way from the last node to the first.
struct Sweep<'g> {
    patch: PatchBuilder<'g>,
    /// The values that get a gradient.
    active: HashSet<ValueId>,
    /// What the readers of each value have contributed to its gradient: all of them where its producer's turn has come.
    sums: HashMap<ValueId, Vec<ValueRef>>,
    stopped: Vec<Stopped>,
}

impl<'g> Sweep<'g> {
    fn node(&mut self, model: &Model, id: NodeId) {
        let graph = self.patch.graph();
        let node = graph.node(id);
        if !node.reads().any(|value| self.active.contains(&value)) {
            return;
        }
        let gradients: Vec<_> = node.outputs().iter().map(|value| self.gradient((*value)?)).collect();
        if gradients.iter().all(Option::is_none) {
            return;
        }
        if let Err(reason) = self.apply(model, node, id, &gradients) {
            let (node, op_type) = (graph.label(id), node.op.kind().to_string());
            self.stopped.push(Stopped { node, op_type, reason });
        }
    }

    fn apply(
        &mut self,
        model: &Model,
        node: &'g Node,
        id: NodeId,
        gradients: &[Option<ValueRef>],
    ) -> Result<(), &'static str> {
        if !node.regions().is_empty() {
            return Err("it is control flow, and gradients do not enter subgraphs");
        }
        let rule = rules::find(model, &node.op)?;
        let first = node.outputs().iter().flatten().next();
        let prefix = first.map_or("", |&value| &self.patch.graph().value(value).name);
        let why = format!("the gradient of {}", self.patch.graph().label(id));
        let mut change = self.patch.change(why, format!("{prefix}_gradient"));
        let mut backward = Backward::new(&mut change, node, model.opset(), gradients, &self.active);
        rule(&mut backward)?;
        let given = backward.into_given();
        change.finish();
        for (value, gradient) in given {
            self.sums.entry(value).or_default().push(gradient);
        }
        Ok(())
    }

    /// The gradient with respect to `value`, all of whose readers have had their turn.
    fn gradient(&mut self, value: ValueId) -> Option<ValueRef> {
        let parts = self.sums.get_mut(&value)?;
        let mut sum = parts.first()?.clone();
        if parts.len() > 1 {
            let name = &self.patch.graph().value(value).name;
            let mut change =
                self.patch.change(format!("the gradients of the readers of \"{name}\""), name.as_str());
            for part in &parts[1..] {
                sum = change.op("Add", [sum, part.clone()]).output("gradient_sum");
            }
            change.finish();
            *parts = vec![sum.clone()];
        }
        Some(sum)
    }

    /// Gives the gradient with respect to `value` a name, of which no two results of the graph have one.
    fn result(&mut self, value: ValueId) -> Option<String> {
        if !self.active.contains(&value) {
            return None;
        }
        let gradient = self.gradient(value)?;
        let name = &self.patch.graph().value(value).name;
        let why = format!("the gradient with respect to \"{name}\" is a result");
        let mut change = self.patch.change(why, name.as_str());
        let result = change.op("Identity", [gradient]).output("gradient");
        change.finish();
        Some(self.patch.name(&result))
    }
}
