use zqc_formats::{Format, FormatError, Ladder, Scales};
use zqc_solvers::{Gptq, GptqOptions, Grouping, Order, ScaleConstraint, ScaleSearch, Snap, SolveError, rtn};

use crate::{Random, free, hessian_of};

const SNAPS: [Snap; 3] = [Snap::Ceil, Snap::Floor, Snap::Round];

fn constrained(constraint: ScaleConstraint) -> Grouping {
    Grouping { constraint, ..free(Format::E2M1, 16, ScaleSearch::Mse) }
}

fn parts(scales: &Scales) -> (Ladder, &[f32], &[u8]) {
    match scales {
        Scales::Shifted { ladder, rows, shifts } => (*ladder, rows, shifts),
        Scales::Grouped(_) => panic!("the scales are not constrained"),
    }
}

#[test]
fn snapped_scales_follow_the_paper() {
    let (rows, cols, mut random) = (6, 100, Random(30));
    let weight = random.normal(rows * cols);
    let unconstrained = rtn(&weight, rows, cols, &free(Format::E2M1, 16, ScaleSearch::Mse)).unwrap();
    let unconstrained = unconstrained.scales.of_groups();
    let groups = unconstrained.len() / rows;
    for snap in SNAPS {
        let integer = |x: f64| match snap {
            Snap::Ceil => x.ceil(),
            Snap::Floor => x.floor(),
            _ => x.round(),
        };
        let m1 = rtn(&weight, rows, cols, &constrained(ScaleConstraint::M1(snap))).unwrap();
        let m2 = rtn(&weight, rows, cols, &constrained(ScaleConstraint::M2(snap))).unwrap();
        m1.check().unwrap();
        m2.check().unwrap();
        let (m1, m2) = (m1.scales.of_groups(), m2.scales.of_groups());
        for (row, scales) in unconstrained.chunks(groups).enumerate() {
            let largest = f64::from(scales.iter().copied().fold(0.0, f32::max));
            for (group, &scale) in scales.iter().enumerate() {
                let (at, scale) = (row * groups + group, f64::from(scale));
                assert_eq!(f64::from(m1[at]), integer(scale.log2()).exp2(), "M1 {snap:?}");
                let expected = largest / integer((largest / scale).log2()).exp2();
                assert!((f64::from(m2[at]) / expected - 1.0).abs() < 1e-6, "M2 {snap:?}");
            }
        }
    }
}

#[test]
fn the_search_beats_snapping_and_finer_ladders_beat_coarser_ones() {
    let (rows, cols, mut random) = (150, 256, Random(31));
    let weight = random.normal(rows * cols);
    let error =
        |constraint| rtn(&weight, rows, cols, &constrained(constraint)).unwrap().relative_error(&weight);
    let none = error(ScaleConstraint::None);
    let [m1, m2, m3] =
        [ScaleConstraint::M1(Snap::Search), ScaleConstraint::M2(Snap::Search), ScaleConstraint::M3]
            .map(error);
    assert!(m3 < m2 && m2 < m1, "M3 {m3}, M2 {m2}, M1 {m1}");
    assert!(m3 < 1.15 * none, "M3 {m3}, unconstrained {none}");
    for snap in SNAPS {
        assert!(m1 <= error(ScaleConstraint::M1(snap)), "{snap:?}");
        assert!(m2 <= error(ScaleConstraint::M2(snap)), "{snap:?}");
    }
}

/// The row scale and the steps that the definition asks for, by trying every step of the ladder.
fn exhaustive(weight: &[f64], importance: &[f64], group_size: usize, ladder: Ladder) -> f64 {
    let steps = 0..=ladder.max_shift(Format::E2M1).unwrap();
    let top = weight.iter().fold(0.0, |top: f64, w| top.max(w.abs())) / 6.0;
    let error = |scale: f64, weight: &[f64], importance: &[f64]| -> f64 {
        let rounded = |w: f64| f64::from(Format::E2M1.round((w / scale) as f32)) * scale;
        weight.iter().zip(importance).map(|(&w, i)| i * (w - rounded(w)).powi(2)).sum()
    };
    let of_row = |row: f64| -> f64 {
        let groups = weight.chunks(group_size).zip(importance.chunks(group_size));
        groups
            .map(|(weight, importance)| {
                let errors =
                    steps.clone().map(|step| error(row * f64::from(ladder.factor(step)), weight, importance));
                errors.fold(f64::INFINITY, f64::min)
            })
            .sum()
    };
    // A grid finer than the one searched, over two octaves.
    (0..96).map(|at| of_row(top * 0.4 * 2f64.powf(f64::from(at) / 48.0))).fold(f64::INFINITY, f64::min)
}

