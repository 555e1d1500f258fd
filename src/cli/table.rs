//! Reports as text: of a compilation for standard error, of an inspection for standard output.

use crate::{InspectedFile, Inspection, Report};
use indicatif::DecimalBytes;

/// A line a layer, what stays in float and why, and the totals.
pub(super) fn print_report(report: &Report) {
    let width = report.layers.iter().map(|layer| layer.layer.len()).max().unwrap_or(0).max(5);
    if !report.layers.is_empty() {
        say!(
            "{:width$} {:>13} {:>6} {:>9} {:>9} {:>7}",
            "layer",
            "K x N",
            "bits",
            "weight",
            "output",
            "time"
        );
    }
    for layer in &report.layers {
        let shape = format!("{} x {}", layer.k, layer.n);
        let output = layer.output_error.map_or("-".to_string(), |error| format!("{:.2} %", 100.0 * error));
        say!(
            "{:width$} {shape:>13} {:>6.2} {:>7.2} % {output:>9} {:>5.2} s",
            layer.layer,
            layer.bits_per_weight,
            100.0 * layer.weight_error,
            layer.seconds
        );
    }
    report
        .kept_by_reason()
        .iter()
        .for_each(|(reason, layers)| say!("stays in float: {}", kept(reason, layers)));
    report.warnings.iter().for_each(|warning| say!("warning: {warning}"));
    let totals = &report.totals;
    if !report.layers.is_empty() {
        say!("calibration: {}", report.calibration);
        say!(
            "{} layers, {:.2} M weights: {} -> {} ({:.2}x), {:.3} bits per weight",
            report.layers.len(),
            totals.weights as f64 / 1e6,
            DecimalBytes(totals.weight_bytes_before),
            DecimalBytes(totals.weight_bytes_after),
            totals.weight_bytes_before as f64 / totals.weight_bytes_after.max(1) as f64,
            totals.bits_per_weight
        );
    }
    report.tuning.iter().for_each(|tuning| say!("{tuning}"));
    if let Some(held_out) = &report.held_out {
        say!("{held_out}");
    }
    if report.resumed_stages > 0 {
        say!("an earlier run, which was stopped, had solved {} stages", report.resumed_stages);
    }
    report.onnxruntime.iter().for_each(|library| say!("{library}"));
    if !report.verification.is_empty() {
        say!("verified: {}", report.verification);
    }
    if !report.companions.is_empty() {
        say!("with it: {}", report.companions.join(", "));
    }
    let peak = totals.peak_memory().map_or(String::new(), |peak| format!(", peak memory {peak}"));
    say!(
        "{} ({}) -> {} ({}) in {:.1} s{peak}",
        report.model,
        DecimalBytes(totals.file_bytes_before),
        report.output,
        DecimalBytes(totals.file_bytes_after),
        totals.seconds
    );
}

/// The layers that one reason keeps.
fn kept(reason: &str, layers: &[&str]) -> String {
    let more = if layers.len() > 1 { format!(" and {} more", layers.len() - 1) } else { String::new() };
    format!("{}{more} ({reason})", layers[0])
}

/// A line a linear layer, what is not compiled and why, and the totals.
pub(super) fn inspection(inspection: &Inspection) -> String {
    let width = inspection.linears.iter().map(|linear| linear.layer.len()).max().unwrap_or(0).max(5);
    let mut lines = vec![format!(
        "{:width$} {:>13} {:>7} {:>6} {:>10} {:>5} {:>7} {:>6}  bias",
        "layer", "K x N", "format", "group", "scales", "rank", "reads", "bits"
    )];
    for linear in &inspection.linears {
        let shape = format!("{} x {}", linear.k, linear.n);
        let group = linear.group_size.map_or("-".to_string(), |group| group.to_string());
        let scales = if linear.zero_points { Some("asymmetric") } else { linear.scales.as_deref() };
        let rank = if linear.rank > 0 { linear.rank.to_string() } else { "-".to_string() };
        lines.push(format!(
            "{:width$} {shape:>13} {:>7} {group:>6} {:>10} {rank:>5} {:>7} {:>6.2}  {}",
            linear.layer,
            linear.format,
            scales.unwrap_or("-"),
            linear.activations.as_deref().unwrap_or("float"),
            linear.bits_per_weight,
            if linear.bias { "yes" } else { "no" }
        ));
    }
    let others = inspection.kept_by_reason();
    lines.extend(others.iter().map(|(reason, layers)| format!("not compiled: {}", kept(reason, layers))));
    let file = match &inspection.file {
        InspectedFile::Onnx { opset, nodes } => format!("opset {opset}, {nodes} nodes"),
        InspectedFile::Package { package_version, zqc_version, activations } => {
            format!("package version {package_version} by zqc {zqc_version}, {activations} activations")
        }
    };
    lines.push(format!(
        "{file}, {} linear layers with {:.2} M weights at {:.3} bits; constants take {}",
        inspection.linears.len(),
        inspection.weights as f64 / 1e6,
        inspection.bits_per_weight,
        DecimalBytes(inspection.constant_bytes)
    ));
    lines.join("\n")
}
