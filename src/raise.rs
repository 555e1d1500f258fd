//! What zqc wrote is run with its layers as our operators.

use zqc_ir::{Model, Patch, RegionId};
use zqc_passes::{Pass, PassError, RaisePortable, Silent, run};

/// Makes our operators of the layers in a compiled model, those in regions first.
pub(crate) fn raise(model: &mut Model) -> Result<(), PassError> {
    let regions: Vec<RegionId> = model.graph.regions().map(|(id, _)| id).collect();
    for id in regions {
        let Some(mut region) = model.region(id) else { continue };
        raise(&mut region)?;
        let why = format!("the layers in a subgraph of {} are ours", model.graph.label(id.node));
        let patch = Patch::replace_region(model, id, region, why);
        patch.apply(model).map_err(|source| PassError::Patch { pass: RaisePortable.name(), source })?;
    }
    run(&RaisePortable, model, &mut Silent)
}
