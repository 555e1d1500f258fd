//! Packages that were changed after they were written.

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use zqc_kernels::{Damage, Manifest, OpenError, Package};

use crate::parts::{PLAIN, Random, Shape, layer, write};

/// A package of three layers, two of which share their activation.
struct Victim {
    folder: TempDir,
}

impl Victim {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random(3);
        let mut build = |name, shape| layer(name, shape, &mut random);
        let shape = Shape { n: 40, k: 72, ..PLAIN };
        let first = build("first", Shape { rank: 8, bias: true, ..shape });
        let second = build("second", Shape { rank: 20, ..shape });
        let third = build("third", Shape { k: 130, group_size: 0, ..shape });
        write(&folder.path().join("package"), &[vec![first, second], vec![third]]);
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("package")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn open(&self) -> Result<Package, OpenError> {
        Package::open(&self.path())
    }

    fn manifest(&self) -> Value {
        serde_json::from_slice(&fs::read(self.file("manifest.json")).unwrap()).unwrap()
    }

    /// Writes a manifest with the checksum that it should have, if it has a form that one can be computed of.
    fn seal(&self, mut manifest: Value) {
        if let Ok(typed) = serde_json::from_value::<Manifest>(manifest.clone()) {
            manifest["checksum"] = typed.compute_checksum().unwrap().into();
        }
        fs::write(self.file("manifest.json"), manifest.to_string()).unwrap();
    }

    /// What opening says when the value at a place of the manifest is another one.
    fn with(&self, place: &str, value: impl Into<Value>) -> Result<Package, OpenError> {
        let mut manifest = self.manifest();
        *manifest.pointer_mut(place).unwrap_or_else(|| panic!("no {place}")) = value.into();
        self.seal(manifest);
        self.open()
    }

    fn number(&self, place: &str) -> usize {
        self.manifest().pointer(place).and_then(Value::as_u64).unwrap() as usize
    }
}

/// Reads everything that a package offers.
fn use_all(package: &Package) {
    for layer in package.layers() {
        let name = &layer.manifest.name;
        assert!(package.activation(layer.manifest.activation).is_some());
        package.unpack(name).unwrap().weight();
    }
    let _ = (package.weights(), package.activation(usize::MAX), package.layer("none"));
}

fn damage(result: Result<Package, OpenError>) -> Damage {
    match result.expect_err("a damaged package") {
        OpenError::Damaged { source, .. } => source,
        other => panic!("another error: {other}"),
    }
}

#[test]
fn whole() {
    use_all(&Victim::new().open().unwrap());
}

#[test]
fn missing_files() {
    for name in ["manifest.json", "weights.bin"] {
        let victim = Victim::new();
        fs::remove_file(victim.file(name)).unwrap();
        let error = victim.open().unwrap_err();
        assert!(matches!(&error, OpenError::Read { path, .. } if path.ends_with(name)), "{error}");
    }
    let error = Package::open(Path::new("/nowhere")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/manifest.json"), "{error}");
}

/// What is no regular file might never end, or never begin.
#[cfg(unix)]
#[test]
fn pipes_and_devices() {
    for name in ["manifest.json", "weights.bin"] {
        let victim = Victim::new();
        let refuse = || {
            let error = victim.open().unwrap_err();
            assert!(matches!(&error, OpenError::Read { path, .. } if path.ends_with(name)), "{error}");
        };
        fs::remove_file(victim.file(name)).unwrap();
        assert!(Command::new("mkfifo").arg(victim.file(name)).status().unwrap().success());
        refuse();
        fs::remove_file(victim.file(name)).unwrap();
        std::os::unix::fs::symlink("/dev/null", victim.file(name)).unwrap();
        refuse();
        fs::remove_file(victim.file(name)).unwrap();
        fs::create_dir(victim.file(name)).unwrap();
        refuse();
    }
}

#[test]
fn every_byte_counts() {
    let victim = Victim::new();
    let whole = fs::read(victim.file("weights.bin")).unwrap();
    for at in (0..whole.len()).step_by(61).chain([whole.len() - 1]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(victim.file("weights.bin"), damaged).unwrap();
        let found = damage(victim.open());
        assert!(matches!(found, Damage::Checksum { .. } | Damage::Padding { .. }), "byte {at}: {found}");
    }
    fs::write(victim.file("weights.bin"), whole).unwrap();
    victim.open().unwrap();
}

#[test]
fn another_length() {
    let victim = Victim::new();
    let whole = fs::read(victim.file("weights.bin")).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 1, whole.len() + 1, whole.len() + 4096] {
        let mut changed = whole.clone();
        changed.resize(length, 0);
        fs::write(victim.file("weights.bin"), changed).unwrap();
        let (expected, actual) = (whole.len(), length);
        assert_eq!(damage(victim.open()), Damage::FileSize { expected, actual });
    }
}

