//! `zqc_cuda_version`.

/// A part of this crate's version, as the header's macros have them.
const fn version_part(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(part) => part,
        Err(_) => panic!("no number"),
    }
}

const VERSION: u32 = 1_000_000 * version_part(env!("CARGO_PKG_VERSION_MAJOR"))
    + 1_000 * version_part(env!("CARGO_PKG_VERSION_MINOR"))
    + version_part(env!("CARGO_PKG_VERSION_PATCH"));

#[unsafe(no_mangle)]
extern "C" fn zqc_cuda_version() -> u32 {
    VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_header() {
        let header = include_str!("../../include/zqc_cuda.h");
        let parts = ["MAJOR", "MINOR", "PATCH"].map(|part| {
            let name = format!("#define ZQC_CUDA_VERSION_{part} ");
            let line = header.lines().find_map(|line| line.strip_prefix(&*name));
            line.unwrap_or_else(|| panic!("no {name}"))
        });
        assert_eq!(parts.join("."), env!("CARGO_PKG_VERSION"));
        let [major, minor, patch] = parts.map(|part| part.parse::<u32>().unwrap());
        assert_eq!(zqc_cuda_version(), 1_000_000 * major + 1_000 * minor + patch);
    }
}
