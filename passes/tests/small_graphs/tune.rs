//! Factors that are tuned on what a float model predicts.

use std::collections::BTreeMap;

use zqc_formats::ActivationFormat;
use zqc_ir::tensor::DataType::Float;
use zqc_ir::{Model, Op, Tensor};
use zqc_passes::{
    Calibration, Canonicalize, Context, HessianSource, LowRankConfig, Observer, Pass, PassError, QuantConfig,
    QuantizeActivations, Reference, SolveWeights, TokenWeights, Tune, TuneRecord,
};
use zqc_runtime::{Array, Interpreter, backend};
use zqc_solvers::{GptqOptions, Grouping, ScaleConstraint};

use crate::builder::Builder;
use crate::kinds::noise;

const WIDTH: usize = 32;

/// Two blocks of a residual stream, each with a norm whose gain is a constant, and logits.
fn decoder() -> Model {
    let mut builder = Builder::new().input("h0", Float, "rows 32");
    for block in 0..2 {
        let name = |what: &str| format!("{what}{block}");
        builder = builder
            .node("Mul", &[&name("h"), &name("gain")], &name("normed"))
            .node("MatMul", &[&name("normed"), &name("up")], &name("wide"))
            .node("Tanh", &[&name("wide")], &name("bent"))
            .node("MatMul", &[&name("bent"), &name("down")], &name("product"))
            .node("Add", &[&name("product"), &name("bias")], &name("step"))
            .node("Add", &[&name("h"), &name("step")], &format!("h{}", block + 1));
        for (at, what) in ["up", "down"].into_iter().enumerate() {
            let values = noise(WIDTH * WIDTH, 10 * block + at).into_iter().map(|w| 0.5 * w).collect();
            let tensor = Tensor::from_f32(&[WIDTH, WIDTH], values).unwrap();
            builder.proto.graph.get_or_insert_default().initializer.push(tensor.to_proto(&name(what)));
        }
        for what in ["gain", "bias"] {
            builder = builder.weight(&name(what), Float, &[WIDTH]);
        }
    }
    builder
        .node("MatMul", &["h2", "head"], "logits")
        .weight("head", Float, &[WIDTH, WIDTH])
        .output("logits")
        .build()
}

type Sample = Vec<(String, Array)>;

fn samples(count: usize, seed: usize) -> Vec<Sample> {
    let sample = |at: usize| {
        vec![("h0".to_string(), Array::new(vec![16, WIDTH], noise(16 * WIDTH, seed + at)).unwrap())]
    };
    (0..count).map(sample).collect()
}

fn logits(model: &Model, sample: &Sample) -> Vec<f32> {
    let backend = backend("rten", Some(1)).unwrap();
    let logits = model.graph.find("logits").unwrap();
    let interpreter = Interpreter::new(model, backend.as_ref(), vec![logits]).unwrap();
    let live = interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())));
    interpreter.run(live).unwrap()[0].as_f32().unwrap().to_vec()
}

