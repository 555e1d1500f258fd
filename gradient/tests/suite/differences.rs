//! Compares gradients with central differences.

use zqc_gradient::{Differentiated, differentiate};
use zqc_ir::{Model, ValueId};
use zqc_runtime::{Array, Interpreter, backend};

/// Half the distance of the two points of a difference: large enough for float32, whose rounding it divides.
const STEP: f32 = 1e-2;
/// By how much a derivative may differ, of the largest derivative or 1: the differences are of second order in the step.
const TOLERANCE: f32 = 3e-3;

/// Reproducible numbers between -1 and 1.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn array(&mut self, shape: &[usize]) -> Array {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.number()).collect();
        Array::new(shape.to_vec(), values).unwrap()
    }
}

pub fn parse(text: &str) -> Model {
    zqc_ir::text::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub fn find(model: &Model, name: &str) -> ValueId {
    model.graph.find(name).unwrap_or_else(|| panic!("no value {name}"))
}

/// Runs the model by rten for these values.
pub fn run(model: &Model, wanted: &[ValueId], inputs: &[(&str, Array)]) -> Vec<Array> {
    let backend = backend("rten", Some(1)).unwrap();
    let interpreter = Interpreter::new(model, backend.as_ref(), wanted.to_vec()).unwrap();
    let live = interpreter.feed(inputs.iter().map(|(name, array)| (*name, array.clone())));
    interpreter.run(live).unwrap_or_else(|error| panic!("{error}\n{model}"))
}

/// The sum of the elements of both, multiplied.
pub fn dot(one: &Array, other: &Array) -> f64 {
    assert_eq!(one.shape, other.shape);
    let pairs = one.as_f32().unwrap().iter().zip(other.as_f32().unwrap());
    pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Differentiates the first result with respect to every float input in `inputs`, runs the gradient and compares each of
/// its elements with a difference of the sum of the result's elements times random numbers.
pub fn check(text: &str, inputs: &[(&str, Array)]) -> Differentiated {
    let model = parse(text);
    let output = model.graph.outputs()[0];
    let floats: Vec<usize> = (0..inputs.len()).filter(|&at| inputs[at].1.as_f32().is_some()).collect();
    let wrt: Vec<ValueId> = floats.iter().map(|&at| find(&model, inputs[at].0)).collect();
    let gradient = differentiate(&model, output, &wrt).unwrap();
    assert_eq!(gradient.stopped, [], "{text}");
    let y = run(&model, &[output], inputs).remove(0);
    let weights = Random::new(7).array(&y.shape);
    let mut fed = inputs.to_vec();
    let seed = gradient.model.graph.value(gradient.output_gradient).name.clone();
    fed.push((&seed, weights.clone()));
    let wanted: Vec<ValueId> = gradient.gradients.iter().map(|value| value.unwrap()).collect();
    let found = run(&gradient.model, &wanted, &fed);
    let loss = |inputs: &[(&str, Array)]| dot(&run(&model, &[output], inputs)[0], &weights);
    for (&at, found) in floats.iter().zip(&found) {
        let (name, x) = &inputs[at];
        assert_eq!(found.shape, x.shape, "{name}\n{text}");
        let found = found.as_f32().unwrap();
        let largest = found.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
        for (element, &found) in found.iter().enumerate() {
            let at_distance = |step: f32| {
                let mut moved = inputs.to_vec();
                let mut values = x.as_f32().unwrap().to_vec();
                values[element] += step;
                moved[at].1 = Array::new(x.shape.clone(), values).unwrap();
                loss(&moved)
            };
            let difference = (at_distance(STEP) - at_distance(-STEP)) as f32 / (2.0 * STEP);
            assert!(
                (difference - found).abs() <= TOLERANCE * largest,
                "{name}[{element}]: gradient {found}, difference {difference}\n{text}\n{}",
                gradient.model
            );
        }
    }
    gradient
}

/// As [`check`], of one graph of opset 20 or of the one given.
pub fn check_body(opset: &str, declared: &str, body: &str, inputs: &[(&str, Array)]) -> Differentiated {
    check(
        &format!("model ir_version=10 imports({opset})\ngraph g ({declared}) -> (%y) {{\n{body}\n}}"),
        inputs,
    )
}

/// An array of these shape whose elements lie between the bounds.
pub fn between(low: f32, high: f32, shape: &[usize]) -> Array {
    let mut array = Random::new(shape.len() as u64 + 3).array(shape);
    let values =
        array.as_f32().unwrap().iter().map(|x| low + (x + 1.0) / 2.0 * (high - low)).collect::<Vec<f32>>();
    array = Array::new(array.shape, values).unwrap();
    array
}

/// Random numbers of this shape.
pub fn random(seed: u64, shape: &[usize]) -> Array {
    Random::new(seed).array(shape)
}
