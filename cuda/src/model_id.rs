//! Identities of models.

use std::sync::atomic::{AtomicU64, Ordering};

/// Tells the models of a process apart, so that a scratch or an activation of another model is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModelId(u64);

impl ModelId {
    /// An identity that no other model of the process has.
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