/// The mean KL divergence of `model` from `float`, in nats a token, computed in double precision.
fn divergence(model: &Model, float: &Model, samples: &[Sample]) -> f64 {
    let softmax = |row: &[f32]| -> Vec<f64> {
        let powers: Vec<f64> = row.iter().map(|&x| f64::from(x).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    };
    let (mut sum, mut tokens) = (0.0, 0);
    for sample in samples {
        let [ours, theirs] = [model, float].map(|model| logits(model, sample));
        for (ours, theirs) in ours.chunks(WIDTH).zip(theirs.chunks(WIDTH)) {
            let (q, p) = (softmax(ours), softmax(theirs));
            sum += p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
            tokens += 1;
        }
    }
    sum / tokens as f64
}

#[derive(Default)]
struct Records {
    steps: usize,
    stopped: Vec<String>,
    tuned: Option<TuneRecord>,
}

impl Observer for Records {
    fn tuned(&mut self, step: usize, _: usize, _: f64) {
        self.steps = step;
    }

    fn gradient_stopped(&mut self, node: &str, reason: &str) {
        self.stopped.push(format!("{node}: {reason}"));
    }

    fn tuning_finished(&mut self, record: TuneRecord) {
        self.tuned = Some(record);
    }
}

/// The model quantized under a constraint, and tuned in so many steps.
fn compile(
    constraint: ScaleConstraint,
    tune: &Tune,
    seen: &[Sample],
    more: &[Sample],
) -> (Model, Model, Records) {
    compile_model(decoder(), constraint, tune, seen, more)
}

fn compile_model(
    float: Model,
    constraint: ScaleConstraint,
    tune: &Tune,
    seen: &[Sample],
    more: &[Sample],
) -> (Model, Model, Records) {
    let backend = backend("rten", Some(1)).unwrap();
    let reference = Reference { model: &float, logits: float.graph.find("logits").unwrap() };
    let calibration = Calibration {
        backend: backend.as_ref(),
        samples: seen,
        hessian: HessianSource::Quantized,
        token_weights: TokenWeights::Uniform,
        propagation: 0.0,
        more,
        reference: Some(reference),
        checkpoints: None,
    };
    let grouping = Grouping { group_size: 16, constraint, ..Grouping::default() };
    let branch = Some(LowRankConfig { rank: 2, ..LowRankConfig::default() });
    let solve = SolveWeights {
        config: QuantConfig { gptq: GptqOptions { grouping, ..GptqOptions::default() }, branch },
    };
    let (mut model, mut records) = (float.clone(), Records::default());
    let mut run = |pass: &dyn Pass, model: &mut Model| {
        let mut context = Context { calibration: Some(&calibration), ..Context::new(&mut records) };
        zqc_passes::run_in(pass, model, &mut context).unwrap();
    };
    run(&Canonicalize::default(), &mut model);
    run(&QuantizeActivations { format: ActivationFormat::E4M3 }, &mut model);
    run(&solve, &mut model);
    let solved = model.clone();
    run(tune, &mut model);
    (solved, model, records)
}

fn constants(model: &Model) -> BTreeMap<String, Tensor> {
    let graph = &model.graph;
    graph.initializers().map(|(id, tensor)| (graph.value(id).name.clone(), tensor.clone())).collect()
}

#[test]
fn factors_bring_the_predictions_nearer_and_touch_nothing_else() {
    let more = samples(200, 300);
    let tune = Tune { steps: 200, rows: true };
    let (solved, tuned, records) = compile(ScaleConstraint::M3, &tune, &samples(8, 100), &more);
    let record = records.tuned.unwrap();
    assert_eq!(records.steps, 200);
    // Eight samples are held out: what is told of them is what the models compute.
    let [before, after] = record.kl.unwrap();
    let float = decoder();
    let measured = [&solved, &tuned].map(|model| divergence(model, &float, &more[192..]));
    for (told, measured) in [before, after].into_iter().zip(measured) {
        assert!((told - measured).abs() < 1e-4 * before.max(1e-2), "{told} {measured}");
    }
    assert!(after < 0.95 * before, "{before} {after}");
    let fresh = samples(8, 500);
    let [before, after] = [&solved, &tuned].map(|model| divergence(model, &float, &fresh));
    assert!(after < before, "{before} {after} on samples that tuning never saw");

    let (old, new) = (constants(&solved), constants(&tuned));
    assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
    let changed: Vec<&String> =
        old.iter().filter(|(name, tensor)| new[*name] != **tensor).map(|(name, _)| name).collect();
    let is_expected =
        |name: &&String| name.ends_with("_scales") && !name.contains("low_rank") || name.starts_with("gain");
    assert!(changed.iter().all(is_expected), "{changed:?}");
    assert_eq!(changed.len(), 7, "five layers' rows and two gains: {changed:?}");
    assert_eq!(record.factors, 7 * WIDTH);
}

#[test]
fn factors_do_not_depend_on_how_many_samples_run_at_the_same_time() {
    let tune = Tune { steps: 2, rows: true };
    let (seen, more) = (samples(8, 100), samples(40, 300));
    let tuned = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| constants(&compile(ScaleConstraint::M3, &tune, &seen, &more).1))
    };
    let alone = tuned(1);
    assert_ne!(alone, constants(&compile(ScaleConstraint::M3, &tune, &seen, &more).0));
    assert_eq!(tuned(4), alone);
}