#[test]
fn the_search_is_close_to_an_exhaustive_one() {
    let (rows, cols, mut random) = (5, 128, Random(32));
    let mut weight = random.normal(rows * cols);
    // Groups far apart in size, one of zeros and one out of the ladder's range.
    for row in weight.chunks_mut(cols) {
        row[16..32].iter_mut().for_each(|w| *w *= 0.03);
        row[32..48].fill(0.0);
        row[48..64].iter_mut().for_each(|w| *w *= 1e-9);
    }
    let x = random.activations(300, cols);
    let hessian = hessian_of(&x, cols);
    let importance: Vec<f64> =
        (0..cols).map(|i| x.iter().skip(i).step_by(cols).map(|&v| f64::from(v).powi(2)).sum()).collect();
    for constraint in [ScaleConstraint::M2(Snap::Search), ScaleConstraint::M3] {
        let grouping = Grouping { scale_search: ScaleSearch::Hessian, ..constrained(constraint) };
        let options = GptqOptions { grouping, ..GptqOptions::default() };
        let solved = Gptq::new(&hessian, options).unwrap().solve(&weight, rows).unwrap();
        solved.check().unwrap();
        let (ladder, row_scales, steps) = parts(&solved.scales);
        for (row, weight) in weight.chunks(cols).enumerate() {
            let weight: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
            let scales: Vec<f64> = steps[row * 8..][..8]
                .iter()
                .map(|&step| f64::from(row_scales[row]) * f64::from(ladder.factor(step)))
                .collect();
            let ours: f64 = (0..cols)
                .map(|i| {
                    let scale = scales[i / 16];
                    let rounded = f64::from(Format::E2M1.round((weight[i] / scale) as f32)) * scale;
                    importance[i] * (weight[i] - rounded).powi(2)
                })
                .sum();
            let best = exhaustive(&weight, &importance, 16, ladder);
            assert!(ours < 1.1 * best, "{constraint:?}: {ours}, at best {best}");
        }
    }
}

#[test]
fn powers_of_two_in_both_orders() {
    let (rows, cols, mut random) = (130, 96, Random(33));
    let (weight, x) = (random.normal(rows * cols), random.activations(200, cols));
    let hessian = hessian_of(&x, cols);
    for order in [Order::Natural, Order::Activation] {
        let grouping = constrained(ScaleConstraint::M1(Snap::Search));
        let options = GptqOptions { grouping, order, ..GptqOptions::default() };
        let solved = Gptq::new(&hessian, options).unwrap().solve(&weight, rows).unwrap();
        assert!(solved.scales.of_groups().iter().all(|scale| scale.log2().fract() == 0.0));
        assert_eq!(parts(&solved.scales).1.len(), rows);
    }
}

#[test]
fn zero_and_tiny_rows_stay_finite() {
    let weight = [[0.0; 32], [1e-45; 32], [f32::MAX; 32]].concat();
    for constraint in [
        ScaleConstraint::M1(Snap::Search),
        ScaleConstraint::M2(Snap::Ceil),
        ScaleConstraint::M2(Snap::Search),
        ScaleConstraint::M3,
    ] {
        let solved = rtn(&weight, 3, 32, &constrained(constraint)).unwrap();
        solved.check().unwrap();
        let weight = solved.dequantize();
        assert_eq!(weight[..32], [0.0; 32], "{constraint:?}");
        assert!(weight[32..64].iter().all(|w| w.abs() < 1e-40), "{constraint:?}");
        assert!(weight[64..].iter().all(|w| w / f32::MAX > 0.8), "{constraint:?}");
    }
}

#[test]
fn formats_without_a_ladder_are_refused() {
    let grouping = Grouping { format: Format::Int4.into(), ..Grouping::default() };
    let error: SolveError = FormatError::Shifted { format: Format::Int4, ladder: Ladder::M3 }.into();
    assert_eq!(rtn(&[1.0], 1, 1, &grouping), Err(error));
}
