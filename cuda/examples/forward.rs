//! Applies every layer of a package to random tokens and says how long each takes.
//!
//! ```text
//! cargo run --release -p zqc-cuda --example forward -- model.zqcuda 16
//! ```

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use half::bf16;
use zqc_cuda::cudarc::driver::sys::CUevent_flags;
use zqc_cuda::{Accumulation, DataType, Device, Input, Model, Package, Prologue};

const NOT_AVAILABLE: u8 = 3;
const REPETITIONS: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (Some(folder), tokens) = (arguments.first(), arguments.get(1).map_or(Ok(1), |tokens| tokens.parse()))
    else {
        eprintln!("usage: forward PACKAGE [TOKENS]");
        return ExitCode::from(2);
    };
    let run = || -> Result<(), Box<dyn Error>> { run(Path::new(folder), tokens?) };
    let Err(error) = run() else { return ExitCode::SUCCESS };
    eprintln!("forward: {error}");
    let is_unavailable = error.downcast_ref::<zqc_cuda::Error>().is_some_and(zqc_cuda::Error::is_unavailable);
    if is_unavailable { ExitCode::from(NOT_AVAILABLE) } else { ExitCode::FAILURE }
}

fn run(folder: &Path, tokens: usize) -> Result<(), Box<dyn Error>> {
    let package = Package::open(folder)?;
    let device = Device::new(0)?;
    let model = Model::load(&device, &package, Accumulation::Fast)?;
    model.prepare(tokens, DataType::Bf16, &[Prologue::None], DataType::Bf16)?;
    let stream = device.context().new_stream()?;
    let mut scratch = model.scratch(tokens)?;
    for linear in model.linears() {
        let x: Vec<bf16> = (0..tokens * linear.k()).map(|at| bf16::from_f32((at as f32).sin())).collect();
        let x = stream.clone_htod(&x)?;
        let mut y = stream.alloc_zeros::<bf16>(tokens * linear.n())?;

        let event = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let begin = event()?;
        for _ in 0..REPETITIONS {
            model.quantize(linear.activation(), Input::plain(&x), tokens, &mut scratch, &stream)?;
        }
        let quantized = event()?;
        for _ in 0..REPETITIONS {
            linear.apply(&scratch, &mut y, &stream)?;
        }
        let applied = event()?;

        let microseconds = |milliseconds: f32| 1e3 * milliseconds / REPETITIONS as f32;
        writeln!(
            io::stdout(),
            "{:60} {:>6} x {:<6} quantize {:8.2} us, apply {:8.2} us, y[0] = {}",
            linear.name(),
            linear.n(),
            linear.k(),
            microseconds(begin.elapsed_ms(&quantized)?),
            microseconds(quantized.elapsed_ms(&applied)?),
            stream.clone_dtoh(&y)?.first().copied().unwrap_or_default(),
        )?;
    }
    Ok(())
}
