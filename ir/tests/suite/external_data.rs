//! Weights in files beside the model: written, read back, and refused when they are not where they may be.

use std::path::{Path, PathBuf};

use prost::Message;
use zqc_ir::onnx::proto::tensor_proto::DataLocation;
use zqc_ir::onnx::proto::{AttributeProto, ModelProto, TensorProto};
use zqc_ir::onnx::{ExternalError, ModelError, Storage, from_proto, read, stage, to_proto, write};
use zqc_ir::op::attribute;
use zqc_ir::tensor::TensorError;

use crate::protos::{entry, node, small, tiny};

/// The small model, its weight in another file as the entries say; 2048 bytes belong there.
fn with_external(entries: &[(&str, &str)]) -> ModelProto {
    let mut proto = small();
    make_external(&mut proto.graph.as_mut().unwrap().initializer[0], entries);
    proto
}

fn make_external(tensor: &mut TensorProto, entries: &[(&str, &str)]) {
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External as i32);
    tensor.external_data = entries.iter().map(|(key, value)| entry(key, value)).collect();
}

/// Why the model whose weight is where the entries say cannot be read; `weights.bin` of 4096 bytes lies beside it.
fn refusal(folder: &Path, entries: &[(&str, &str)]) -> ExternalError {
    std::fs::write(folder.join("weights.bin"), [0; 4096]).unwrap();
    let path = folder.join("model.onnx");
    std::fs::write(&path, with_external(entries).encode_to_vec()).unwrap();
    let error = read(&path).unwrap_err();
    assert_eq!(error.path, path);
    match error.source {
        ModelError::External { tensor, source } => {
            assert_eq!(tensor, "initializer \"w\"");
            source
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_written_outside_reads_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let model = read(&tiny()).unwrap();
    let written = write(&model, &path, Storage::External).unwrap();
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    let [data] = &data_files(folder.path())[..] else { panic!("not one data file") };
    assert_eq!(written, size(&path) + size(data));
    assert!(size(&path) < size(data) / 4, "the weights are not in the model file");

    let copy = read(&path).unwrap();
    assert!(to_proto(&copy).unwrap() == to_proto(&model).unwrap(), "the models differ");
    assert!(copy.source_bytes > model.source_bytes && copy.source_bytes <= written);
}

/// The files in `folder` that a written model may name.
fn data_files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "data")).collect()
}

#[test]
fn a_model_replaces_another_and_its_data_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let data = folder.path().join("model.onnx.data");
    let model = read(&tiny()).unwrap();
    write(&model, &path, Storage::External).unwrap();
    assert_eq!(data_files(folder.path()), std::slice::from_ref(&data));

    let staged = stage(&from_proto(small()).unwrap(), &path, Storage::External).unwrap();
    assert_eq!(to_proto(&read(&staged.path()).unwrap()).unwrap(), small());
    assert!(to_proto(&read(&path).unwrap()).unwrap() == to_proto(&model).unwrap(), "the old model is whole");
    // A killed process leaves the second name.
    let hashed = folder.path().join("model.onnx.0123456789abcdef.data");
    std::fs::write(&hashed, "left behind").unwrap();
    staged.persist().unwrap();
    assert_eq!(data_files(folder.path()), std::slice::from_ref(&data));
    assert_eq!(to_proto(&read(&path).unwrap()).unwrap(), small());

    write(&model, &path, Storage::Inline).unwrap();
    assert!(data_files(folder.path()).is_empty());
}

#[test]
fn compiled_in_its_place_a_model_goes_with_the_data_files_that_are_named_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for storage in [Storage::External, Storage::Inline] {
        for (file, goes) in [("model.onnx_data", true), ("model.onnx.data", true), ("weights.bin", false)] {
            std::fs::write(folder.path().join(file), [0; 2048]).unwrap();
            std::fs::write(&path, with_external(&[("location", file)]).encode_to_vec()).unwrap();
            write(&read(&path).unwrap(), &path, storage).unwrap();
            assert_eq!(
                to_proto(&read(&path).unwrap()).unwrap().graph.unwrap().initializer[0].raw_data().len(),
                2048
            );
            let left = folder.path().join(file).exists();
            assert_eq!(left, !goes || storage == Storage::External && file == "model.onnx.data", "{file}");
        }
    }
}

