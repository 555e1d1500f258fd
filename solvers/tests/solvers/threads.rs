//! The same bytes whatever the number of threads.

use rayon::{ThreadPoolBuilder, prelude::*};
use zqc_formats::{ActivationFormat, FactorFormat, matmul, quantize_dequantize_tokens};
use zqc_solvers::{Correction, CrossMoment, Gptq, GptqOptions, Grouping, Hessian, Metric, Order, lorc, rtn};

use crate::{Random, hessian_of};

fn same_in_every_pool<T: PartialEq + Send>(what: &str, work: impl Fn() -> T + Sync) {
    let run = |threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&work);
    let alone = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == alone, "{what} differs with {threads} threads");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (rows, cols, tokens) = (300, 700, 2500);
    let mut random = Random(11);
    let (weight, x) = (random.normal(rows * cols), random.activations(tokens, cols));

    same_in_every_pool("matmul", || {
        let mut out = vec![0.0; tokens * rows];
        matmul(&x, &weight, &mut out, tokens, cols, rows);
        out
    });
    same_in_every_pool("token quantization", || {
        let mut x = x.clone();
        quantize_dequantize_tokens(&mut x, cols, ActivationFormat::E4M3);
        x
    });
    same_in_every_pool("rtn", || rtn(&weight, rows, cols, &Grouping::default()));
    for order in [Order::Natural, Order::Activation] {
        same_in_every_pool("gptq with its Hessian", || {
            let mut hessian = Hessian::new(cols);
            hessian.accumulate(&x);
            let options = GptqOptions { order, ..GptqOptions::default() };
            Gptq::new(&hessian, options).unwrap().solve(&weight, rows)
        });
    }
    let y = random.normal(tokens * rows);
    same_in_every_pool("correction", || {
        let mut lack = CrossMoment::new(cols, rows);
        lack.accumulate(&x, &y);
        Correction::new(&hessian_of(&x, cols)).unwrap().apply(&weight, rows, &lack, 0.5)
    });
    same_in_every_pool("lorc", || {
        let metric = Metric::activation(&hessian_of(&x, cols));
        lorc(&weight, rows, cols, 8, &metric, FactorFormat::E4M3)
    });
}

#[test]
fn layers_may_be_solved_side_by_side() {
    let (rows, cols) = (130, 600);
    let mut random = Random(12);
    let (weight, x) = (random.normal(rows * cols), random.activations(900, cols));
    let hessian = hessian_of(&x, cols);
    let gptq = Gptq::new(&hessian, GptqOptions::default()).unwrap();
    let solve = || gptq.solve(&weight, rows);
    let alone = solve();
    assert!((0..8).into_par_iter().all(|_| solve() == alone));
}
