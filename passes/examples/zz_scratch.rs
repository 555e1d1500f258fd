use std::path::Path;
use zqc_ir::onnx;
use zqc_numerics::{Format, GptqOptions};
use zqc_passes::*;
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut model = onnx::read(Path::new(&args[1])).unwrap();
    let opset = model.opset();
    let group = args.get(3).map_or(32, |g| g.parse().unwrap());
    let gptq = GptqOptions { format: Format::E2M1, group_size: group, ..Default::default() };
    let solve = SolveWeights { options: gptq, method: Method::Rtn };
    let quantize = QuantizeActivations { format: Format::E4M3 };
    let upgrade = UpgradeOpset { to: 19 };
    let passes: Vec<&dyn Pass> = match args[0].as_str() {
        "upgrade" => vec![&upgrade],
        "lower" => vec![&Canonicalize, &quantize, &solve, &upgrade, &LowerPortable],
        "raise" => vec![&RaisePortable],
        "cycle" => vec![&RaisePortable, &LowerPortable],
        _ => panic!(),
    };
    for pass in passes {
        if let Err(e) = run(pass, &mut model, &mut Silent) {
            println!("ERROR {e}");
            std::process::exit(3)
        }
    }
    println!("{} -> {}", opset, model.opset());
    if args[0] == "raise" {
        println!("{model}");
    } else {
        onnx::write(&model, Path::new(&args[2]), onnx::Storage::Inline).unwrap();
    }
}
