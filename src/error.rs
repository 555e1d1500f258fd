//! Everything that can stop a command, with the exit code that scripts rely on.

use std::path::PathBuf;

use zqc_ir::onnx::{FolderError, ReadError, WriteError};
use zqc_kernels::{EmitError, OpenError};
use zqc_passes::PassError;
use zqc_runtime::{BackendError, DataError, InputError, RunError, TokenizerError};

use crate::verify::VerifyError;

/// Why a command failed. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The model cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Calibration or evaluation data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model's inputs cannot be synthesized.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The back end cannot be used.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The model cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A sample of the calibration data makes a pass fail.
    #[error("{place}: {source}{hint}")]
    Sample {
        /// File and line, or file and number of the sample.
        place: String,
        /// What fails.
        source: Box<RunError>,
        /// What may help, after a semicolon, or nothing.
        hint: String,
    },
    /// No built-in pass has this name.
    #[error("there is no pass {name:?}; the passes are {}", known.join(", "))]
    UnknownPass {
        /// The name asked for.
        name: String,
        /// The names of the built-in passes.
        known: Vec<&'static str>,
    },
    /// The model is of a kind that the command cannot work on.
    #[error("{0}")]
    Model(String),
    /// The layers cannot be packed for kernels.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// A folder cannot be written where it is wanted.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A package cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A folder is named where a file is written.
    #[error(
        "cannot write {path:?}: it is a directory; name a file in it, or write a package with --emit cuda"
    )]
    Directory {
        /// The folder.
        path: PathBuf,
    },
    /// What was written does not match the model in memory.
    #[error(
        "output verification failed: {source}; nothing was replaced; this is a fault of zqc or of the \
         storage: please report it, and see --no-verify"
    )]
    Verify {
        /// What is wrong.
        source: VerifyError,
    },
    /// A report or text cannot be written.
    #[error("cannot write {path:?}: {source}")]
    Output {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl Error {
    /// The exit code: 2 bad usage, 3 bad input, 4 cannot write, 5 internal.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_)
            | Error::UnknownPass { .. }
            | Error::Backend(BackendError::UnknownBackend { .. }) => 2,
            Error::Write(WriteError::NotLowered { .. } | WriteError::Cycle(_))
            | Error::Emit(EmitError::Cycle(_)) => 5,
            Error::Write(_) | Error::Directory { .. } | Error::Output { .. } => 4,
            Error::Folder(_) | Error::Emit(EmitError::Write(zqc_kernels::WriteError::Folder(_))) => 4,
            Error::Verify { .. } | Error::Pass(PassError::Patch { .. } | PassError::Broken { .. }) => 5,
            _ => 3,
        }
    }
}
