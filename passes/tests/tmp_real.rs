use zqc_passes::*;
use zqc_ir::*;
struct P;
impl Observer for P { fn layer_kept(&mut self, l: &str, r: &str) { println!("kept {l}: {r}"); } }
#[test] fn real() {
    for f in std::env::var("REAL").unwrap().split_whitespace() {
        let mut m = onnx::read(std::path::Path::new(f)).unwrap();
        let t = std::time::Instant::now();
        run(&Canonicalize, &mut m, &mut P).unwrap();
        run(&Select::default(), &mut m, &mut P).unwrap();
        run(&QuantizeActivations{format: zqc_numerics::Format::E4M3}, &mut m, &mut P).unwrap();
        let l: Vec<_> = m.graph.nodes().filter_map(|(_, n)| match &n.op { Op::Linear(l) => Some(format!("{} {}x{} {} {:?}", l.layer, l.k, l.n, n.inputs().len(), l.origin.iter().map(|n| n.op.kind()).collect::<Vec<_>>())), _ => None }).collect();
        let q = m.graph.nodes().filter(|(_, n)| matches!(n.op, Op::QuantizeActivation(_))).count();
        println!("{f}: {} linears, {q} activations, {:?}", l.len(), t.elapsed());
        for x in l.iter().take(8).chain(l.iter().skip(l.len().saturating_sub(3))) { println!("   {x}"); }
    }
}
