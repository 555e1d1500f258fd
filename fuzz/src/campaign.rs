//! A run of one target: inputs, changes, outcomes.

use std::collections::HashSet;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::coverage::Coverage;
use crate::memory::peak_of;
use crate::targets::{Outcome, Target};
use crate::watch;

/// Inputs that are kept to be changed further, of those that were read and of those that were not.
const POOL: usize = 4000;
/// Larger ones are not changed further.
const MOST_BYTES: usize = 1 << 16;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A folder for the input, in memory where the system has such.
fn folder() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let temporary = std::env::temp_dir();
    let parent = if memory.is_dir() { memory } else { &temporary };
    tempfile::Builder::new().prefix("zqc-fuzz-").tempdir_in(parent)
}

/// The inputs that the repository holds for a target.
fn corpus(target: &Target) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(repository("corpus").join(target.corpus))? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths.iter().map(std::fs::read).collect::<Result<_, _>>()?)
}

/// When a run ends.
pub enum Budget {
    /// After so many changed inputs.
    Inputs(u64),
    /// After the processor has worked for so long (by the clock where the system does not tell).
    Time(Duration),
}

/// Reads the inputs of the repository, and changed ones until the budget is spent.
pub fn run(target: &Target, budget: Budget, seed: u64) -> Result<(), Box<dyn Error>> {
    let folder = folder()?;
    let input = folder.path().join(target.file);
    eprintln!("{}: the input under way is {}", target.name, input.display());
    let seeds = corpus(target)?;
    let began = Instant::now();
    let worked = || cpu_time().unwrap_or_else(|| began.elapsed());
    let before = cpu_time().unwrap_or_default();
    let mut coverage = Coverage::new();
    watch::start(began);
    silence_panics();
    let mut outcomes = HashSet::new();
    for bytes in &seeds {
        outcomes.insert(shape(&one(target, folder.path(), bytes, began)?));
    }
    coverage.grows();
    let mut random = Rng::with_seed(seed);
    let (mut valid, mut refused) = (seeds.clone(), Vec::new());
    let (mut count, mut read) = (0u64, 0u64);
    let goes_on = |count| match budget {
        Budget::Inputs(inputs) => count < inputs,
        Budget::Time(time) => worked() - before < time,
    };
    while goes_on(count) {
        // What is refused early shows little, however it is changed.
        let pool = match random.usize(..8) {
            0 if !refused.is_empty() => &refused,
            1 | 2 => &seeds,
            _ => &valid,
        };
        let mut bytes = pool[random.usize(..pool.len())].clone();
        for _ in 0..1 + random.usize(..3) {
            let other = &valid[random.usize(..valid.len())];
            (target.mutate)(&mut random, &mut bytes, other);
        }
        bytes.truncate(MOST_BYTES);
        coverage.clear();
        let outcome = one(target, folder.path(), &bytes, began)?;
        count += 1;
        read += u64::from(matches!(outcome, Outcome::Read(_)));
        if coverage.grows() | outcomes.insert(shape(&outcome)) {
            let pool = if matches!(outcome, Outcome::Read(_)) { &mut valid } else { &mut refused };
            match pool.len() {
                POOL.. => pool[random.usize(..POOL)] = bytes,
                _ => pool.push(bytes),
            }
        }
    }
    println!(
        "{}: {count} inputs, {:.0} % of them read, {} outcomes, {}, {:.1} minutes of the processor: nothing found",
        target.name,
        100.0 * read as f64 / count.max(1) as f64,
        outcomes.len(),
        match coverage.branches() {
            0 => "branches not counted (see fuzz/coverage.toml)".to_string(),
            branches => format!("{branches} branches"),
        },
        (worked() - before).as_secs_f64() / 60.0,
    );
    Ok(())
}

/// Reads one input.
pub fn replay(target: &Target, file: &Path) -> Result<(), Box<dyn Error>> {
    let folder = folder()?;
    let began = Instant::now();
    watch::start(began);
    match one(target, folder.path(), &std::fs::read(file)?, began)? {
        Outcome::Read(words) => println!("read: {words}"),
        Outcome::Refused(message) => println!("refused: {message}"),
    }
    Ok(())
}

/// Reads an input; what came of it.
fn one(target: &Target, folder: &Path, bytes: &[u8], began: Instant) -> Result<Outcome, Box<dyn Error>> {
    let path = folder.join(target.file);
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(path, bytes)?;
    watch::begin(began);
    let (peak, result) = peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.read)(folder))));
    watch::end();
    let most = target.memory + 64 * bytes.len();
    let fault = match result {
        Ok(Ok(_)) if peak > most => format!("{peak} bytes of memory for an input of {}", bytes.len()),
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(fault)) => fault,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message"))
        }
    };
    let findings = repository("findings");
    std::fs::create_dir_all(&findings)?;
    let path = findings.join(format!("{}-{}", target.name, std::process::id()));
    std::fs::write(&path, bytes)?;
    Err(format!("FOUND: {fault}; the input is {}", path.display()).into())
}

/// An outcome without what differs between inputs that are alike: numbers, and whatever stands in quotes.
fn shape(outcome: &Outcome) -> String {
    let (sign, message) = match outcome {
        Outcome::Read(words) => ('+', words),
        Outcome::Refused(message) => ('-', message),
    };
    let mut quote = None;
    let plain = message.chars().filter(|&c| match quote {
        Some(open) => {
            quote = quote.filter(|_| c != open);
            false
        }
        None => {
            quote = Some(c).filter(|c| ['"', '\'', '`'].contains(c));
            quote.is_none() && (c.is_ascii_alphabetic() || [' ', '+', ':'].contains(&c))
        }
    });
    std::iter::once(sign).chain(plain.take(160)).collect()
}

/// Panics that become errors are not printed.
fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// How long the processor has worked for the main thread, where the system says.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::{one, shape};
    use crate::targets::{Outcome, Target};

    /// What is found in an input of three bytes.
    fn found(read: fn(&Path) -> Result<Outcome, String>) -> Option<String> {
        let target = Target {
            name: "test",
            corpus: "none",
            file: "input",
            memory: 1 << 20,
            read,
            mutate: |_, _, _| {},
        };
        let folder = tempfile::tempdir().unwrap();
        let error = one(&target, folder.path(), b"abc", Instant::now()).err()?.to_string();
        let (fault, path) = error.split_once("; the input is ").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"abc");
        std::fs::remove_file(path).unwrap();
        Some(fault.to_string())
    }

    #[test]
    fn panics_memory_and_faults_are_found() {
        assert_eq!(found(|_| Ok(Outcome::Read(String::new()))), None);
        assert_eq!(found(|_| panic!("at {}", 7)).unwrap(), "FOUND: panic: at 7");
        assert_eq!(found(|_| Err("wrong".to_string())).unwrap(), "FOUND: wrong");
        let memory = found(|_| Ok(Outcome::Read(format!("{}", vec![1u8; 2 << 20].len())))).unwrap();
        assert!(memory.contains("bytes of memory for an input of 3"), "{memory}");
    }

    #[test]
    fn outcomes_that_differ_in_numbers_and_names_are_alike() {
        let refused = |message: &str| shape(&Outcome::Refused(message.to_string()));
        assert_eq!(refused("node \"a\" has 3 inputs"), refused("node \"b\" has 14 inputs"));
        assert_ne!(refused("node"), refused("value"));
        assert_ne!(refused("node"), shape(&Outcome::Read("node".to_string())));
    }
}
