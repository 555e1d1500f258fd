//! The environment variables that the launcher reads.

/// Names the folder that the kernel cache lies in; an empty value turns the cache off.
pub(crate) const CACHE_FOLDER: &str = "ZQC_CACHE";

/// Names the folder of libnvrtc, for machines on which the dynamic loader does not find it.
pub(crate) const NVRTC_FOLDER: &str = "ZQC_NVRTC_LIB";
