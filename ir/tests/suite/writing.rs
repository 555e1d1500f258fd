//! A file appears whole or not at all.

use std::path::Path;

use zqc_formats::ActivationFormat;
use zqc_ir::onnx::{Storage, WriteError, check_writable, from_proto, read, to_proto, write, write_file};
use zqc_ir::op::QuantizeActivation;
use zqc_ir::{Change, NewNode, Op, Patch};

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
        Err(WriteError::Io { path: named, .. } | WriteError::Directory { path: named }) => {
            assert_eq!(named, path);
        }
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
            assert_refused(write(&model, &path, storage).map(drop), &path);
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

#[cfg(unix)]
mod places {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A FIFO, at which nobody reads or writes.
    fn fifo(path: &Path) {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fifo(&path("fifo"));
        let _listener = UnixListener::bind(path("socket")).unwrap();
        symlink("fifo", path("link")).unwrap();
        symlink(path("link"), path("link_to_link")).unwrap();
        let before = names(folder.path());
        let model = from_proto(small()).unwrap();
        for (name, kind) in
            [("fifo", "a FIFO"), ("socket", "a socket"), ("link", "a FIFO"), ("link_to_link", "a FIFO")]
        {
            let path = path(name);
            for result in [
                check_writable(&path),
                write_file(&path, b"text"),
                write(&model, &path, Storage::Inline).map(drop),
                write(&model, &path, Storage::External).map(drop),
            ] {
                let error = result.unwrap_err();
                assert!(
                    matches!(&error, WriteError::NotRegular { path: named, .. } if *named == path),
                    "{error}"
                );
                assert!(error.to_string().contains(kind), "{error}");
            }
        }
        assert_eq!(names(folder.path()), before);
        let kind = |name: &str| std::fs::symlink_metadata(path(name)).unwrap().file_type();
        assert!(kind("fifo").is_fifo() && kind("socket").is_socket() && kind("link").is_symlink());
    }

    #[test]
    fn what_comes_into_the_place_of_the_output_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let staged = zqc_ir::onnx::stage(&from_proto(small()).unwrap(), &path, Storage::Inline).unwrap();
        fifo(&path);
        assert!(matches!(staged.persist(), Err(WriteError::NotRegular { .. })));
        assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_data_file_replaces_regular_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let model = from_proto(small()).unwrap();
        write(&model, &path, Storage::External).unwrap();
        let data = folder.path().join(&names(folder.path())[1]);
        std::fs::remove_file(&data).unwrap();
        fifo(&data);
        std::fs::write(&path, "the model before").unwrap();
        assert!(matches!(write(&model, &path, Storage::External), Err(WriteError::NotRegular { .. })));
        assert!(std::fs::symlink_metadata(&data).unwrap().file_type().is_fifo());
        assert_eq!(std::fs::read(&path).unwrap(), b"the model before");
    }

    #[test]
    fn links_stay_and_the_files_that_they_name_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("store")).unwrap();
        std::fs::write(path("store/there.onnx"), "before").unwrap();
        for (link, target) in [("a.onnx", "store/there.onnx"), ("b.onnx", "store/new.onnx")] {
            symlink(target, path(link)).unwrap();
            let model = from_proto(small()).unwrap();
            write(&model, &path(link), Storage::External).unwrap();
            assert!(path(link).is_symlink() && !path(target).is_symlink(), "{link}");
            assert_eq!(
                to_proto(&read(&path(target)).unwrap()).unwrap(),
                small(),
                "its data lies beside the file"
            );
            write(&model, &path(link), Storage::Inline).unwrap();
            assert_eq!(to_proto(&read(&path(link)).unwrap()).unwrap(), small());
            write_file(&path(link), link.as_bytes()).unwrap();
            assert!(path(link).is_symlink() && std::fs::read(path(target)).unwrap() == link.as_bytes());
        }
        assert_eq!(names(folder.path()), ["a.onnx", "b.onnx", "store"]);
        symlink("round", path("round")).unwrap();
        assert!(matches!(check_writable(&path("round")), Err(WriteError::Io { .. })));
    }

    #[test]
    fn the_permissions_of_what_is_replaced_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let model = from_proto(small()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        std::fs::write(folder.path().join("fresh"), "").unwrap();
        write(&model, &path, Storage::Inline).unwrap();
        assert_eq!(mode(&path), mode(&folder.path().join("fresh")));
        for wanted in [0o600, 0o640, 0o755] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(wanted)).unwrap();
            write(&model, &path, Storage::External).unwrap();
            let data = folder.path().join("model.onnx.data");
            assert_eq!((mode(&path), mode(&data)), (wanted, wanted));
            write(&model, &path, Storage::External).unwrap();
            assert_eq!((mode(&path), mode(&data)), (wanted, wanted));
            std::fs::remove_file(&data).unwrap();
            write_file(&path, b"text").unwrap();
            assert_eq!(mode(&path), wanted);
        }
    }
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
        regions: Vec::new(),
        source_index: None,
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
