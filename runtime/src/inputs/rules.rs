//! How inputs that a data set lacks are made up: one table of what their names mean, and what each meaning is made up as.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::MOST_VALUES;
use super::spec::{Dimension, InputSpec};
use crate::array::{Array, ArrayData, element_count};

/// Rotary embeddings of several axes have a row of positions for each.
const MOST_POSITION_ROWS: usize = 16;

/// What exporters mean by an input, and what it is made up as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Whether caches are filled: false.
    UseCache,
    /// Which tokens count: ones, after zeros for the places in caches of fixed length if it is declared with them.
    Mask,
    /// Which states of the encoder count: ones, as many as are given.
    EncoderMask,
    /// Which tokens see which, `[batch, heads or 1, seq, seq]`: those before them and themselves. Numbers are added to scores: 0, and
    /// the lowest there is.
    CausalMask,
    /// The segment of each token: zeros.
    Segments,
    /// Where tokens stand: 0, 1, 2 ... in each sequence, and on each axis of rotary embeddings of several.
    Positions,
    /// Tokens before the sequence: 0.
    PastLength,
    /// Tokens before the last, as onnxruntime-genai counts them: those of the sequence less one.
    LastPosition,
    /// All tokens: those of the sequence.
    TotalLength,
    /// Of how many last tokens there are to be logits: 0, which is all of them, as a slice that starts at -0 is whole.
    LogitsToKeep,
    /// Tokens that attention reaches back, which models hand on: more than any sample has.
    Window,
    /// Tokens of the decoder beside those of the encoder: the same.
    DecoderTokens,
    /// What the encoder puts out: not made up. Of zeros or noise, the layers that read them would be calibrated on nothing.
    EncoderStates,
    /// What the decoder makes of those: empty where a model that has both branches takes the one that computes it.
    EncoderCache,
    /// A state of fixed size, of convolutions and recurrent layers: zeros.
    State,
    /// Keys and values of earlier tokens: empty, or zeros where their length is fixed.
    Cache,
}

/// What inputs of these names and ranks mean.
struct Rule {
    /// In lower case; a `*` stands for anything.
    names: &'static [&'static str],
    ranks: RangeInclusive<usize>,
    meaning: Meaning,
}

const fn rule(names: &'static [&'static str], ranks: RangeInclusive<usize>, meaning: Meaning) -> Rule {
    Rule { names, ranks, meaning }
}

/// The rules in their order of precedence: an input means what the first rule says that has its name and its rank. Narrow names
/// come before wide ones: a recurrent state, or a cache of the encoder, would be a cache otherwise.
const RULES: [Rule; 16] = [
    rule(&["use_cache_branch"], 0..=1, Meaning::UseCache),
    rule(&["attention_mask", "decoder_attention_mask"], 2..=2, Meaning::Mask),
    rule(&["encoder_attention_mask"], 2..=2, Meaning::EncoderMask),
    rule(&["attention_mask", "causal_mask"], 4..=4, Meaning::CausalMask),
    rule(&["token_type_ids", "segment_ids"], 2..=2, Meaning::Segments),
    rule(&["position_ids", "decoder_position_ids", "positions", "cache_position"], 1..=3, Meaning::Positions),
    rule(&["past_seq_len"], 0..=2, Meaning::LastPosition),
    rule(&["past_sequence_length", "past_length"], 0..=2, Meaning::PastLength),
    rule(&["total_seq_len", "total_sequence_length"], 0..=2, Meaning::TotalLength),
    rule(&["num_logits_to_keep", "logits_to_keep"], 0..=1, Meaning::LogitsToKeep),
    rule(&["*_sliding_window_tensor"], 0..=1, Meaning::Window),
    rule(&["decoder_input_ids"], 2..=2, Meaning::DecoderTokens),
    rule(&["encoder_hidden_states", "encoder_outputs*"], 2..=3, Meaning::EncoderStates),
    rule(
        &["*past*encoder*", "*past*cross*", "*cross*cache*", "*encoder*cache*"],
        3..=5,
        Meaning::EncoderCache,
    ),
    rule(
        &[
            "*conv_state*",
            "*recurrent_state*",
            "*ssm_state*",
            "*past*conv*",
            "*past*recurrent*",
            "*past*ssm*",
        ],
        2..=5,
        Meaning::State,
    ),
    rule(&["*past*", "*cache*"], 3..=5, Meaning::Cache),
];

