//! Damaged text gives errors with a place, never a panic, and takes no memory that it does not justify.

use proptest::prelude::*;
use zqc_ir::onnx::{ModelError, from_proto};
use zqc_ir::text;

use crate::protos::small;
use crate::text::everything;

/// A model with all that the language has.
fn whole() -> String {
    text::exact(&from_proto(everything()).unwrap()).unwrap()
}

/// Reads `text`; a model that comes out of it can be printed.
fn exercise(text: &str) -> bool {
    let Ok(model) = text::parse(text) else { return false };
    text::exact(&model).unwrap();
    model.to_string();
    true
}

/// The first place from `at` on where a character begins, or the end.
fn boundary(text: &str, at: usize) -> usize {
    (at..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
}

fn refusal(text: &str) -> String {
    match text::parse(text) {
        Err(ModelError::Text(error)) => error.to_string(),
        Err(error) => format!("model: {error}"),
        Ok(model) => panic!("{model}"),
    }
}

proptest! {
    #[test]
    fn any_text_does_no_harm(text in any::<String>()) {
        prop_assert!(!exercise(&text));
    }

    #[test]
    fn changed_text_does_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), r#"[%@"\\/<>(){}=:,?_0-9a-z. -]{0,4}"#), 1..6),
    ) {
        let mut text = whole();
        for (index, piece) in changes {
            let at = boundary(&text, index.index(text.len()));
            let end = boundary(&text, at + piece.len());
            text.replace_range(at..end, &piece);
        }
        exercise(&text);
    }

    #[test]
    fn moved_pieces_do_no_harm(from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), length in 1..64usize) {
        let mut text = whole();
        let [from, to] = [from, to].map(|index| boundary(&text, index.index(text.len())));
        let piece = text[from..boundary(&text, from + length)].to_string();
        text.insert_str(to, &piece);
        exercise(&text);
    }
}

#[test]
fn a_text_cut_anywhere_is_an_error() {
    let whole = whole();
    assert!(exercise(&whole));
    for end in (0..whole.trim_end().len()).filter(|&end| whole.is_char_boundary(end)) {
        assert!(!exercise(&whole[..end]), "{end} bytes are a model");
    }
}

#[test]
fn errors_name_line_and_column() {
    let graph = |body: &str| format!("model ir_version=10 imports(20)\ngraph g () -> () {{\n{body}\n}}\n");
    for (text, message) in [
        ("modle".to_string(), "line 1, column 1: expected 'model', found 'modle'"),
        (
            graph("  const %w: f33[2] = dense<1, 2>"),
            "line 3, column 13: expected an element type such as f32, found 'f33'",
        ),
        (
            graph("  const %w: f32[2] = dense<1>"),
            "line 3, column 22: [2] of f32 needs 8 bytes, the payload has 4",
        ),
        (graph("const %w: i8[2] = dense<1, 128>"), "line 3, column 28: expected an element, found '128'"),
        (graph("const %ü: i8[] = opaque"), "line 3, column 7: a name is missing"),
        (
            graph("const %\"ü\": i8[-1] = opaque"),
            "line 3, column 22: dimensions [-1] are negative or overflow",
        ),
        (graph("%y = Relu(%x"), "line 4, column 1: expected ',', found '}'"),
        (graph("%y = Relu(\"x)"), "line 3, column 11: this string has no end"),
        (
            graph("%y = Relu(%x) {a = [1, 2.5]}"),
            "line 3, column 21: a list has values of one kind, and at least one; an empty one is ints [], floats [] ...",
        ),
        (
            graph("%y = Relu(%x) {a = 99999999999999999999}"),
            "line 3, column 20: expected an integer of 64 bits, found '99999999999999999999'",
        ),
        (
            graph("%y = zqc.cubic(%x)"),
            "line 3, column 6: there is no operator zqc.cubic; an ONNX operator of this name is written in quotes",
        ),
        (
            graph("%y = zqc.quantize_activation(%x) {format = \"e9\"}"),
            "line 3, column 6: zqc.quantize_activation: e9 is no format",
        ),
        (graph("%y = A(%x) proto<0xzz>"), "line 3, column 18: bytes have two hexadecimal digits each"),
        (graph("types(%a)"), "line 3, column 9: %a has no type to be listed before this"),
        (
            graph("%y = Relu(%x)"),
            "model: this is not a valid ONNX graph: node Relu -> \"y\": it reads \"x\", which nothing defines",
        ),
        (graph("} trailing"), "line 3, column 3: expected the end, after the graph, found 'trailing'"),
    ] {
        assert_eq!(refusal(&text), message, "{text}");
    }
}

#[test]
fn sizes_are_checked_before_memory_is_taken() {
    let splat = |dims: &str, count: usize| {
        let constants: String =
            (0..count).map(|at| format!("const %w{at}: f32[{dims}] = splat<0.5>\n")).collect();
        format!("model ir_version=10 imports(20) graph () -> () {{ {constants} }}")
    };
    assert!(exercise(&splat("1024, 1024", 16)));
    for (text, expected) in [
        (splat("1000000000", 1), "may have 67108864 bytes together"),
        (splat("1000000000, 1000000000", 1), "overflow"),
        (splat("1024, 1024", 17), "may have 67108864 bytes together"),
        (splat("9223372036854775807, 4", 1), "overflow"),
        (splat("-1", 1), "negative"),
    ] {
        assert!(refusal(&text).contains(expected), "{}", refusal(&text));
    }
}

#[test]
fn nesting_without_end_is_refused() {
    let model = |body: &str| format!("model ir_version=10 imports(20) graph (%x: {body}) -> () {{}}");
    assert!(refusal(&model(&"seq(".repeat(100_000))).contains("types are nested too deeply"));
    let open = "{ %y = If(%x) {b = graph () -> () ".repeat(100_000);
    assert!(refusal(&format!("model graph () -> () {open}")).contains("graphs are nested too deeply"));
    assert!(exercise(&model("seq(optional(map(i64, f32[n, ?])))")));
}

#[test]
fn constants_in_other_files_are_no_matter_of_a_text_in_memory() {
    let text =
        "model ir_version=10 imports(20) graph () -> () { const %w: f32[1] = external<\"w.bin\", 0, 4> }";
    assert!(refusal(text).contains("the model is in memory"), "{}", refusal(text));
}

#[test]
fn a_long_text_takes_time_in_proportion() {
    let text = text::exact(&from_proto(small()).unwrap()).unwrap();
    let start = text.find("  %xw").unwrap();
    let chain = |nodes: usize| {
        let nodes: String = (0..nodes).map(|at| format!("  %v{at} = Neg(%x) @n{at}\n")).collect();
        format!("{}{nodes}{}", &text[..start], &text[start..])
    };
    let began = std::time::Instant::now();
    assert!(exercise(&chain(200_000)));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
