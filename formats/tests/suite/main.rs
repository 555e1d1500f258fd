//! Formats against tables made by other implementations, matrices against their definitions.

mod formats;
mod low_rank;
mod matrix;
mod pack;
mod quantized;
mod tokens;

/// Reproducible random numbers: a linear congruential generator with Knuth's MMIX constants.
struct Random(u64);

impl Random {
    /// The next number, uniform in -1..1.
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `len` numbers, roughly normal.
    fn normal(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (0..6).map(|_| self.uniform()).sum::<f32>() * 0.7).collect()
    }
}

/// The `f32` values of a little-endian table.
fn floats(table: &[u8]) -> Vec<f32> {
    table.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}