/// What an input of this name means, and of this rank where that is known.
fn meaning_of(name: &str, rank: Option<usize>) -> Option<Meaning> {
    let name = name.to_lowercase();
    let named = |rule: &Rule| rule.names.iter().any(|pattern| matches(pattern, &name));
    let fits = |rule: &&Rule| named(rule) && rank.is_none_or(|rank| rule.ranks.contains(&rank));
    RULES.iter().find(fits).map(|rule| rule.meaning)
}

/// Whether `name` is `pattern` with something in place of each `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let ends = |at: usize| name.get(at..).is_some_and(|tail| matches(rest, tail));
            rest.is_empty() || (0..=name.len()).any(ends)
        }),
    }
}

/// Whether an input or an output of this name hands keys, values or states from one run of a decoder to the next. Logits never do,
/// though a merged model may have what its branches are for in front of the names there: `nopast_logits`.
pub fn names_cache(name: &str) -> bool {
    if name.ends_with("logits") {
        return false;
    }
    let is_cache = |meaning| matches!(meaning, Meaning::Cache | Meaning::State | Meaning::EncoderCache);
    meaning_of(&name.replace("present", "past"), None).is_some_and(is_cache)
}

/// Whether an input of this name says where tokens stand.
pub fn names_positions(name: &str) -> bool {
    meaning_of(name, None) == Some(Meaning::Positions)
}

impl InputSpec {
    /// What this input means, if a rule knows it.
    pub(super) fn meaning(&self) -> Option<Meaning> {
        meaning_of(&self.name, self.rank())
    }
}

/// The run that inputs are made up for.
pub(super) struct Run<'a> {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each; there are none before them.
    pub seq: usize,
    /// The input that has the tokens or their embeddings.
    pub leading: &'a InputSpec,
    /// What it is given.
    pub tokens: &'a Array,
    /// All inputs.
    pub specs: &'a [InputSpec],
    /// Those that are given, by name.
    pub given: &'a BTreeMap<String, Array>,
}

/// Why states of the encoder, and what is made of them, have to be given.
const ENCODED: &str = "it is what the encoder puts out for a sample";

/// Why there is no mask of them then.
const UNCOUNTED: &str = "it has an entry for every state of the encoder, and these are not given either";

