//! Hessians whose tokens count by the gradient of the end loss.

use zqc_ir::op::port;
use zqc_ir::tensor::DataType::Float;
use zqc_ir::{Model, Op, operands};
use zqc_passes::{
    Calibration, Canonicalize, Context, HessianSource, Pass, PassError, QuantConfig, Reference, Silent,
    SolveWeights, TokenWeights,
};
use zqc_runtime::{Array, backend};
use zqc_solvers::{GptqOptions, Grouping};

use crate::builder::Builder;
use crate::kinds::noise;

const WIDTH: usize = 32;
const TOKENS: usize = 128;

/// A layer whose output counts for the logits where `flag` is 1, and for nothing where it is 0.
fn flagged() -> Model {
    Builder::new()
        .input("x", Float, "rows 32")
        .input("flag", Float, "rows 1")
        .weight("w", Float, &[WIDTH, WIDTH])
        .weight("head", Float, &[WIDTH, WIDTH])
        .node("MatMul", &["x", "w"], "h")
        .node("Mul", &["h", "flag"], "shown")
        .node("MatMul", &["shown", "head"], "logits")
        .output("logits")
        .build()
}

/// Tokens `[TOKENS, WIDTH]` of which every other one counts; those that do not are ten times as large.
fn tokens() -> (Vec<f32>, Vec<f32>) {
    let flags: Vec<f32> = (0..TOKENS).map(|token| (token % 2) as f32).collect();
    let mut x = noise(TOKENS * WIDTH, 3);
    for (at, row) in x.chunks_mut(WIDTH).enumerate().filter(|(at, _)| at % 2 == 0) {
        row.iter_mut().enumerate().for_each(|(k, x)| *x *= if (k + at / 2) % 8 == 0 { 100.0 } else { 10.0 });
    }
    (x, flags)
}

/// The error of the layer's output, of tokens that count, and of those that do not.
fn errors(token_weights: TokenWeights, reference: bool) -> Result<[f64; 2], PassError> {
    let (float, backend, (x, flags)) = (flagged(), backend("rten", Some(1)).unwrap(), tokens());
    let sample = vec![
        ("x".to_string(), Array::new(vec![TOKENS, WIDTH], x.clone()).unwrap()),
        ("flag".to_string(), Array::new(vec![TOKENS, 1], flags.clone()).unwrap()),
    ];
    let samples = [sample];
    let reference =
        reference.then(|| Reference { model: &float, logits: float.graph.find("logits").unwrap() });
    let calibration = Calibration {
        backend: backend.as_ref(),
        samples: &samples,
        hessian: HessianSource::Quantized,
        token_weights,
        propagation: 0.0,
        more: &[],
        reference,
        checkpoints: None,
    };
    let grouping = Grouping { group_size: 16, ..Grouping::default() };
    let config = QuantConfig { gptq: GptqOptions { grouping, ..GptqOptions::default() }, branch: None };
    let (mut model, mut silent) = (float.clone(), Silent);
    for pass in [&Canonicalize::default() as &dyn Pass, &SolveWeights { config }] {
        let mut context = Context { calibration: Some(&calibration), ..Context::new(&mut silent) };
        zqc_passes::run_in(pass, &mut model, &mut context)?;
    }
    let graph = &model.graph;
    let of_x = |node: &&zqc_ir::Node| node.input(port::X) == graph.find("x");
    let layer = graph.nodes().map(|(_, node)| node).find(of_x).unwrap();
    let Op::QuantizedLinear(linear) = &layer.op else { panic!("the layer is not quantized") };
    let ours = operands::matrix(graph, layer, linear).unwrap().dequantize();
    let weight = float.graph.constant(float.graph.find("w").unwrap()).unwrap().to_f32().unwrap();
    let mut errors = [0.0; 2];
    for (x, &flag) in x.chunks(WIDTH).zip(&flags) {
        for n in 0..WIDTH {
            let error: f32 = (0..WIDTH).map(|k| x[k] * (weight[k * WIDTH + n] - ours[n * WIDTH + k])).sum();
            errors[usize::from(flag == 0.0)] += f64::from(error * error);
        }
    }
    Ok(errors)
}

#[test]
fn tokens_without_a_gradient_do_not_count() {
    let [uniform, gradient] =
        [TokenWeights::Uniform, TokenWeights::Gradient].map(|weights| errors(weights, true).unwrap());
    assert!(gradient[0] < 0.8 * uniform[0], "of tokens that count: {gradient:?} {uniform:?}");
    assert!(gradient[1] > 1.2 * uniform[1], "of the others: {gradient:?} {uniform:?}");
}

#[test]
fn a_model_without_logits_is_refused() {
    assert!(errors(TokenWeights::Uniform, false).is_ok());
    let refused = errors(TokenWeights::Gradient, false).unwrap_err();
    assert!(matches!(refused, PassError::Unsupported { .. }), "{refused}");
}
