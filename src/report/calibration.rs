//! What a user should know of the calibration tokens that reached the layers.

use zqc_passes::CalibrationRecord;

use super::LayerReport;

/// Warnings about layers with few tokens, and about input features that no token has shown.
pub(super) fn warnings(layers: &[LayerReport]) -> Vec<String> {
    let calibrated: Vec<(&LayerReport, CalibrationRecord)> =
        layers.iter().filter_map(|layer| Some((layer, layer.calibration?))).collect();
    few_tokens(&calibrated).into_iter().chain(dead_features(&calibrated)).collect()
}

fn few_tokens(calibrated: &[(&LayerReport, CalibrationRecord)]) -> Option<String> {
    let rounded = |record: &CalibrationRecord| record.held_out.is_some_and(|held_out| !held_out.takes_gptq());
    let few: Vec<_> = calibrated
        .iter()
        .filter(|(layer, record)| rounded(record) || record.held_out.is_some() && record.tokens < layer.k)
        .collect();
    let (layer, record) = few.iter().min_by(|(a, x), (b, y)| (x.tokens * b.k).cmp(&(y.tokens * a.k)))?;
    let rounded = few.iter().filter(|(_, record)| rounded(record)).count();
    let rounded = match rounded {
        0 => "GPTQ is better than rounding to nearest on held-out tokens in each".to_string(),
        all if all == few.len() => {
            "rounding to nearest is better than GPTQ on held-out tokens, and taken".to_string()
        }
        some => {
            format!("in {some} of them rounding to nearest is better than GPTQ on held-out tokens, and taken")
        }
    };
    Some(format!(
        "few calibration tokens for {} ({}: {} tokens for {} input features): {rounded}; give more --samples or a longer \
         --seq-len",
        layers(few.len()),
        layer.layer,
        record.tokens,
        layer.k
    ))
}

fn dead_features(calibrated: &[(&LayerReport, CalibrationRecord)]) -> Option<String> {
    let dead: Vec<_> = calibrated.iter().filter(|(_, record)| record.dead_features > 0).collect();
    let (layer, record) = dead.iter().max_by_key(|(_, record)| record.dead_features)?;
    Some(format!(
        "input features are zero on every calibration token in {} ({}: {} of {}): their weights are rounded to nearest",
        layers(dead.len()),
        layer.layer,
        record.dead_features,
        layer.k
    ))
}

fn layers(count: usize) -> String {
    if count == 1 { "1 layer".to_string() } else { format!("{count} layers") }
}