impl Run<'_> {
    /// The array that `spec` is made up as, in an element type that can become its own, or why there is none.
    pub(super) fn make_up(&self, spec: &InputSpec) -> Result<Array, String> {
        let Some(meaning) = spec.meaning() else {
            return Err("no rule says what it means".to_string());
        };
        let value = |value: i64| filled(vec![1; spec.rank().unwrap_or(0)], value);
        match meaning {
            Meaning::UseCache | Meaning::LogitsToKeep => value(0),
            Meaning::Window => value(i32::MAX.into()),
            Meaning::Mask => self.mask(spec),
            Meaning::Segments => filled(vec![self.batch, self.seq], 0),
            Meaning::EncoderMask => filled(vec![self.batch, self.encoded().ok_or(UNCOUNTED)?], 1),
            Meaning::CausalMask => self.causal_mask(spec),
            Meaning::Positions => self.positions(spec),
            Meaning::PastLength => self.length(spec, 0),
            Meaning::LastPosition => self.length(spec, self.seq as i64 - 1),
            Meaning::TotalLength => self.length(spec, self.seq as i64),
            Meaning::DecoderTokens => Ok(self.tokens.clone()),
            Meaning::EncoderStates => Err(ENCODED.to_string()),
            Meaning::EncoderCache if self.takes_branch_without_caches() => self.before_the_first(spec, true),
            Meaning::EncoderCache => Err(ENCODED.to_string()),
            Meaning::State => self.before_the_first(spec, false),
            Meaning::Cache => self.before_the_first(spec, true),
        }
    }

    /// How many states of the encoder are given, as such, `[batch, states, features]`, or as caches, `[batch, heads, states, features]`.
    fn encoded(&self) -> Option<usize> {
        let (states, caches) = (Some(Meaning::EncoderStates), Some(Meaning::EncoderCache));
        self.specs.iter().find_map(|spec| {
            let axis = [states, caches].iter().position(|meaning| *meaning == spec.meaning())? + 1;
            self.given.get(&spec.name)?.shape.get(axis).copied()
        })
    }

    fn mask(&self, spec: &InputSpec) -> Result<Array, String> {
        let before = match spec.shape.as_deref() {
            Some([_, Dimension::Fixed(all)]) => all.saturating_sub(self.seq),
            _ => 0,
        };
        let holds = |spec: &InputSpec| {
            let is_cache = spec.meaning() == Some(Meaning::Cache);
            is_cache && spec.shape.iter().flatten().any(|dim| *dim == Dimension::Fixed(before))
        };
        if before == 0 || !self.specs.iter().any(holds) {
            return filled(vec![self.batch, self.seq], 1);
        }
        let shape = vec![self.batch, before + self.seq];
        let counts = (0..count(&shape)?).map(|at| i64::from(at % (before + self.seq) >= before));
        Ok(Array { data: counts.collect::<Vec<_>>().into(), shape })
    }

    fn takes_branch_without_caches(&self) -> bool {
        let is_branch = |spec: &&InputSpec| spec.meaning() == Some(Meaning::UseCache);
        let Some(branch) = self.specs.iter().find(is_branch) else { return false };
        let chosen = self.given.get(&branch.name).and_then(Array::to_i64);
        chosen.is_none_or(|chosen| chosen.iter().all(|&chosen| chosen == 0))
    }

    /// A length, once or for every sequence.
    fn length(&self, spec: &InputSpec, length: i64) -> Result<Array, String> {
        let extent = |(axis, dim): (usize, &Dimension)| match dim {
            Dimension::Fixed(extent) => *extent,
            Dimension::Symbolic(_) if axis == 0 => self.batch,
            Dimension::Symbolic(_) => 1,
        };
        filled(spec.shape.iter().flatten().enumerate().map(extent).collect(), length)
    }

    /// Encoders have masks of such a shape too, in which tokens see those after them: only a model with caches, or a name, says
    /// that the mask is causal.
    fn causal_mask(&self, spec: &InputSpec) -> Result<Array, String> {
        let has_caches = self.specs.iter().any(|spec| spec.meaning() == Some(Meaning::Cache));
        if !has_caches && !spec.name.to_lowercase().contains("causal") {
            return Err("it need not be causal".to_string());
        }
        let heads = match spec.shape.as_deref() {
            Some([_, Dimension::Fixed(heads), ..]) => *heads,
            _ => 1,
        };
        let shape = vec![self.batch, heads, self.seq, self.seq];
        let sees = (0..count(&shape)?).map(|at| at % self.seq <= at / self.seq % self.seq);
        let data: ArrayData = match spec.is_float() {
            true => sees.map(|sees| if sees { 0.0 } else { f32::MIN }).collect::<Vec<_>>().into(),
            false => sees.map(i64::from).collect::<Vec<_>>().into(),
        };
        Ok(Array { shape, data })
    }

    fn positions(&self, spec: &InputSpec) -> Result<Array, String> {
        let rows = |dim: &Dimension| match dim {
            Dimension::Fixed(rows) if *rows <= self.batch.max(MOST_POSITION_ROWS) => Ok(*rows),
            _ => Err("nothing says how many rows of positions there are".to_string()),
        };
        let shape = match spec.shape.as_deref() {
            Some([_]) => vec![self.seq],
            Some([Dimension::Symbolic(_), _]) | None => vec![self.batch, self.seq],
            Some([fixed, _]) => vec![rows(fixed)?, self.seq],
            Some([axes, ..]) => vec![rows(axes)?, self.batch, self.seq],
            Some([]) => return Err("positions are no scalar".to_string()),
        };
        let position = |at: usize| (at % self.seq) as i64;
        let data: Vec<i64> = (0..count(&shape)?).map(position).collect();
        Ok(Array { shape, data: data.into() })
    }

    /// A cache or a state before the first token: zeros, if there are any elements.
    ///
    /// An open dimension is the batch or the length by its symbol. Where the symbols do not tell, the first dimension is the batch
    /// (of five, the second can be), and another the length if the input has one.
    fn before_the_first(&self, spec: &InputSpec, has_length: bool) -> Result<Array, String> {
        let dims = spec.shape.as_deref().ok_or("its shape is not declared")?;
        let batch_symbol = self.leading.shape.iter().flatten().next();
        let is_batch = |symbol: &String| {
            let of_tokens = matches!(batch_symbol, Some(Dimension::Symbolic(batch)) if batch == symbol);
            symbol.contains("batch") || of_tokens && !symbol.is_empty()
        };
        let is_length = |symbol: &String| ["past", "seq", "len"].iter().any(|part| symbol.contains(part));
        let (mut batch, mut length_is_open, mut others) = (None, has_length, Vec::new());
        for (axis, dim) in dims.iter().enumerate() {
            match dim {
                Dimension::Fixed(_) => {}
                Dimension::Symbolic(symbol) if is_batch(symbol) && batch.is_none() => batch = Some(axis),
                Dimension::Symbolic(symbol) if length_is_open && is_length(symbol) => length_is_open = false,
                Dimension::Symbolic(_) => others.push(axis),
            }
        }
        let in_front = |&axis: &usize| axis == 0 || axis == 1 && dims.len() == 5 && others.len() > 1;
        if batch.is_none() && others.first().is_some_and(in_front) {
            batch = Some(others.remove(0));
        }
        if length_is_open && !others.is_empty() {
            others.remove(0);
        }
        if let Some(&axis) = others.first() {
            return Err(format!("nothing says what its size {:?} is", dims[axis].to_string()));
        }
        let extent = |(axis, dim): (usize, &Dimension)| match dim {
            Dimension::Fixed(extent) => *extent,
            Dimension::Symbolic(_) if batch == Some(axis) => self.batch,
            Dimension::Symbolic(_) => 0,
        };
        filled(dims.iter().enumerate().map(extent).collect(), 0)
    }
}

