//! Names and strings in the textual form: bare where nothing else can be meant, else in quotes.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a name without quotes can have this character.
pub(super) fn is_bare_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '$' | '#')
}

/// Whether `text` is a word: a keyword, an element type, a domain or an operator.
pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

/// The name of a value or a node, as it stands behind `%` or `@`.
pub(super) fn name(name: &str) -> Cow<'_, str> {
    let is_bare = !name.is_empty() && name.chars().all(is_bare_name) && !name.contains("//");
    if is_bare { name.into() } else { quoted(name.as_bytes()).into() }
}

/// A word, in quotes where it is none or means something else, which `is_taken` says.
pub(super) fn word(text: &str, is_taken: impl Fn(&str) -> bool) -> Cow<'_, str> {
    if is_word(text) && !is_taken(text) { text.into() } else { quoted(text.as_bytes()).into() }
}

/// A string in quotes; what is no UTF-8 is escaped byte by byte.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                // A line separator or a mark of direction would make the text look like another.
                c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(c));
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    text
}

/// The bytes that a string in quotes means, without them.
pub(super) fn unquote(text: &str) -> Result<Cow<'_, [u8]>, String> {
    if !text.contains('\\') {
        return Ok(Cow::Borrowed(text.as_bytes()));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('\\');
    bytes.extend(pieces.next().unwrap_or_default().bytes());
    while let Some(piece) = pieces.next() {
        let wrong = || format!("unknown escape \\{}", piece.chars().take(8).collect::<String>());
        let mut rest = piece.chars();
        match rest.next() {
            // Of two backslashes the second one ends an empty piece.
            None => {
                bytes.push(b'\\');
                bytes.extend(pieces.next().ok_or_else(wrong)?.bytes());
                continue;
            }
            Some('"') => bytes.push(b'"'),
            Some('n') => bytes.push(b'\n'),
            Some('t') => bytes.push(b'\t'),
            Some('r') => bytes.push(b'\r'),
            Some('x') => {
                let digits = rest.as_str().get(..2).ok_or_else(wrong)?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
                rest = rest.as_str()[2..].chars();
            }
            Some('u') => {
                let (digits, after) = rest
                    .as_str()
                    .strip_prefix('{')
                    .and_then(|code| code.split_once('}'))
                    .ok_or_else(wrong)?;
                let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).ok_or_else(wrong)?;
                bytes.extend(code.encode_utf8(&mut [0; 4]).bytes());
                rest = after.chars();
            }
            Some(_) => return Err(wrong()),
        }
        bytes.extend(rest.as_str().bytes());
    }
    Ok(Cow::Owned(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back() {
        let strings: [&[u8]; 8] = [
            b"",
            b"plain",
            b"a \"b\" \\",
            b"\\\\x41",
            b"\xff\x00\xe2\x82",
            b"\n\r\t",
            "ü\u{202e}\u{7f}".as_bytes(),
            b"\\",
        ];
        for bytes in strings {
            let text = quoted(bytes);
            assert_eq!(*unquote(&text[1..text.len() - 1]).unwrap(), *bytes, "{text}");
        }
        for wrong in ["\\q", "\\x4", "\\xgg", "\\u41", "\\u{110000}", "\\", "\\xé"] {
            assert!(unquote(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_plain_names_are_bare() {
        assert_eq!(name("/model/layers.0/q_proj-1"), "/model/layers.0/q_proj-1");
        for quoted in ["", "a b", "a:0", "a//b", "ü"] {
            assert!(name(quoted).starts_with('"'), "{quoted}");
        }
        assert_eq!(word("com.microsoft", |_| false), "com.microsoft");
        assert_eq!(word("const", |word| word == "const"), "\"const\"");
    }
}
