//! `zqc inspect MODEL|PACKAGE`: the linear layers of a model.

use std::path::PathBuf;

use crate::{Error, inspect};
use clap::Args;

use super::{json, print, table};

#[derive(Args)]
pub(super) struct Arguments {
    /// The model: any ONNX model, or one that zqc wrote, or a folder with one, a .zir file or a CUDA package too
    model: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let inspection = inspect(&arguments.model)?;
    print(&if arguments.json { json(&inspection)? } else { table::inspection(&inspection) })
}
