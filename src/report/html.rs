//! The report as a page.

use indicatif::DecimalBytes;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::report::plots::plots;
use crate::report::{LayerReport, Report, StageReport};

/// Closed, as XML wants it, which the macro does not do.
const META: &str = r#"<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
"#;

/// Well-formed XML too, so that any tool can read it.
pub(super) fn page(report: &Report) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (PreEscaped(META))
                title { "zqc: " (file_name(&report.model)) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { (file_name(&report.model)) " → " (file_name(&report.output)) }
                    p { (report.model) " → " (report.output) }
                }
                (totals(report))
                (warnings(report))
                (plots(report))
                @if !report.layers.is_empty() { (layers(&report.layers, &report.stages)) }
                (kept(report))
                (options(report))
            }
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

fn totals(report: &Report) -> Markup {
    let totals = &report.totals;
    let change = |before: u64, after: u64| {
        let ratio = before as f64 / after.max(1) as f64;
        format!("{} → {} ({ratio:.2}×)", DecimalBytes(before), DecimalBytes(after))
    };
    let peak = totals.peak_memory();
    let held_out = report.held_out.as_ref().map(|found| ("beside the float model", found.to_string()));
    let tuning = report.tuning.as_ref().map(|tuning| ("tuning", tuning.to_string()));
    let library = report.onnxruntime.as_ref().map(|library| ("standard operators", library.to_string()));
    let facts = [
        ("layers", format!("{} quantized, {} in float", report.layers.len(), report.kept.len())),
        ("quantized weights", format!("{:.2} million", totals.weights as f64 / 1e6)),
        ("bits per weight", format!("{:.3}, everything counted", totals.bits_per_weight)),
        ("their size", change(totals.weight_bytes_before, totals.weight_bytes_after)),
        ("model file", change(totals.file_bytes_before, totals.file_bytes_after)),
        ("calibration", report.calibration.clone()),
        ("time", format!("{:.1} s", totals.seconds)),
        ("peak memory", peak.unwrap_or_else(|| "unknown".to_string())),
        ("compiler", format!("zqc {}", report.version)),
    ];
    html! {
        dl {
            @for (name, value) in facts.into_iter().chain(tuning).chain(held_out).chain(library) { div { dt { (name) } dd { (value) } } }
        }
    }
}

fn warnings(report: &Report) -> Markup {
    html! {
        @if !report.warnings.is_empty() {
            section {
                h2 { "Warnings" }
                ul { @for warning in &report.warnings { li { (warning) } } }
            }
        }
    }
}

fn layers(layers: &[LayerReport], stages: &[StageReport]) -> Markup {
    let stage = |at: usize| match stages.get(at) {
        Some(stage) => format!("stage {}: {:.2} s", at + 1, stage.seconds),
        None => format!("stage {}", at + 1),
    };
    let groups = layers.chunk_by(|a, b| a.stage == b.stage);
    let mut numbers = 1..;
    html! {
        section {
            h2 { "Layers" }
            p {
                "Errors are relative; “codes alone” is without the low-rank branch. Bits count everything that is "
                "stored."
            }
            div.scroll {
                table {
                    thead {
                        tr {
                            th { "no." } th.name { "layer" } th { "K × N" } th { "format" } th { "group" }
                            th { "rank" } th { "bits" } th { "weight" } th { "output, codes alone" }
                            th { "output" } th { "time" }
                        }
                    }
                    @for group in groups {
                        tbody {
                            tr.stage { th colspan="11" { (stage(group[0].stage)) } }
                            @for (layer, number) in group.iter().zip(numbers.by_ref()) { (row(number, layer)) }
                        }
                    }
                }
            }
        }
    }
}

fn row(number: usize, layer: &LayerReport) -> Markup {
    let error =
        |error: Option<f64>| error.map_or("–".to_string(), |error| format!("{:.2} %", 100.0 * error));
    html! {
        tr {
            td { (number) }
            td.name { (layer.layer) }
            td { (layer.k) " × " (layer.n) }
            td { (layer.format) }
            td { (layer.group_size) }
            td { @if layer.rank == 0 { "–" } @else { (layer.rank) } }
            td { (format!("{:.2}", layer.bits_per_weight)) }
            td { (error(Some(layer.weight_error))) }
            td { (error(layer.output_error_before)) }
            td { (error(layer.output_error)) }
            td { (format!("{:.2} s", layer.seconds)) }
        }
    }
}

fn kept(report: &Report) -> Markup {
    html! {
        @if !report.kept.is_empty() {
            section {
                h2 { "Kept in float" }
                @for (reason, layers) in report.kept_by_reason() {
                    h3 { (reason) }
                    ul { @for layer in layers { li { (layer) } } }
                }
            }
        }
    }
}

fn options(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Options" }
            table.options {
                tbody {
                    @for option in &report.options { tr { th { (option.name) } td { (option.value) } } }
                }
            }
        }
    }
}
