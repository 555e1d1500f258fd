// Placeholder: the kernel is not written yet.
