//! What the system may do to a run: no room, no permission, no memory, no reader, a signal. The output before it stays whole,
//! and nothing else stays behind.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use prost::Message;
use zqc::ir::onnx::{Storage, read, write};
use zqc::kernels::Package;

use crate::bench::Bench;
use crate::models::{one_layer, one_layer_with};
use crate::support::tiny;

const BEFORE: &str = "the model before";

/// A folder with a model in `out` that a run is to replace.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("out/model.onnx", BEFORE);
    bench
}

/// `zqc MODEL -o OUTPUT --method rtn` behind the shell command `limit`.
fn limited(limit: &str, bench: &Bench, model: &Path) -> Output {
    let script = format!("{limit}; exec \"$@\"");
    let command = ["-c", &script, "sh", env!("CARGO_BIN_EXE_zqc")];
    let mut shell = Command::new("sh");
    shell.args(command).arg(model).arg("-o").arg(bench.output()).args(["--method", "rtn"]);
    shell.output().unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The output is what it was, and alone in its folder.
fn assert_untouched(bench: &Bench) {
    assert_eq!(bench.names("out"), ["model.onnx"]);
    assert_eq!(std::fs::read_to_string(bench.output()).unwrap(), BEFORE);
}

#[test]
fn a_file_that_may_not_grow_so_large() {
    let bench = bench();
    let output = limited("ulimit -f 1000", &bench, &tiny("model.onnx"));
    assert_eq!(output.status.code(), Some(4), "{}", message(&output));
    assert!(message(&output).contains("File too large"), "{}", message(&output));
    assert_untouched(&bench);
}

/// Stands before the C library's `write`: the disk has room for 1 MB.
const SMALL_DISK: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <stdatomic.h>
    #include <sys/stat.h>
    #include <unistd.h>

    ssize_t write(int file, const void *bytes, size_t count) {
        static atomic_size_t written;
        struct stat about;
        int on_disk = fstat(file, &about) == 0 && S_ISREG(about.st_mode);
        if (on_disk && atomic_fetch_add(&written, count) + count > 1 << 20) {
            errno = ENOSPC;
            return -1;
        }
        return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(file, bytes, count);
    }
"#;

#[test]
fn a_full_disk() {
    let bench = bench();
    let (source, library) = (bench.write("disk.c", SMALL_DISK), bench.path("disk.so"));
    let mut compiler = Command::new("cc");
    let compiled =
        compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").output().unwrap();
    assert!(compiled.status.success(), "{}", message(&compiled));
    let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
    command.arg(tiny("model.onnx")).arg("-o").arg(bench.output()).args(["--method", "rtn"]);
    // Named from its folder: spaces and colons separate libraries.
    let output = command.current_dir(bench.path("")).env("LD_PRELOAD", "./disk.so").output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", message(&output));
    assert!(message(&output).contains("No space left on device"), "{}", message(&output));
    assert_untouched(&bench);
}

#[test]
fn a_folder_without_permission() {
    use std::os::unix::fs::PermissionsExt;

    let bench = bench();
    let model = bench.model(&one_layer());
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    allow(&bench.path("out"), 0o555);
    // Permissions bind root only without the capability to override them. Another user, whom they would bind, may be kept out of
    // the folder that this program was built in.
    let mut command = match std::fs::write(bench.path("out/probe"), "") {
        Ok(()) => {
            std::fs::remove_file(bench.path("out/probe")).unwrap();
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-dac_override", env!("CARGO_BIN_EXE_zqc")]);
            command
        }
        Err(_) => Command::new(env!("CARGO_BIN_EXE_zqc")),
    };
    command.arg(model).arg("-o").arg(bench.output()).args(["--method", "rtn"]);
    let output = command.output().unwrap();
    allow(&bench.path("out"), 0o755);
    assert_eq!(output.status.code(), Some(4), "{}", message(&output));
    assert!(message(&output).contains("Permission denied"), "{}", message(&output));
    assert_untouched(&bench);
}

#[test]
fn an_output_over_its_input() {
    let bench = Bench::new();
    let model = bench.model(&one_layer());
    bench.compile(&model, &bench.output(), &["--method", "rtn"]);
    bench.compile(&model, &model, &["--method", "rtn"]);
    assert!(std::fs::read(&model).unwrap() == std::fs::read(bench.output()).unwrap());

    let large = one_layer_with(|graph| graph.doc_string = Some("external".to_string()));
    let source = bench.write("in.onnx", large.encode_to_vec());
    let external = bench.path("external.onnx");
    write(&read(&source).unwrap(), &external, Storage::External).unwrap();
    bench.compile(&source, &bench.output(), &["--method", "rtn"]);
    bench.compile(&external, &external, &["--method", "rtn"]);
    assert!(std::fs::read(&external).unwrap() == std::fs::read(bench.output()).unwrap());
}

/// Runs `zqc` with one of its outputs closed at the other end.
fn with_closed(arguments: &[&Path], stdout: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    if stdout {
        command.stdout(writer)
    } else {
        command.stderr(writer)
    };
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn closed_outputs() {
    let bench = bench();
    let model = tiny("model.onnx");
    let inspect = [Path::new("inspect"), &model, Path::new("--json")];
    assert_eq!(with_closed(&inspect, true).status.code(), Some(0));
    assert_eq!(with_closed(&inspect[..2], true).status.code(), Some(0));
    assert_eq!(with_closed(&inspect[..2], false).status.code(), Some(0));
    let output = bench.output();
    let compile = [&model, Path::new("-o"), &output, Path::new("--method"), Path::new("rtn")];
    assert_eq!(with_closed(&compile, false).status.code(), Some(0));
    assert_ne!(std::fs::read(&output).unwrap(), BEFORE.as_bytes());
    let print = [&compile[..], &[Path::new("--print-ir-after"), Path::new("select")]].concat();
    assert_eq!(with_closed(&print, true).status.code(), Some(0));
}

#[test]
fn no_memory() {
    let (mut refused, mut allocations) = (0, 0);
    for mebibytes in [80, 120, 160, 200, 240, 280] {
        let bench = bench();
        let output = limited(&format!("ulimit -v {}", mebibytes << 10), &bench, &tiny("model.onnx"));
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 3 | 5)), "{mebibytes}: {:?} {}", output.status, message(&output));
        if code != Some(0) {
            let message = message(&output);
            let words = ["out of memory", "Cannot allocate memory", "Resource temporarily unavailable"];
            assert!(words.iter().any(|word| message.contains(word)), "{message}");
            if let Some((_, allocation)) = message.split_once("error: out of memory allocating ") {
                let (bytes, rest) = allocation.split_once(' ').unwrap();
                assert!(bytes.parse::<u64>().is_ok(), "{message}");
                assert_eq!(rest, "bytes; lower --samples or --seq-len\n");
                assert_eq!(code, Some(5));
                allocations += 1;
            }
            // What it could not remove, the next run does.
            assert_eq!(std::fs::read_to_string(bench.output()).unwrap(), BEFORE);
            assert!(limited("true", &bench, &tiny("model.onnx")).status.success());
            assert_eq!(bench.names("out"), ["model.onnx"]);
            refused += 1;
        }
    }
    assert!(refused > 0, "no limit was low enough");
    assert!(allocations > 0, "no allocation failed");
}

