//! Where a package is written: whole or not at all, and never over what is not one.

use std::fs;
use std::path::Path;

use zqc_formats::{Factors, Format, LowRank, Scales};
use zqc_ir::onnx::FolderError;
use zqc_kernels::{LayerError, LayerParts, PackError, Package, PackageWriter, WriteError, check_writable};

use crate::parts::{PLAIN, Random, Shape, layer, write};

fn small(name: &str) -> LayerParts {
    layer(name, Shape { n: 8, k: 32, rank: 4, ..PLAIN }, &mut Random(5))
}

fn entries(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_package_takes_the_place_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    write(&path, &[vec![small("old")]]);
    write(&path, &[vec![small("new")]]);
    assert_eq!(entries(folder.path()), ["package"]);
    assert_eq!(entries(&path), ["manifest.json", "weights.bin"]);
    let package = Package::open(&path).unwrap();
    assert!(package.layer("new").is_some() && package.layer("old").is_none());
}

/// Its folder of kernels goes with it; in a package of this version one is not ours.
#[test]
fn a_package_takes_the_place_of_one_of_version_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    write(&path, &[vec![small("old")]]);
    fs::create_dir(path.join("kernels")).unwrap();
    fs::write(path.join("kernels/common.cuh"), "text").unwrap();
    let error = check_writable(&path).unwrap_err();
    assert!(matches!(error, FolderError::Occupied { .. }), "{error}");

    let manifest = fs::read_to_string(path.join("manifest.json")).unwrap();
    let older = manifest.replacen("\"version\": 2", "\"version\": 1", 1);
    assert_ne!(older, manifest);
    fs::write(path.join("manifest.json"), older).unwrap();
    write(&path, &[vec![small("new")]]);
    assert_eq!(entries(&path), ["manifest.json", "weights.bin"]);
}

#[test]
fn an_empty_folder_may_be_there() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[vec![small("layer")]]);
    Package::open(folder.path()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_link_to_a_package_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("package"), folder.path().join("link"));
    write(&path, &[vec![small("old")]]);
    std::os::unix::fs::symlink(&path, &link).unwrap();
    write(&link, &[vec![small("new")]]);
    assert!(link.is_symlink());
    assert!(Package::open(&path).unwrap().layer("new").is_some());

    let (path, link) = (folder.path().join("second"), folder.path().join("link_to_nothing"));
    std::os::unix::fs::symlink("second", &link).unwrap();
    write(&link, &[vec![small("first")]]);
    assert!(link.is_symlink());
    assert!(Package::open(&path).unwrap().layer("first").is_some());
}

#[cfg(unix)]
#[test]
fn a_package_keeps_the_permissions_of_the_one_before_it() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    write(&path, &[vec![small("old")]]);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o750)).unwrap();
    write(&path, &[vec![small("new")]]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o750);
}

#[cfg(unix)]
#[test]
fn a_fifo_is_not_replaced_and_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let [fifo, inside] = ["fifo", "inside"].map(|name| folder.path().join(name));
    fs::create_dir(&inside).unwrap();
    for fifo in [&fifo, &inside.join("manifest.json")] {
        assert!(std::process::Command::new("mkfifo").arg(fifo).status().unwrap().success());
    }
    for path in [&fifo, &inside] {
        assert!(matches!(check_writable(path), Err(FolderError::Occupied { .. })), "{path:?}");
    }
    assert_eq!(entries(folder.path()), ["fifo", "inside"]);
}

#[test]
fn what_is_no_package_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), "text").unwrap();
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("folder/notes.txt"), "notes").unwrap();
    write(&path("package"), &[vec![small("layer")]]);
    fs::write(path("package/notes.txt"), "notes").unwrap();
    fs::create_dir(path("manifest")).unwrap();
    fs::write(path("manifest/manifest.json"), "{}").unwrap();
    let before = entries(folder.path());
    for name in ["file", "folder", "package", "manifest"] {
        let error = check_writable(&path(name)).unwrap_err();
        assert!(matches!(error, FolderError::Occupied { .. }), "{name}: {error}");
    }
    let missing = check_writable(&path("missing/package")).unwrap_err();
    assert!(matches!(missing, FolderError::Io { .. }), "{missing}");
    assert!(check_writable(Path::new("/")).is_err());
    assert_eq!(entries(folder.path()), before);
}

#[test]
fn a_package_that_is_not_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = PackageWriter::new(&folder.path().join("package")).unwrap();
    writer.add(&[small("layer")]).unwrap();
    drop(writer);
    assert_eq!(entries(folder.path()), [""; 0]);
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| {
        let path = folder.path().join(name);
        write(&path, &[vec![small("layer"), small("other")], vec![small("third")]]);
        ["manifest.json", "weights.bin"].map(|file| fs::read(path.join(file)).unwrap())
    };
    assert!(read("first") == read("second"));
}

