//! Generates the ONNX protobuf types without `protoc`; `raw_data` becomes `Bytes`, so that decoding a mapped
//! file copies no weights. Beside them a table of the schema's fields, by which fields of a newer schema are told.

use std::fmt::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["onnx.proto"], ["proto"])?;
    let mut messages = Vec::new();
    let mut open: Vec<_> = descriptors.file.iter().flat_map(|file| &file.message_type).collect();
    let mut names: Vec<String> = open.iter().map(|message| format!(".onnx.{}", message.name())).collect();
    while let (Some(message), Some(name)) = (open.pop(), names.pop()) {
        for nested in &message.nested_type {
            open.push(nested);
            names.push(format!("{name}.{}", nested.name()));
        }
        messages.push((name, &message.field));
    }
    let mut table = String::from("&[\n");
    for (name, fields) in &messages {
        writeln!(table, "    Message {{ name: \"{}\", fields: &[", name.trim_start_matches(".onnx."))?;
        for field in *fields {
            let kind = messages.iter().position(|(other, _)| other == field.type_name());
            let repeated = field.label().as_str_name() == "LABEL_REPEATED";
            writeln!(
                table,
                "        Known {{ number: {}, message: {kind:?}, repeated: {repeated} }},",
                field.number()
            )?;
        }
        table.push_str("    ] },\n");
    }
    table.push(']');
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("schema.rs"), table)?;
    prost_build::Config::new().bytes([".onnx.TensorProto.raw_data"]).compile_fds(descriptors)?;
    Ok(())
}
