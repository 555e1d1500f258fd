//! The last step of quantizing a language model: factors of the rows of its layers and of the gains of its norms, tuned by gradient so
//! that it predicts what the float model does. Codes, branches and the size stay.

mod adam;
mod loss;
mod surrogate;

use std::f32::consts::PI;
use std::time::Instant;

use zqc_ir::tensor::TensorError;
use zqc_ir::{Model, Patch, PatchBuilder, Tensor, ValueId};
use zqc_runtime::{Array, Interpreter};

use crate::backpropagate::{Backpropagation, Inputs};
use crate::pass::{Context, Observer, Pass, PassError};
use crate::record::TuneRecord;
use crate::side_by_side::{at_once, side_by_side, tokens};
use crate::solve_weights::{Calibration, Reference, go_on};
use adam::Vector;
use loss::{Divergence, Teacher, mean};
use surrogate::Surrogate;

const NAME: &str = "tune";

/// Tokens whose gradients make a step.
const TOKENS: usize = 4096;
/// The highest learning rate, at the end of the warm-up.
const RATE: f32 = 1e-3;
/// The share of the steps over which the learning rate rises; then it falls as a cosine.
const WARM_UP: f32 = 0.1;
/// The most tokens that are held out, unless one sample has more.
const MOST_HELD_OUT: usize = 4096;
/// How often what was tuned is looked at on the samples that are held out.
const CHECKS: usize = 2;

/// Tunes one factor for every row of a quantized layer, and for every element of a norm's gain: gradient steps of Adam on the KL
/// divergence of the model's predictions from those of [`Calibration::reference`]. The rounding of activations passes gradients on
/// as they come.
///
/// The samples are those of [`Calibration::more`]: weights fit the ones that they were solved on better than any others, and
/// these are used, too, only where they are more. A tenth is left out, and decides what is kept.
pub struct Tune {
    /// Steps of 4,096 tokens, or of one sample that has more.
    pub steps: usize,
    /// Whether rows may have factors: not where scales are powers of two.
    pub rows: bool,
}

impl Tune {
    /// How many samples of `length` tokens are tuned on, if there are as many.
    pub fn samples(&self, length: usize) -> usize {
        self.steps.saturating_mul((TOKENS / length.max(1)).max(1))
    }

    /// What there is to tune on, to be asked before weights are solved, too.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn reference(known: Option<Reference<'_>>) -> Result<Reference<'_>, PassError> {
        known.ok_or_else(|| PassError::Unsupported {
            what: "--tune needs the logits of a language model, and this one has none that are known"
                .to_string(),
            way_out: "leave it out".to_string(),
        })
    }
}

impl Pass for Tune {
    fn name(&self) -> &'static str {
        NAME
    }

    fn runs_on_subgraphs(&self) -> bool {
        false
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        let Some(calibration) = context.calibration.filter(|_| self.steps > 0) else {
            return Ok(Patch::default());
        };
        let reference = Self::reference(calibration.reference)?;
        Tuning::new(self, model, calibration, reference)?.run(context.observer)
    }
}

/// Factors being tuned.
struct Tuning<'a> {
    steps: usize,
    model: &'a Model,
    surrogate: Surrogate,
    vectors: Vec<Vector>,
    calibration: &'a Calibration<'a>,
    reference: Reference<'a>,
}

impl<'a> Tuning<'a> {
    fn new(
        tune: &Tune,
        model: &'a Model,
        calibration: &'a Calibration<'a>,
        reference: Reference<'a>,
    ) -> Result<Self, PassError> {
        let surrogate = Surrogate::new(model, tune.rows)?;
        let vectors = surrogate.factors.iter().map(|factors| Vector::new(factors.count)).collect();
        Ok(Self { steps: tune.steps, model, surrogate, vectors, calibration, reference })
    }

