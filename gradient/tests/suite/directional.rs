//! A decoder's gradient against central differences along a random direction.

use std::collections::BTreeMap;

use zqc_gradient::{Stopped, differentiate};
use zqc_ir::graph::Port;
use zqc_ir::onnx::proto::ValueInfoProto;
use zqc_ir::{Model, PatchBuilder, ValueId};
use zqc_runtime::{Array, InputSpec, make_inputs};

use crate::differences::{dot, find, random, run};

/// Half the distance of the two points of the nearer difference, of the root mean square of the value that is displaced: so much that the
/// rounding of single precision does not count.
const RELATIVE_STEP: f32 = 4e-2;

/// The inputs of a decoder for these tokens.
fn inputs(model: &Model, tokens: &[i64]) -> Vec<(String, Array)> {
    let specs = InputSpec::of_graph(&model.graph).unwrap();
    let given = BTreeMap::from([("input_ids".to_string(), Array::sequence(tokens.to_vec()))]);
    make_inputs(&specs, &given).unwrap()
}

/// The model with an input, `displacement`, that is added to `value` before anything reads it.
fn displaced(model: &Model, value: ValueId) -> Model {
    let graph = &model.graph;
    let mut patch = PatchBuilder::new(graph);
    let mut change = patch.change("a displacement", "displaced");
    let displacement = change.value("by");
    let sum = change.op("Add", [value.into(), displacement.clone()]).output("value");
    for place in graph.uses(value) {
        if let Port::Input(port) = place.port {
            change.rewire(place.node, port, &sum);
        }
    }
    change.finish();
    let name = patch.name(&displacement);
    let mut patch = patch.finish();
    let r#type = graph.ty(value).to_proto();
    patch.inputs.push(ValueInfoProto { name: Some(name), r#type, ..Default::default() });
    let mut model = model.clone();
    patch.apply(&mut model).unwrap();
    model
}

/// What came of a comparison.
pub struct Comparison {
    /// The derivative by the gradient; `None` where none comes as far.
    pub gradient: Option<f64>,
    /// The derivative by central differences.
    pub difference: f64,
    pub stopped: Vec<Stopped>,
}

/// The derivative of the sum of logits times random numbers with respect to `value` along a random direction.
pub fn compare(model: &Model, tokens: &[i64], value: ValueId) -> Comparison {
    let inputs = inputs(model, tokens);
    let model = displaced(model, value);
    let logits = model.graph.outputs()[0];
    let by = find(&model, "displaced_by");
    let fed: Vec<(&str, Array)> = inputs.iter().map(|(name, array)| (name.as_str(), array.clone())).collect();
    let there = run(&model, &[value], &fed).remove(0);
    let step = RELATIVE_STEP * (dot(&there, &there) / there.len() as f64).sqrt() as f32;
    let shape = there.shape;
    let direction = random(5, &shape);
    let at_distance = |step: f32| {
        let values: Vec<f32> = direction.as_f32().unwrap().iter().map(|x| x * step).collect();
        let mut fed = fed.clone();
        fed.push(("displaced_by", Array::new(shape.clone(), values).unwrap()));
        run(&model, &[logits], &fed).remove(0)
    };
    let weights = random(6, &at_distance(0.0).shape);
    let loss = |step| dot(&at_distance(step), &weights);
    let central = |step: f32| (loss(step) - loss(-step)) / f64::from(2.0 * step);
    // Richardson's extrapolation: the third derivative, which counts at such a distance, cancels.
    let difference = (4.0 * central(step) - central(2.0 * step)) / 3.0;

    let gradient = differentiate(&model, logits, &[by]).unwrap();
    let derivative = gradient.gradients[0].map(|wanted| {
        let seed = &gradient.model.graph.value(gradient.output_gradient).name;
        let mut fed = fed.clone();
        fed.push((seed, weights.clone()));
        fed.push(("displaced_by", Array::new(shape.clone(), vec![0f32; shape.iter().product()]).unwrap()));
        dot(&run(&gradient.model, &[wanted], &fed)[0], &direction)
    });
    Comparison { gradient: derivative, difference, stopped: gradient.stopped }
}
