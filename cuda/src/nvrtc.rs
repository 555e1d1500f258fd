//! CUDA C++ to a cubin, by NVRTC, which is loaded at run time and needs no GPU.

use std::env;
use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

use cudarc::nvrtc::{result, sys};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::environment::NVRTC_FOLDER;
use crate::error::Error;

/// NVRTC's version, major and minor. Loads the library.
pub fn version() -> Result<(i32, i32), Error> {
    load()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is loaded, and both pointers are to integers that live on.
    let status = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    status.result().map_err(|_| Error::NoCompiler)?;
    Ok((major, minor))
}

/// Compiles `source` with `headers`, pairs of name and text; `kernel` names it in errors.
pub fn compile(
    kernel: &str,
    source: &str,
    headers: &[(&str, &str)],
    options: &[String],
) -> Result<Vec<u8>, Error> {
    load()?;
    let failed = |reason: String| Error::Compile { kernel: kernel.into(), log: reason };
    let text = |text: &str| CString::new(text).map_err(|_| failed("a NUL byte in the source".into()));
    let (source, name) = (text(source)?, text(kernel)?);
    let names = headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>, _>>()?;
    let texts = headers.iter().map(|(_, header)| text(header)).collect::<Result<Vec<_>, _>>()?;
    let program = Program::new(&source, &name, &names, &texts).map_err(|e| failed(e.to_string()))?;
    for option in options {
        text(option)?;
    }
    // SAFETY: the program is alive; no option has a NUL byte.
    if let Err(error) = unsafe { result::compile_program(program.0, options) } {
        return Err(failed(program.log().unwrap_or_else(|| error.to_string())));
    }
    program.cubin().map_err(|e| failed(e.to_string()))
}

/// An NVRTC program, destroyed at the end. It does not outlive the texts that it is made of.
struct Program<'a>(sys::nvrtcProgram, std::marker::PhantomData<&'a CString>);

impl<'a> Program<'a> {
    fn new(
        source: &'a CString,
        name: &'a CString,
        header_names: &'a [CString],
        headers: &'a [CString],
    ) -> Result<Self, result::NvrtcError> {
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (name_pointers, header_pointers) = (pointers(header_names), pointers(headers));
        let mut program = ptr::null_mut();
        // SAFETY: every pointer is to a text that the program borrows, and there are as many names as headers.
        let status = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                headers.len() as c_int,
                header_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        status.result()?;
        Ok(Self(program, std::marker::PhantomData))
    }

    fn log(&self) -> Option<String> {
        // SAFETY: the program is alive.
        let log = unsafe { result::get_program_log(self.0) }.ok()?;
        let bytes: Vec<u8> = log.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn cubin(&self) -> Result<Vec<u8>, result::NvrtcError> {
        let mut length = 0;
        // SAFETY: the program is alive and compiled; the length is where NVRTC writes it.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut length) }.result()?;
        let mut cubin = vec![0_u8; length];
        // SAFETY: the buffer has the length that NVRTC asked for.
        unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast::<c_char>()) }.result()?;
        Ok(cubin)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the program was created by us and is destroyed once; a failure leaks it and harms nothing.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Makes cudarc's bindings usable, which panic where the library is missing.
fn load() -> Result<(), Error> {
    static LOADED: OnceLock<bool> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        // SAFETY: loading NVRTC runs its initializers, which touch nothing of ours.
        let is_present = || unsafe { sys::is_culib_present() };
        is_present() || load_from_folder().is_some() && is_present()
    });
    if *loaded { Ok(()) } else { Err(Error::NoCompiler) }
}

/// Loads the library of [`NVRTC_FOLDER`] for good: the bindings then find it by its name, as it is in memory.
fn load_from_folder() -> Option<()> {
    let folder = PathBuf::from(env::var_os(NVRTC_FOLDER).filter(|folder| !folder.is_empty())?);
    let library = newest_library(&folder)?;
    // SAFETY: as for the library that the loader finds by itself: the user vouches for the folder.
    let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) }.ok()?;
    std::mem::forget(library);
    Some(())
}

fn newest_library(folder: &Path) -> Option<PathBuf> {
    let entries = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    let is_library = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libnvrtc.so"))
    };
    entries.filter(is_library).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: [&str; 3] = ["--gpu-architecture=sm_90a", "-default-device", "-DZQC_K=72"];

    /// Compiles a source; `None` and a line without NVRTC.
    fn compiled(source: &str, headers: &[(&str, &str)]) -> Option<Result<Vec<u8>, Error>> {
        if let Err(error) = version() {
            eprintln!("skipped: {error}");
            return None;
        }
        Some(compile("test.cu ZQC_K=72", source, headers, &OPTIONS.map(String::from)))
    }

    #[test]
    fn macros_and_headers_reach_a_kernel() {
        let source = r#"
            #include "width.cuh"
            static_assert(ZQC_K == 72 && WIDTH == 32);
            extern "C" __global__ void fill(float* y) { y[threadIdx.x] = ZQC_K; }
        "#;
        let Some(cubin) = compiled(source, &[("width.cuh", "constexpr int WIDTH = 32;")]) else { return };
        let cubin = cubin.unwrap();
        assert_eq!(cubin[..4], *b"\x7fELF");
        assert!(cubin.windows(5).any(|bytes| bytes == b"fill\0"));
    }

    #[test]
    fn what_does_not_compile_is_an_error_of_one_line() {
        for (source, reason) in [("\nint x = nothing;\n", "nothing"), ("int x = 1;\0", "NUL byte")] {
            let Some(cubin) = compiled(source, &[]) else { return };
            let message = cubin.unwrap_err().to_string();
            assert!(message.contains("test.cu ZQC_K=72") && message.contains(reason), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
}
