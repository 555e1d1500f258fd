//! Derives inputs from those that are given.

use std::collections::BTreeMap;

use super::meaning::Meaning;
use super::spec::{Dimension, InputSpec};
use crate::array::{Array, ArrayData, element_count};

/// Arrays of more elements are not derived.
pub(super) const MOST_VALUES: usize = 1 << 26;

/// Rotary embeddings of several axes have a row of positions for each.
const MOST_POSITION_ROWS: usize = 16;

/// What the inputs of a run are derived from.
pub(super) struct Context<'a> {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each; there are none before them.
    pub seq: usize,
    /// The input that takes the tokens or their embeddings.
    pub leading: &'a InputSpec,
    /// The value of that input.
    pub tokens: &'a Array,
    /// All inputs.
    pub specs: &'a [InputSpec],
    /// The inputs that are given, by name.
    pub given: &'a BTreeMap<String, Array>,
}

/// Why states of the encoder, and keys and values of them, have to be given.
const ENCODED: &str = "it is an output of the encoder";

/// Why there is no mask of them.
const UNCOUNTED: &str = "it has an entry for every state of the encoder, and those are not given either";

impl Context<'_> {
    /// The array for `spec`, in an element type that can be cast to its own, or why there is none.
    pub(super) fn derive(&self, spec: &InputSpec) -> Result<Array, String> {
        let Some(meaning) = spec.meaning() else {
            return Err("its name and rank match no rule".to_string());
        };
        let value = |value: i64| filled(vec![1; spec.rank().unwrap_or(0)], value);
        match meaning {
            Meaning::UseCache | Meaning::LogitsToKeep => value(0),
            Meaning::Window => value(i32::MAX.into()),
            Meaning::Mask => self.mask(spec),
            Meaning::Segments => filled(vec![self.batch, self.seq], 0),
            Meaning::EncoderMask => filled(vec![self.batch, self.encoded().ok_or(UNCOUNTED)?], 1),
            Meaning::CausalMask => self.causal_mask(spec),
            Meaning::Positions => self.positions(spec),
            Meaning::PastLength => self.length(spec, 0),
            Meaning::LastPosition => self.length(spec, self.seq as i64 - 1),
            Meaning::TotalLength => self.length(spec, self.seq as i64),
            Meaning::DecoderTokens => Ok(self.tokens.clone()),
            Meaning::EncoderStates => Err(ENCODED.to_string()),
            Meaning::EncoderCache if self.takes_branch_without_caches() => self.before_the_first(spec, true),
            Meaning::EncoderCache => Err(ENCODED.to_string()),
            Meaning::State => self.before_the_first(spec, false),
            Meaning::Cache => self.before_the_first(spec, true),
        }
    }

    /// How many states of the encoder are given, as such, `[batch, states, features]`, or as caches, `[batch, heads, states, features]`.
    fn encoded(&self) -> Option<usize> {
        let (states, caches) = (Some(Meaning::EncoderStates), Some(Meaning::EncoderCache));
        self.specs.iter().find_map(|spec| {
            let axis = [states, caches].iter().position(|meaning| *meaning == spec.meaning())? + 1;
            self.given.get(&spec.name)?.shape.get(axis).copied()
        })
    }

    fn mask(&self, spec: &InputSpec) -> Result<Array, String> {
        let before = match spec.shape.as_deref() {
            Some([_, Dimension::Fixed(all)]) => all.saturating_sub(self.seq),
            _ => 0,
        };
        let holds = |spec: &InputSpec| {
            let is_cache = spec.meaning() == Some(Meaning::Cache);
            is_cache && spec.shape.iter().flatten().any(|dim| *dim == Dimension::Fixed(before))
        };
        if before == 0 || !self.specs.iter().any(holds) {
            return filled(vec![self.batch, self.seq], 1);
        }
        let shape = vec![self.batch, before + self.seq];
        let counts = (0..count(&shape)?).map(|at| i64::from(at % (before + self.seq) >= before));
        Ok(Array { data: counts.collect::<Vec<_>>().into(), shape })
    }

    fn takes_branch_without_caches(&self) -> bool {
        let is_branch = |spec: &&InputSpec| spec.meaning() == Some(Meaning::UseCache);
        let Some(branch) = self.specs.iter().find(is_branch) else { return false };
        let chosen = self.given.get(&branch.name).and_then(Array::to_i64);
        chosen.is_none_or(|chosen| chosen.iter().all(|&chosen| chosen == 0))
    }

    /// A length, once or for every sequence.
    fn length(&self, spec: &InputSpec, length: i64) -> Result<Array, String> {
        let extent = |(axis, dim): (usize, &Dimension)| match dim {
            Dimension::Fixed(extent) => *extent,
            Dimension::Symbolic(_) if axis == 0 => self.batch,
            Dimension::Symbolic(_) => 1,
        };
        filled(spec.shape.iter().flatten().enumerate().map(extent).collect(), length)
    }

    /// Encoders have masks of such a shape too, in which tokens attend to those after them: a mask is causal only where the model
    /// has caches or the name says so.
    fn causal_mask(&self, spec: &InputSpec) -> Result<Array, String> {
        let has_caches = self.specs.iter().any(|spec| spec.meaning() == Some(Meaning::Cache));
        if !has_caches && !spec.name.to_lowercase().contains("causal") {
            return Err("nothing tells whether it is causal".to_string());
        }
        let heads = match spec.shape.as_deref() {
            Some([_, Dimension::Fixed(heads), ..]) => *heads,
            _ => 1,
        };
        let shape = vec![self.batch, heads, self.seq, self.seq];
        let attends = (0..count(&shape)?).map(|at| at % self.seq <= at / self.seq % self.seq);
        let data: ArrayData = match spec.is_float() {
            true => attends.map(|attends| if attends { 0.0 } else { f32::MIN }).collect::<Vec<_>>().into(),
            false => attends.map(i64::from).collect::<Vec<_>>().into(),
        };
        Ok(Array { shape, data })
    }

    fn positions(&self, spec: &InputSpec) -> Result<Array, String> {
        let rows = |dim: &Dimension| match dim {
            Dimension::Fixed(rows) if *rows <= self.batch.max(MOST_POSITION_ROWS) => Ok(*rows),
            _ => Err("nothing says how many rows of positions there are".to_string()),
        };
        let shape = match spec.shape.as_deref() {
            Some([_]) => vec![self.seq],
            Some([Dimension::Symbolic(_), _]) | None => vec![self.batch, self.seq],
            Some([fixed, _]) => vec![rows(fixed)?, self.seq],
            Some([axes, ..]) => vec![rows(axes)?, self.batch, self.seq],
            Some([]) => return Err("positions are not a scalar".to_string()),
        };
        let position = |at: usize| (at % self.seq) as i64;
        let data: Vec<i64> = (0..count(&shape)?).map(position).collect();
        Ok(Array { shape, data: data.into() })
    }

    /// A cache or a state before the first token: zeros, if there are any elements.
    ///
    /// An open dimension is the batch or the length by its symbol. Where the symbols do not tell, the first dimension is the batch
    /// (of five, the second can be), and another the length if the input has one.
    fn before_the_first(&self, spec: &InputSpec, has_length: bool) -> Result<Array, String> {
        let dims = spec.shape.as_deref().ok_or("its shape is not declared")?;
        let batch_symbol = self.leading.shape.iter().flatten().next();
        let is_batch = |symbol: &String| {
            let of_tokens = matches!(batch_symbol, Some(Dimension::Symbolic(batch)) if batch == symbol);
            symbol.contains("batch") || of_tokens && !symbol.is_empty()
        };
        let is_length = |symbol: &String| ["past", "seq", "len"].iter().any(|part| symbol.contains(part));
        let (mut batch, mut length_is_open, mut others) = (None, has_length, Vec::new());
        for (axis, dim) in dims.iter().enumerate() {
            match dim {
                Dimension::Fixed(_) => {}
                Dimension::Symbolic(symbol) if is_batch(symbol) && batch.is_none() => batch = Some(axis),
                Dimension::Symbolic(symbol) if length_is_open && is_length(symbol) => length_is_open = false,
                Dimension::Symbolic(_) => others.push(axis),
            }
        }
        let in_front = |&axis: &usize| axis == 0 || axis == 1 && dims.len() == 5 && others.len() > 1;
        if batch.is_none() && others.first().is_some_and(in_front) {
            batch = Some(others.remove(0));
        }
        if length_is_open && !others.is_empty() {
            others.remove(0);
        }
        if let Some(&axis) = others.first() {
            return Err(format!("nothing says what its size {:?} is", dims[axis].to_string()));
        }
        let extent = |(axis, dim): (usize, &Dimension)| match dim {
            Dimension::Fixed(extent) => *extent,
            Dimension::Symbolic(_) if batch == Some(axis) => self.batch,
            Dimension::Symbolic(_) => 0,
        };
        filled(dims.iter().enumerate().map(extent).collect(), 0)
    }
}

/// An array of one value.
fn filled(shape: Vec<usize>, value: i64) -> Result<Array, String> {
    Ok(Array { data: vec![value; count(&shape)?].into(), shape })
}

/// The number of elements of a derived array.
fn count(shape: &[usize]) -> Result<usize, String> {
    let count = element_count(shape).filter(|&count| count <= MOST_VALUES);
    count.ok_or_else(|| format!("an array of shape {shape:?} is too large"))
}

#[cfg(test)]
mod tests;
