//! `zqc eval MODEL --text FILE [--tokenizer FILE]`: perplexity.

use std::path::PathBuf;

use clap::Args;
use zqc::{Error, Evaluation, evaluate, find_model, find_tokenizer};

use super::compile::{positive, threads};
use super::progress::Bar;
use super::{json, print, set_threads};

#[derive(Args)]
pub(super) struct Arguments {
    /// The model: any ONNX language model, or one that zqc wrote, or a folder with one
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
    threads: Option<usize>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    set_threads(arguments.threads)?;
    let model = find_model(&arguments.model)?;
    let tokenizer = match &arguments.tokenizer {
        Some(tokenizer) => tokenizer.clone(),
        None => {
            let found = find_tokenizer(&model).ok_or_else(|| {
                let reason =
                    "no tokenizer.json lies beside the model or one folder above; give it with --tokenizer";
                Error::Usage(format!("{}: {reason}", arguments.model.display()))
            })?;
            say!("tokenizer: {}", found.display());
            found
        }
    };
    let evaluation = Evaluation {
        model: &model,
        text: &arguments.text,
        tokenizer: &tokenizer,
        window: arguments.window,
        max_tokens: arguments.max_tokens,
        bos: arguments.bos,
        backend: &arguments.backend,
        threads: arguments.threads,
    };
    let bar = Bar::new("windows");
    let result = evaluate(&evaluation, &mut |done, count| {
        bar.set_length(count as u64);
        bar.set_position(done as u64);
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
