use zqc_ir::onnx::proto::tensor_proto::DataType::{self, Bool, Float, Float16, Int32, Int64};

use super::*;
use crate::inputs::make_inputs;

/// An input of a type and dimensions in words: `FLOAT[batch, 2, past, 8]`.
fn spec(name: &str, data_type: DataType, dims: &str) -> InputSpec {
    let dimension =
        |dim: &str| dim.parse().map_or_else(|_| Dimension::Symbolic(dim.to_string()), Dimension::Fixed);
    InputSpec {
        name: name.to_string(),
        data_type,
        shape: Some(dims.split_whitespace().map(dimension).collect()),
    }
}

/// The array derived for `wanted` beside `others`, for two sequences of three tokens in `input_ids [b, s]`.
fn derived_beside(others: &[InputSpec], wanted: &InputSpec) -> Result<Array, String> {
    let specs: Vec<InputSpec> = [spec("input_ids", Int64, "b s")]
        .into_iter()
        .chain(others.iter().cloned())
        .chain([wanted.clone()])
        .collect();
    let ids = Array::new(vec![2, 3], vec![5i64, 6, 7, 8, 9, 10]).unwrap();
    let given = BTreeMap::from([("input_ids".to_string(), ids)]);
    let inputs = make_inputs(&specs, &given).map_err(|error| error.to_string())?;
    Ok(inputs.into_iter().find(|(name, _)| *name == wanted.name).unwrap().1)
}

fn derived(name: &str, data_type: DataType, dims: &str) -> Result<Array, String> {
    derived_beside(&[], &spec(name, data_type, dims))
}

fn array(shape: &[usize], data: impl Into<ArrayData>) -> Result<Array, String> {
    Ok(Array::new(shape.to_vec(), data).unwrap())
}

#[test]
fn a_mask_of_fixed_length_has_the_places_in_caches_too() {
    let cache = spec("past_key_values.0.key", Float, "b 2 4 8");
    let mask = spec("attention_mask", Int64, "b 7");
    let made = derived_beside(std::slice::from_ref(&cache), &mask).unwrap();
    let row = [0i64, 0, 0, 0, 1, 1, 1];
    assert_eq!(made, Array::new(vec![2, 7], row.repeat(2)).unwrap());
    let other = spec("past_key_values.0.key", Float, "b 2 5 8");
    assert!(derived_beside(&[other], &mask).unwrap_err().contains("it would be of shape [2, 3]"));
    let open = spec("attention_mask", Int64, "b t");
    assert_eq!(derived_beside(&[cache], &open).unwrap().shape, [2, 3]);
}

#[test]
fn what_follows_from_the_tokens() {
    let cases = [
        ("attention_mask", Int64, "n n", array(&[2, 3], vec![1i64; 6])),
        ("attention_mask", Bool, "n n", array(&[2, 3], vec![true; 6])),
        ("attention_mask", Float, "n n", array(&[2, 3], vec![1f32; 6])),
        ("token_type_ids", Int32, "n n", array(&[2, 3], vec![0i32; 6])),
        ("position_ids", Int64, "n n", array(&[2, 3], vec![0i64, 1, 2, 0, 1, 2])),
        ("position_ids", Int64, "1 n", array(&[1, 3], vec![0i64, 1, 2])),
        ("position_ids", Int64, "n", array(&[3], vec![0i64, 1, 2])),
        ("position_ids", Int64, "3 n n", array(&[3, 2, 3], [0i64, 1, 2].repeat(6))),
        ("position_ids", Int32, "4 batch n", array(&[4, 2, 3], [0i32, 1, 2].repeat(8))),
        ("cache_position", Int64, "n", array(&[3], vec![0i64, 1, 2])),
        ("use_cache_branch", Bool, "1", array(&[1], vec![false])),
        ("past_sequence_length", Int64, "", array(&[], vec![0i64])),
        ("past_seq_len", Int32, "n 1", array(&[2, 1], vec![2i32, 2])),
        ("total_seq_len", Int32, "1", array(&[1], vec![3i32])),
        ("total_sequence_length", Int32, "", array(&[], vec![3i32])),
        ("num_logits_to_keep", Int64, "", array(&[], vec![0i64])),
        ("input.layers.0._sliding_window_tensor", Int64, "", array(&[], vec![i64::from(i32::MAX)])),
        ("decoder_input_ids", Int64, "n n", array(&[2, 3], vec![5i64, 6, 7, 8, 9, 10])),
    ];
    for (name, data_type, dims, expected) in cases {
        assert_eq!(derived(name, data_type, dims), expected, "{name} {dims}");
    }
}

