//! The C interface of `include/zqc_cuda.h`, which documents it.

mod arguments;
mod linear;
mod model;
mod package;
mod pointers;
mod status;
mod version;