#[test]
fn bytes_of_the_manifest() {
    let victim = Victim::new();
    let whole = fs::read(victim.file("manifest.json")).unwrap();
    let manifest = victim.manifest();
    for at in (0..whole.len()).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(victim.file("manifest.json"), &damaged).unwrap();
        if let Ok(package) = victim.open() {
            // Case of a hexadecimal digit or white space: the same manifest all the same.
            let value: Value = serde_json::to_value(package.manifest()).unwrap();
            assert_eq!(value, manifest, "byte {at}");
        }
    }
    for length in (0..whole.len()).step_by(5) {
        fs::write(victim.file("manifest.json"), &whole[..length]).unwrap();
        assert!(matches!(victim.open(), Err(OpenError::Manifest { .. })), "{length} bytes");
    }
}

#[test]
fn another_version() {
    for version in [0u64, 1, 3, u64::MAX] {
        let error = Victim::new().with("/version", version).unwrap_err();
        assert!(matches!(error, OpenError::Version { found, .. } if found == version), "{error}");
    }
    let victim = Victim::new();
    victim.seal(json!({"format": "zqc-cuda", "version": 3, "everything": "is different"}));
    let error = victim.open().unwrap_err().to_string();
    assert!(error.contains("version 3") && error.contains("reads version 2"), "{error}");
    let error = Victim::new().with("/format", "another").unwrap_err();
    assert!(matches!(error, OpenError::Manifest { .. }), "{error}");
}

/// Version 1 held the sources of the kernels.
#[test]
fn kernels_in_a_package() {
    let victim = Victim::new();
    fs::create_dir(victim.file("kernels")).unwrap();
    fs::write(victim.file("kernels/quantize.cu"), "int x;").unwrap();
    victim.open().unwrap(); // nobody looks at them
    let mut manifest = victim.manifest();
    manifest["kernels"] = json!([{"name": "quantize.cu", "bytes": 6, "crc32": 0}]);
    victim.seal(manifest.clone());
    let error = victim.open().unwrap_err().to_string();
    assert!(error.contains("unknown field `kernels`"), "{error}");
    manifest["version"] = 1.into();
    victim.seal(manifest);
    let error = victim.open().unwrap_err().to_string();
    assert!(error.contains("has version 1") && error.contains("compile the model again"), "{error}");
}

#[test]
fn an_edited_manifest() {
    let victim = Victim::new();
    let text = fs::read_to_string(victim.file("manifest.json")).unwrap();
    let edited = text.replace("\"name\": \"first\"", "\"name\": \"fjrst\"");
    assert_ne!(text, edited);
    fs::write(victim.file("manifest.json"), edited).unwrap();
    assert_eq!(damage(victim.open()), Damage::Manifest);
}

#[test]
fn shapes_that_do_not_fit() {
    let with = |place: &str, value: Value| damage(Victim::new().with(place, value));
    for (place, value) in
        [("n", 0u64), ("n", u64::MAX), ("k", 0), ("group_size", 0), ("group_size", 48), ("rank", u64::MAX)]
    {
        let found = with(&format!("/layers/0/{place}"), value.into());
        assert!(matches!(found, Damage::Geometry { .. }), "{place} {value}: {found}");
    }
    for (place, value) in [("n", 129), ("n", i32::MAX as u64 - 128)] {
        let found = with(&format!("/layers/0/{place}"), value.into());
        assert!(matches!(found, Damage::ArraySize { .. }), "{place} {value}: {found}");
    }
    for (place, value) in [
        ("/layers/0/codes", json!("e3m0")),
        ("/layers/0/scales", json!("m2")),
        ("/layers/0/scales", json!("row")),
        ("/layers/0/steps_per_block", json!(1)),
        ("/layers/2/group_size", json!(256)),
        ("/layers/0/table/15", json!("0000000000000000")),
    ] {
        let found = with(place, value);
        assert!(matches!(found, Damage::Scales { .. }), "{place}: {found}");
    }
    assert!(matches!(with("/activations/0/k", 200.into()), Damage::NoActivation { .. }));
    assert!(matches!(with("/layers/0/activation", 2.into()), Damage::NoActivation { .. }));
    assert!(matches!(with("/layers/0/k", 73.into()), Damage::NoActivation { .. }));
    for (place, value) in [
        ("/activations/0/rank", json!(64)),
        ("/layers/0/rank", json!(17)),
        ("/activations/1/rank", json!(16)),
        ("/layers/1/rank_offset", json!(0)),
        ("/layers/1/rank_offset", json!(u64::MAX)),
        ("/layers/2/rank_offset", json!(16)),
        ("/activations/0/down", Value::Null),
    ] {
        let found = with(place, value);
        assert!(matches!(found, Damage::Ranks { .. }), "{place}: {found}");
    }
}

