//! Files of arrays.

use super::*;

#[test]
fn rows_of_arrays_are_samples() {
    let folder = Folder::new();
    let rows = le_bytes(&[1, 2, 3, 4]);
    let npz = folder.npz(
        "a.npz",
        &[("input_ids", npy("<i8", "(2, 2)", &rows)), ("labels", npy("|O", "(2,)", b"pickle"))],
    );
    assert_eq!(tokens(&load(&npz, None, None).unwrap()), [[1, 2], [3, 4]]);

    let path = folder.0.path().join("a.safetensors");
    let view = TensorView::new(Dtype::I64, vec![2, 2], &rows).unwrap();
    safetensors::serialize_to_file([("input_ids", view)], None, &path).unwrap();
    assert_eq!(tokens(&load(&path, None, None).unwrap()), [[1, 2], [3, 4]]);
}

#[test]
fn hostile_arrays_are_refused_with_the_file_and_the_array() {
    let folder = Folder::new();
    let good = npy("<i8", "(1, 1)", &le_bytes(&[1]));
    for (array, expected) in [
        (npy("<i8", "(1, 2)", &le_bytes(&[1])), "does not hold"),
        (npy("<i8", "(4611686018427387904, 4)", &[]), "does not hold"),
        (npy("<i8", "(99999999999999999999,)", &[]), "header"),
        (npy("<i8", "(-1,)", &[]), "header"),
        (npy("=i8", "(1, 1)", &le_bytes(&[1])), "\"=i8\" is not supported"),
        (npy(">U3", "(1, 1)", &[0; 12]), "\">U3\" is not supported"),
        (npy("é", "(1, 1)", &[0; 8]), "\"é\" is not supported"),
        (npy("", "(1, 1)", &[0; 8]), "\"\" is not supported"),
        (fortran(npy(">i8", "(2, 2)", &le_bytes(&[1, 2, 3]))), "does not hold"),
        (fortran(npy("<i8", "(4611686018427387904, 4)", &[])), "does not hold"),
        (fortran(npy("<i8", "(0, 4611686018427387904, 4)", &[1])), "does not hold"),
        (npy("|O", "(1, 1)", b"pickle"), "\"|O\" is not supported"),
        (npy("<f4", "(1, 1)", &[0; 4]), "FLOAT cannot become INT64"),
        (good[..20].to_vec(), "cut short"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "cut short"),
        (b"\x93NUMPY\x09\x00".to_vec(), "version 9"),
        (b"PK".to_vec(), "not a NumPy array"),
        (Vec::new(), "not a NumPy array"),
    ] {
        let path = folder.npz("a.npz", &[("input_ids", array)]);
        let error = load(&path, None, None).unwrap_err().to_string();
        assert!(
            error.contains("a.npz") && error.contains("input_ids") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn arrays_of_nothing_make_as_many_samples_as_are_wanted() {
    let folder = Folder::new();
    let path = folder.npz("a.npz", &[("input_ids", npy("<i8", "(1152921504606846976, 0)", &[]))]);
    assert_eq!(tokens(&load(&path, None, None).unwrap()), [[0i64; 0]; 2]);
}

#[test]
fn an_archive_that_unpacks_to_far_more_is_refused() {
    let folder = Folder::new();
    let array = npy("<i8", "(1, 10485760)", &vec![0; 80 << 20]);
    let path = folder.npz("a.npz", &[("input_ids", array)]);
    let error = load(&path, None, None).unwrap_err().to_string();
    let unpacked = error.contains("unpack to more than") && error.contains("numpy.savez");
    assert!(unpacked || fs::metadata(&path).unwrap().len() > 80 << 10, "{error}");
}

/// An array that numpy saved in the order of Fortran.
fn fortran(array: Vec<u8>) -> Vec<u8> {
    let at = array.windows(5).position(|window| window == b"False").unwrap();
    [&array[..at], b"True ", &array[at + 5..]].concat()
}

#[test]
fn arrays_of_any_byte_order_and_layout_are_read() {
    let folder = Folder::new();
    let shape = Some(["batch", "a", "b"].map(|symbol| Dimension::Symbolic(symbol.into())).to_vec());
    let read = |array: Vec<u8>, data_type| {
        let specs = [InputSpec { name: "x".into(), data_type, shape: shape.clone() }];
        let path = folder.npz("a.npz", &[("x", array)]);
        let samples = load_for(&[path], None, &specs, None).unwrap();
        samples.into_iter().map(|loaded| loaded.sample["x"].clone()).collect::<Vec<_>>()
    };
    // Element [i, j, k] of [2, 3, 4] is 100 i + 10 j + k.
    let indices: Vec<[usize; 3]> = (0..24).map(|n| [n / 12, n / 4 % 3, n % 4]).collect();
    let value = |[i, j, k]: [usize; 3]| (100 * i + 10 * j + k) as i64;
    let sample = |i| {
        let values: Vec<i64> =
            indices.iter().filter(|index| index[0] == i).map(|&index| value(index)).collect();
        Array::new(vec![1, 3, 4], values).unwrap()
    };
    let expected = [sample(0), sample(1)];
    let row_major: Vec<i64> = indices.iter().map(|&index| value(index)).collect();
    let mut by_last = indices.clone();
    by_last.sort_by_key(|&[i, j, k]| [k, j, i]);
    let column_major: Vec<i64> = by_last.into_iter().map(value).collect();
    let big = |values: &[i64]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>();
    for array in [
        npy("<i8", "(2, 3, 4)", &le_bytes(&row_major)),
        npy(">i8", "(2, 3, 4)", &big(&row_major)),
        fortran(npy("<i8", "(2, 3, 4)", &le_bytes(&column_major))),
        fortran(npy(">i8", "(2, 3, 4)", &big(&column_major))),
    ] {
        assert_eq!(read(array, DataType::Int64), expected);
    }
    let halves: Vec<u8> = (0..4).flat_map(|n| half::f16::from_f32(n as f32).to_be_bytes()).collect();
    let floats = read(fortran(npy(">f2", "(1, 2, 2)", &halves)), DataType::Float);
    assert_eq!(floats, [Array::new(vec![1, 2, 2], vec![0f32, 2.0, 1.0, 3.0]).unwrap()]);
    assert_eq!(read(fortran(npy("|b1", "(1, 1, 0)", &[])), DataType::Bool)[0].shape, [1, 1, 0]);
}

#[test]
fn inputs_without_a_batch_have_the_samples_in_front() {
    let folder = Folder::new();
    let specs = [
        spec("input_ids", DataType::Int64, 2),
        spec("keep", DataType::Int64, 0),
        spec("v", DataType::Float, 1),
    ];
    let floats = |count: u8| (0..count).flat_map(|n| f32::from(n).to_le_bytes()).collect::<Vec<u8>>();
    let ids = npy("<i8", "(2, 3)", &le_bytes(&[1, 2, 3, 4, 5, 6]));
    let npz = folder.npz(
        "a.npz",
        &[
            ("input_ids", ids.clone()),
            ("keep", npy("<i8", "(2,)", &le_bytes(&[7, 8]))),
            ("v", npy("<f4", "(2, 2)", &floats(4))),
        ],
    );
    let path = folder.0.path().join("a.safetensors");
    let (rows, keep, v) = (le_bytes(&[1, 2, 3, 4, 5, 6]), le_bytes(&[7, 8]), floats(4));
    let views = [
        ("input_ids", TensorView::new(Dtype::I64, vec![2, 3], &rows).unwrap()),
        ("keep", TensorView::new(Dtype::I64, vec![2], &keep).unwrap()),
        ("v", TensorView::new(Dtype::F32, vec![2, 2], &v).unwrap()),
    ];
    safetensors::serialize_to_file(views, None, &path).unwrap();
    for file in [npz, path] {
        let samples = load_for(&[file], None, &specs, None).unwrap();
        assert_eq!(tokens(&samples), [[1, 2, 3], [4, 5, 6]]);
        let scalar = |value: i64| Array::new(vec![], vec![value]).unwrap();
        assert_eq!([&samples[0].sample["keep"], &samples[1].sample["keep"]], [&scalar(7), &scalar(8)]);
        assert_eq!(samples[1].sample["v"], Array::new(vec![2], vec![2f32, 3.0]).unwrap());
    }
    let same = folder.npz(
        "b.npz",
        &[
            ("input_ids", ids),
            ("keep", npy("<i8", "()", &le_bytes(&[9]))),
            ("v", npy("<f4", "(2, 2)", &floats(4))),
        ],
    );
    let samples = load_for(&[same], None, &specs, None).unwrap();
    assert!(samples.iter().all(|loaded| loaded.sample["keep"] == Array::new(vec![], vec![9i64]).unwrap()));
    let alone = folder.npz("c.npz", &[("keep", npy("<i8", "()", &le_bytes(&[9])))]);
    let error = load_for(&[alone], None, &specs, None).unwrap_err().to_string();
    assert!(error.contains("counts the samples"), "{error}");
}
