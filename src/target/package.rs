//! CUDA packages.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use zqc_formats::{ActivationFormat, FactorFormat};
use zqc_ir::Model;
use zqc_kernels::{Codes, EmitError, Geometry, Package};
use zqc_passes::{LowRankConfig, Pass, QuantConfig};

use super::{Target, Verification, Writer, Written};
use crate::error::Error;
use crate::options::{Choice, OnnxDialect, Options};

/// A folder of weights packed for the CUDA kernels, see [`zqc_kernels`].
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaPackage;

impl Target for CudaPackage {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn check(&self, options: &Options) -> Result<(), Error> {
        let QuantConfig { gptq, branch } = options.config(self);
        let grouping = gptq.grouping;
        let refused = |option: &str, value: &dyn Display, way_out: &str| {
            Err(Error::Usage(format!("{option} {value}: --emit cuda cannot pack it; use {way_out}")))
        };
        if options.dialect != OnnxDialect::Portable {
            return refused("--target", &options.dialect.word(), "--emit onnx, which alone has targets");
        }
        if Codes::of(options.weights.format).is_none() {
            return refused("--weights", &options.weights.word(), "--weights fp4, lut4 or e3m0");
        }
        if options.activations != Some(ActivationFormat::E4M3) {
            return refused("--activations", &options.activations.word(), "--activations fp8");
        }
        if grouping.group_size > 0 && !Geometry::is_group_size(grouping.group_size) {
            let way_out = "--group-size 32, 64, a multiple of 128, or 0 for the whole row";
            return refused("--group-size", &grouping.group_size, way_out);
        }
        if grouping.group_size > 0 && grouping.constraint.ladder().is_none() {
            let finest = options.weights.format.ladders().next_back().unwrap_or_default();
            let way_out = format!("--scale {finest}, or --group-size 0 for one scale a row");
            return refused("--scale", &grouping.constraint.word(), &way_out);
        }
        match branch {
            Some(LowRankConfig { factors: FactorFormat::Bf16, .. }) => {
                refused("--lorc-factors", &FactorFormat::Bf16.word(), "--lorc-factors fp8")
            }
            _ => Ok(()),
        }
    }

    fn lowering(&self) -> Vec<Box<dyn Pass>> {
        Vec::new()
    }

    fn without_layers(&self) -> &'static str {
        "the package is empty"
    }

    fn writer(&self, _input: &Path, output: &Path, _options: &Options) -> Result<Box<dyn Writer>, Error> {
        zqc_kernels::check_writable(output)?;
        Ok(Box::new(Folder(output.to_path_buf())))
    }

    fn verify(&self, path: &Path, _written: &Written) -> Result<Verification, Error> {
        Package::open(path).map_err(|source| Error::Verify { source: source.into() })?;
        Ok("the package reads back whole".to_string().into())
    }
}

/// The folder of a package.
struct Folder(PathBuf);

impl Writer for Folder {
    fn step(&self) -> &'static str {
        "packing"
    }

    fn write(&self, model: &Model, verify: &mut dyn FnMut(&Path) -> Result<(), Error>) -> Result<u64, Error> {
        let staged = zqc_kernels::stage(&model.graph, &self.0)?;
        verify(staged.path())?;
        Ok(staged.commit().map_err(EmitError::from)?)
    }
}
