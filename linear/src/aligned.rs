//! Memory that begins at a cache line.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Elements of which the first lies at the begin of a cache line, so that no vector and no row of a tile spans two.
pub(crate) struct Aligned<T> {
    elements: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// As many elements, all of them 0.
    pub(crate) fn new(len: usize) -> Self {
        let spare = if len == 0 { 0 } else { CACHE_LINE / size_of::<T>() };
        let elements = vec![T::default(); len + spare];
        let first = elements.as_ptr().align_offset(CACHE_LINE).min(spare);
        Self { elements, first, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.elements[self.first..self.first + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.elements[self.first..self.first + self.len]
    }
}
