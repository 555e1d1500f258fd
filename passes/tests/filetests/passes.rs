//! The passes that cases name, and what holds of each in every case.

use zqc_ir::{Model, text};
use zqc_passes::{Canonicalize, LayerPattern, Pass, Select, Silent};

/// The pass of a line such as `canonicalize requantize` or `select keep=^down`.
pub fn parse(line: &str) -> Result<Box<dyn Pass>, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let mut options = Options { given: words.collect() };
    let pass: Box<dyn Pass> = match name {
        "canonicalize" => Box::new(Canonicalize { requantize: options.takes("requantize") }),
        "select" => Box::new(options.select()?),
        _ => {
            return Err(format!(
                "no case has had the pass {name:?} before: tests/filetests/passes.rs makes it"
            ));
        }
    };
    match options.given.first() {
        Some(unknown) => Err(format!("{name} has no option {unknown}")),
        None => Ok(pass),
    }
}

/// The options of a pass.
struct Options<'a> {
    given: Vec<&'a str>,
}

impl Options<'_> {
    /// Whether there is this option.
    fn takes(&mut self, option: &str) -> bool {
        let before = self.given.len();
        self.given.retain(|given| *given != option);
        self.given.len() < before
    }

    /// The layers that `option=REGEX` names, each time that it is there.
    fn patterns(&mut self, option: &str) -> Result<Vec<LayerPattern>, String> {
        let value = |given: &&str| given.strip_prefix(option)?.strip_prefix('=').map(str::to_string);
        let patterns: Vec<String> = self.given.iter().filter_map(value).collect();
        self.given.retain(|given| value(given).is_none());
        patterns
            .iter()
            .map(|pattern| pattern.parse().map_err(|error| format!("{pattern}: {error}")))
            .collect()
    }

    fn select(&mut self) -> Result<Select, String> {
        Ok(Select { keep: self.patterns("keep")?, only: self.patterns("only")?, head: self.takes("head") })
    }
}

/// Checks what holds of the pass whatever the case: `source` has become `model`.
pub fn check(passes: &[Box<dyn Pass>], source: &Model, model: &Model) -> Result<(), String> {
    let [pass] = passes else { return Ok(()) };
    if pass.name() != "canonicalize" {
        return Ok(());
    }
    let mut again = model.clone();
    run(pass.as_ref(), &mut again)?;
    if again.to_string() != model.to_string() {
        return Err(format!("a second run changes it again\n{again}"));
    }
    let mut restored = model.clone();
    run(
        &Select { only: vec!["^$".parse().map_err(|error| format!("{error}"))?], ..Default::default() },
        &mut restored,
    )?;
    let [expected, found] =
        [source, &restored].map(|model| text::exact(model).map_err(|error| error.to_string()));
    let (expected, found) = (expected?, found?);
    if expected != found {
        return Err(format!("with nothing selected, it comes back changed\n{found}"));
    }
    Ok(())
}

fn run(pass: &dyn Pass, model: &mut Model) -> Result<(), String> {
    zqc_passes::run(pass, model, &mut Silent).map_err(|error| error.to_string())
}
