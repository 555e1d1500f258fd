//! A product, divided among the threads of a pool.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::aligned::Aligned;
use crate::error::ShapeError;
use crate::finish::Epilogue;
use crate::kernels::Kernels;
use crate::operands::{Columns, Output, Tokens};
use crate::packed::PackedLinear;
use crate::pool::{Pool, Serial};
use crate::prepare::{Arrangement, Values, ValuesMut};
use crate::tiling::PANEL;

/// Panels that are in work at once, at least: those whose products the kernels add side by side.
const PANELS: usize = 4;
/// Sums that are in work at once, if that is more: they stay in a first-level cache.
const SUMS: usize = 4096;
/// Tasks for a thread, so that one that is late has less left to do.
const TASKS_PER_THREAD: usize = 4;
/// Products below which other threads are not worth waking: some 10 microseconds.
const FEW_PRODUCTS: usize = 1 << 18;

impl PackedLinear {
    /// Computes `output` `[M, N]` of `tokens` `[M, K]`.
    ///
    /// # Errors
    /// When the slices do not fit.
    pub fn forward(&self, tokens: Tokens<'_>, output: Output<'_>, pool: &dyn Pool) -> Result<(), ShapeError> {
        let m = tokens.rows(self.k)?;
        ShapeError::check("outputs", output.len(), m * self.n)?;
        forward(self, m, &tokens, output, pool);
        Ok(())
    }
}

/// Computes `output` `[M, N]` of `tokens` `[M, K]`, which fit the layer.
fn forward(layer: &PackedLinear, m: usize, tokens: &Tokens<'_>, mut output: Output<'_>, pool: &dyn Pool) {
    let kernels = Kernels::of(layer.isa, tokens, m, layer.low_rank.is_some());
    let few = layer.k.saturating_mul(layer.n).saturating_mul(m) < FEW_PRODUCTS;
    let pool = if few || pool.threads() < 2 { &Serial } else { pool };
    let columns = Columns::new(&mut output, layer.n);
    for first in (0..m).step_by(kernels.form.chunk()) {
        chunk(layer, &kernels, first..m.min(first + kernels.form.chunk()), tokens, &columns, pool);
    }
}

/// The tokens of a chunk, ready for the weight.
struct Batch {
    /// Divided as the groups of the weight are.
    grouped: Values,
    /// Divided as one group is, for `V`, where that differs.
    plain: Option<Values>,
    /// Scales of tokens.
    scales: Vec<f32>,
    /// The components of the low-rank branch.
    components: Vec<f32>,
}

/// A tile of a [`Batch`].
struct Tile<'a> {
    grouped: ValuesMut<'a>,
    plain: Option<ValuesMut<'a>>,
    scales: &'a mut [f32],
    components: &'a mut [f32],
}

fn chunk(
    layer: &PackedLinear,
    kernels: &Kernels,
    range: Range<usize>,
    tokens: &Tokens<'_>,
    output: &Columns<'_>,
    pool: &dyn Pool,
) {
    let m = range.len();
    let arrangement = Arrangement::new(kernels.form, &layer.weight, m);
    let plain = layer.low_rank.as_ref().filter(|_| !layer.weight.groups.are_plain());
    let stride = layer.low_rank.as_ref().map_or(0, |branch| branch.down.panels * PANEL);
    let mut batch = Batch {
        grouped: Values::new(arrangement, m),
        plain: plain.map(|branch| Values::new(Arrangement::new(kernels.form, &branch.down, m), m)),
        scales: vec![0.0; m],
        components: vec![0.0; m * stride],
    };
    batch.prepare(layer, kernels, range.clone(), tokens, stride, pool);

    let tasks = match pool.threads() {
        1 => 1,
        threads => layer.weight.panels.div_ceil(PANELS).min(threads * TASKS_PER_THREAD),
    };
    let fair = (layer.weight.panels / tasks).next_multiple_of(PANELS);
    let at_once = (SUMS / (m * PANEL)).next_multiple_of(PANELS).clamp(PANELS, fair.max(PANELS));
    let units = layer.weight.panels.div_ceil(at_once);
    let epilogue = Epilogue {
        row_scales: &layer.row_scales,
        token_scales: &batch.scales,
        up: layer.low_rank.as_ref().map(|branch| &branch.up),
        components: &batch.components,
        stride,
        bias: &layer.bias,
        output,
        first: range.start,
    };
    pool.run(tasks, &|task| {
        let mut acc = Aligned::new(at_once * m * PANEL);
        let mut space = Vec::new();
        for unit in units * task / tasks..units * (task + 1) / tasks {
            let panels = unit * at_once..layer.weight.panels.min((unit + 1) * at_once);
            kernels.accumulate(&layer.weight, panels.clone(), batch.grouped.view(m), &mut acc);
            // SAFETY: no other task has these panels.
            unsafe { kernels.finish(&epilogue, panels, &acc, &mut space) };
        }
    });
}

impl Batch {
    /// Reads the tokens, and computes the components of the low-rank branch.
    fn prepare(
        &mut self,
        layer: &PackedLinear,
        kernels: &Kernels,
        range: Range<usize>,
        tokens: &Tokens<'_>,
        stride: usize,
        pool: &dyn Pool,
    ) {
        let tile = self.grouped.arrangement.tile;
        let mut plain = self.plain.as_mut().map(Values::tiles);
        let mut components = self.components.chunks_mut((tile * stride).max(1));
        let tiles = self.grouped.tiles().zip(self.scales.chunks_mut(tile));
        let tiles: Vec<_> = tiles
            .map(|(grouped, scales)| Tile {
                grouped,
                plain: plain.as_mut().and_then(Iterator::next),
                scales,
                components: components.next().unwrap_or_default(),
            })
            .map(Mutex::new)
            .collect();
        let pool = if tiles.len() < 2 { &Serial } else { pool };
        pool.run(tiles.len(), &|at| {
            // Each task has its own, so no lock is waited for.
            let mut own = tiles[at].lock().unwrap_or_else(PoisonError::into_inner);
            own.prepare(layer, kernels, range.start + at * tile, tokens, stride);
        });
    }
}

impl Tile<'_> {
    fn prepare(
        &mut self,
        layer: &PackedLinear,
        kernels: &Kernels,
        first: usize,
        tokens: &Tokens<'_>,
        stride: usize,
    ) {
        let mut x = vec![0.0; layer.k];
        for (row, scale) in self.scales.iter_mut().enumerate() {
            let to = [Some(&mut self.grouped), self.plain.as_mut()];
            *scale = kernels.prepare(tokens, first + row, &mut x, row, to);
        }
        let Some(branch) = &layer.low_rank else { return };
        let view = self.plain.as_ref().unwrap_or(&self.grouped).view(self.scales.len());
        let mut acc = Aligned::new(view.tokens * PANEL);
        for panel in 0..branch.down.panels {
            kernels.accumulate(&branch.down, panel..panel + 1, view, &mut acc);
            for (token, acc) in acc.chunks_exact(PANEL).enumerate() {
                let scales = branch.scales[panel * PANEL..].iter().take(PANEL);
                let to = &mut self.components[token * stride + panel * PANEL..];
                for ((to, dot), scale) in to.iter_mut().zip(acc).zip(scales) {
                    *to = dot * scale * self.scales[token];
                }
            }
        }
    }
}
