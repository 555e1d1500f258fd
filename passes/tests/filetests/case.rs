//! The files of a folder, one a case.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use zqc_ir::{Model, text};
use zqc_passes::{Observer, Pass};

use super::passes;

/// What stands between the model and what comes of it.
const SEPARATOR: &str = "// ---\n";
const BLESS: &str = "ZQC_BLESS";

/// Writes down what the passes report.
#[derive(Default)]
struct Log(String);

impl Observer for Log {
    fn layer_kept(&mut self, layer: &str, reason: &str) {
        let _ = writeln!(self.0, "// kept {layer}: {reason}");
    }

    fn layer_requantized(&mut self, layer: &str, from: &str, bytes: u64) {
        let _ = writeln!(self.0, "// requantized {layer}: {from}, {bytes} bytes");
    }

    fn unmatched(&mut self, option: &str, regex: &str) {
        let _ = writeln!(self.0, "// unmatched {option} {regex}");
    }
}

/// Runs every case of a folder, and reports all that fail.
pub fn run_folder(folder: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests").join(folder);
    let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|file| text::is_text(file)).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", path.display());
    let failures: Vec<String> = files
        .iter()
        .filter_map(|file| Some(format!("{}: {}", file.display(), run_file(file).err()?)))
        .collect();
    let count = failures.len();
    assert!(
        failures.is_empty(),
        "{count} of {} cases fail; {BLESS}=1 accepts what comes of them\n\n{}",
        files.len(),
        failures.join("\n")
    );
}

/// Runs one case.
fn run_file(file: &Path) -> Result<(), String> {
    let content = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let (input, expected) = content.split_once(SEPARATOR).unwrap_or((&content, ""));
    let passes = input.lines().filter_map(|line| line.strip_prefix("// pass: "));
    let passes = passes.map(passes::parse).collect::<Result<Vec<_>, String>>()?;
    if passes.is_empty() {
        return Err("no line // pass: names a pass".to_string());
    }
    let source = text::parse(input).map_err(|error| error.to_string())?;
    let found = outcome(&passes, &source)?;
    if found == expected {
        return Ok(());
    }
    if std::env::var_os(BLESS).is_some() {
        return std::fs::write(file, format!("{input}{SEPARATOR}{found}")).map_err(|error| error.to_string());
    }
    Err(format!("what comes of it differs\n{}", difference(expected, &found)))
}

/// What comes of the model: it and what the passes report, or the error of the pass that refuses it.
fn outcome(passes: &[Box<dyn Pass>], source: &Model) -> Result<String, String> {
    let (mut model, mut log) = (source.clone(), Log::default());
    for pass in passes {
        if let Err(error) = zqc_passes::run(pass.as_ref(), &mut model, &mut log) {
            return Ok(format!("// error: {error}\n"));
        }
    }
    let found = format!("{model}{}", log.0);
    let read = text::parse(&found).map_err(|error| format!("what comes of it: {error}\n{found}"))?;
    if read.to_string() != model.to_string() {
        return Err(format!("what comes of it reads back as\n{read}"));
    }
    passes::check(passes, source, &model)?;
    Ok(found)
}

/// The lines of two texts, with - before those that only the first has and + before those that only the second has.
fn difference(expected: &str, found: &str) -> String {
    let [expected, found] = [expected, found].map(|text| text.lines().collect::<Vec<_>>());
    let mut lines = String::new();
    let mut rest = found.iter().peekable();
    for line in &expected {
        match found.contains(line) {
            true => {
                while let Some(new) = rest.next_if(|new| *new != line) {
                    let _ = writeln!(lines, "+ {new}");
                }
                rest.next();
                let _ = writeln!(lines, "  {line}");
            }
            false => {
                let _ = writeln!(lines, "- {line}");
            }
        }
    }
    for new in rest {
        let _ = writeln!(lines, "+ {new}");
    }
    lines
}
