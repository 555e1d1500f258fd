//! A run of one target: inputs, changes, outcomes.

use std::collections::HashSet;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::memory::peak_of;
use crate::targets::Target;
use crate::watch;

/// The inputs that are changed further are those of the corpus and the last of those that did something new.
const POOL: usize = 2000;
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

/// Reads changed inputs for as long as asked.
pub fn run(target: &Target, time: Duration, seed: u64) -> Result<(), Box<dyn Error>> {
    let folder = folder()?;
    let input = folder.path().join(target.file);
    eprintln!("{}: the input under way is {}", target.name, input.display());
    let mut pool = corpus(target)?;
    let seeds = pool.len();
    let began = Instant::now();
    let cpu = cpu_time();
    watch::start(began);
    silence_panics();
    let mut outcomes = HashSet::new();
    for bytes in pool.clone() {
        outcomes.insert(one(target, folder.path(), &bytes, began)?);
    }
    let mut random = Rng::with_seed(seed);
    let mut count = 0u64;
    while began.elapsed() < time {
        let mut bytes = pool[random.usize(..pool.len())].clone();
        for _ in 0..1 + random.usize(..4) {
            let other = &pool[random.usize(..pool.len())];
            (target.mutate)(&mut random, &mut bytes, other);
        }
        bytes.truncate(MOST_BYTES);
        let outcome = one(target, folder.path(), &bytes, began)?;
        count += 1;
        if outcomes.insert(outcome) {
            if pool.len() >= POOL {
                pool.remove(seeds);
            }
            pool.push(bytes);
        }
    }
    println!(
        "{}: {count} inputs, {} outcomes, {:.1} minutes, {} of the processor: nothing found",
        target.name,
        outcomes.len(),
        began.elapsed().as_secs_f64() / 60.0,
        cpu_time().zip(cpu).map_or("?".to_string(), |(now, then)| format!("{:.1}", (now - then) / 60.0)),
    );
    Ok(())
}

/// Reads one input.
pub fn replay(target: &Target, file: &Path) -> Result<(), Box<dyn Error>> {
    let folder = folder()?;
    let began = Instant::now();
    watch::start(began);
    println!("{}", one(target, folder.path(), &std::fs::read(file)?, began)?);
    Ok(())
}

/// Reads an input; what came of it, without what differs between inputs that are alike.
fn one(target: &Target, folder: &Path, bytes: &[u8], began: Instant) -> Result<String, Box<dyn Error>> {
    let path = folder.join(target.file);
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(path, bytes)?;
    watch::begin(began);
    let (peak, result) = peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.read)(folder, bytes))));
    watch::end();
    let most = target.memory + 64 * bytes.len();
    let fault = match result {
        Ok(Ok(_)) if peak > most => format!("{peak} bytes of memory for an input of {}", bytes.len()),
        Ok(Ok(outcome)) => return Ok(shape(&outcome)),
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

/// The words of a message, without numbers, names and whatever stands in quotes.
fn shape(message: &str) -> String {
    let mut quoted = false;
    let plain = message.chars().filter(|&c| {
        quoted ^= c == '"';
        !quoted && !c.is_ascii_digit()
    });
    plain.take(160).collect()
}

/// Panics that become errors are not printed.
fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Seconds that the processor has worked for us, where the system says.
fn cpu_time() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanoseconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}
