//! Options in the words of the command line.

use std::fmt::Display;

use super::{Choice, Options};
use crate::report::OptionReport;
use crate::target::Target;

impl Options {
    /// Every option that has a value, in the words of the command line.
    pub(crate) fn in_words(&self, target: &dyn Target) -> Vec<OptionReport> {
        let config = self.config(target);
        let mut all = vec![
            ("--emit", self.emit.word().to_string()),
            ("--target", self.dialect.word().to_string()),
            ("--weights", self.weights.word().to_string()),
            ("--activations", self.activations.word().to_string()),
            ("--group-size", config.gptq.grouping.group_size.to_string()),
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
    use zqc_formats::Format;
    use zqc_solvers::ScaleConstraint;

    use super::*;
    use crate::options::{Emit, OnnxDialect};

    fn words(options: &Options) -> String {
        let words = options.in_words(options.target().as_ref());
        let words: Vec<String> =
            words.iter().map(|option| format!("{} {}", option.name, option.value)).collect();
        words.join(" ")
    }

    #[test]
    fn groups_are_small_where_their_scales_are_and_the_target_takes_them() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            words(&options)
        };
        let [small, large] = ["--group-size 16", "--group-size 64"];
        for (change, group, rank) in [
            ((|_| {}) as fn(&mut Options), small, "--lorc-rank 0"),
            (|options| options.weights = Format::Lut4.into(), small, "--lorc-rank 0"),
            (|options| options.emit = Emit::Ir, small, "--lorc-rank 0"),
            (|options| options.emit = Emit::Cuda, large, "--lorc-rank 8"),
            (|options| options.dialect = OnnxDialect::Native, large, "--lorc-rank 8"),
            (|options| options.scale = Some(ScaleConstraint::None), large, "--lorc-rank 8"),
            (|options| options.weights = Format::Int8.into(), large, "--lorc-rank 0"),
            (|options| options.group_size = Some(16), small, "--lorc-rank 0"),
            (|options| options.group_size = Some(0), "--group-size 0", "--lorc-rank 8"),
            (|options| options.lorc_rank = Some(8), small, "--lorc-rank 8"),
        ] {
            let words = with(change);
            assert!(words.contains(group) && words.contains(rank), "{words}");
        }
    }

    #[test]
    fn what_has_a_value_is_said_as_on_the_command_line() {
        let options = Options {
            calibration: vec!["a.txt".into(), "b.txt".into()],
            samples: Some(4),
            group_size: Some(64),
            ..Options::default()
        };
        assert_eq!(
            words(&options),
            "--emit onnx --target portable --weights fp4 --activations fp8 --group-size 64 --head int8 --method gptq \
             --order activation \
             --scale m3 --scale-search hessian --hessian quantized --token-weights uniform --propagation 0.5 --lorc-rank 8 --lorc activation \
             --lorc-factors fp8 --lorc-rounds 2 --calibration a.txt b.txt --samples 4 --backend auto"
        );
    }
}
