//! The table without zero, whose groups lie steps of E4M3 codes below their row.

use zqc_formats::{Format, QuantizedMatrix, Scales};
use zqc_solvers::{Gptq, GptqOptions, Grouping, Order, ScaleConstraint, ScaleSearch, rtn};

use crate::{Random, free, hessian_of};

const GROUP: usize = 16;

fn grouping(scale_search: ScaleSearch) -> Grouping {
    Grouping { constraint: ScaleConstraint::M8, ..free(Format::Lut4, GROUP, scale_search) }
}

/// The 16 levels of a step in units of the row scale, by E4M3 codes, in code order.
fn levels(step: u8) -> [f64; 16] {
    let level = |value| f64::from(Format::E4M3.decode(Format::E4M3.encode(value) - step));
    std::array::from_fn(|code| level(Format::Lut4.decode(code as u8)))
}

/// The nearest of some levels.
fn nearest(weight: f64, levels: &[f64; 16], scale: f64) -> f64 {
    let levels = levels.iter().map(|level| level * scale);
    levels.min_by(|a, b| (a - weight).abs().total_cmp(&(b - weight).abs())).unwrap()
}

fn parts(matrix: &QuantizedMatrix) -> (&[f32], &[u8]) {
    match &matrix.scales {
        Scales::Shifted { rows, shifts, .. } => (rows, shifts),
        Scales::Grouped(_) => panic!("the scales are not constrained"),
    }
}

#[test]
fn every_weight_becomes_the_nearest_level_of_its_group() {
    let (rows, cols, mut random) = (131, 72, Random(60));
    let weight = random.normal(rows * cols);
    let solved = rtn(&weight, rows, cols, &grouping(ScaleSearch::Mse)).unwrap();
    solved.check().unwrap();
    let (scales, steps) = parts(&solved);
    for (at, (&weight, ours)) in weight.iter().zip(solved.dequantize()).enumerate() {
        let (row, group) = (at / cols, at % cols / GROUP);
        let step = steps[row * cols.div_ceil(GROUP) + group];
        let scale = f64::from(scales[row]);
        let expected = nearest(f64::from(weight), &levels(step), scale);
        assert!((f64::from(ours) - expected).abs() < 1e-6, "{weight}: {ours}, not {expected}");
    }
}

#[test]
fn the_search_is_close_to_an_exhaustive_one() {
    let (rows, cols, mut random) = (6, 512, Random(61));
    let mut weight = random.normal(rows * cols);
    // A group far below the others, and one of zeros.
    for row in weight.chunks_mut(cols) {
        row[16..32].iter_mut().for_each(|w| *w *= 0.1);
        row[32..48].fill(0.0);
    }
    let solved = rtn(&weight, rows, cols, &grouping(ScaleSearch::Mse)).unwrap().dequantize();
    let (mut ours, mut best) = (0.0, 0.0);
    for (row, weight) in weight.chunks(cols).enumerate() {
        let error = |group: &[f32], scale: f64, step: u8| -> f64 {
            let levels = levels(step);
            group.iter().map(|&w| (f64::from(w) - nearest(f64::from(w), &levels, scale)).powi(2)).sum()
        };
        let of_row = |scale: f64| -> f64 {
            let best = |group| (0..16).map(|step| error(group, scale, step)).fold(f64::INFINITY, f64::min);
            weight.chunks(GROUP).map(best).sum()
        };
        let top = weight.iter().fold(0.0, |top: f64, w| top.max(f64::from(w.abs()))) / 6.0;
        let tried = (0..96).map(|at| top * 0.4 * 2f64.powf(f64::from(at) / 48.0));
        best += tried.map(of_row).fold(f64::INFINITY, f64::min);
        let solved = solved[row * cols..][..cols].iter().zip(weight);
        ours += solved.map(|(ours, w)| (f64::from(*ours) - f64::from(*w)).powi(2)).sum::<f64>();
    }
    assert!(ours < 1.1 * best, "{ours}, at best {best}");
}

#[test]
fn it_loses_less_than_e2m1() {
    let (rows, cols, mut random) = (140, 256, Random(62));
    let (weight, x) = (random.normal(rows * cols), random.activations(500, cols));
    let hessian = hessian_of(&x, cols);
    let loss = |grouping| {
        let options = GptqOptions { grouping, ..GptqOptions::default() };
        let solved = Gptq::new(&hessian, options).unwrap().solve(&weight, rows).unwrap().dequantize();
        let error: Vec<f32> = weight.iter().zip(solved).map(|(w, q)| w - q).collect();
        hessian.output_energy(&error)
    };
    let e2m1 =
        Grouping { constraint: ScaleConstraint::M3, ..free(Format::E2M1, GROUP, ScaleSearch::Hessian) };
    let (ours, theirs) = (loss(grouping(ScaleSearch::Hessian)), loss(e2m1));
    assert!(ours < 0.8 * theirs, "{ours}, E2M1 {theirs}");
}

/// Column by column, every error is pushed onto the columns still to come: with the identity as Hessian GPTQ rounds to nearest,
/// with others it loses less.
#[test]
fn gptq_loses_less_than_rounding_to_nearest() {
    let (rows, cols, mut random) = (130, 128, Random(63));
    let (weight, x) = (random.normal(rows * cols), random.activations(600, cols));
    let hessian = hessian_of(&x, cols);
    let energy = |solved: Vec<f32>| {
        let error: Vec<f32> = weight.iter().zip(solved).map(|(w, q)| w - q).collect();
        hessian.output_energy(&error)
    };
    let rounded = energy(rtn(&weight, rows, cols, &grouping(ScaleSearch::Mse)).unwrap().dequantize());
    for order in [Order::Natural, Order::Activation] {
        let options =
            GptqOptions { grouping: grouping(ScaleSearch::Hessian), order, ..GptqOptions::default() };
        let solved = Gptq::new(&hessian, options).unwrap().solve(&weight, rows).unwrap();
        assert!(energy(solved.dequantize()) < 0.5 * rounded, "{order:?}");
    }
    let identity: Vec<f32> = (0..cols * cols).map(|i| f32::from(i % (cols + 1) == 0)).collect();
    let options = GptqOptions { grouping: grouping(ScaleSearch::Mse), ..GptqOptions::default() };
    let solved = Gptq::new(&hessian_of(&identity, cols), options).unwrap().solve(&weight, rows).unwrap();
    assert_eq!(solved, rtn(&weight, rows, cols, &grouping(ScaleSearch::Mse)).unwrap());
}

/// The table has no zero, but a row of zeros stays next to nothing, whatever the rows beside it are.
#[test]
fn rows_of_zeros_stay_small() {
    let (rows, cols, mut random) = (3, 64, Random(64));
    let mut weight = random.normal(rows * cols);
    weight[cols..2 * cols].fill(0.0);
    for constraint in [ScaleConstraint::M8, ScaleConstraint::None] {
        let grouping = Grouping { constraint, ..grouping(ScaleSearch::Mse) };
        let solved = rtn(&weight, rows, cols, &grouping).unwrap().dequantize();
        assert!(solved[cols..2 * cols].iter().all(|weight| weight.abs() < 1e-28), "{constraint:?}");
    }
}