#[test]
fn a_data_file_of_another_model_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("model.onnx"), folder.path().join("other.onnx"));
    let data = folder.path().join("model.onnx.data");
    std::fs::write(&data, [0; 2048]).unwrap();
    let shared = with_external(&[("location", "model.onnx.data")]).encode_to_vec();
    std::fs::write(&other, &shared).unwrap();
    // Both models read it; then only the other does; then nothing says whose it is.
    for before in [Some(&shared), None] {
        before.iter().for_each(|before| std::fs::write(&path, before).unwrap());
        for _ in 0..2 {
            write(&read(&tiny()).unwrap(), &path, Storage::External).unwrap();
            let files = data_files(folder.path());
            assert!(files.len() == 2 && files.contains(&data), "{files:?}");
            assert!(read(&path).is_ok() && std::fs::read(&data).unwrap() == [0; 2048]);
        }
    }
    std::fs::remove_file(&other).unwrap();
    write(&read(&tiny()).unwrap(), &path, Storage::External).unwrap();
    assert_eq!(std::fs::read(&data).unwrap(), [0; 2048]);
}

#[test]
fn a_file_that_is_named_again_and_again_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("weights.bin"), [0; 4096]).unwrap();
    let path = folder.path().join("model.onnx");
    let with_tensors = |count: usize| {
        let mut proto = with_external(&[("location", "weights.bin"), ("offset", "8")]);
        let constants = &mut proto.graph.as_mut().unwrap().initializer;
        let weight = constants[0].clone();
        constants.extend((1..count).map(|i| TensorProto { name: Some(format!("w{i}")), ..weight.clone() }));
        std::fs::write(&path, proto.encode_to_vec()).unwrap();
        read(&path)
    };
    assert!(with_tensors(32).is_ok());
    let error = with_tensors(33).unwrap_err();
    assert!(error.to_string().contains("67584 bytes of external data are claimed"), "{error}");
}

#[test]
fn offsets_are_aligned_for_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    write(&read(&tiny()).unwrap(), &path, Storage::External).unwrap();
    let proto = ModelProto::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
    let constants = proto.graph.unwrap().initializer;
    let entries = constants.iter().flat_map(|tensor| &tensor.external_data);
    let offsets: Vec<u64> =
        entries.filter(|entry| entry.key() == "offset").map(|entry| entry.value().parse().unwrap()).collect();
    assert!(offsets.len() > 30);
    assert!(offsets.iter().all(|offset| offset % 4096 == 0));
}

#[test]
fn constants_in_nodes_and_bodies_are_found_too() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    std::fs::write(folder.path().join("weights.bin"), &bytes).unwrap();
    let weights = |offset: &str, dims: i64| {
        let mut tensor = TensorProto { data_type: Some(2), dims: vec![dims], ..Default::default() };
        make_external(&mut tensor, &[("location", "weights.bin"), ("offset", offset)]);
        tensor
    };
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    let mut constant = node("Constant", "constant", &[], &["c"]);
    constant.attribute = vec![attribute::tensor("value", weights("16", 4))];
    let mut body = graph.clone();
    body.initializer[0] = TensorProto { name: Some("inner".to_string()), ..weights("250", 6) };
    body.node = vec![constant.clone()];
    (body.input, body.output) = (Vec::new(), Vec::new());
    let mut own = node("Own", "", &[], &["d"]);
    own.attribute = vec![AttributeProto { g: Some(body), ..attribute::int("body", 0) }];
    graph.node.extend([constant, own]);
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, proto.encode_to_vec()).unwrap();

    let written = to_proto(&read(&path).unwrap()).unwrap().graph.unwrap();
    let payload = |tensor: &TensorProto| {
        assert_eq!((tensor.data_location, tensor.external_data.len()), (None, 0));
        tensor.raw_data.clone().unwrap()
    };
    assert_eq!(payload(written.node[2].attribute[0].t.as_ref().unwrap()), bytes[16..20]);
    let body = written.node[3].attribute[0].g.as_ref().unwrap();
    assert_eq!(payload(&body.initializer[0]), bytes[250..]);
    assert_eq!(payload(body.node[0].attribute[0].t.as_ref().unwrap()), bytes[16..20]);
}

