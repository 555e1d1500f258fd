//! What a model says, in a form that can be compared and hashed without a copy of the weights.

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::graph::Cycle;
use crate::model::Model;
use crate::text::message::messages;

/// The content of a model: equal for models that would be written as the same bytes, or as the same text, whether their numbers are NaN or not.
#[derive(PartialEq, Eq)]
pub struct Content {
    /// The encoded model without the payloads of its constants.
    skeleton: Vec<u8>,
    payloads: Vec<Bytes>,
}

impl Content {
    /// The content of `model`; payloads are shared with it.
    ///
    /// # Errors
    /// When the graph is cyclic.
    pub fn of(model: &Model) -> Result<Self, Cycle> {
        let (mut proto, _) = messages(model, &model.graph.order()?);
        let constants = proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
        let payloads = constants.filter_map(|tensor| tensor.raw_data.take()).collect();
        Ok(Self { skeleton: proto.encode_to_vec(), payloads })
    }

    /// A number that other contents do not have.
    pub fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in
            std::iter::once(&self.skeleton[..]).chain(self.payloads.iter().map(|payload| &payload[..]))
        {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}
