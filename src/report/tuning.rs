//! What tuning did.

use std::fmt;

use serde::Serialize;
use zqc_passes::TuneRecord;

/// What `--tune` did, see [`TuneRecord`].
#[derive(Debug, Clone, Serialize)]
pub struct TuneReport(TuneRecord);

impl From<TuneRecord> for TuneReport {
    fn from(record: TuneRecord) -> Self {
        Self(record)
    }
}

impl fmt::Display for TuneReport {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let TuneRecord { steps, best_step, factors, kl, seconds } = &self.0;
        write!(f, "tuned {factors} factors in {steps} steps of {seconds:.1} s in all")?;
        if let Some([before, after]) = kl {
            write!(
                f,
                ": KL divergence {before:.4} -> {after:.4} nats a token on samples left out, after {best_step}"
            )?;
        }
        Ok(())
    }
}
