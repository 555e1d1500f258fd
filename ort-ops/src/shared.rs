//! Packed weights that several nodes have in common.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, Weak};

use zqc_linear::{Extra, Isa, Layer, PackError, PackedLinear};
use zqc_numerics::Signature;

/// What tells a weight from others: where its codes lie, and a hash of what it is.
type Key = (usize, u64);

/// The weights of all sessions.
static PACKED: LazyLock<Mutex<HashMap<Key, Weak<PackedLinear>>>> = LazyLock::new(Mutex::default);

/// Packs a weight. Nodes that read the same initializer, those in the two branches of an `If` for example, share one copy.
///
/// # Errors
/// When the layer cannot be packed.
pub(crate) fn pack(
    signature: Signature,
    layer: &Layer<'_>,
    isa: Isa,
) -> Result<Arc<PackedLinear>, PackError> {
    let key = (layer.codes.as_ptr() as usize, content(signature, layer, isa));
    let packed = || PACKED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(known) = packed().get(&key).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let made = Arc::new(PackedLinear::pack(layer, isa)?);
    let mut packed = packed();
    packed.retain(|_, weight| weight.strong_count() > 0);
    packed.insert(key, Arc::downgrade(&made));
    Ok(made)
}

/// A hash of all that a packed weight depends on. An address alone may have belonged to another session.
fn content(signature: Signature, layer: &Layer<'_>, isa: Isa) -> u64 {
    let mut hasher = DefaultHasher::new();
    let bits = |scales: &[f32]| scales.iter().map(|scale| scale.to_bits()).collect::<Vec<_>>();
    (signature, isa, layer.k, layer.n, layer.group_size).hash(&mut hasher);
    (layer.codes, bits(layer.scales)).hash(&mut hasher);
    match layer.extra {
        Extra::None => {}
        Extra::Shifts(_, shifts) => shifts.hash(&mut hasher),
        Extra::ZeroPoints(zero_points) => zero_points.hash(&mut hasher),
    }
    if let Some(branch) = layer.low_rank {
        (branch.down, branch.up, bits(branch.scales)).hash(&mut hasher);
    }
    hasher.finish()
}
