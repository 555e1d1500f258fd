use zqc_formats::{ActivationFormat, Format};
use zqc_ir::op::attribute;
use zqc_ir::tensor::DataType::Float;
use zqc_ir::{Model, Op, Tensor};
use zqc_passes::{
    Calibration, Canonicalize, Checkpoints, Context, HessianSource, LayerRecord, LowRankConfig, Observer,
    Pass, QuantConfig, QuantizeActivations, Solution, SolveWeights, TokenWeights,
};
use zqc_runtime::{Array, Backend, Interpreter, backend};
use zqc_solvers::{GptqOptions, Grouping, Hessian, ScaleConstraint};

use crate::builder::Builder;
use crate::kinds::noise;
use crate::{assert_snapshot, run};

const WIDTH: usize = 48;
const E4M3: QuantizeActivations = QuantizeActivations { format: ActivationFormat::E4M3 };

/// Three blocks of a residual stream, each with a nonlinear layer of two products; the last product yields `y`.
fn stream() -> Builder {
    let mut builder = Builder::new().input("h0", Float, "rows 48");
    for block in 0..3 {
        let name = |what: &str| format!("{what}{block}");
        let next = format!("h{}", block + 1);
        builder = builder
            .node("MatMul", &[&name("h"), &name("up")], &name("wide"))
            .node("Tanh", &[&name("wide")], &name("bent"))
            .node("MatMul", &[&name("bent"), &name("down")], &name("step"))
            .node("Add", &[&name("h"), &name("step")], &next);
        for (at, what) in ["up", "down"].into_iter().enumerate() {
            let values = noise(WIDTH * WIDTH, 10 * block + at).into_iter().map(|w| 0.25 * w).collect();
            let tensor = Tensor::from_f32(&[WIDTH, WIDTH], values).unwrap();
            builder.proto.graph.get_or_insert_default().initializer.push(tensor.to_proto(&name(what)));
        }
    }
    builder.node("MatMul", &["h3", "out"], "y").weight("out", Float, &[WIDTH, WIDTH]).output("y")
}

/// Inputs by name.
type Sample = Vec<(String, Array)>;

/// 64 correlated tokens a sample.
fn samples(count: usize, seed: usize) -> Vec<Sample> {
    tokens(count, 64, seed)
}

/// Samples of correlated tokens.
fn tokens(count: usize, length: usize, seed: usize) -> Vec<Sample> {
    let sample = |at: usize| {
        let mut x = noise(length * WIDTH, seed + at);
        for token in x.chunks_mut(WIDTH) {
            for i in 1..WIDTH {
                token[i] += 0.9 * token[i - 1];
            }
        }
        vec![("h0".to_string(), Array::new(vec![length, WIDTH], x).unwrap())]
    };
    (0..count).map(sample).collect()
}

fn rten() -> Box<dyn Backend> {
    backend("rten", Some(1)).unwrap()
}

/// The records of the layers that were solved.
#[derive(Default)]
struct Records(Vec<LayerRecord>);

impl Observer for Records {
    fn layer_solved(&mut self, record: LayerRecord) {
        self.0.push(record);
    }
}

fn config(branch: Option<LowRankConfig>) -> QuantConfig {
    let grouping = Grouping { group_size: 16, ..Grouping::default() };
    QuantConfig { gptq: GptqOptions { grouping, ..GptqOptions::default() }, branch }
}

/// Quantizes the stream, activations included, calibrated on eight samples.
fn solve(config: QuantConfig, hessian: HessianSource, propagation: f64) -> (Model, Vec<LayerRecord>) {
    solve_after(&[&Canonicalize::default(), &E4M3], config, hessian, propagation)
}

/// Runs these passes on the stream and then solves the weights, calibrated on eight samples.
fn solve_after(
    passes: &[&dyn Pass],
    config: QuantConfig,
    hessian: HessianSource,
    propagation: f64,
) -> (Model, Vec<LayerRecord>) {
    let (backend, samples) = (rten(), samples(8, 100));
    let calibration = Calibration {
        backend: backend.as_ref(),
        samples: &samples,
        hessian,
        token_weights: TokenWeights::Uniform,
        propagation,
        more: &[],
        reference: None,
        checkpoints: None,
    };
    solve_by(passes, config, Some(&calibration))
}

