//! The kernels of every instruction set against the definition, and the definition against sums in double precision.

mod bits;
mod layers;
mod memory;
mod noise;
mod quantizer;
mod refusals;
mod truth;
