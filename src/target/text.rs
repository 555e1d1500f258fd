//! The textual form of the quantized graph.

use std::path::{Path, PathBuf};

use zqc_ir::{Model, onnx, text};
use zqc_passes::Pass;

use super::{Target, Writer};
use crate::error::Error;
use crate::model_folder::Destination;
use crate::options::Options;

/// The quantized graph in its textual form, before it would be lowered for another target. Layers in the subgraphs of `If`, `Loop` and
/// `Scan` stay in float: they are quantized when the text is compiled further, as a layer in a subgraph is lowered at once.
pub struct Text {
    /// The target that the graph is quantized for.
    pub of: Box<dyn Target>,
}

impl Target for Text {
    fn name(&self) -> &'static str {
        "ir"
    }

    fn holds_tables(&self) -> bool {
        self.of.holds_tables()
    }

    fn takes_small_groups(&self) -> bool {
        self.of.takes_small_groups()
    }

    fn lowering(&self) -> Vec<Box<dyn Pass>> {
        Vec::new()
    }

    fn writer(&self, _input: &Path, output: &Path, _options: &Options) -> Result<Box<dyn Writer>, Error> {
        Destination::File(output.to_path_buf(), onnx::Storage::Auto).checked()?;
        Ok(Box::new(File(output.to_path_buf())))
    }
}

struct File(PathBuf);

impl Writer for File {
    fn write(
        &self,
        model: &Model,
        _verify: &mut dyn FnMut(&Path) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        Ok(text::stage(model, &self.0)?.persist()?)
    }
}
