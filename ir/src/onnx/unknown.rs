//! Fields of a newer schema. prost drops them, so that they are carried beside: when a model is written, what its source
//! file had in a message goes back into the message that has come of it.

use std::borrow::Cow;
use std::collections::HashMap;

/// A message of the schema.
struct Message {
    name: &'static str,
    fields: &'static [Known],
}

/// A field of the schema.
struct Known {
    number: u64,
    /// Its message in [`SCHEMA`], if it is one.
    message: Option<usize>,
    repeated: bool,
}

static SCHEMA: &[Message] = include!(concat!(env!("OUT_DIR"), "/schema.rs"));

impl Message {
    fn of(name: &str) -> Option<&'static Message> {
        SCHEMA.iter().find(|message| message.name == name)
    }

    fn field(&self, number: u64) -> Option<&'static Known> {
        self.fields.iter().find(|field| field.number == number)
    }

    /// The fields that say which of several messages this is: a pass may have moved it. Others are told by their place.
    fn identity(&self) -> &'static [u64] {
        match self.name {
            "NodeProto" => &[2, 4, 7], // outputs, operator and domain
            "TensorProto" => &[8],
            "AttributeProto" | "ValueInfoProto" | "StringStringEntryProto" | "OperatorSetIdProto" => &[1],
            "DeviceConfigurationProto" | "TensorAnnotation" => &[1],
            "FunctionProto" => &[1, 10, 13], // name, domain and overload
            _ => &[],
        }
    }
}

/// Whether the encoded `ModelProto` has fields that the schema does not know.
pub(super) fn has_unknown_fields(model: &[u8]) -> bool {
    fn any(message: &Message, bytes: &[u8]) -> bool {
        Fields(bytes).any(|field| match message.field(field.number) {
            None => true,
            Some(known) => match (known.message, field.content) {
                (Some(inner), Some(content)) => any(&SCHEMA[inner], content),
                _ => false,
            },
        })
    }
    Message::of("ModelProto").is_some_and(|message| any(message, model))
}

/// The encoded `ModelProto` `written` with the unknown fields of `source`, of which it is a changed form. Those of messages
/// that are no more are dropped.
pub(super) fn carry_unknown_fields(source: &[u8], written: &[u8]) -> Vec<u8> {
    Message::of("ModelProto").map_or_else(|| written.to_vec(), |message| carry(message, source, written))
}

/// What tells a message inside another one: its field, its identity, and how many of the same came before it.
type Place<'a> = (u64, Vec<&'a [u8]>, usize);

/// Gives every inner message its place.
#[derive(Default)]
struct Places<'a>(HashMap<(u64, Vec<&'a [u8]>), usize>);

impl<'a> Places<'a> {
    fn next(&mut self, known: &Known, inner: &Message, content: &'a [u8]) -> Place<'a> {
        if !known.repeated {
            return (known.number, Vec::new(), 0);
        }
        let telling = inner.identity();
        let fields = Fields(content).filter(|field| telling.contains(&field.number));
        let identity: Vec<&[u8]> = fields.map(|field| field.whole).collect();
        let count = self.0.entry((known.number, identity.clone())).or_default();
        *count += 1;
        (known.number, identity, *count)
    }
}

fn carry(message: &Message, source: &[u8], written: &[u8]) -> Vec<u8> {
    let inner = |field: &Field| {
        let known = message.field(field.number)?;
        Some((known, &SCHEMA[known.message?]))
    };
    let mut unknown: Vec<&[u8]> = Vec::new();
    let mut originals: HashMap<Place, Cow<[u8]>> = HashMap::new();
    let mut places = Places::default();
    for field in Fields(source) {
        if message.field(field.number).is_none() {
            unknown.push(field.whole);
        }
        if let (Some((known, inner)), Some(content)) = (inner(&field), field.content) {
            let place = places.next(known, inner, content);
            // A message that is not repeated may come in pieces, which together are the message.
            let pieces = originals.entry(place).or_default();
            if pieces.is_empty() { *pieces = content.into() } else { pieces.to_mut().extend(content) }
        }
    }
    let mut result =
        Vec::with_capacity(written.len() + unknown.iter().map(|field| field.len()).sum::<usize>());
    let mut places = Places::default();
    for field in Fields(written) {
        let original = match (inner(&field), field.content) {
            (Some((known, inner)), Some(content)) => {
                let original = originals.get(&places.next(known, inner, content));
                original.map(|original| carry(inner, original, content))
            }
            _ => None,
        };
        match original {
            Some(content) => {
                prost::encoding::encode_varint(field.number << 3 | LENGTH_DELIMITED, &mut result);
                prost::encoding::encode_varint(content.len() as u64, &mut result);
                result.extend(content);
            }
            None => result.extend(field.whole),
        }
    }
    result.extend(unknown.concat());
    result
}

const LENGTH_DELIMITED: u64 = 2;

/// One field as it is encoded.
struct Field<'a> {
    number: u64,
    /// Key and value.
    whole: &'a [u8],
    /// The value, where the field has a length: messages, strings and bytes.
    content: Option<&'a [u8]>,
}

/// The fields of an encoded message up to the first that is malformed; prost has seen the bytes before, and took them.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let start = self.0;
        let mut rest = start;
        let (key, content) = skip(&mut rest)?;
        let (whole, rest) = start.split_at(start.len() - rest.len());
        self.0 = rest;
        Some(Field { number: key >> 3, whole, content })
    }
}

/// Passes by one field; its key, and its value where it has a length.
fn skip<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let mut open = Vec::new();
    loop {
        let key = varint(bytes)?;
        let number = key >> 3;
        let mut content = None;
        match key & 7 {
            0 => drop(varint(bytes)?),
            1 => drop(take(bytes, 8)?),
            LENGTH_DELIMITED => {
                let length = varint(bytes)?;
                content = Some(take(bytes, length)?);
            }
            3 => open.push(key),
            4 if open.last().is_some_and(|start| start >> 3 == number) => drop(open.pop()),
            5 => drop(take(bytes, 4)?),
            _ => return None,
        }
        if open.is_empty() {
            return Some((key, content));
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}
