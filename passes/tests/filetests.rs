//! Passes on models that are written down as text: `filetests/<pass>/<case>.zir` has a model, and behind a line what comes of it.
//!
//! ```text
//! // What the case is about.
//! // pass: canonicalize
//! model ir_version=10 imports(20)
//! graph ...
//! // ---
//! model ir_version=10 imports(20)
//! graph ...
//! // kept lm_head: what the passes report
//! ```
//!
//! Each line `// pass:` names a pass, with its options; the last one is what is tested. Where it refuses the model, its error stands
//! behind the line. A second run of it must change nothing. Constants without elements that matter are `opaque`; where a pass
//! computes with them, `splat<0.5>` is as short. `ZQC_BLESS=1` writes what comes of the models into the files.

mod filetests {
    pub mod case;
    pub mod passes;
}

use std::path::Path;

use filetests::case;

/// A test for each folder.
macro_rules! folders {
    ($($folder:ident),+ $(,)?) => {
        $(#[test]
        fn $folder() {
            case::run_folder(stringify!($folder));
        })+

        const FOLDERS: &[&str] = &[$(stringify!($folder)),+];
    };
}

folders! {
    canonicalize,
    expand_einsum,
    expand_fused,
    select,
    share_constants,
    share_operands,
    split_experts,
    upgrade_opset,
}

#[test]
fn every_folder_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut found: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, FOLDERS);
}
