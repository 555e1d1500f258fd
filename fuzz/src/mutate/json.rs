//! Changes to JSON that leave it JSON.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::{change_bytes, number, one_of};

/// Changes one value, at any depth; every line is a document of its own if the whole is none.
pub fn change_json(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    if random.usize(..8) == 0 {
        return change_bytes(random, bytes, other, words);
    }
    if let Ok(mut value) = serde_json::from_slice(bytes) {
        let other = serde_json::from_slice(other).unwrap_or(Value::Null);
        change(random, &mut value, &other, words);
        *bytes = value.to_string().into_bytes();
        return;
    }
    let mut lines: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    let line = random.usize(..lines.len());
    match serde_json::from_slice(&lines[line]) {
        Ok(mut value) => {
            change(random, &mut value, &Value::Null, words);
            lines[line] = value.to_string().into_bytes();
            *bytes = lines.join(&b'\n');
        }
        Err(_) => change_bytes(random, bytes, other, words),
    }
}

fn change(random: &mut Rng, value: &mut Value, other: &Value, words: &[&[u8]]) {
    let deeper = random.usize(..6) > 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = &keys[random.usize(..keys.len())];
            change(random, &mut map[key], other.get(key).unwrap_or(&Value::Null), words);
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = random.usize(..items.len());
            change(random, &mut items[at], other.get(at).unwrap_or(&Value::Null), words);
        }
        _ => replace(random, value, other, words),
    }
}

fn replace(random: &mut Rng, value: &mut Value, other: &Value, words: &[&[u8]]) {
    match (value, random.usize(..4)) {
        (Value::Object(map), 0) => drop(any_key(random, map).and_then(|key| map.remove(&key))),
        (Value::Object(map), 1) => {
            let (from, to) = (any_key(random, map), any_key(random, map));
            if let (Some(from), Some(to)) = (from, to) {
                let copy = map[&from].clone();
                map.insert(to, copy);
            }
        }
        (Value::Array(items), 0) => drop(items.pop()),
        (Value::Array(items), 1) => {
            let copies = 1 + random.usize(..3);
            items.extend(items.first().cloned().into_iter().cycle().take(copies));
        }
        (Value::String(text), 0 | 1) => {
            let mut bytes = std::mem::take(text).into_bytes();
            change_bytes(random, &mut bytes, &[], words);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        (value, 2) => *value = other.clone(),
        (value, _) => {
            *value = match random.usize(..7) {
                0 => Value::Null,
                1 => json!(random.bool()),
                2 => json!(number(random)),
                3 => json!(-(number(random) as i64 as f64)),
                4 => json!([]),
                5 => json!({}),
                _ => {
                    let word = one_of(random, words).copied().unwrap_or_default();
                    json!(String::from_utf8_lossy(word))
                }
            }
        }
    }
}

fn any_key(random: &mut Rng, map: &Map<String, Value>) -> Option<String> {
    let keys: Vec<&String> = map.keys().collect();
    one_of(random, &keys).map(|key| key.to_string())
}