/// Starts a calibrated run and lets `fault` happen amid it.
fn interrupted(bench: &Bench, model: &Path, fault: impl FnOnce()) -> Output {
    let mut run = Command::new(env!("CARGO_BIN_EXE_zqc"));
    run.arg(model).arg("-o").arg(bench.output()).args(["--samples", "2", "--seq-len", "64"]);
    let run = run.stderr(Stdio::piped()).spawn().unwrap();
    let state = bench.path("out/.model.onnx.zqc-resume");
    let since = Instant::now();
    while std::fs::read_dir(&state).map_or(0, Iterator::count) < 3 {
        assert!(since.elapsed() < Duration::from_secs(60), "no stage was stored in {state:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    fault();
    run.wait_with_output().unwrap()
}

#[test]
fn the_device_of_the_model_vanishes() {
    let bench = bench();
    let model = bench.write("source.onnx", std::fs::read(tiny("model.onnx")).unwrap());
    let output = interrupted(&bench, &model, || {
        // The pages of a mapped file on a device that is gone are gone too.
        std::fs::OpenOptions::new().write(true).open(&model).unwrap().set_len(0).unwrap();
    });
    assert_eq!(output.status.code(), Some(3), "{}", message(&output));
    assert!(message(&output).contains("its device is gone"), "{}", message(&output));
    assert_eq!(message(&output).matches("error: ").count(), 1, "{}", message(&output));
    assert_eq!(bench.names("out"), [".model.onnx.zqc-resume", "model.onnx"]);
    assert_eq!(std::fs::read_to_string(bench.output()).unwrap(), BEFORE);
}

#[test]
fn the_device_of_the_output_vanishes() {
    let bench = bench();
    let output = interrupted(&bench, &tiny("model.onnx"), || {
        std::fs::rename(bench.path("out"), bench.path("gone")).unwrap();
    });
    assert_eq!(output.status.code(), Some(4), "{}", message(&output));
    let named = format!("error: cannot write {:?}", bench.output());
    assert!(message(&output).contains(&named), "{}", message(&output));
    assert!(!bench.path("out").exists());
    assert_eq!(std::fs::read_to_string(bench.path("gone/model.onnx")).unwrap(), BEFORE);
}

/// Folders of runs that were killed go with the next run to the same place, whatever that writes; those of a run that
/// goes on stay, as does what is not ours.
#[test]
fn what_killed_runs_left_is_removed() {
    let bench = Bench::new();
    let model = bench.model(&one_layer());
    let kernel = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    let leave = |name: &str| {
        std::fs::create_dir(bench.path("out").join(name)).unwrap();
        bench.write(&format!("out/{name}/model.onnx"), "half a model");
        std::fs::File::open(bench.write(&format!("out/{name}/.zqc-lock"), &kernel)).unwrap()
    };
    let (onnx, package) = (bench.output(), bench.path("out/model.zqcuda"));
    let compile = |output: &Path, form: &str| {
        bench.compile(&model, output, &["--method", "rtn", "--emit", form]);
    };
    let another_run = leave(".zqc-another-run.tmp");
    another_run.lock().unwrap();
    leave(".zqc-mine");
    leave("x.tmp");
    for (output, form) in
        [(&onnx, "onnx"), (&package, "cuda"), (&package, "cuda"), (&onnx, "ir"), (&onnx, "onnx")]
    {
        leave(".zqc-killed1.tmp");
        leave(".zqc-killed2.tmp");
        compile(output, form);
        let names = bench.names("out");
        assert!(!names.iter().any(|name| name.contains("killed")), "{form}: {names:?}");
    }
    let stays = [".zqc-another-run.tmp", ".zqc-mine", "model.onnx", "model.zqcuda", "x.tmp"];
    assert_eq!(bench.names("out"), stays);
    another_run.unlock().unwrap();
    compile(&onnx, "onnx");
    assert_eq!(bench.names("out"), stays[1..]);
}

#[test]
fn a_signal_says_where_the_state_is() {
    for (name, signal) in [("-INT", 2), ("-TERM", 15)] {
        let bench = bench();
        let mut run = Command::new(env!("CARGO_BIN_EXE_zqc"));
        run.arg(tiny("model.onnx")).arg("-o").arg(bench.output()).args(["--samples", "2", "--seq-len", "64"]);
        let run = run.stderr(Stdio::piped()).spawn().unwrap();
        let state = bench.path("out/.model.onnx.zqc-resume");
        let since = Instant::now();
        while !state.exists() {
            assert!(since.elapsed() < Duration::from_secs(60), "no state in {state:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(Command::new("kill").args([name, &run.id().to_string()]).status().unwrap().success());
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(signal), "{}", message(&output));
        assert!(
            message(&output).contains(&format!("{state:?}, and the same command goes on")),
            "{}",
            message(&output)
        );
        assert!(state.exists());
    }
}

#[test]
fn signals_leave_no_temporary_file() {
    let model = tiny("model.onnx");
    let start = |bench: &Bench| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
        command.arg(&model).arg("-o").arg(bench.output()).args(["--method", "rtn"]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let whole = Bench::new();
    let since = Instant::now();
    assert!(start(&whole).wait().unwrap().success());
    let duration = since.elapsed();
    let whole = std::fs::read(whole.output()).unwrap();
    const KILLS: u32 = 24;
    let mut stopped = 0;
    for kill in 0..KILLS {
        let bench = bench();
        let mut run = start(&bench);
        // Most of them late, when files are written.
        let share = 1.0 - f64::from(kill).powi(2) / f64::from(KILLS).powi(2);
        std::thread::sleep(Duration::from_secs_f64(duration.as_secs_f64() * share));
        let (name, signal) = if kill % 2 == 0 { ("-TERM", 15) } else { ("-INT", 2) };
        let _ = Command::new("kill").args([name, &run.id().to_string()]).stderr(Stdio::null()).status();
        let status = run.wait().unwrap();
        assert!(status.success() || status.signal() == Some(signal), "{status:?}");
        stopped += u32::from(!status.success());
        assert_eq!(bench.names("out"), ["model.onnx"]);
        let now = std::fs::read(bench.output()).unwrap();
        assert!(now == whole || now == BEFORE.as_bytes() && !status.success());
    }
    assert!(stopped > 0);
}

/// The package before is whole, or the new one; between the two nothing ends the run.
#[test]
fn signals_leave_no_temporary_package() {
    let package = |bench: &Bench| bench.path("out/model.zqcuda");
    let options = ["--method", "rtn", "--emit", "cuda"];
    let start = |bench: &Bench| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
        command.arg(tiny("model.onnx")).arg("-o").arg(package(bench)).args(options);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let since = Instant::now();
    assert!(start(&Bench::new()).wait().unwrap().success());
    let duration = since.elapsed();
    let mut stopped = 0;
    for kill in 0..8u32 {
        let bench = Bench::new();
        bench.compile(&bench.model(&one_layer()), &package(&bench), &options);
        let mut run = start(&bench);
        std::thread::sleep(duration * (20 - kill) / 20);
        let _ = Command::new("kill").arg(run.id().to_string()).stderr(Stdio::null()).status();
        let status = run.wait().unwrap();
        stopped += u32::from(!status.success());
        assert_eq!(bench.names("out"), ["model.zqcuda"]);
        let layers = Package::open(&package(&bench)).unwrap().manifest().layers.len();
        assert!(layers == 35 || layers == 1 && !status.success(), "{status:?}, {layers} layers");
    }
    assert!(stopped > 0);
}
