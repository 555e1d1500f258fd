//! The gradient of a model from those of its blocks.

use zqc_gradient::{blocks, differentiate, segments};
use zqc_ir::Model;
use zqc_runtime::Array;

use crate::differences::{Random, find, parse, run};

fn model() -> Model {
    parse(
        "model ir_version=10 imports(20)
        graph g (%ids: i64[3], %mask: f32[3, 3], %gain: f32[4]) -> (%y) {
          const %table: f32[2, 4] = dense<0.5, -1.0, 0.25, 2.0, 1.0, 0.75, -0.5, 0.125>
          %e = Gather(%table, %ids)
          %s = Sigmoid(%mask)
          %a = MatMul(%s, %e)
          %r1 = Add(%e, %a)
          %m = Mul(%r1, %gain)
          %n = Tanh(%m)
          %b = MatMul(%s, %n)
          %r2 = Add(%r1, %b)
          %y = Mul(%r2, %r2)
        }",
    )
}

#[test]
fn blocks_compute_what_the_model_does_and_their_gradients_make_up_the_whole() {
    let model = model();
    let inputs = [
        ("ids", Array::new(vec![3], vec![0i64, 1, 1]).unwrap()),
        ("mask", Random::new(3).array(&[3, 3])),
        ("gain", Random::new(4).array(&[4])),
    ];
    let y = find(&model, "y");
    let boundaries = segments(&model, y).unwrap();
    let blocks = blocks(&model, &boundaries).unwrap();
    assert_eq!(blocks.len(), 4);
    assert!(blocks[0].input.is_none());

    let mut values: Vec<Array> = Vec::new();
    for block in &blocks {
        let graph = &block.model.graph;
        let mut fed = inputs.to_vec();
        let input = block.input.map(|input| graph.value(input).name.clone());
        fed.extend(input.as_deref().zip(values.last().cloned()));
        values.push(run(&block.model, &[block.output], &fed).remove(0));
    }
    let whole = run(&model, &boundaries, &inputs);
    assert_eq!(values, whole);

    let seed = Random::new(7).array(&values[3].shape);
    let gain = find(&model, "gain");
    let expected = differentiate(&model, y, &[gain]).unwrap();
    let name = &expected.model.graph.value(expected.output_gradient).name;
    let mut fed = inputs.to_vec();
    fed.push((name, seed.clone()));
    let expected = run(&expected.model, &[expected.gradients[0].unwrap()], &fed).remove(0);

    let (mut gradient, mut found) = (seed, None);
    for (at, block) in blocks.iter().enumerate().skip(1).rev() {
        let input = block.input.unwrap();
        let differentiated = differentiate(&block.model, block.output, &[input, gain]).unwrap();
        let name = |value| block.model.graph.value(value).name.clone();
        let seed = &differentiated.model.graph.value(differentiated.output_gradient).name;
        let mut fed = inputs.to_vec();
        let input = name(input);
        fed.extend([(input.as_str(), values[at - 1].clone()), (seed, gradient)]);
        let wanted: Vec<_> = differentiated.gradients.iter().flatten().copied().collect();
        let mut results = run(&differentiated.model, &wanted, &fed).into_iter();
        gradient = results.next().unwrap();
        found = found.or(results.next());
    }
    let (found, expected) = (found.unwrap(), expected);
    for (found, expected) in found.as_f32().unwrap().iter().zip(expected.as_f32().unwrap()) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}
