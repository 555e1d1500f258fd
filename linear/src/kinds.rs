//! The kinds of weights that kernels are compiled for.

/// Calls a function that is compiled for each kind of weight, by codings of some vectors and by groupings: the one for `matrix`.
///
/// `by_kind!(matrix, V, function [A] [B] (arguments))` is `function::<A, V::Nibbles, Scaled, B>(arguments)` for codes of 4 bits whose
/// groups have a scale.
macro_rules! by_kind {
    ($matrix:expr, $lanes:ty, $function:ident [$($before:ty),*] [$($after:ty),*] $arguments:tt) => {
        $crate::kinds::by_integer_kind!($matrix, $lanes, $function [$($before),*] [$($after),*] $arguments, else {
            match (&$matrix.coding, &$matrix.scales) {
                ($crate::tiling::Coding::E4M3, $crate::matrix::GroupScales::Floats(_)) => {
                    $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::E4M3, $crate::walk::Scaled $(, $after)*> $arguments
                }
                ($crate::tiling::Coding::E4M3, $crate::matrix::GroupScales::One) => {
                    $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::E4M3, $crate::walk::Through $(, $after)*> $arguments
                }
                ($crate::tiling::Coding::E5M2, $crate::matrix::GroupScales::Floats(_)) => {
                    $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::E5M2, $crate::walk::Scaled $(, $after)*> $arguments
                }
                ($crate::tiling::Coding::Bf16, $crate::matrix::GroupScales::One) => {
                    $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::Bf16, $crate::walk::Through $(, $after)*> $arguments
                }
                ($crate::tiling::Coding::Nibbles, $crate::matrix::GroupScales::Ladder(::zqc_formats::Ladder::M8, ..)) => {
                    $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::Nibbles, $crate::walk::Stepped $(, $after)*> $arguments
                }
                (coding, _) => unreachable!("no layer has {coding:?} in such groups"),
            }
        })
    };
}

/// As [`by_kind`], for weights that are integers; or another expression.
macro_rules! by_integer_kind {
    ($matrix:expr, $lanes:ty, $function:ident [$($before:ty),*] [$($after:ty),*] $arguments:tt, else $other:block) => {
        match (&$matrix.coding, &$matrix.scales, $matrix.zero_points.is_empty()) {
            (
                $crate::tiling::Coding::Nibbles,
                $crate::matrix::GroupScales::Ladder(::zqc_formats::Ladder::M2 | ::zqc_formats::Ladder::M3, ..),
                _,
            ) => {
                $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::Nibbles, $crate::walk::Through $(, $after)*> $arguments
            }
            ($crate::tiling::Coding::Nibbles, $crate::matrix::GroupScales::Floats(_), true) => {
                $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::Nibbles, $crate::walk::Scaled $(, $after)*> $arguments
            }
            ($crate::tiling::Coding::Nibbles, $crate::matrix::GroupScales::Floats(_), false) => {
                $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::Nibbles, $crate::walk::Centred $(, $after)*> $arguments
            }
            ($crate::tiling::Coding::Int8, $crate::matrix::GroupScales::Floats(_), true) => {
                $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::Int8, $crate::walk::Scaled $(, $after)*> $arguments
            }
            ($crate::tiling::Coding::Int8, $crate::matrix::GroupScales::Floats(_), false) => {
                $function::<$($before,)* <$lanes as $crate::lanes::Lanes>::Int8, $crate::walk::Centred $(, $after)*> $arguments
            }
            _ => $other,
        }
    };
}

pub(crate) use {by_integer_kind, by_kind};