#[test]
fn files_that_are_missing_or_no_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    for location in ["missing.bin", "sub", "weights.bin/below", "%2e%2e/secret.bin"] {
        let error = refusal(folder.path(), &[("location", location)]);
        let named =
            matches!(&error, ExternalError::Open { path, .. } if *path == folder.path().join(location));
        assert!(named, "{location}: {error}");
    }
}

#[test]
fn paths_out_of_the_folder_are_refused() {
    let outer = tempfile::tempdir().unwrap();
    std::fs::write(outer.path().join("secret.bin"), [0; 4096]).unwrap();
    let folder = outer.path().join("models");
    std::fs::create_dir(&folder).unwrap();
    let absolute = outer.path().join("secret.bin");
    for location in
        ["../secret.bin", "sub/../../secret.bin", absolute.to_str().unwrap(), "", "a\0b", "./../secret.bin"]
    {
        let error = refusal(&folder, &[("location", location)]);
        assert!(matches!(error, ExternalError::Outside { .. }), "{location:?}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_refused_and_links_inside_are_not() {
    use std::os::unix::fs::symlink;

    let outer = tempfile::tempdir().unwrap();
    std::fs::write(outer.path().join("secret.bin"), [0; 4096]).unwrap();
    let folder = outer.path().join("models");
    std::fs::create_dir(&folder).unwrap();
    symlink("../secret.bin", folder.join("file")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    symlink("weights.bin", folder.join("inside")).unwrap();
    for location in ["file", "up/secret.bin"] {
        let error = refusal(&folder, &[("location", location)]);
        assert!(matches!(error, ExternalError::Outside { .. }), "{location}: {error}");
    }
    let path = folder.join("model.onnx");
    std::fs::write(&path, with_external(&[("location", "inside")]).encode_to_vec()).unwrap();
    assert_eq!(read(&path).unwrap().source_bytes, 2048 + std::fs::metadata(&path).unwrap().len());
}

/// A model as the cache of the Hugging Face hub holds it: `snapshots/r/model.onnx` and what its weight lies in are links.
#[cfg(unix)]
fn hub_cache(links: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    let path = |name: &str| cache.path().join(name);
    for folder in ["blobs/deep", "snapshots/r", "other"] {
        std::fs::create_dir_all(path(folder)).unwrap();
    }
    let proto = with_external(&[("location", "weights.bin")]);
    std::fs::write(path("blobs/aa"), proto.encode_to_vec()).unwrap();
    for file in ["blobs/bb", "blobs/deep/bb", "other/bb"] {
        std::fs::write(path(file), [0; 4096]).unwrap();
    }
    for (link, target) in links {
        std::os::unix::fs::symlink(target, path(link)).unwrap();
    }
    let model = path("snapshots/r/model.onnx");
    (cache, model)
}

#[cfg(unix)]
#[test]
fn a_model_in_a_hub_cache_may_have_its_data_there_and_nowhere_else() {
    let model = ("snapshots/r/model.onnx", "../../blobs/aa");
    let data = "snapshots/r/weights.bin";
    for target in ["../../blobs/bb", "../../blobs/deep/bb", "../r/../../blobs/bb"] {
        let (_cache, path) = hub_cache(&[model, (data, target)]);
        assert_eq!(to_proto(&read(&path).unwrap()).unwrap(), small_of_zeros(), "{target}");
    }
    let via = [("snapshots/r/hop.onnx", "../../blobs/aa"), ("snapshots/r/model.onnx", "hop.onnx")];
    let (_cache, path) = hub_cache(&[via[0], via[1], (data, "../../blobs/bb")]);
    assert!(read(&path).is_ok(), "a link to a link");

    let absolute = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(absolute.path(), [0; 4096]).unwrap();
    let outside = |links: &[(&str, &str)]| {
        let (_cache, path) = hub_cache(links);
        let error = read(&path).unwrap_err().source;
        let refused = |source: &ExternalError| matches!(source, ExternalError::Outside { .. });
        assert!(matches!(&error, ModelError::External { source, .. } if refused(source)), "{error}");
    };
    outside(&[model, (data, "../../other/bb")]);
    outside(&[model, (data, absolute.path().to_str().unwrap())]);
    outside(&[
        ("snapshots/r/model.onnx", "../../blobs/deep/aa"),
        ("blobs/deep/aa", "../aa"),
        (data, "../../other/bb"),
    ]);
    // The folder of a link on the way is not the model's own.
    outside(&[
        ("other/hop", "../blobs/aa"),
        ("snapshots/r/model.onnx", "../../other/hop"),
        (data, "../../other/bb"),
    ]);

    let (cache, path) = hub_cache(&[(data, "../../blobs/bb")]);
    std::fs::copy(cache.path().join("blobs/aa"), &path).unwrap();
    assert!(
        read(&path).unwrap_err().to_string().contains("leaves the model's own folder"),
        "a model that is no link"
    );
}

#[cfg(unix)]
fn small_of_zeros() -> ModelProto {
    let mut proto = small();
    proto.graph.as_mut().unwrap().initializer[0].raw_data = Some(vec![0; 2048].into());
    proto
}

#[test]
fn ranges_past_the_end_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let largest = u64::MAX.to_string();
    for (offset, length) in
        [("4096", "2048"), ("2049", "2048"), ("0", "4097"), (&largest, "2048"), ("8", &largest)]
    {
        let entries = [("location", "weights.bin"), ("offset", offset), ("length", length)];
        let error = refusal(folder.path(), &entries);
        assert!(matches!(error, ExternalError::Range { size: 4096, .. }), "{offset} {length}: {error}");
    }
}

#[test]
fn entries_that_are_missing_or_no_numbers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (key, value) in [("offset", "-1"), ("offset", "18446744073709551616"), ("length", "2 kB")] {
        let error = refusal(folder.path(), &[("location", "weights.bin"), (key, value)]);
        assert!(matches!(error, ExternalError::Malformed { key: named } if named == key), "{value}: {error}");
    }
    let error = refusal(folder.path(), &[("offset", "0")]);
    assert!(matches!(error, ExternalError::Malformed { key: "location" }), "{error}");
}

#[test]
fn a_length_other_than_the_dimensions_demand_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("weights.bin"), [0; 4096]).unwrap();
    let path = folder.path().join("model.onnx");
    let proto = with_external(&[("location", "weights.bin"), ("length", "2044")]);
    std::fs::write(&path, proto.encode_to_vec()).unwrap();
    let error = read(&path).unwrap_err().source;
    let size = |source: &TensorError| matches!(source, TensorError::Size { expected: 2048, found: 2044, .. });
    assert!(matches!(&error, ModelError::Tensor { source, .. } if size(source)), "{error}");
}

#[test]
fn a_length_of_0_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..4096usize).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(folder.path().join("weights.bin"), &bytes).unwrap();
    let path = folder.path().join("model.onnx");
    for length in [&[][..], &[("length", "0")], &[("length", "2048")]] {
        let entries = [&[("location", "weights.bin"), ("offset", "1024")], length].concat();
        std::fs::write(&path, with_external(&entries).encode_to_vec()).unwrap();
        let model = read(&path).unwrap();
        let weight = model.graph.constant(model.graph.find("w").unwrap()).unwrap();
        assert_eq!(weight.bytes().unwrap(), &bytes[1024..3072], "{entries:?}");
    }
}