    fn run(mut self, observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let started = Instant::now();
        let graph = &self.surrogate.model.graph;
        let name = &self.reference.model.graph.value(self.reference.logits).name;
        let Some(logits) = graph.find(name).filter(|_| !self.vectors.is_empty()) else {
            return Ok(Patch::default());
        };
        let Calibration { samples, more, .. } = *self.calibration;
        let known = if more.len() < samples.len() { samples } else { &[] };
        let samples: Vec<&Inputs> = known.iter().chain(more).collect();
        let Some(first) = samples.first() else { return Ok(Patch::default()) };
        let length = tokens(first);
        let held_out = (samples.len() / 10).min((MOST_HELD_OUT / length).max(1));
        let (samples, held_out) = samples.split_at(samples.len() - held_out);
        let of_a_step = (TOKENS / length).clamp(1, samples.len());

        let backend = self.calibration.backend;
        let teacher = Interpreter::new(self.reference.model, backend, vec![self.reference.logits])?;
        let teacher = Teacher::new(&teacher)?;
        let inputs: Vec<ValueId> = self.surrogate.factors.iter().map(|factors| factors.input).collect();
        let student = Backpropagation::new(&self.surrogate.model, logits, inputs.clone(), backend)?;
        let values = |vectors: &[Vector]| -> Vec<Vec<f32>> {
            vectors.iter().map(|vector| vector.values.clone()).collect()
        };
        let before = self.check(logits, &teacher, held_out, observer)?;
        let (mut best, mut least, mut best_step) = (values(&self.vectors), before, 0);
        for step in 1..=self.steps {
            let of_step = (step - 1) * of_a_step..step * of_a_step;
            let chosen: Vec<&Inputs> = of_step.map(|at| samples[at % samples.len()]).collect();
            let fed: Vec<Inputs> = chosen.iter().map(|sample| self.fed(sample)).collect();
            let mut loss = Divergence {
                samples: &chosen,
                teacher: &teacher,
                inputs: &inputs,
                vectors: &mut self.vectors,
            };
            let outcome = student.run(&fed, at_once(first), &mut loss, observer)?;
            let kl = mean(&outcome.losses);
            if step == 1 {
                outcome.stopped.iter().for_each(|at| observer.gradient_stopped(&at.node, at.reason));
            }
            let rate = rate(step as f32 / self.steps as f32);
            self.vectors.iter_mut().for_each(|vector| vector.step(step, rate));
            observer.tuned(step, self.steps, kl);
            if step % self.steps.div_ceil(CHECKS) == 0 || step == self.steps {
                let found = self.check(logits, &teacher, held_out, observer)?;
                if found.is_none() || found < least {
                    (best, least, best_step) = (values(&self.vectors), found, step);
                }
            }
        }
        observer.tuning_finished(TuneRecord {
            steps: self.steps,
            best_step,
            factors: best.iter().map(Vec::len).sum(),
            kl: before.zip(least).map(|(before, after)| [before, after]),
            seconds: started.elapsed().as_secs_f64(),
        });
        self.patch(&best)
    }

    /// A sample with the factors as they are.
    fn fed(&self, sample: &Inputs) -> Inputs {
        let graph = &self.surrogate.model.graph;
        let factors = self.surrogate.factors.iter().zip(&self.vectors).map(|(factors, vector)| {
            let array = Array { shape: vec![factors.count], data: vector.values.clone().into() };
            (graph.value(factors.input).name.clone(), array)
        });
        sample.iter().cloned().chain(factors).collect()
    }

    /// The mean divergence on samples that nothing is tuned on, in nats a token; `None` without any.
    fn check(
        &self,
        logits: ValueId,
        teacher: &Teacher,
        samples: &[&Inputs],
        observer: &dyn Observer,
    ) -> Result<Option<f64>, PassError> {
        if samples.is_empty() {
            return Ok(None);
        }
        let student = Interpreter::new(&self.surrogate.model, self.calibration.backend, vec![logits])?;
        let prepared = student.prepare()?;
        let fed: Vec<Inputs> = samples.iter().map(|sample| self.fed(sample)).collect();
        let divergence = |at: usize| {
            let live = student.feed(fed[at].iter().map(|(name, array)| (name.as_str(), array.clone())));
            teacher.divergence(samples[at], &prepared.run(live)?.remove(0), None)
        };
        let (mut found, at_once) = (Vec::new(), at_once(samples[0]));
        for first in (0..samples.len()).step_by(at_once) {
            go_on(observer)?;
            found.extend(side_by_side(first..samples.len().min(first + at_once), divergence)?.concat());
        }
        Ok(Some(mean(&found)))
    }

    /// What multiplies the constants of the model by factors.
    fn patch(&self, vectors: &[Vec<f32>]) -> Result<Patch, PassError> {
        let graph = &self.model.graph;
        let mut patch = PatchBuilder::new(graph);
        for (factors, vector) in self.surrogate.factors.iter().zip(vectors) {
            if vector.iter().all(|&factor| factor == 1.0) {
                continue;
            }
            let name = &graph.value(factors.constant).name;
            let unreadable = |source| PassError::Weight { layer: name.clone(), source };
            let tensor =
                graph.constant(factors.constant).ok_or(TensorError::NotLoaded).map_err(unreadable)?;
            let mut values = tensor.to_f32().map_err(unreadable)?;
            let width = values.len() / vector.len().max(1);
            for (row, factor) in values.chunks_mut(width.max(1)).zip(vector) {
                row.iter_mut().for_each(|value| *value *= factor);
            }
            let dims: Vec<usize> = tensor.dims().iter().map(|&dim| dim as usize).collect();
            let dtype = tensor.dtype().map_err(unreadable)?;
            let tuned = Tensor::from_f32_as(dtype, &dims, values).map_err(unreadable)?;
            let mut change = patch.change(format!("{name} is tuned"), name.as_str());
            change.replace_constant(factors.constant, tuned);
            change.finish();
        }
        Ok(patch.finish())
    }
}

/// The learning rate when this share of the steps is done.
fn rate(progress: f32) -> f32 {
    let falling = (progress - WARM_UP).max(0.0) / (1.0 - WARM_UP);
    RATE * (progress / WARM_UP).min(0.5 + 0.5 * (PI * falling).cos())
}
