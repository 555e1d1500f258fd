//! Calibration data: text, JSON lines and files of named arrays, as samples of batch 1. `docs/calibration.md` has an example of
//! each file.

mod arrays;
mod error;
mod jsonl;
mod load;
mod npz;
mod safetensors;
mod sample;
mod text;
mod tokens;

pub use error::DataError;
pub use load::load_calibration;
pub use sample::{CalibrationSample, SampleOptions, TokenizerSource};