#[test]
fn caches_are_empty_and_states_are_zeros() {
    let zeros = |shape: &[usize]| {
        let count = shape.iter().product();
        array(shape, vec![0f32; count])
    };
    for (name, dims, expected) in [
        ("past_key_values.0.key", "n 4 n 8", &[2, 4, 0, 8][..]),
        ("past_0", "2 n 4 n 8", &[2, 2, 4, 0, 8]),
        ("past_key_values.0.key", "batch_size 4 past_sequence_length 8", &[2, 4, 0, 8]),
        // Keys that lie transposed, and batches that come last, by their symbols.
        ("past_key_values.0.key", "batch 4 8 past_len", &[2, 4, 8, 0]),
        ("key_cache", "past_len batch 4 8", &[0, 2, 4, 8]),
        // The exporter of transformers 5: the batch has the symbol that it has in the tokens.
        ("input.past_key_values.layers.0.keys", "b 2 s85 32", &[2, 2, 0, 32]),
        ("past_key_values.0.key", "2 4 past 8", &[2, 4, 0, 8]),
        // A latent cache, and rings of fixed length.
        ("past_key_values.0.latent", "n n 64", &[2, 0, 64]),
        ("past_key_values.0.key", "batch_size 2 16 8", &[2, 2, 16, 8]),
        ("past.0.conv", "batch_size 128 2", &[2, 128, 2]),
        ("past.0.recurrent", "batch_size 2 4 4", &[2, 2, 4, 4]),
        ("past_conv.3", "n 8 3", &[2, 8, 3]),
        ("input.past_key_values.layers.0.conv_states.0", "b 128 3", &[2, 128, 3]),
        ("cache_params.ssm_states.0", "n 16 4", &[2, 16, 4]),
    ] {
        assert_eq!(derived(name, Float, dims), zeros(expected), "{name} {dims}");
    }
    assert_eq!(
        derived("past_key_values.0.key", DataType::Int8, "n 1 n 2"),
        array(&[2, 1, 0, 2], Vec::<i8>::new())
    );
}

#[test]
fn a_size_that_nothing_says_is_named() {
    for (name, dims, words) in [
        ("past_key_values.0.key", "batch_size 2 past_sequence_length kv_cache_dim", "\"kv_cache_dim\""),
        ("past_key_values.0.key", "batch heads past_length 8", "\"heads\""),
        ("past.0.conv", "batch_size 128 width", "\"width\""),
        ("position_ids", "axes n n", "rows of positions"),
        ("past_key_values.0.key", "batch 1000000 1000000 8", "too large"),
    ] {
        let error = derived(name, if name.starts_with("pos") { Int64 } else { Float16 }, dims).unwrap_err();
        assert!(error.contains(words) && error.contains(name), "{error}");
    }
}

#[test]
fn a_mask_of_four_dimensions_is_causal_where_the_model_is() {
    let cache = spec("past_key_values.0.key", Float, "n 4 n 8");
    let mask = |data_type| {
        derived_beside(std::slice::from_ref(&cache), &spec("attention_mask", data_type, "b 1 s s"))
    };
    let (o, x) = (0.0, f32::MIN);
    assert_eq!(mask(Float), array(&[2, 1, 3, 3], [o, x, x, o, o, x, o, o, o].repeat(2)));
    let sees = [true, false, false, true, true, false, true, true, true];
    assert_eq!(mask(Bool), array(&[2, 1, 3, 3], sees.repeat(2)));
    assert_eq!(derived("causal_mask", Bool, "b 2 s s"), array(&[2, 2, 3, 3], sees.repeat(4)));
    let error = derived("attention_mask", Float, "b 1 s s").unwrap_err();
    assert!(error.contains("FLOAT[b, 1, s, s]") && error.contains("causal"), "{error}");
}

#[test]
fn what_the_encoder_puts_out_is_given_or_not_read() {
    let states = spec("encoder_hidden_states", Float, "b e 8");
    let mask = spec("encoder_attention_mask", Int64, "b e");
    let cache = spec("past_key_values.0.encoder.key", Float, "b 4 e 8");
    let cross = spec("past_key_cross_0", Float, "b 4 1500 8");
    for wanted in [&states, &cache, &cross] {
        let error = derived_beside(&[], wanted).unwrap_err();
        assert!(error.contains("an output of the encoder"), "{error}");
    }
    let error = derived_beside(&[], &mask).unwrap_err();
    assert!(error.contains("every state of the encoder"), "{error}");
    let branch = spec("use_cache_branch", Bool, "1");
    let empty = derived_beside(&[branch], &cache);
    assert_eq!(empty, array(&[2, 4, 0, 8], Vec::<f32>::new()));

    let specs = [spec("input_ids", Int64, "b s"), states, mask];
    let given = BTreeMap::from([
        ("input_ids".to_string(), Array::sequence(vec![1, 2, 3])),
        ("encoder_hidden_states".to_string(), array(&[1, 5, 8], vec![0.5f32; 40]).unwrap()),
    ]);
    assert_eq!(make_inputs(&specs, &given).unwrap()[2].1, array(&[1, 5], vec![1i64; 5]).unwrap());

    let specs = [specs[0].clone(), specs[2].clone(), cache];
    let filled = array(&[1, 4, 7, 8], vec![0.5f32; 224]).unwrap();
    let given = BTreeMap::from([given.into_iter().next_back().unwrap(), (specs[2].name.clone(), filled)]);
    assert_eq!(make_inputs(&specs, &given).unwrap()[1].1, array(&[1, 7], vec![1i64; 7]).unwrap());
}
