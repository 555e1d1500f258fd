//! What is loaded of a graph while it is run: sessions of its stages, dequantized weights, and the subgraphs of its control flow.

use std::collections::HashMap;
use std::sync::Arc;

use zqc_formats::LowRank;
use zqc_ir::NodeId;

use crate::backend::Session;

/// The regions of a control-flow operator that were entered.
#[derive(Default)]
pub struct LoadedRegions {
    pub(crate) by_index: HashMap<usize, Sessions>,
    /// Whether the operator is in a loop, so that its subgraphs are run many times on one sample.
    pub(crate) in_loop: bool,
}

/// The dequantized weight of a linear layer, once it was needed.
#[derive(Clone, Default)]
pub struct LoadedWeight(Option<Arc<Weight>>);

/// A weight `[N, K]` and the low-rank branch beside it.
pub(crate) type Weight = (Vec<f32>, Option<LowRank>);

impl LoadedWeight {
    pub(crate) fn new(weight: Weight) -> Self {
        Self(Some(Arc::new(weight)))
    }

    /// The weight, which `load` gives the first time.
    pub(crate) fn get_or_load<E>(&mut self, load: impl FnOnce() -> Result<Weight, E>) -> Result<&Weight, E> {
        match &mut self.0 {
            Some(weight) => Ok(weight),
            empty => Ok(empty.insert(Arc::new(load()?))),
        }
    }
}

/// What is loaded of a graph.
#[derive(Default)]
pub(crate) struct Sessions {
    /// The sessions of the first stages; `None` for a stage without standard operators.
    pub stages: Vec<Option<Box<dyn Session>>>,
    pub kept: Kept,
}

impl Sessions {
    /// Nothing yet, of a graph that `repeats` on one sample or does not.
    pub fn new(repeats: bool) -> Self {
        let weights = repeats.then(HashMap::new);
        Self { stages: Vec::new(), kept: Kept::new(weights) }
    }
}

/// What stages keep from one run to the next.
#[derive(Default)]
pub(crate) struct Kept {
    /// By control-flow operator.
    regions: HashMap<NodeId, LoadedRegions>,
    /// Dequantized weights by layer, where they are kept: elsewhere they would only take memory.
    weights: Option<HashMap<NodeId, LoadedWeight>>,
}

impl Kept {
    /// Nothing yet but these weights.
    pub fn new(weights: Option<HashMap<NodeId, LoadedWeight>>) -> Self {
        Self { regions: HashMap::new(), weights }
    }

    /// The regions of a control-flow operator.
    pub fn regions(&mut self, id: NodeId) -> &mut LoadedRegions {
        let in_loop = self.weights.is_some();
        self.regions.entry(id).or_insert_with(|| LoadedRegions { in_loop, ..LoadedRegions::default() })
    }

    /// The weight of a layer, in `once` where weights are not kept.
    pub fn weight<'k>(&'k mut self, id: NodeId, once: &'k mut LoadedWeight) -> &'k mut LoadedWeight {
        match &mut self.weights {
            Some(weights) => weights.entry(id).or_default(),
            None => once,
        }
    }
}
