//! Packed weights that several nodes have in common.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, Weak};

use zqc_formats::Signature;
use zqc_linear::{Extra, Layer};

/// What tells a weight from others.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Where its codes lie.
    codes: usize,
    /// A hash of all that a packed weight depends on. An address alone may have belonged to another session.
    content: u64,
}

impl Key {
    /// That of a weight as it is packed for `target`.
    pub(crate) fn of(signature: Signature, layer: &Layer<'_>, target: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        let bits = |scales: &[f32]| scales.iter().map(|scale| scale.to_bits()).collect::<Vec<_>>();
        (signature, target, layer.k, layer.n, layer.group_size).hash(&mut hasher);
        (layer.codes, bits(layer.scales)).hash(&mut hasher);
        match layer.extra {
            Extra::None => {}
            Extra::Shifts(_, shifts) => shifts.hash(&mut hasher),
            Extra::ZeroPoints(zero_points) => zero_points.hash(&mut hasher),
        }
        if let Some(branch) = layer.low_rank {
            (branch.down, branch.up, bits(branch.scales)).hash(&mut hasher);
        }
        Self { codes: layer.codes.as_ptr() as usize, content: hasher.finish() }
    }
}

/// The weights of all sessions. Nodes that read the same initializer, those in the two branches of an `If` for example, share one
/// copy.
pub(crate) struct Shared<T>(LazyLock<Mutex<HashMap<Key, Weak<T>>>>);

impl<T> Shared<T> {
    pub(crate) const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// The weight of this key, which `pack` makes where there is none.
    ///
    /// # Errors
    /// Those of `pack`.
    pub(crate) fn get<E>(&self, key: Key, pack: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let packed = || self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = packed().get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let made = Arc::new(pack()?);
        let mut packed = packed();
        packed.retain(|_, weight| weight.strong_count() > 0);
        packed.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}
