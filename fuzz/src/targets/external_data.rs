//! External data: whatever the model says, nothing outside of its folder is read.

use std::path::Path;

use prost::Message;
use zqc::ir::onnx::{read, to_proto};

use super::{Outcome, Target};
use crate::mutate::change_wire;

pub const TARGET: Target = Target {
    name: "external-data",
    corpus: "external-data",
    file: "model/model.onnx",
    memory: 8 << 20,
    read: read_model,
    mutate: |random, bytes, other| change_wire(random, bytes, other, WORDS),
};

/// What lies outside, and no input may say.
const SECRET: &[u8] = b"what nobody may read, ";

const WORDS: &[&[u8]] = &[
    b"",
    b".",
    b"..",
    b"weights.bin",
    b"./weights.bin",
    b"sub/weights.bin",
    b"sub/../weights.bin",
    b"../secret.bin",
    b"sub/../../secret.bin",
    b"%2e%2e/secret.bin",
    b"link.bin",
    b"up/secret.bin",
    b"up/model/weights.bin",
    b"weights.bin\0",
    b"weights.bin/",
    b"/etc/hostname",
    b"/proc/self/environ",
    b"pipe",
    b"location",
    b"offset",
    b"length",
    b"-1",
    b"4095",
    b"18446744073709551615",
    b"0x10",
    b" 8",
];

/// Makes the files around the model, once.
fn surroundings(folder: &Path) -> std::io::Result<()> {
    let model = folder.join("model");
    if model.join("sub").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(model.join("sub"))?;
    std::fs::write(folder.join("secret.bin"), SECRET.repeat(200))?;
    std::fs::write(model.join("weights.bin"), [0xa5; 4096])?;
    std::fs::write(model.join("sub/weights.bin"), [0x5a; 4096])?;
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../secret.bin", model.join("link.bin"))?;
        std::os::unix::fs::symlink("..", model.join("up"))?;
        std::process::Command::new("mkfifo").arg(model.join("pipe")).status()?;
    }
    Ok(())
}

fn read_model(folder: &Path) -> Result<Outcome, String> {
    surroundings(folder).map_err(|error| error.to_string())?;
    let model = match read(&folder.join(TARGET.file)) {
        Ok(model) => model,
        Err(error) => return Ok(Outcome::Refused(error.source.to_string())),
    };
    let proto = to_proto(&model).map_err(|error| error.to_string())?.encode_to_vec();
    if proto.windows(SECRET.len()).any(|window| window == SECRET) {
        return Err("a file outside of the model's folder was read".to_string());
    }
    let ranks = model.graph.initializers().map(|(_, tensor)| "+".repeat(tensor.dims().len()));
    Ok(Outcome::Read(ranks.collect::<Vec<_>>().join(" ")))
}
