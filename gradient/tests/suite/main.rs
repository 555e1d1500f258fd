//! Gradients against central differences, computed by rten.

mod activations;
mod blocks;
mod decoders;
mod differences;
mod directional;
mod elementwise;
mod index;
mod matmul;
mod norm;
mod reduce;
mod segments;
mod shape;
mod stops;