/// Quantizes the stream, calibrated on these samples; rounds it to nearest without any.
fn solve_on(
    config: QuantConfig,
    samples: &[Sample],
    checkpoints: Option<&dyn Checkpoints>,
) -> (Model, Vec<LayerRecord>) {
    let backend = rten();
    let calibration = Calibration {
        backend: backend.as_ref(),
        samples,
        hessian: HessianSource::Quantized,
        token_weights: TokenWeights::Uniform,
        propagation: 0.5,
        more: &[],
        reference: None,
        checkpoints,
    };
    let calibration = (!samples.is_empty()).then_some(&calibration);
    solve_by(&[&Canonicalize::default(), &E4M3], config, calibration)
}

fn solve_by(
    passes: &[&dyn Pass],
    config: QuantConfig,
    calibration: Option<&Calibration>,
) -> (Model, Vec<LayerRecord>) {
    let solver = SolveWeights { config };
    let (mut model, mut records) = (stream().build(), Records::default());
    for &pass in passes.iter().chain([&(&solver as &dyn Pass)]) {
        let mut context = Context { calibration, ..Context::new(&mut records) };
        zqc_passes::run_in(pass, &mut model, &mut context).unwrap();
    }
    (model, records.0)
}

/// `|Y - Ŷ| / |Y|` on tokens that the model was not calibrated on.
fn output_error(model: &Model) -> f64 {
    let values = |model: &Model| -> Vec<f32> {
        let backend = rten();
        let wanted = vec![model.graph.find("y").unwrap()];
        let interpreter = Interpreter::new(model, backend.as_ref(), wanted).unwrap();
        let prepared = interpreter.prepare().unwrap();
        let run = |sample: Vec<(String, Array)>| {
            let live = interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())));
            prepared.run(live).unwrap().remove(0).as_f32().unwrap().to_vec()
        };
        samples(8, 900).into_iter().flat_map(run).collect()
    };
    let mut float = stream().build();
    run(&[&Canonicalize::default()], &mut float);
    zqc_formats::relative_error(&values(model), &values(&float))
}

#[test]
fn codes_scales_and_branch_take_the_place_of_the_weight() {
    let mut model = Builder::new()
        .input("x", Float, "rows 6")
        .weight("w", Float, &[6, 4])
        .weight("bias", Float, &[4])
        .node("MatMul", &["x", "w"], "product")
        .node("Add", &["product", "bias"], "y")
        .output("y")
        .build();
    let grouping = Grouping { group_size: 4, ..Grouping::default() };
    let branch = LowRankConfig { rank: 2, ..LowRankConfig::default() };
    let config =
        QuantConfig { gptq: GptqOptions { grouping, ..GptqOptions::default() }, branch: Some(branch) };
    let text = run(&[&Canonicalize::default(), &E4M3, &SolveWeights { config }], &mut model);
    assert_snapshot("solve_weights", "rtn_with_branch", &text);
}

#[test]
fn a_branch_lowers_the_error_and_rounds_lower_it_further() {
    let branch = |rounds| LowRankConfig { rank: 4, rounds, ..LowRankConfig::default() };
    let solved = [None, Some(branch(1)), Some(branch(3))];
    let solved = solved.map(|branch| solve(config(branch), HessianSource::Quantized, 0.0));
    for record in solved.iter().flat_map(|(_, records)| records) {
        let before = record.coding.branch.and_then(|branch| branch.output_error_before);
        assert!(before.is_none_or(|before| record.output_error.unwrap() < before), "{record:?}");
    }
    let of_layers =
        solved.each_ref().map(|(_, records)| records.iter().filter_map(|r| r.output_error).sum::<f64>());
    assert!(of_layers[1] < 0.95 * of_layers[0] && of_layers[2] < 0.98 * of_layers[1], "{of_layers:?}");
    let of_model = solved.each_ref().map(|(model, _)| output_error(model));
    assert!(of_model[1] < 0.9 * of_model[0] && of_model[2] < 0.9 * of_model[0], "{of_model:?}");
}

#[test]
fn propagation_lowers_the_error_of_the_model_not_of_the_layers() {
    let [alone, shared] = [0.0, 0.5].map(|share| solve(config(None), HessianSource::Quantized, share));
    let (alone, shared) = (output_error(&alone.0), output_error(&shared.0));
    assert!(shared < 0.9 * alone, "{shared}, without {alone}");
}

