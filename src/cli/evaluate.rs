//! `zqc eval MODEL --text FILE [--tokenizer FILE]`: perplexity.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;

use super::progress::Bar;
use super::{json, print, set_threads};
use crate::options::parse::{positive, threads};
use crate::{Error, Evaluation, Perplexity, evaluate, find_model, find_tokenizer};

/// Perplexity.
#[derive(Args)]
pub struct Arguments {
    /// The model: any ONNX language model, or one that zqc wrote, or a folder with one, or a .zir file
    model: PathBuf,
    /// The text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The model's tokenizer.json [default: the one beside the model, or one folder above]
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
        let tokenizer = match &self.tokenizer {
            Some(tokenizer) => tokenizer.clone(),
            None => {
                let beside = find_tokenizer(&model).ok_or_else(|| {
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
    print(&format!(
        "perplexity {:.4} over {} tokens in windows of {} ({:.4} nats a token)",
        result.perplexity, result.tokens, result.window, result.nll
    ))
}
