//! Lists of opset imports, of a model or a function. A domain should be imported once; where it is imported several times, the
//! last import counts, as in ONNX Runtime, and `ai.onnx` is another name of the standard domain.

use crate::onnx::proto::OperatorSetIdProto;
use crate::op::is_standard;

/// Whether two names mean one domain.
pub fn is_same_domain(a: &str, b: &str) -> bool {
    a == b || is_standard(a) && is_standard(b)
}

/// The imported version of `domain`, if it is imported.
pub fn version(imports: &[OperatorSetIdProto], domain: &str) -> Option<i64> {
    let of_domain = |import: &&OperatorSetIdProto| is_same_domain(import.domain(), domain);
    imports.iter().rev().find(of_domain).map(|import| import.version())
}

/// Imports `version` of `domain`, once: in place of its first import, or at the end. Of the two names of the standard domain the
/// empty one stays, which ONNX Runtime wants in functions.
pub fn import(imports: &mut Vec<OperatorSetIdProto>, domain: &str, version: i64) {
    let of_domain = |import: &OperatorSetIdProto| is_same_domain(import.domain(), domain);
    match imports.iter().position(of_domain) {
        Some(first) => {
            let plain =
                imports.iter().find(|import| of_domain(import) && import.domain().is_empty()).cloned();
            if let Some(plain) = plain {
                imports[first] = plain;
            }
            imports[first].version = Some(version);
            let mut at = 0..;
            imports.retain(|import| at.next() == Some(first) || !of_domain(import));
        }
        None => imports.push(OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(version) }),
    }
}

/// The domains that are imported more than once, each with the version that counts.
pub fn repeated(imports: &[OperatorSetIdProto]) -> Vec<(String, i64)> {
    let mut repeated: Vec<(String, i64)> = Vec::new();
    for (at, import) in imports.iter().enumerate() {
        let of_domain = |other: &OperatorSetIdProto| is_same_domain(other.domain(), import.domain());
        let is_first_of_several =
            !imports[..at].iter().any(of_domain) && imports[at + 1..].iter().any(of_domain);
        if let (true, Some(version)) = (is_first_of_several, version(imports, import.domain())) {
            repeated.push((import.domain().to_string(), version));
        }
    }
    repeated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(list: &[(&str, i64)]) -> Vec<OperatorSetIdProto> {
        let import = |&(domain, version): &(&str, i64)| OperatorSetIdProto {
            domain: Some(domain.to_string()),
            version: Some(version),
        };
        list.iter().map(import).collect()
    }

    #[test]
    fn the_last_import_of_a_domain_counts() {
        assert_eq!(version(&imports(&[("", 13), ("com.microsoft", 1), ("", 12)]), ""), Some(12));
        assert_eq!(version(&imports(&[("ai.onnx", 13), ("", 12)]), "ai.onnx"), Some(12));
        assert_eq!(version(&imports(&[("", 13), ("ai.onnx", 12)]), ""), Some(12));
        assert_eq!(version(&imports(&[("user", 1)]), ""), None);
    }

    #[test]
    fn an_import_takes_the_place_of_all_others_of_its_domain() {
        let mut list = imports(&[("a", 1), ("ai.onnx", 17), ("b", 2), ("", 18), ("b", 2)]);
        assert_eq!(repeated(&list), [("ai.onnx".to_string(), 18), ("b".to_string(), 2)]);
        import(&mut list, "", 19);
        import(&mut list, "b", 2);
        import(&mut list, "c", 3);
        assert_eq!(list, imports(&[("a", 1), ("", 19), ("b", 2), ("c", 3)]));
        assert_eq!(repeated(&list), []);
        let mut alone = imports(&[("ai.onnx", 17)]);
        import(&mut alone, "", 19);
        assert_eq!(alone, imports(&[("ai.onnx", 19)]));
    }
}
