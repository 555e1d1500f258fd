//! What the numbers of a model look like: the material of a report's plots.

mod activations;
mod magnitudes;
mod token_sample;
mod weights;

pub use activations::ActivationStatistics;
pub use magnitudes::{MagnitudeHistogram, Octave};
pub use token_sample::TokenSample;
pub use weights::WeightHistogram;
