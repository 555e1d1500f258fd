//! The front end, the graph and the writer, on the bundled model and on models written down by hand.

mod external_data;
mod generated;
mod mutations;
mod operands;
mod patch_builder;
mod patches;
mod protos;
mod regions;
mod round_trip;
mod second_decoder;
mod text;
mod text_mutations;
mod text_round_trip;
mod unknown_fields;
mod verifier;
mod writing;
