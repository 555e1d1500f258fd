//! A run that is killed goes on from its last stage when it is started again, and ends in the same bytes.

use crate::bench::Bench;
use crate::kills::{STATE, finish, kill_after, kill_and_resume, options, stages, start, undisturbed};

#[test]
fn a_killed_run_goes_on_and_ends_in_the_same_bytes() {
    assert!(kill_and_resume(10) >= 4);
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
    // The table of the tokens ends the stage before the first that is solved.
    assert!(message.contains("stage-00001: damaged, so it is not used"), "{message}");
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
