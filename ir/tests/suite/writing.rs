//! A file appears whole or not at all.

use std::path::Path;

use zqc_ir::onnx::{Storage, WriteError, check_writable, from_proto, read, write, write_file};
use zqc_ir::op::QuantizeActivation;
use zqc_ir::{Change, NewNode, Op, Patch};
use zqc_numerics::ActivationFormat;

use crate::protos::{small, string};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn assert_refused(result: Result<(), WriteError>, path: &Path) {
    match result {
        Err(WriteError::Io { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn a_place_where_no_file_can_be_is_refused_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "content").unwrap();
    let occupied = folder.path().join("occupied");
    std::fs::create_dir(&occupied).unwrap();
    std::fs::write(occupied.join("inside"), "content").unwrap();
    let model = from_proto(small()).unwrap();
    for path in
        [occupied.clone(), folder.path().join("missing/model.onnx"), file.join("model.onnx"), "/".into()]
    {
        assert_refused(check_writable(&path), &path);
        assert_refused(write_file(&path, b"text"), &path);
        for storage in [Storage::Auto, Storage::Inline, Storage::External] {
            let result = write(&model, &path, storage).map(drop);
            assert!(matches!(result, Err(WriteError::Io { .. })), "{}: {result:?}", path.display());
        }
        assert_eq!(names(folder.path()), ["file", "occupied"]);
    }
    assert_eq!(names(&occupied), ["inside"]);
    assert_eq!(std::fs::read(file).unwrap(), b"content");
}

#[test]
fn an_occupied_data_file_stops_the_write_before_the_model_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let model = from_proto(small()).unwrap();
    write(&model, &path, Storage::External).unwrap();
    let [_, data] = &names(folder.path())[..] else { panic!("not two files") };
    let data = folder.path().join(data);
    std::fs::remove_file(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(&path, "the model before").unwrap();
    assert_refused(write(&model, &path, Storage::External).map(drop), &data);
    assert_eq!(std::fs::read(&path).unwrap(), b"the model before");
    assert_eq!(names(folder.path()).len(), 2);
}

#[test]
fn a_graph_that_is_not_lowered_leaves_the_file_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, "the model before").unwrap();
    let mut model = from_proto(small()).unwrap();
    let quantize = NewNode {
        name: "quantize".to_string(),
        op: Op::QuantizeActivation(QuantizeActivation { format: ActivationFormat::E4M3 }),
        inputs: vec![string("x")],
        outputs: vec![string("q")],
        rank: None,
    };
    let change = Change { add: vec![quantize], ..Change::new("test") };
    Patch { changes: vec![change], ..Patch::default() }.apply(&mut model).unwrap();
    let error = write(&model, &path, Storage::Auto).unwrap_err();
    let named =
        matches!(&error, WriteError::NotLowered { node } if node == "zqc.quantize_activation \"quantize\"");
    assert!(named, "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"the model before");
    assert_eq!(names(folder.path()), ["model.onnx"]);
}

#[test]
fn a_model_can_be_written_over_the_file_that_it_was_read_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for storage in [Storage::Inline, Storage::External, Storage::External, Storage::Inline] {
        write(&from_proto(small()).unwrap(), &path, storage).unwrap();
        let model = read(&path).unwrap();
        write(&model, &path, storage).unwrap();
        assert_eq!(read(&path).unwrap().to_string(), model.to_string());
    }
}

#[cfg(unix)]
#[test]
fn a_new_file_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    write_file(&ours, b"text").unwrap();
    std::fs::write(&theirs, "text").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&theirs));
}
