//! A change of the public interface is one that somebody made on purpose.

#[test]
fn docs_api_is_the_public_interface() {
    for (path, expected) in zqc_api::listings().unwrap() {
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let line = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
        let line = line.unwrap_or(found.lines().count().min(expected.lines().count()));
        let at = |text: &str| text.lines().nth(line).unwrap_or("nothing").to_string();
        assert!(
            found == expected,
            "{}:{}: {:?} is now {:?}; if that is meant, run `cargo run -p zqc-api` and look at the difference",
            path.display(),
            line + 1,
            at(&found),
            at(&expected)
        );
    }
}
