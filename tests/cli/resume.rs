//! A run that is killed goes on from its last stage when it is started again, and ends in the same bytes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::support::tiny;

const STATE: &str = "out/.model.onnx.zqc-resume";

/// The options of a short calibration of the bundled model.
fn options() -> Vec<String> {
    let path = |file: &str| tiny(file).to_str().unwrap().to_string();
    let words = ["--calibration", &path("calibration.txt"), "--tokenizer", &path("tokenizer.json")];
    let sizes = ["--samples", "8", "--seq-len", "64"];
    words.into_iter().chain(sizes).map(str::to_string).collect()
}

fn start(bench: &Bench, options: &[String]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
    command.arg(tiny("model.onnx")).arg("-o").arg(bench.output()).args(options);
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// What a run that is left alone writes, and how long that takes.
fn undisturbed(options: &[String]) -> (Vec<u8>, Duration) {
    let bench = Bench::new();
    let since = Instant::now();
    finish(&bench, options);
    (std::fs::read(bench.output()).unwrap(), since.elapsed())
}

/// Runs to the end; what it says.
fn finish(bench: &Bench, options: &[String]) -> String {
    let output = start(bench, options).wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    assert_eq!(bench.names("out"), ["model.onnx"], "the state is gone, and what a killed run left");
    message
}

/// Kills a run after `delay`; whether it was still running.
fn kill_after(bench: &Bench, options: &[String], delay: Duration) -> bool {
    let mut run = start(bench, options);
    std::thread::sleep(delay);
    run.kill().unwrap();
    !run.wait().unwrap().success()
}

/// The files with solved stages.
fn stages(bench: &Bench) -> Vec<PathBuf> {
    if !bench.path(STATE).exists() {
        return Vec::new();
    }
    bench.names(STATE).into_iter().map(|name| bench.path(STATE).join(name)).collect()
}

/// Kills runs at as many moments, each of which is then started again; how many went on from a stage.
fn kill_and_resume(kills: u32) -> u32 {
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

#[test]
fn a_killed_run_goes_on_and_ends_in_the_same_bytes() {
    assert!(kill_and_resume(10) >= 4);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test cli a_hundred_kills -- --ignored --nocapture"]
fn a_hundred_kills() {
    assert!(kill_and_resume(100) >= 40);
}

/// A folder with the state of a killed run.
fn killed(options: &[String]) -> Bench {
    let (_, duration) = undisturbed(options);
    (4..10u32)
        .map(|tenths| {
            let bench = Bench::new();
            kill_after(&bench, options, duration * tenths / 10);
            bench
        })
        .find(|bench| stages(bench).len() >= 2 && !bench.output().exists())
        .expect("a run that was killed between its stages")
}

#[test]
fn state_that_is_damaged_is_not_used() {
    let options = options();
    let bench = killed(&options);
    let stages = stages(&bench);
    let mut bytes = std::fs::read(&stages[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&stages[0], bytes).unwrap();
    let last = stages.last().unwrap();
    let bytes = std::fs::read(last).unwrap();
    std::fs::write(last, &bytes[..bytes.len() - 1]).unwrap();
    let message = finish(&bench, &options);
    assert!(message.contains("stage-00000: damaged, so it is not used"), "{message}");
    assert!(std::fs::read(bench.output()).unwrap() == undisturbed(&options).0);
}

#[test]
fn state_of_other_options_is_not_used() {
    let bench = killed(&options());
    let other = [options(), vec!["--group-size".to_string(), "128".to_string()]].concat();
    let message = finish(&bench, &other);
    assert!(message.contains("of another model, option or program, so it is not used"), "{message}");
    assert!(!message.contains("had solved"), "{message}");
    assert!(std::fs::read(bench.output()).unwrap() == undisturbed(&other).0);
}

#[test]
fn state_is_used_where_only_threads_and_reports_differ() {
    let options = options();
    let bench = killed(&options);
    let report = bench.path("report.json").display().to_string();
    let other = ["--threads", "1", "--no-verify", "--report", &report].map(str::to_string);
    let message = finish(&bench, &[options.clone(), other.to_vec()].concat());
    assert!(message.contains("had solved"), "{message}");
    assert!(std::fs::read(bench.output()).unwrap() == undisturbed(&options).0);
}

#[test]
fn a_slip_of_the_keyboard_costs_no_state() {
    let options = options();
    let bench = killed(&options);
    let before = stages(&bench);
    let slip = [options.clone(), vec!["--bos".to_string(), "1000000".to_string()]].concat();
    for wrong in [&["--calibration".to_string(), "missing.txt".to_string()][..], &slip] {
        let output = start(&bench, wrong).wait_with_output().unwrap();
        assert!(!output.status.success());
        assert_eq!(stages(&bench), before);
    }
    let message = finish(&bench, &options);
    assert!(message.contains("had solved"), "{message}");
}

#[test]
fn no_resume_keeps_and_takes_nothing() {
    let bench = killed(&options());
    let alone = [options(), vec!["--no-resume".to_string()]].concat();
    let message = finish(&bench, &alone);
    assert!(!message.contains("had solved"), "{message}");
    let (expected, duration) = undisturbed(&options());
    assert!(std::fs::read(bench.output()).unwrap() == expected);
    let bench = Bench::new();
    kill_after(&bench, &alone, duration * 7 / 10);
    assert!(stages(&bench).is_empty());
}

#[test]
fn text_that_the_model_wrote_is_kept() {
    let options: Vec<String> =
        ["--samples", "4", "--seq-len", "64", "--bos", "0"].into_iter().map(str::to_string).collect();
    let bench = killed(&options);
    let text = bench.path(STATE).join("text");
    assert!(text.exists());
    finish(&bench, &options);
    assert!(std::fs::read(bench.output()).unwrap() == undisturbed(&options).0);
}