#[test]
fn an_operator_that_no_gradient_passes_is_named_once() {
    let float = Builder::new()
        .input("h0", Float, "rows 32")
        .weight("w", Float, &[WIDTH, WIDTH])
        .weight("head", Float, &[WIDTH, WIDTH])
        .node("MatMul", &["h0", "w"], "h1")
        .node("Floor", &["h1"], "whole")
        .node("Add", &["h1", "whole"], "h2")
        .node("MatMul", &["h2", "head"], "logits")
        .output("logits")
        .build();
    let tune = Tune { steps: 3, rows: true };
    let (_, _, records) = compile_model(float, ScaleConstraint::M3, &tune, &samples(4, 100), &[]);
    assert_eq!(records.stopped.len(), 1, "{:?}", records.stopped);
    let stopped = &records.stopped[0];
    assert!(stopped.contains("Floor") && stopped.contains("no rule is written"), "{stopped}");
}

#[test]
fn frequencies_of_positions_are_no_gains() {
    let float = Builder::new()
        .input("h0", Float, "rows 32")
        .integers("last", &[-1])
        .weight("frequencies", Float, &[WIDTH])
        .weight("gain", Float, &[WIDTH])
        .weight("w", Float, &[WIDTH, WIDTH])
        .weight("head", Float, &[WIDTH, WIDTH])
        .node("ReduceSum", &["h0", "last"], "position")
        .node("Mul", &["position", "frequencies"], "angles")
        .node("Cos", &["angles"], "cosines")
        .node("Mul", &["h0", "gain"], "normed")
        .node("Mul", &["normed", "cosines"], "turned")
        .node("MatMul", &["turned", "w"], "h1")
        .node("MatMul", &["h1", "head"], "logits")
        .output("logits")
        .build();
    let tune = Tune { steps: 4, rows: true };
    let (solved, tuned, records) =
        compile_model(float, ScaleConstraint::M3, &tune, &samples(4, 100), &samples(200, 300));
    assert_eq!(records.tuned.unwrap().factors, 3 * WIDTH, "two layers' rows and a gain");
    let [old, new] = [&solved, &tuned].map(constants);
    assert_eq!(old["frequencies"], new["frequencies"]);
}

#[test]
fn scales_that_are_powers_of_two_stay() {
    let tune = Tune { steps: 4, rows: false };
    let constraint = ScaleConstraint::M1(zqc_solvers::Snap::Search);
    let (solved, tuned, records) = compile(constraint, &tune, &samples(10, 100), &[]);
    assert_eq!(records.tuned.unwrap().factors, 2 * WIDTH);
    let (old, new) = (constants(&solved), constants(&tuned));
    assert!(
        old.iter().filter(|(name, _)| !name.starts_with("gain")).all(|(name, tensor)| new[name] == *tensor)
    );
}

#[test]
fn no_step_is_no_change_and_a_model_without_logits_is_refused() {
    let tune = Tune { steps: 0, rows: true };
    let (solved, tuned, records) = compile(ScaleConstraint::M3, &tune, &samples(4, 100), &[]);
    assert!(records.tuned.is_none());
    assert_eq!(constants(&solved), constants(&tuned));

    let (backend, seen) = (backend("rten", Some(1)).unwrap(), samples(4, 100));
    let calibration = Calibration {
        backend: backend.as_ref(),
        samples: &seen,
        hessian: HessianSource::Quantized,
        token_weights: TokenWeights::Uniform,
        propagation: 0.0,
        more: &[],
        reference: None,
        checkpoints: None,
    };
    let mut records = Records::default();
    let mut context = Context { calibration: Some(&calibration), ..Context::new(&mut records) };
    let refused = Tune { steps: 1, rows: true }.run(&solved, &mut context).unwrap_err();
    assert!(matches!(refused, PassError::Unsupported { .. }), "{refused}");
    assert!(solved.graph.nodes().any(|(_, node)| matches!(node.op, Op::QuantizedLinear(_))));
}
