//! Tokens are quantized as `zqc-numerics` does, bit for bit.
