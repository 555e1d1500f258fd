//! The same bytes whatever the number of threads.

use rayon::{ThreadPoolBuilder, prelude::*};
use zqc_numerics::{
    Format, GptqOptions, Hessian, Order, ScaleSearch, gptq, matmul, quantize_dequantize_tokens, rtn,
};

use crate::Random;

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
        quantize_dequantize_tokens(&mut x, cols, Format::E4M3);
        x
    });
    same_in_every_pool("rtn", || rtn(&weight, rows, cols, Format::E2M1, 128, ScaleSearch::Mse));
    for order in [Order::Natural, Order::Activation] {
        same_in_every_pool("gptq with its Hessian", || {
            let mut hessian = Hessian::new(cols);
            hessian.accumulate(&x);
            gptq(&weight, rows, cols, &hessian, &GptqOptions { order, ..GptqOptions::default() })
        });
    }
}

#[test]
fn layers_may_be_solved_side_by_side() {
    let (rows, cols) = (130, 600);
    let mut random = Random(12);
    let (weight, x) = (random.normal(rows * cols), random.activations(900, cols));
    let mut hessian = Hessian::new(cols);
    hessian.accumulate(&x);
    let solve = || gptq(&weight, rows, cols, &hessian, &GptqOptions::default());
    let alone = solve();
    assert!((0..8).into_par_iter().all(|_| solve() == alone));
}
