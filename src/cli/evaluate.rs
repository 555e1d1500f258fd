//! `zqc eval MODEL --text FILE [--tokenizer FILE] [--reference MODEL]`: perplexity, and how far a model is from another one.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;

use super::progress::Bar;
use super::{json, print, set_threads};
use crate::options::parse::{positive, threads};
use crate::{Comparison, Error, Evaluation, Perplexity, evaluate, find_model, find_tokenizer};

/// Perplexity of a model on a text.
#[derive(Args)]
pub struct Arguments {
    /// The model: any ONNX language model, or one that zqc wrote, or a folder with one, or a .zir file
    model: PathBuf,
    /// Compare with this model, as the float one that the model was made of: paired, by tokens
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// The text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The model's tokenizer.json [default: the one beside the model, or one folder above; else that of
    /// the reference]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Tokens of a window [default: 2048, or what the model takes]
    #[arg(long, value_parser = positive)]
    window: Option<usize>,
    /// Use only this many tokens of the text
    #[arg(long, value_name = "N", value_parser = positive)]
    max_tokens: Option<usize>,
    /// Token id that begins every window
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(0..))]
    bos: Option<i64>,
    /// What runs the standard operators: rten, ort (ONNX Runtime), or auto: rten, and ort for what rten cannot
    #[arg(long, default_value = "auto", value_name = "NAME")]
    backend: String,
    /// Threads [default: one a core]
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Measures the perplexity; `found` hears of a tokenizer that no argument names, `progress` how many windows of how many are done.
    ///
    /// # Errors
    /// As [`evaluate`], and when there is no tokenizer.
    pub fn run(
        &self,
        found: &mut dyn FnMut(&Path),
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Perplexity, Error> {
        let model = find_model(&self.model)?;
        let reference = self.reference.as_ref().map(|path| find_model(path)).transpose()?;
        let tokenizer = match &self.tokenizer {
            Some(tokenizer) => tokenizer.clone(),
            None => {
                let models = [Some(&model), reference.as_ref()].into_iter().flatten();
                let beside = models.filter_map(|model| find_tokenizer(model)).next().ok_or_else(|| {
                    let reason =
                        "no tokenizer.json lies beside the model or one folder above; give it with --tokenizer";
                    Error::Usage(format!("{}: {reason}", self.model.display()))
                })?;
                found(&beside);
                beside
            }
        };
        let evaluation = Evaluation {
            model: &model,
            reference: reference.as_deref(),
            text: &self.text,
            tokenizer: &tokenizer,
            window: self.window,
            max_tokens: self.max_tokens,
            bos: self.bos,
            backend: &self.backend,
            threads: self.threads,
        };
        evaluate(&evaluation, progress)
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    set_threads(arguments.threads)?;
    let bar = Bar::new("windows");
    let mut found = |tokenizer: &Path| bar.suspend(|| say!("tokenizer: {}", tokenizer.display()));
    let result = arguments.run(&mut found, &mut |done, count| {
        bar.set_length(count as u64);
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let result = result?;
    result.onnxruntime.iter().for_each(|library| say!("{library}"));
    if arguments.json {
        return print(&json(&result)?);
    }
    print(&summary(&result))
}

/// The result for a reader, without the last line's end.
fn summary(result: &Perplexity) -> String {
    let Perplexity { perplexity, tokens, window, nll, .. } = result;
    let mut text = format!(
        "perplexity {perplexity:.4} over {tokens} tokens in windows of {window} ({nll:.4} nats a token)"
    );
    let Some(Comparison { reference, perplexity, ln_ratio, kl, same_top, rms_probability_change }) =
        &result.comparison
    else {
        return text;
    };
    if let Some(bits) = result.bits_per_weight {
        text += &format!("\nbits per weight      {bits:.3}");
    }
    let ratio = (ln_ratio.mean.exp_m1() * 100.0, ln_ratio.error * 100.0);
    text += &format!("\nreference            {perplexity:.4}, {reference}");
    text += &format!(
        "\nln ratio             {:.5} +- {:.5} ({:+.2} % +- {:.2} %)",
        ln_ratio.mean, ln_ratio.error, ratio.0, ratio.1
    );
    text += &format!("\nKL divergence        {:.5} +- {:.5} nats a token", kl.mean.mean, kl.mean.error);
    text += &format!(
        "\n  median, 99 %, 99.9 %, max   {:.5}, {:.4}, {:.3}, {:.2}",
        kl.median, kl.percentile_99, kl.percentile_99_9, kl.max
    );
    text += &format!(
        "\nsame most likely     {:.2} % +- {:.2} % of the tokens",
        same_top.mean * 100.0,
        same_top.error * 100.0
    );
    text += &format!(
        "\nright token          its probability changes by {:.2} % (RMS)",
        rms_probability_change * 100.0
    );
    text
}
