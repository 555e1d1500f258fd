//! The page of a small report.

use roxmltree::{Document, Node, ParsingOptions};

use zqc::{
    ActivationReport, KeptLayer, LayerReport, Octave, OptionReport, Quantile, Report, RoundingError, Shift,
    StageReport, Totals, WeightHistogram,
};

/// Two blocks of two layers, with names that need escaping.
fn report() -> Report {
    let layers: Vec<LayerReport> = (0..4).map(layer).collect();
    Report {
        version: "1.2.3".to_string(),
        model: "models/a<b>&c.onnx".to_string(),
        output: "out/\"a\".w4a8.onnx".to_string(),
        options: vec![
            OptionReport { name: "--group-size".to_string(), value: "64".to_string() },
            OptionReport { name: "--keep".to_string(), value: "<head> 'x'".to_string() },
        ],
        calibration: "8 samples of text.txt".to_string(),
        activations: layers.iter().map(activation).collect(),
        layers,
        stages: (0..4).map(|stage| StageReport { layers: 1, seconds: 1.5 + f64::from(stage) }).collect(),
        uncalibrated: Vec::new(),
        recoded: Vec::new(),
        held_out: None,
        tuning: None,
        requantized: Vec::new(),
        kept: vec![KeptLayer { layer: "lm_head".to_string(), reason: "tied to \"wte\"".to_string() }],
        warnings: vec!["--keep \"<head>\" matches no linear layer".to_string()],
        resumed_stages: 0,
        companions: vec!["genai_config.json".to_string()],
        onnxruntime: None,
        verification: String::new(),
        totals: Totals {
            weights: 4 * 256 * 128,
            weight_bytes_before: 524_288,
            weight_bytes_after: 73_728,
            bits_per_weight: 4.5,
            file_bytes_before: 600_000,
            file_bytes_after: 150_000,
            seconds: 12.25,
            peak_memory_bytes: Some(404_100_000),
            peak_private_bytes: Some(303_200_000),
        },
    }
}

fn layer(number: usize) -> LayerReport {
    let kind = ["q_proj", "down<proj>"][number % 2];
    let error = 0.02 * (number + 1) as f64;
    LayerReport {
        layer: format!("model.layers.{}.{kind}", number / 2),
        k: 256,
        n: 128,
        stage: number,
        format: "e2m1".to_string(),
        group_size: 64,
        rank: 8,
        bits_per_weight: 4.5,
        source_bytes: 131_072,
        weight_error: 0.1,
        weight_error_before: Some(0.11),
        output_error: Some(error),
        output_error_before: Some(1.25 * error),
        calibration: None,
        weights: WeightHistogram {
            grid: vec![-6.0, -1.0, 0.0, 1.0, 6.0],
            limit: 8.0,
            counts: vec![10, 200 + number as u64, 190, 12],
            beyond: 3,
        },
        shifts: [(1.0, 300), (0.5, 200), (0.25, 12)]
            .map(|(factor, groups)| Shift { factor, groups })
            .to_vec(),
        seconds: 0.5,
    }
}

fn activation(layer: &LayerReport) -> ActivationReport {
    let quantiles = [(0.5, 0.01), (0.9, 0.1), (0.99, 0.3), (0.999, 0.6)];
    let errors = [("e4m3", 0.025), ("e5m2", 0.05), ("int8", 0.04)];
    ActivationReport {
        value: format!("{}.input", layer.layer),
        layers: vec![layer.layer.clone()],
        stage: layer.stage,
        width: layer.k,
        tokens: 100,
        quantiles: quantiles.map(|(share, at_most)| Quantile { share, at_most }).to_vec(),
        token_max: [(0.5, 20), (1.0, 70), (2.0, 10)]
            .map(|(at_least, tokens)| Octave { at_least, tokens })
            .to_vec(),
        rounding_errors: errors
            .map(|(format, error)| RoundingError { format: format.to_string(), error })
            .to_vec(),
    }
}

/// Reads the page as XML, and hands it to `check`.
fn with_page(report: &Report, check: impl Fn(&Document)) {
    let page = report.to_html();
    let options = ParsingOptions { allow_dtd: true, ..Default::default() };
    check(&Document::parse_with_options(&page, options).expect("well-formed XML"));
}

fn elements<'a>(page: &'a Document, name: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    page.descendants().filter(move |node| node.has_tag_name(name))
}

fn with_class<'a>(page: &'a Document, class: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    page.descendants().filter(move |node| node.attribute("class") == Some(class))
}

fn headings(page: &Document) -> Vec<String> {
    elements(page, "h2").filter_map(|heading| heading.text()).map(str::to_string).collect()
}

#[test]
fn the_page() {
    let page = report().to_html().replace(include_str!("../src/report/style.css"), "");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots/report");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    // A line for each element, so that a change can be read.
    settings.bind(|| insta::assert_snapshot!("page", page.replace("><", ">\n<")));
}

#[test]
fn the_page_needs_no_other_file() {
    let page = report().to_html();
    for word in ["http:", "https:", "<script", "<link", "<img", "src=", "url(", "@import"] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn every_layer_has_its_marks_and_its_row() {
    with_page(&report(), |page| {
        let text = |node: Node| node.text().unwrap_or_default().to_string();
        let names: Vec<String> =
            with_class(page, "name").filter(|node| node.has_tag_name("td")).map(text).collect();
        assert_eq!(names, report().layers.iter().map(|layer| layer.layer.clone()).collect::<Vec<_>>());
        for class in ["disc", "ring", "cross"] {
            let marks = with_class(page, class)
                .filter(|mark| mark.ancestors().any(|node| node.has_tag_name("figure")));
            let errors = if class == "cross" { 0 } else { 4 };
            assert_eq!(marks.count(), errors + 4, "{class}: layer errors and rounding errors");
        }
    });
}

#[test]
fn plots_stay_inside_their_frames() {
    with_page(&report(), |page| {
        for svg in elements(page, "svg") {
            let size: Vec<f64> =
                svg.attribute("viewBox").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
            for node in svg.descendants() {
                for (names, end) in [(["x", "cx"], size[2]), (["y", "cy"], size[3])] {
                    let places = names.iter().filter_map(|name| node.attribute(*name));
                    places.for_each(|place| {
                        assert!((0.0..=end).contains(&place.parse::<f64>().unwrap()), "{place}")
                    });
                }
                let path = node.attribute("d").unwrap_or_default();
                assert!(!path.contains("NaN") && !path.contains("inf"), "{path}");
            }
        }
    });
}

#[test]
fn without_calibration_the_weight_errors_are_plotted() {
    let mut report = report();
    report.activations.clear();
    for layer in &mut report.layers {
        (layer.output_error, layer.output_error_before) = (None, None);
        layer.shifts.clear();
    }
    with_page(&report, |page| {
        let expected = ["Warnings", "Weight error", "Weights on the grid", "Time per stage", "Layers"];
        assert_eq!(headings(page)[..5], expected);
    });
}

#[test]
fn nothing_quantized() {
    let report = Report { model: "a.onnx".to_string(), ..Report::default() };
    with_page(&report, |page| assert_eq!(headings(page), ["Options"]));
}
