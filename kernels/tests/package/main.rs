//! The package format: where every element lies, that what is written can be read back, and that damage is found.

mod damage;
mod folder;
mod graphs;
mod layout;
mod parts;
mod round_trip;
