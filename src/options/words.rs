//! Options in the words of the command line.

use std::fmt::Display;

use super::{Choice, Options};
use crate::report::OptionReport;
use crate::target::Target;

impl Options {
    /// Every option that has a value, in the words of the command line.
    pub(crate) fn in_words(&self, target: &dyn Target) -> Vec<OptionReport> {
        let config = self.config();
        let mut all = vec![
            ("--emit", self.emit.word().to_string()),
            ("--target", self.dialect.word().to_string()),
            ("--weights", self.weights.word().to_string()),
            ("--activations", self.activations.word().to_string()),
            ("--group-size", self.group_size.to_string()),
            ("--head", self.head(target).word().to_string()),
            ("--method", self.method.word().to_string()),
            ("--order", self.order.word().to_string()),
            ("--scale", config.gptq.grouping.constraint.word().to_string()),
            ("--scale-search", self.scale_search.word().to_string()),
            ("--hessian", self.hessian.word().to_string()),
            ("--token-weights", self.token_weights.word().to_string()),
            ("--propagation", self.propagation.to_string()),
            ("--tune", joined((self.tune > 0).then_some(self.tune))),
            ("--lorc-rank", config.branch.map_or(0, |branch| branch.rank).to_string()),
        ];
        if let Some(branch) = config.branch {
            all.extend([
                ("--lorc", branch.metric.word().to_string()),
                ("--lorc-factors", branch.factors.word().to_string()),
                ("--lorc-rounds", branch.rounds.to_string()),
            ]);
        }
        all.extend([
            ("--calibration", joined(self.calibration.iter().map(|path| path.display()))),
            ("--tokenizer", joined(self.tokenizer.iter().map(|path| path.display()))),
            ("--samples", joined(self.samples)),
            ("--seq-len", joined(self.seq_len)),
            ("--bos", joined(self.bos)),
            ("--keep", joined(&self.keep)),
            ("--only", joined(&self.only)),
            ("--backend", self.backend.clone()),
            ("--threads", joined(self.threads)),
        ]);
        let given = all.into_iter().filter(|(_, value)| !value.is_empty());
        given.map(|(name, value)| OptionReport { name: name.to_string(), value }).collect()
    }
}

/// The values with spaces between them.
fn joined(values: impl IntoIterator<Item = impl Display>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    values.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_value_is_said_as_on_the_command_line() {
        let options = Options {
            calibration: vec!["a.txt".into(), "b.txt".into()],
            samples: Some(4),
            ..Options::default()
        };
        let words: Vec<String> = options
            .in_words(options.target().as_ref())
            .iter()
            .map(|option| format!("{} {}", option.name, option.value))
            .collect();
        assert_eq!(
            words.join(" "),
            "--emit onnx --target portable --weights fp4 --activations fp8 --group-size 64 --head int8 --method gptq \
             --order activation \
             --scale m3 --scale-search hessian --hessian quantized --token-weights uniform --propagation 0.5 --lorc-rank 8 --lorc activation \
             --lorc-factors fp8 --lorc-rounds 2 --calibration a.txt b.txt --samples 4 --backend auto"
        );
    }
}
