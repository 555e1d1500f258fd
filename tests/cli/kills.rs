//! Runs of the bundled model that are killed and started again.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::support::tiny;

pub const STATE: &str = "out/.model.onnx.zqc-resume";

/// The options of a short calibration of the bundled model.
pub fn options() -> Vec<String> {
    let path = |file: &str| tiny(file).to_str().unwrap().to_string();
    let words = ["--calibration", &path("calibration.txt"), "--tokenizer", &path("tokenizer.json")];
    let sizes = ["--samples", "8", "--seq-len", "64"];
    words.into_iter().chain(sizes).map(str::to_string).collect()
}

pub fn start(bench: &Bench, options: &[String]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
    command.arg(tiny("model.onnx")).arg("-o").arg(bench.output()).args(options);
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// What a run that is left alone writes, and how long that takes.
pub fn undisturbed(options: &[String]) -> (Vec<u8>, Duration) {
    let bench = Bench::new();
    let since = Instant::now();
    finish(&bench, options);
    (std::fs::read(bench.output()).unwrap(), since.elapsed())
}

/// Runs to the end; what it says.
pub fn finish(bench: &Bench, options: &[String]) -> String {
    let output = start(bench, options).wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    assert_eq!(bench.names("out"), ["model.onnx"], "the state is gone, and what a killed run left");
    message
}

/// Kills a run after `delay`; whether it was still running.
pub fn kill_after(bench: &Bench, options: &[String], delay: Duration) -> bool {
    let mut run = start(bench, options);
    std::thread::sleep(delay);
    run.kill().unwrap();
    !run.wait().unwrap().success()
}

/// The files with solved stages.
pub fn stages(bench: &Bench) -> Vec<PathBuf> {
    if !bench.path(STATE).exists() {
        return Vec::new();
    }
    bench.names(STATE).into_iter().map(|name| bench.path(STATE).join(name)).collect()
}

/// Kills runs at as many moments, each of which is then started again; how many went on from a stage.
pub fn kill_and_resume(kills: u32) -> u32 {
    let options = options();
    let (expected, duration) = undisturbed(&options);
    let mut resumed = 0;
    for kill in 0..kills {
        let bench = Bench::new();
        bench.write("out/model.onnx", "the model before");
        // A golden stride visits the whole duration in any number of steps.
        let share = (f64::from(kill) * 0.618_034).fract();
        let killed = kill_after(&bench, &options, duration.mul_f64(share));
        let now = std::fs::read(bench.output()).unwrap();
        assert!(
            now == expected || killed && now == b"the model before",
            "kill {kill}: the output is not whole"
        );
        let solved = stages(&bench).len();
        let message = finish(&bench, &options);
        assert!(std::fs::read(bench.output()).unwrap() == expected, "kill {kill}: the bytes differ");
        resumed += u32::from(message.contains("an earlier run, which was stopped, had solved"));
        println!("killed after {:.2} s, with {solved} stages solved", duration.as_secs_f64() * share);
    }
    println!("{kills} kills: the same bytes each time; {resumed} went on from a stage");
    resumed
}
