//! How the values of options are read from the command line.

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};

use super::Choice;

/// Takes the words of a choice.
pub(crate) fn choice<T: Choice>() -> ValueParser {
    let words: PossibleValuesParser = T::CHOICES.iter().map(|(word, _)| *word).into();
    words.try_map(|word| T::of_word(&word).ok_or_else(|| format!("{word} is no choice"))).into()
}

/// A number from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("must be from 0 to 1".to_string()) }
}

/// A number from 1 on.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_string()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// A number of threads; more than any machine has cores is a slip of the keyboard.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    positive(text).and_then(|number| match number {
        0..=MOST => Ok(number),
        _ => Err(format!("must be at most {MOST}")),
    })
}
