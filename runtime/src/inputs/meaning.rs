//! What inputs are for, by their names and ranks.

use std::ops::RangeInclusive;

use super::spec::InputSpec;

/// What an input is for, as exporters name it, and the value derived for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Whether the caches are filled: false.
    UseCache,
    /// Which tokens take part: ones; after zeros for the places in caches of fixed length, if it is declared with those.
    Mask,
    /// Which states of the encoder take part: ones, as many as are given.
    EncoderMask,
    /// Which tokens attend to which, `[batch, heads or 1, seq, seq]`: to themselves and those before. Numbers are added to scores:
    /// 0, or the lowest finite number.
    CausalMask,
    /// The segment of each token: zeros.
    Segments,
    /// Positions of tokens: 0, 1, 2 ... in each sequence, on each axis where rotary embeddings have several.
    Positions,
    /// Tokens before the sequence: 0.
    PastLength,
    /// Tokens before the last, as onnxruntime-genai counts them: those of the sequence less one.
    LastPosition,
    /// The number of all tokens: those of the sequence.
    TotalLength,
    /// The number of last tokens that logits are computed for: 0, which is all of them, as a slice that starts at -0 is whole.
    LogitsToKeep,
    /// The length of a sliding window of attention: more than any sample has.
    Window,
    /// Tokens of the decoder: those of the encoder.
    DecoderTokens,
    /// Outputs of the encoder: not derived. With zeros or noise, the layers that read them would be calibrated on nothing.
    EncoderStates,
    /// Keys and values of those: empty where a merged model takes the branch that computes them.
    EncoderCache,
    /// A state of fixed size, of a convolution or a recurrent layer: zeros.
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
/// come before wide ones: a recurrent state or a cache of the encoder would otherwise count as a cache.
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
/// though a merged model may prefix names with the branch: `nopast_logits`.
pub fn names_cache(name: &str) -> bool {
    if name.ends_with("logits") {
        return false;
    }
    let is_cache = |meaning| matches!(meaning, Meaning::Cache | Meaning::State | Meaning::EncoderCache);
    meaning_of(&name.replace("present", "past"), None).is_some_and(is_cache)
}

/// Whether an input of this name holds the positions of tokens.
pub fn names_positions(name: &str) -> bool {
    meaning_of(name, None) == Some(Meaning::Positions)
}

impl InputSpec {
    /// What this input means, if a rule knows it.
    pub(super) fn meaning(&self) -> Option<Meaning> {
        meaning_of(&self.name, self.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