#[test]
fn layers_of_one_name_are_numbered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    write(&path, &[vec![small("a"), small("a#2"), small("a"), small("a")]]);
    let package = Package::open(&path).unwrap();
    let names: Vec<&str> = package.layers().map(|layer| layer.manifest.name.as_str()).collect();
    assert_eq!(names, ["a", "a#2", "a#3", "a#4"]);
}

#[test]
fn no_layer_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    write(&path, &[]);
    let package = Package::open(&path).unwrap();
    assert_eq!((package.layers().count(), package.weights().len()), (0, 0));
}

/// Why a changed layer is refused.
fn refused(change: impl FnOnce(&mut LayerParts)) -> PackError {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = PackageWriter::new(&folder.path().join("package")).unwrap();
    let mut parts = layer("layer", Shape { rank: 8, bias: true, ..PLAIN }, &mut Random(9));
    change(&mut parts);
    match writer.add(&[parts]).expect_err("a layer that cannot be packed") {
        WriteError::Layer(LayerError { layer, source }) => {
            assert_eq!(layer, "layer");
            source
        }
        other => panic!("another error: {other}"),
    }
}

fn branch(parts: &mut LayerParts) -> &mut LowRank {
    parts.low_rank.as_mut().unwrap()
}

#[test]
fn layers_that_kernels_do_not_take() {
    let grouped = |parts: &mut LayerParts| parts.matrix.scales = Scales::Grouped(vec![1.0; 200 * 5]);
    assert_eq!(refused(grouped), PackError::Scales);
    let integers = refused(|parts| {
        grouped(parts);
        parts.matrix.format = Format::Int4;
    });
    assert_eq!(integers, PackError::Codes(Format::Int4));
    let groups = refused(|parts| {
        parts.matrix.group_size = 150;
        let Scales::Shifted { shifts, .. } = &mut parts.matrix.scales else { unreachable!() };
        shifts.truncate(200 * 2);
    });
    assert!(matches!(groups, PackError::Geometry(_)), "{groups}");
    let factors = refused(|parts| {
        branch(parts).factors = Factors::Bf16 { up: vec![0; 200 * 8], down: vec![0; 8 * 300] };
    });
    assert_eq!(factors, PackError::Factors);
    assert!(factors.to_string().contains("--lorc-factors fp8"));
    let other_rows = refused(|parts| {
        branch(parts).rows = 100;
        branch(parts).factors = Factors::E4M3 { up: vec![0; 100 * 8], down: vec![0; 8 * 300] };
    });
    assert_eq!(other_rows, PackError::Branch { expected: [200, 300], actual: [100, 300] });
    let length = refused(|parts| parts.matrix.codes.truncate(7));
    assert!(matches!(length, PackError::Parts(_)), "{length}");
    let bias = refused(|parts| parts.bias = Some(vec![0.0; 199]));
    assert_eq!(bias, PackError::Bias { expected: 200, actual: 199 });
}

#[test]
fn numbers_that_are_not_finite() {
    let row_scale = |parts: &mut LayerParts, scale: f32| {
        let Scales::Shifted { rows, .. } = &mut parts.matrix.scales else { unreachable!() };
        rows[17] = scale;
    };
    let at = |what, row| PackError::NonFinite { what, row };
    assert_eq!(refused(|parts| row_scale(parts, f32::NAN)), at("the scale", 17));
    assert_eq!(refused(|parts| row_scale(parts, 0.0)), at("the outer low-rank factor", 17));
    assert_eq!(refused(|parts| branch(parts).scales[3] = f32::INFINITY), at("the outer low-rank factor", 0));
    assert_eq!(refused(|parts| parts.bias.as_mut().unwrap()[5] = f32::NAN), at("the bias", 5));
    let nan = refused(|parts| {
        let Factors::E4M3 { down, .. } = &mut branch(parts).factors else { unreachable!() };
        down[3 * 300 + 1] = 0xff;
    });
    assert_eq!(nan, at("the inner low-rank factor", 3));
}

#[test]
fn an_activation_has_one_width() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = PackageWriter::new(&folder.path().join("package")).unwrap();
    let narrow = layer("narrow", Shape { n: 8, k: 16, ..PLAIN }, &mut Random(5));
    let error = writer.add(&[small("wide"), narrow]).unwrap_err().to_string();
    assert!(
        error.contains("layer narrow") && error.contains("16 columns") && error.contains("32"),
        "{error}"
    );
}
