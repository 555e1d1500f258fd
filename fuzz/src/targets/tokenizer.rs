//! `tokenizer.json`, and text that the tokenizer in it takes apart.

use std::path::Path;

use zqc::runtime::{Tokenizer, TokenizerError};

use super::{Outcome, Target};
use crate::mutate::change_json;

pub const TARGET: Target = Target {
    name: "tokenizer",
    corpus: "tokenizer",
    file: "tokenizer.json",
    memory: 64 << 20, // caches and expressions of the library, whatever the file
    read: read_tokenizer,
    mutate: |random, bytes, other| change_json(random, bytes, other, WORDS),
};

const TEXT: &str = "Words, w1 w2 and\tnumbers 12345; \u{fc}n\u{ef}code \u{1f600} <s></s>\n\n  and the end";

const WORDS: &[&[u8]] = &[
    b"BPE",
    b"WordLevel",
    b"WordPiece",
    b"Unigram",
    b"ByteLevel",
    b"Metaspace",
    b"Split",
    b"Sequence",
    b"Replace",
    b"Precompiled",
    b"BertNormalizer",
    b"NFKC",
    b"Strip",
    b"Whitespace",
    b"Digits",
    b"(a+)+$",
    b"(?<=x)",
    b"a{1000}{1000}",
    b"<unk>",
    b"##",
    b"\xc4\xa0",
];

fn read_tokenizer(folder: &Path) -> Result<Outcome, String> {
    let refused = |error: TokenizerError| match error {
        TokenizerError::Load { reason, .. } => Outcome::Refused(format!("load: {reason}")),
        TokenizerError::Encode { reason, .. } => Outcome::Refused(format!("encode: {reason}")),
        other => Outcome::Refused(other.to_string()),
    };
    let tokenizer = match Tokenizer::load(&folder.join(TARGET.file)) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return Ok(refused(error)),
    };
    Ok(match tokenizer.encode(TEXT, Some(100)) {
        Ok(ids) => Outcome::Read("+".repeat(ids.len().min(8))),
        Err(error) => refused(error),
    })
}
