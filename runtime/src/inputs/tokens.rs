//! Which inputs take the tokens.

use super::spec::InputSpec;

/// Names of inputs that take token ids; of several, the first is what calibration text goes to.
const TOKENS: [&str; 2] = ["input_ids", "decoder_input_ids"];

/// The input that has the embeddings of tokens in place of the tokens, `[batch, seq, features]`.
pub const EMBEDDINGS: &str = "inputs_embeds";

/// The inputs that take token ids: those that exporters name so, or else all of integers, of rank 1 or 2, that mean nothing else.
pub fn token_inputs(specs: &[InputSpec]) -> Vec<&InputSpec> {
    let named: Vec<_> =
        TOKENS.iter().filter_map(|name| specs.iter().find(|spec| spec.name == *name)).collect();
    if !named.is_empty() {
        return named;
    }
    let fits = |spec: &&InputSpec| {
        spec.is_integer() && spec.rank().is_none_or(|rank| matches!(rank, 1 | 2)) && spec.meaning().is_none()
    };
    specs.iter().filter(fits).collect()
}

/// The input that takes token ids, `[batch, seq]`: `input_ids`, else `decoder_input_ids`, or else the only one of integers of rank 2
/// that means nothing else.
pub fn token_input(specs: &[InputSpec]) -> Option<&InputSpec> {
    let candidates = token_inputs(specs);
    match candidates.first() {
        Some(first) if TOKENS.contains(&first.name.as_str()) => Some(*first),
        _ => {
            let mut matrices = candidates.into_iter().filter(|spec| spec.rank() == Some(2));
            matrices.next().filter(|_| matrices.next().is_none())
        }
    }
}

/// The input that says how many sequences of how many tokens there are: that of tokens, or of their embeddings.
pub(super) fn leading_input(specs: &[InputSpec]) -> Option<&InputSpec> {
    token_input(specs).or_else(|| specs.iter().find(|spec| spec.name == EMBEDDINGS))
}

#[cfg(test)]
mod tests {
    use zqc_ir::onnx::proto::tensor_proto::DataType;

    use super::*;
    use crate::inputs::spec::for_tests as spec;

    #[test]
    fn tokens_go_where_integers_mean_nothing_else() {
        let a = spec("tokens", DataType::Int32, &[-1, -1]);
        let b = spec("segments", DataType::Int64, &[-1, -1]);
        let mask = spec("attention_mask", DataType::Int64, &[-1, -1]);
        let positions = spec("position_ids", DataType::Int64, &[-1, -1]);
        let decoder = spec("decoder_input_ids", DataType::Int64, &[-1, -1]);
        let floats = spec("features", DataType::Float, &[-1, -1]);
        assert_eq!(token_input(&[floats.clone(), a.clone()]), Some(&a));
        assert_eq!(token_input(&[mask.clone(), positions, a.clone()]), Some(&a));
        assert_eq!(token_input(&[a.clone(), b.clone(), decoder.clone()]), Some(&decoder));
        assert_eq!(token_inputs(&[a.clone(), floats.clone(), b.clone()]), [&a, &b]);
        assert_eq!(token_inputs(&[a.clone(), decoder.clone()]), [&decoder]);
        assert_eq!(token_input(&[a, b]), None);
        assert_eq!(token_input(&[floats, mask]), None);
    }
}