#[test]
fn the_first_layer_has_nothing_to_make_up_for() {
    // Its input is the model's, and is not quantized here.
    let [alone, shared] = [0.0, 1.0].map(|share| {
        solve_after(&[&Canonicalize::default()], config(None), HessianSource::Quantized, share).1
    });
    assert_eq!(alone.len(), 7);
    for (at, (alone, shared)) in alone.iter().zip(&shared).enumerate() {
        assert_eq!(alone.weight_error == shared.weight_error, at == 0, "{}", alone.layer);
    }
}

#[test]
fn hessians_of_the_float_model_are_those_of_its_activations() {
    let (_, records) = solve(config(None), HessianSource::Float, 0.5);
    let mut hessian = Hessian::new(WIDTH);
    samples(8, 100).iter().for_each(|sample| hessian.accumulate(sample[0].1.as_f32().unwrap()));
    let weight = noise(WIDTH * WIDTH, 0).into_iter().map(|w| 0.25 * w).collect::<Vec<_>>();
    let rows = zqc_formats::transpose(&weight, WIDTH, WIDTH);
    let solved = zqc_solvers::Gptq::new(&hessian, config(None).gptq).unwrap().solve(&rows, WIDTH).unwrap();
    assert_eq!(records[0].weight_error, solved.relative_error(&rows));
}

#[test]
fn a_shared_weight_is_solved_once() {
    let mut model = Builder::new()
        .input("x", Float, "rows 8")
        .weight("w", Float, &[8, 8])
        .node("MatMul", &["x", "w"], "a")
        .node("Tanh", &["a"], "b")
        .node("MatMul", &["b", "w"], "y")
        .output("y")
        .build();
    let (backend, mut records) = (rten(), Records::default());
    let samples = [vec![("x".to_string(), Array::new(vec![20, 8], noise(160, 5)).unwrap())]];
    let calibration = Calibration {
        backend: backend.as_ref(),
        samples: &samples,
        hessian: HessianSource::Quantized,
        token_weights: TokenWeights::Uniform,
        propagation: 0.5,
        more: &[],
        reference: None,
        checkpoints: None,
    };
    let solver = SolveWeights { config: config(Some(LowRankConfig::default())) };
    for pass in [&Canonicalize::default() as &dyn Pass, &E4M3, &solver] {
        let mut context = Context { calibration: Some(&calibration), ..Context::new(&mut records) };
        zqc_passes::run_in(pass, &mut model, &mut context).unwrap();
    }
    assert_eq!(records.0.len(), 1);
    let layers = model.graph.nodes().filter(|(_, node)| matches!(node.op, Op::QuantizedLinear(_)));
    assert_eq!(layers.count(), 2);
    assert_eq!(model.graph.initializers().count(), 6, "codes, row scales, shifts, and three of the branch");
}

/// A weight multiplied with two factors, and as its own transpose, is three weights.
#[test]
fn one_initializer_may_become_several_weights() {
    let mut model = Builder::new()
        .input("x", Float, "rows 48")
        .weight("w", Float, &[WIDTH, WIDTH])
        .node("Gemm", &["x", "w"], "a")
        .output("a")
        .node("Gemm", &["x", "w"], "b")
        .with(attribute::float("alpha", 0.5))
        .output("b")
        .node("Gemm", &["x", "w"], "c")
        .with(attribute::int("transB", 1))
        .output("c")
        .build();
    let original = model.graph.constant(model.graph.find("w").unwrap()).unwrap().to_f32().unwrap();
    run(&[&Canonicalize::default(), &SolveWeights { config: config(None) }], &mut model);
    let weight = |y: &str| {
        let graph = &model.graph;
        let id = graph.producer(graph.find(y).unwrap()).unwrap();
        Interpreter::new(&model, rten().as_ref(), Vec::new()).unwrap().weight(id).unwrap().0
    };
    let [a, b, c] = ["a", "b", "c"].map(weight);
    assert!(a.iter().zip(&b).all(|(a, b)| *b == 0.5 * a));
    // FP4 in groups of 16 is off by a tenth; the transpose, by more than the weight itself.
    let rows = zqc_formats::transpose(&original, WIDTH, WIDTH);
    let [a, c] = [(a, rows), (c, original)].map(|(found, exact)| zqc_formats::relative_error(&found, &exact));
    assert!(a < 0.12 && c < 0.12, "{a} and {c}");
}

