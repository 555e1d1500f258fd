//! The definition against sums in double precision of the values that `zqc-numerics` gives to the codes.
