//! Which instructions compute.

use std::fmt;
use std::sync::OnceLock;

use crate::error::IsaError;

/// An instruction set that the kernels are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// None in particular.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same and VNNI, for products of integers.
    Vnni,
    /// AMX BF16 for several tokens at once, else as [`Isa::Avx512`]. Linux only.
    Amx,
    /// NEON of 64-bit ARM.
    Neon,
}

impl Isa {
    /// Every instruction set, the better after the worse.
    pub const ALL: [Self; 6] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512, Self::Vnni, Self::Amx];

    /// The name, as the variable `ZQC_CPU` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Vnni => "vnni",
            Self::Amx => "amx",
            Self::Neon => "neon",
        }
    }

    /// Whether the processor and the operating system offer it.
    pub fn is_available(self) -> bool {
        static AVAILABLE: OnceLock<[bool; Isa::ALL.len()]> = OnceLock::new();
        AVAILABLE.get_or_init(|| Self::ALL.map(offered))
            [Self::ALL.iter().position(|&isa| isa == self).unwrap_or(0)]
    }

    /// Those that the processor and the operating system offer, the better after the worse.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The one that the variable `ZQC_CPU` names, else the best one here.
    ///
    /// # Errors
    /// When the variable names none that can be used.
    pub fn detect() -> Result<Self, IsaError> {
        match std::env::var("ZQC_CPU") {
            Ok(name) if !name.is_empty() => Self::named(&name),
            _ => Ok(Self::best()),
        }
    }

    /// The fastest one here.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::Scalar)
    }

    /// The instruction set of this name.
    ///
    /// # Errors
    /// When there is none, or none that can be used here.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let isa = Self::ALL.into_iter().find(|isa| isa.name() == name);
        isa.ok_or_else(|| IsaError::Unknown { name: name.to_owned(), available: names() })?.check()
    }

    /// Itself, if it can be used here.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn check(self) -> Result<Self, IsaError> {
        let unavailable = || IsaError::Unavailable { name: self.name(), available: names() };
        self.is_available().then_some(self).ok_or_else(unavailable)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The names of the available ones.
fn names() -> String {
    Isa::available().map(Isa::name).collect::<Vec<_>>().join(", ")
}

#[cfg(target_arch = "x86_64")]
fn offered(isa: Isa) -> bool {
    let avx2 = || {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    };
    let avx512 = || {
        avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    };
    match isa {
        Isa::Scalar => true,
        Isa::Avx2 => avx2(),
        Isa::Avx512 => avx512(),
        Isa::Vnni => avx512() && is_x86_feature_detected!("avx512vnni"),
        Isa::Amx => avx512() && is_x86_feature_detected!("avx512vnni") && amx(),
        Isa::Neon => false,
    }
}

/// Whether the processor has AMX with bfloat16, the operating system saves its registers, and lets this process use them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    const TILE_STATE: u64 = 0b11 << 17;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;

    #[target_feature(enable = "xsave")]
    fn enabled_states() -> u64 {
        // SAFETY: the processor has XGETBV, as the caller checks.
        unsafe { _xgetbv(0) }
    }
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & BF16_AND_TILES != BF16_AND_TILES {
        return false;
    }
    // SAFETY: the operating system has set OSXSAVE, or it would not have let AVX be detected, which `offered` checks first.
    let states = unsafe { enabled_states() };
    // SAFETY: a request that changes nothing but this process's permission.
    states & TILE_STATE == TILE_STATE
        && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx() -> bool {
    false
}

#[cfg(target_arch = "aarch64")]
fn offered(isa: Isa) -> bool {
    matches!(isa, Isa::Scalar | Isa::Neon)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn offered(isa: Isa) -> bool {
    isa == Isa::Scalar
}
