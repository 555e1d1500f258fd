//! What does not fit is refused, with a word about it.
