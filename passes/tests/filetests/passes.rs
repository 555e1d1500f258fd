//! The passes that cases name, and what holds of each in every case.

use zqc_ir::{Model, text};
use zqc_passes::{
    Canonicalize, ExpandEinsum, ExpandFused, LayerPattern, Opset, Pass, Select, ShareConstants,
    ShareOperands, Silent, SplitExperts, UpgradeOpset,
};

/// The pass of a line such as `canonicalize requantize` or `select keep=^down`.
pub fn parse(line: &str) -> Result<Box<dyn Pass>, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let mut options = Options { given: words.collect() };
    let pass: Box<dyn Pass> = match name {
        "canonicalize" => Box::new(Canonicalize { requantize: options.takes("requantize") }),
        "expand_einsum" => Box::new(ExpandEinsum { select: options.select()? }),
        "expand_fused" => Box::new(ExpandFused { select: options.select()? }),
        "select" => Box::new(options.select()?),
        "share_constants" => Box::new(ShareConstants),
        "share_operands" => Box::new(ShareOperands),
        "split_experts" => Box::new(SplitExperts { select: options.select()? }),
        "upgrade_opset" => Box::new(UpgradeOpset { to: options.opset()? }),
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

    /// The values that `option=VALUE` gives, each time that it is there.
    fn values(&mut self, option: &str) -> Vec<String> {
        let value = |given: &&str| given.strip_prefix(option)?.strip_prefix('=').map(str::to_string);
        let values = self.given.iter().filter_map(value).collect();
        self.given.retain(|given| value(given).is_none());
        values
    }

    /// The layers that `option=REGEX` names.
    fn patterns(&mut self, option: &str) -> Result<Vec<LayerPattern>, String> {
        let parse = |value: String| value.parse().map_err(|error| format!("{value}: {error}"));
        self.values(option).into_iter().map(parse).collect()
    }

    /// The opset of `to=VERSION`.
    fn opset(&mut self) -> Result<Opset, String> {
        let version = self.values("to").pop().ok_or("to=VERSION is missing")?;
        version.parse().map(Opset::At).map_err(|error| format!("to={version}: {error}"))
    }

    fn select(&mut self) -> Result<Select, String> {
        Ok(Select { keep: self.patterns("keep")?, only: self.patterns("only")?, head: self.takes("head") })
    }
}

/// Checks what holds of the passes whatever the case: `source` has become `model`.
pub fn check(passes: &[Box<dyn Pass>], source: &Model, model: &Model) -> Result<(), String> {
    let Some(last) = passes.last() else { return Ok(()) };
    let mut again = model.clone();
    run(last.as_ref(), &mut again)?;
    same(model, &again).map_err(|text| format!("a second run changes it again\n{text}"))?;
    let [pass] = passes else { return Ok(()) };
    let (mut restored, rest) = match pass.name() {
        "canonicalize" => (model.clone(), vec![]),
        name @ ("expand_einsum" | "expand_fused" | "split_experts") => {
            (source.clone(), vec![format!("{name} only=^$"), "canonicalize".to_string()])
        }
        _ => return Ok(()),
    };
    for line in rest.iter().map(String::as_str).chain(["select only=^$"]) {
        run(parse(line)?.as_ref(), &mut restored)?;
    }
    same(source, &restored).map_err(|text| format!("with nothing selected, it comes back changed\n{text}"))
}

/// The error is the text of `found`, if it is another model than `expected`.
fn same(expected: &Model, found: &Model) -> Result<(), String> {
    let exact = |model| text::exact(model).map_err(|error| error.to_string());
    let (expected, found) = (exact(expected)?, exact(found)?);
    if expected == found { Ok(()) } else { Err(found) }
}

fn run(pass: &dyn Pass, model: &mut Model) -> Result<(), String> {
    zqc_passes::run(pass, model, &mut Silent).map_err(|error| error.to_string())
}
