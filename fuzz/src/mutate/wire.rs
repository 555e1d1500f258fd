//! Changes to protobuf messages that keep the lengths around them right.

use fastrand::Rng;
use prost::encoding::{decode_varint, encode_varint};

use super::{change_bytes, number, one_of};

struct Field {
    key: u64,
    content: Content,
}

enum Content {
    Number(u64),
    Fixed(Vec<u8>),
    /// A message, or bytes that may be one.
    Bytes(Vec<u8>),
}

/// Changes one field, at any depth.
pub fn change_wire(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    if random.usize(..8) == 0 {
        return change_bytes(random, bytes, other, words);
    }
    match (parse(bytes), parse(other)) {
        (Some(mut fields), other) if !fields.is_empty() => {
            change(random, &mut fields, &other.unwrap_or_default(), words);
            *bytes = encode(&fields);
        }
        _ => change_bytes(random, bytes, other, words),
    }
}

fn change(random: &mut Rng, fields: &mut Vec<Field>, other: &[Field], words: &[&[u8]]) {
    let at = random.usize(..fields.len());
    let inner = match &fields[at].content {
        Content::Bytes(bytes) => parse(bytes).filter(|inner| !inner.is_empty()),
        _ => None,
    };
    if let Some(mut inner) = inner
        && random.usize(..5) > 0
    {
        let alike = other.iter().filter(|field| field.key == fields[at].key);
        let alike: Vec<&Field> = alike.collect();
        let theirs = one_of(random, &alike).and_then(|field| match &field.content {
            Content::Bytes(bytes) => parse(bytes),
            _ => None,
        });
        change(random, &mut inner, &theirs.unwrap_or_default(), words);
        fields[at].content = Content::Bytes(encode(&inner));
        return;
    }
    match random.usize(..8) {
        0 => drop(fields.remove(at)),
        1 => {
            let copy = fields[at].copy();
            fields.insert(random.usize(..=fields.len()), copy);
        }
        2 => {
            let with = random.usize(..fields.len());
            fields.swap(at, with);
        }
        3 => fields.extend(one_of(random, other).map(Field::copy)),
        4 => fields[at].key = random.u64(1..32) << 3 | fields[at].key & 7,
        _ => fields[at].content.change(random, words),
    }
}

impl Field {
    fn copy(&self) -> Self {
        let content = match &self.content {
            Content::Number(number) => Content::Number(*number),
            Content::Fixed(bytes) => Content::Fixed(bytes.clone()),
            Content::Bytes(bytes) => Content::Bytes(bytes.clone()),
        };
        Self { key: self.key, content }
    }
}

impl Content {
    fn change(&mut self, random: &mut Rng, words: &[&[u8]]) {
        match self {
            Content::Number(value) => *value = number(random),
            Content::Fixed(bytes) => bytes.iter_mut().for_each(|byte| *byte = random.u8(..)),
            Content::Bytes(bytes) => match one_of(random, words) {
                Some(word) if random.bool() => *bytes = word.to_vec(),
                _ => change_bytes(random, bytes, &[], words),
            },
        }
    }
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        encode_varint(field.key, &mut bytes);
        match &field.content {
            Content::Number(number) => encode_varint(*number, &mut bytes),
            Content::Fixed(content) => bytes.extend(content),
            Content::Bytes(content) => {
                encode_varint(content.len() as u64, &mut bytes);
                bytes.extend(content);
            }
        }
    }
    bytes
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let bytes = &mut bytes;
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = decode_varint(bytes).ok()?;
        let mut take = |length: usize| {
            let (taken, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(taken.to_vec())
        };
        let content = match key & 7 {
            1 => Content::Fixed(take(8)?),
            5 => Content::Fixed(take(4)?),
            0 => Content::Number(decode_varint(bytes).ok()?),
            2 => {
                let length = decode_varint(bytes).ok()?;
                let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
                *bytes = rest;
                Content::Bytes(taken.to_vec())
            }
            _ => return None,
        };
        fields.push(Field { key, content });
    }
    Some(fields)
}