/// GPTQ fits its updates to the tokens that it sees: on others it must not be worse than rounding, which sees none.
#[test]
fn few_tokens_do_no_harm() {
    for branch in [None, Some(LowRankConfig { rank: 4, ..LowRankConfig::default() })] {
        let rounded = output_error(&solve_on(config(branch), &[], None).0);
        for [count, length] in [[1, 1], [1, 9], [1, 24], [24, 1], [3, 16], [1, 64], [2, 47], [12, 7]] {
            let (model, records) = solve_on(config(branch), &tokens(count, length, 100), None);
            let error = output_error(&model);
            assert!(
                error < 1.05 * rounded,
                "{count} x {length} tokens: {error}, rounded to nearest {rounded}"
            );
            for record in records {
                let calibration = record.calibration.unwrap();
                assert_eq!(calibration.tokens, count * length);
                let held_out = calibration.held_out.map(|held_out| held_out.tokens);
                let expected = count * length - (7 * count * length).div_ceil(8);
                assert!(held_out.is_none_or(|tokens| tokens.abs_diff(expected) <= 1), "{held_out:?}");
                assert_eq!(held_out.is_some(), count * length >= 8, "{count} x {length}");
                assert_eq!(record.output_error.is_some(), held_out.is_some());
            }
        }
        let many = output_error(&solve_on(config(branch), &tokens(3, 64, 100), None).0);
        assert!(many < 0.9 * rounded, "192 tokens: {many}, rounded to nearest {rounded}");
    }
}

/// What calibration leaves at zero may live later.
#[test]
fn features_without_a_token_are_rounded() {
    let mut dead = samples(8, 100);
    for (_, array) in dead.iter_mut().flatten() {
        let mut x = array.as_f32().unwrap().to_vec();
        x.chunks_mut(WIDTH).for_each(|token| token[..20].fill(0.0));
        *array = Array::new(array.shape.clone(), x).unwrap();
    }
    let rounded = output_error(&solve_on(config(None), &[], None).0);
    let (model, records) = solve_on(config(None), &dead, None);
    let error = output_error(&model);
    // The layers behind are calibrated on other activations; with the weights lost, the first layer alone would lose 0.6.
    assert!(error < 1.25 * rounded, "{error}, rounded to nearest {rounded}");
    let dead: Vec<usize> = records.iter().map(|record| record.calibration.unwrap().dead_features).collect();
    assert_eq!(dead, [20, 0, 0, 0, 0, 0, 0]);
}

/// A stage that an earlier run has solved is taken as it was.
#[test]
fn solutions_are_kept_with_what_is_known_of_them() {
    struct Kept(std::cell::RefCell<std::collections::HashMap<usize, Vec<u8>>>);
    impl Checkpoints for Kept {
        fn load(&self, stage: usize) -> Option<Vec<Solution>> {
            let kept = self.0.borrow();
            kept.get(&stage).map(|bytes| postcard::from_bytes(bytes).unwrap())
        }
        fn store(&self, stage: usize, solutions: &[&Solution]) {
            let previous = self.0.borrow_mut().insert(stage, postcard::to_stdvec(solutions).unwrap());
            assert!(previous.is_none(), "stage {stage} is solved twice");
        }
    }
    let (samples, kept) = (samples(1, 100), Kept(Default::default()));
    let run = || solve_on(config(Some(LowRankConfig::default())), &samples, Some(&kept));
    let (first, second) = (run(), run());
    assert_eq!(first.0.to_string(), second.0.to_string());
    let known = |records: &[LayerRecord]| -> Vec<_> {
        records.iter().map(|record| (record.output_error, record.calibration)).collect()
    };
    assert_eq!(known(&first.1), known(&second.1));
    assert!(second.1.iter().all(|record| record.seconds == 0.0));
}

#[test]
fn eight_bits_and_no_constraint_are_close_to_the_float_model() {
    let grouping = Grouping {
        format: Format::E4M3.into(),
        constraint: ScaleConstraint::None,
        group_size: 0,
        ..Grouping::default()
    };
    let config = QuantConfig { gptq: GptqOptions { grouping, ..GptqOptions::default() }, branch: None };
    let (model, _) = solve(config, HessianSource::Quantized, 0.5);
    let error = output_error(&model);
    assert!(error < 0.08, "{error}");
}
