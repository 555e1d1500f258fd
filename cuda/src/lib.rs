//! The launcher of zqc's CUDA packages: linear layers with 4-bit floating-point weights and FP8 activations on H100 and
//! H200.
//!
//! ```no_run
//! use half::bf16;
//! use zqc_cuda::{Accumulation, Device, Model, Package};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::new(0)?;
//! let model = Model::load(&device, &Package::open("model.zqcuda".as_ref())?, Accumulation::Fast)?;
//! let stream = device.context().new_stream()?;
//!
//! let linear = model.linear("/model/layers.0/mlp/down_proj")?;
//! let x = stream.alloc_zeros::<bf16>(16 * linear.k())?;
//! let mut y = stream.alloc_zeros::<bf16>(16 * linear.n())?;
//! linear.forward(&x, 16, &stream, &mut y)?;
//! # Ok(())
//! # }
//! ```
//!
//! * [`Device`] is a GPU in its primary context; [`Model::load`] copies a package to it.
//! * [`Linear`] is a layer of a model. [`Linear::forward`] is all there is to a call; where layers read the same value,
//!   [`Model::quantize`] it into a [`Scratch`] once and [`Linear::apply`] each of them. [`Input`] also fuses an RMS norm
//!   or a gated activation into the quantization.
//! * [`Package::pack`] makes a package of layers in memory. Hosts that have addresses and streams of their own, whose tokens come as
//!   codes row by row, call [`Linear::forward_codes`], and [`RowQuantizer`], [`TableGather`] and [`TableLinear`] for what is around it.
//! * Neither needs a CUDA toolkit: the kernels' sources are in this library and are compiled by NVRTC for the shapes of
//!   the model, once on a machine ([`Compiler`]). [`Model::prepare`] does it ahead of the first call.
//! * A package is data, and is checked; nothing in it is run.
//! * The same is there for C, with raw device pointers: `include/zqc_cuda.h`.
//!
//! Where the driver, NVRTC or a Hopper GPU is missing, [`Device::new`] says so in an [`Error`]; nothing panics.

mod buffer;
mod c;
mod cache;
mod capture;
mod coded;
mod compiler;
mod context;
mod device;
mod dispatch;
mod element;
mod environment;
mod error;
mod input;
mod kernel;
mod launch;
mod loaded;
mod model;
mod model_id;
mod nvrtc;
mod pool;
mod rows;
mod scratch;
mod sources;
mod table;
mod tensor_map;
mod variant;

pub use coded::{CodedTokens, Workspace};
pub use compiler::Compiler;
pub use cudarc;
pub use device::Device;
pub use element::Element;
pub use error::Error;
pub use input::Input;
pub use model::{Activation, Linear, Model};
pub use rows::RowQuantizer;
pub use scratch::Scratch;
pub use table::{LoadedTable, Table, TableGather, TableInput, TableLinear};
pub use variant::{
    Accumulation, DataType, IndexType, LinearKernel, LinearShape, LinearVariant, Prologue, QuantizeKernel,
    QuantizeShape, QuantizeVariant, Specialization, TableCodes, TableShape,
};
pub use zqc_kernels::{LayerError, LayerParts, Package};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