/// An array of one value.
fn filled(shape: Vec<usize>, value: i64) -> Result<Array, String> {
    Ok(Array { data: vec![value; count(&shape)?].into(), shape })
}

/// The elements of an array that is made up.
fn count(shape: &[usize]) -> Result<usize, String> {
    let count = element_count(shape).filter(|&count| count <= MOST_VALUES);
    count.ok_or_else(|| format!("an array of shape {shape:?} is too large"))
}

#[cfg(test)]
mod tests {
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

    /// What `wanted` is made up as beside `others`, for two sequences of three tokens in `input_ids [b, s]`.
    fn made_up_beside(others: &[InputSpec], wanted: &InputSpec) -> Result<Array, String> {
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

    fn made_up(name: &str, data_type: DataType, dims: &str) -> Result<Array, String> {
        made_up_beside(&[], &spec(name, data_type, dims))
    }

    fn array(shape: &[usize], data: impl Into<ArrayData>) -> Result<Array, String> {
        Ok(Array::new(shape.to_vec(), data).unwrap())
    }

    #[test]
    fn a_mask_of_fixed_length_has_the_places_in_caches_too() {
        let cache = spec("past_key_values.0.key", Float, "b 2 4 8");
        let mask = spec("attention_mask", Int64, "b 7");
        let made = made_up_beside(std::slice::from_ref(&cache), &mask).unwrap();
        let row = [0i64, 0, 0, 0, 1, 1, 1];
        assert_eq!(made, Array::new(vec![2, 7], row.repeat(2)).unwrap());
        let other = spec("past_key_values.0.key", Float, "b 2 5 8");
        assert!(made_up_beside(&[other], &mask).unwrap_err().contains("it would be of shape [2, 3]"));
        let open = spec("attention_mask", Int64, "b t");
        assert_eq!(made_up_beside(&[cache], &open).unwrap().shape, [2, 3]);
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
            assert_eq!(made_up(name, data_type, dims), expected, "{name} {dims}");
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
            assert_eq!(made_up(name, Float, dims), zeros(expected), "{name} {dims}");
        }
        assert_eq!(
            made_up("past_key_values.0.key", DataType::Int8, "n 1 n 2"),
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
            let error =
                made_up(name, if name.starts_with("pos") { Int64 } else { Float16 }, dims).unwrap_err();
            assert!(error.contains(words) && error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_mask_of_four_dimensions_is_causal_where_the_model_is() {
        let cache = spec("past_key_values.0.key", Float, "n 4 n 8");
        let mask = |data_type| {
            made_up_beside(std::slice::from_ref(&cache), &spec("attention_mask", data_type, "b 1 s s"))
        };
        let (o, x) = (0.0, f32::MIN);
        assert_eq!(mask(Float), array(&[2, 1, 3, 3], [o, x, x, o, o, x, o, o, o].repeat(2)));
        let sees = [true, false, false, true, true, false, true, true, true];
        assert_eq!(mask(Bool), array(&[2, 1, 3, 3], sees.repeat(2)));
        assert_eq!(made_up("causal_mask", Bool, "b 2 s s"), array(&[2, 2, 3, 3], sees.repeat(4)));
        let error = made_up("attention_mask", Float, "b 1 s s").unwrap_err();
        assert!(error.contains("FLOAT[b, 1, s, s]") && error.contains("causal"), "{error}");
    }

    #[test]
    fn what_the_encoder_puts_out_is_given_or_not_read() {
        let states = spec("encoder_hidden_states", Float, "b e 8");
        let mask = spec("encoder_attention_mask", Int64, "b e");
        let cache = spec("past_key_values.0.encoder.key", Float, "b 4 e 8");
        let cross = spec("past_key_cross_0", Float, "b 4 1500 8");
        for wanted in [&states, &cache, &cross] {
            let error = made_up_beside(&[], wanted).unwrap_err();
            assert!(error.contains("what the encoder puts out"), "{error}");
        }
        let error = made_up_beside(&[], &mask).unwrap_err();
        assert!(error.contains("every state of the encoder"), "{error}");
        let branch = spec("use_cache_branch", Bool, "1");
        let empty = made_up_beside(&[branch], &cache);
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

    #[test]
    fn names_of_caches_are_known_on_both_sides() {
        for name in [
            "past_key_values.0.key",
            "present.0.key",
            "present_key_self_0",
            "output.past_key_values.layers.0.keys",
            "output.past_key_values.layers.0.conv_states.0",
            "present.0.recurrent",
        ] {
            assert!(names_cache(name), "{name}");
        }
        for name in [
            "logits",
            "nopast_logits",
            "last_hidden_state",
            "use_cache_branch",
            "cache_position",
            "encoder_hidden_states",
        ] {
            assert!(!names_cache(name), "{name}");
        }
    }

    #[test]
    fn the_document_has_every_name() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/calibration.md");
        let document = std::fs::read_to_string(document).unwrap();
        for name in RULES.iter().flat_map(|rule| rule.names) {
            assert!(document.contains(&format!("`{name}`")), "{name}");
        }
    }
}
