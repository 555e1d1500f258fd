//! Changes inside zip archives, whose checksums would reject most others.

use std::io::{Cursor, Read, Write};

use fastrand::Rng;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{change_bytes, one_of};

/// Changes a file of the archive, or the archive itself.
pub fn change_archive(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    match unpack(bytes) {
        Some(mut files) if !files.is_empty() && random.usize(..4) > 0 => {
            let at = random.usize(..files.len());
            let others = unpack(other).unwrap_or_default();
            let theirs = one_of(random, &others).map_or(&[][..], |(_, content)| content);
            change_bytes(random, &mut files[at].1, theirs, words);
            if let Some(packed) = pack(&files, random.bool()) {
                *bytes = packed;
            }
        }
        _ => change_bytes(random, bytes, other, words),
    }
}

/// The files by name, unless they unpack to far more than an input should hold.
fn unpack(bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut files = Vec::new();
    for index in 0..archive.len().min(16) {
        let file = archive.by_index(index).ok()?;
        let (name, mut content) = (file.name().ok()?.into_owned(), Vec::new());
        file.take(1 << 16).read_to_end(&mut content).ok()?;
        files.push((name, content));
    }
    Some(files)
}

fn pack(files: &[(String, Vec<u8>)], deflate: bool) -> Option<Vec<u8>> {
    let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(name, SimpleFileOptions::default().compression_method(method)).ok()?;
        archive.write_all(content).ok()?;
    }
    Some(archive.finish().ok()?.into_inner())
}