#[test]
fn activations_without_readers() {
    let victim = Victim::new();
    let mut manifest = victim.manifest();
    let activations = manifest["activations"].as_array_mut().unwrap();
    activations.push(json!({"k": u64::MAX, "rank": 0}));
    victim.seal(manifest);
    assert_eq!(damage(victim.open()), Damage::Unread { index: 2 });
}

#[test]
fn names_that_are_there_twice() {
    let twice = Damage::Twice { name: "second".to_string() };
    assert_eq!(damage(Victim::new().with("/layers/0/name", "second")), twice);
}

#[test]
fn arrays_in_the_wrong_place() {
    let victim = Victim::new();
    let offset = victim.number("/layers/0/row_scales/offset");
    let with = |value: usize| damage(Victim::new().with("/layers/0/row_scales/offset", value));
    assert!(matches!(with(offset + 1), Damage::Unaligned { .. }));
    assert!(matches!(with(offset - 256), Damage::Overlap { .. }));
    assert_eq!(with(offset + 256), Damage::Gap { from: offset, to: offset + 256 });
    assert!(matches!(with(usize::MAX - 255), Damage::OutOfRange { .. }));
    let end = victim.number("/weights_bytes");
    assert!(matches!(with(end), Damage::OutOfRange { .. }));
    let found = damage(victim.with("/weights_bytes", end + 256));
    assert_eq!(found, Damage::Gap { from: end, to: end + 256 });
    for bytes in [0, 1, 511, 513, usize::MAX] {
        let found = damage(Victim::new().with("/layers/0/row_scales/bytes", bytes));
        assert!(matches!(found, Damage::ArraySize { expected: 512, .. }), "{found}");
    }
    let found = damage(Victim::new().with("/layers/0/row_scales/crc32", 1));
    assert_eq!(found, Damage::Checksum { what: "layer first, row_scales".to_string() });
}

#[test]
fn members_that_are_missing_or_unknown() {
    for place in ["/layers/0", "/activations/0", "/layers/0/weights", ""] {
        let victim = Victim::new();
        let whole = victim.manifest();
        let keys: Vec<String> = whole.pointer(place).unwrap().as_object().unwrap().keys().cloned().collect();
        for key in keys {
            let mut manifest = whole.clone();
            manifest.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(&key);
            victim.seal(manifest);
            let opened = victim.open();
            let refused = matches!(
                opened,
                Err(OpenError::Manifest { .. }
                    | OpenError::Damaged { source: Damage::Ranks { .. } | Damage::Gap { .. }, .. })
            );
            assert!(refused, "without {place}/{key}: {opened:?}");
        }
        let mut manifest = whole.clone();
        manifest.pointer_mut(place).unwrap()["unheard_of"] = 1.into();
        victim.seal(manifest);
        assert!(matches!(victim.open(), Err(OpenError::Manifest { .. })));
    }
}

/// The places of all values in a manifest.
fn places(value: &Value, place: String, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, value)| places(value, format!("{place}/{key}"), found));
        }
        Value::Array(elements) => {
            elements.iter().enumerate().for_each(|(at, value)| places(value, format!("{place}/{at}"), found));
        }
        _ => {}
    }
    found.push(place);
}

/// Any value anywhere, two at a time: an error or a package that can be used, never a panic.
#[test]
fn arbitrary_manifests() {
    let victim = Victim::new();
    let whole = victim.manifest();
    let mut all = Vec::new();
    places(&whole, String::new(), &mut all);
    let numbers =
        [0u64, 1, 2, 15, 16, 32, 128, 255, 256, 4096, 1 << 31, 1 << 32, 1 << 63, u64::MAX - 255, u64::MAX];
    let others =
        [json!(null), json!(-1), json!(0.5), json!(""), json!("e3m0"), json!([]), json!({}), json!(true)];
    let mut random = Random(11);
    let mut refused = 0;
    for _ in 0..2000 {
        let mut manifest = whole.clone();
        for _ in 0..1 + random.below(2) {
            let Some(value) = manifest.pointer_mut(&all[random.below(all.len())]) else { continue };
            *value = match value.as_u64() {
                Some(number) if random.below(2) == 0 => {
                    number.wrapping_add(numbers[random.below(numbers.len())]).into()
                }
                _ if random.below(4) > 0 => numbers[random.below(numbers.len())].into(),
                _ => others[random.below(others.len())].clone(),
            };
        }
        victim.seal(manifest);
        match victim.open() {
            Ok(package) => use_all(&package),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1500, "{refused} of 2000");
}
