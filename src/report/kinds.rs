//! Layers of one kind: those that do the same in each block of a model.

/// More kinds than this tell nothing: the names of the layers do not repeat from block to block.
const MOST: usize = 12;

/// The items of each kind, in the order of their first; `paths` gives the paths of the layers that an item is about.
/// All items are of one kind where their names tell nothing.
pub(super) fn by_kind<T>(items: &[T], paths: impl Fn(&T) -> Vec<&str>) -> Vec<(String, Vec<&T>)> {
    let mut kinds: Vec<(String, Vec<&T>)> = Vec::new();
    for item in items {
        let names: Vec<&str> = paths(item).into_iter().map(kind).collect();
        let name = names.join(", ");
        match kinds.iter_mut().find(|(known, _)| *known == name) {
            Some((_, members)) => members.push(item),
            None => kinds.push((name, vec![item])),
        }
    }
    if kinds.len() > MOST { vec![("all layers".to_string(), items.iter().collect())] } else { kinds }
}

/// The last component of a layer's path that is no number: `q_proj` of `model.layers.0.self_attn.q_proj#2`.
fn kind(path: &str) -> &str {
    let path = path.split_once('#').map_or(path, |(path, _count)| path);
    let is_name = |part: &&str| !part.is_empty() && !part.bytes().all(|byte| byte.is_ascii_digit());
    path.rsplit('.').find(is_name).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_path() {
        let kinds = ["model.layers.0.mlp.up_proj", "encoder.dense#12", "head.3", "7", "lm_head"].map(kind);
        assert_eq!(kinds, ["up_proj", "dense", "head", "7", "lm_head"]);
    }

    #[test]
    fn kinds_come_in_the_order_of_their_first_layer() {
        let layers = ["0.q", "0.k", "1.q", "1.k"];
        assert_eq!(
            by_kind(&layers, |layer| vec![*layer]),
            [("q".to_string(), vec![&"0.q", &"1.q"]), ("k".to_string(), vec![&"0.k", &"1.k"])]
        );
    }

    #[test]
    fn names_that_do_not_repeat_make_one_kind() {
        let layers: Vec<String> = (0..20).map(|i| format!("MatMul_{i}")).collect();
        assert_eq!(by_kind(&layers, |layer| vec![layer]).len(), 1);
    }
}
