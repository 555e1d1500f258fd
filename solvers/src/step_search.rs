//! The joint search of a row's scale and the steps of its groups below it.

use zqc_formats::{Ladder, WeightFormat};

use crate::{
    columns::{Column, ROWS},
    row_scales::Steps,
    scale_search::{GroupScale, largest, nonzero_scale, squared_error},
};

/// The least and the largest ratio of a group's scale to the one that maps its largest weight to the largest code.
const RATIOS: [f32; 2] = [0.55, 1.6];

/// The joint search of a row's scale and its groups' steps.
pub(crate) struct StepSearch {
    pub format: WeightFormat,
    pub ladder: Ladder,
    pub max_shift: u8,
    /// Whether the scale of the row must be a power of two, too.
    pub power_of_two: bool,
}

impl StepSearch {
    /// For every row, the `choices` row scales of least error, or as many as are tried, with the steps that go with each;
    /// the best first.
    #[inline(always)]
    pub fn run(
        &self,
        columns: &[Column],
        importance: &[f32],
        group_size: usize,
        choices: usize,
    ) -> Vec<Steps> {
        let max = self.format.format.max();
        let groups = || columns.chunks(group_size).zip(importance.chunks(group_size));
        // 0 for a group of zeros, which then takes the last step: any will do.
        let widest: Vec<Column> = groups().map(|(group, _)| largest(group).map(|peak| peak / max)).collect();
        let mut top = [0.0f32; ROWS];
        for widest in &widest {
            top.iter_mut().zip(widest).for_each(|(top, &scale)| *top = top.max(scale));
        }
        let top = top.map(|scale| nonzero_scale(self.format.format, scale));

        let mut tried = Vec::new();
        for candidate in 0..self.row_scales() {
            let rows = top.map(|top| self.row_scale(top, candidate));
            let mut steps = vec![[0; ROWS]; widest.len()];
            let mut total = [0.0; ROWS];
            for (((group, importance), widest), steps) in groups().zip(&widest).zip(&mut steps) {
                let error = self.best_steps(group, importance, widest, &rows, steps);
                total.iter_mut().zip(&error).for_each(|(total, error)| *total += error);
            }
            tried.push((total, Steps { rows, steps }));
        }

        // Where the errors overflow, nothing is known but that no weight saturates so.
        let unknown = || Steps { rows: top, steps: vec![[0; ROWS]; widest.len()] };
        let mut best: Vec<Steps> = (0..choices.min(tried.len())).map(|_| unknown()).collect();
        for row in 0..ROWS {
            let mut order: Vec<usize> = (0..tried.len()).filter(|&at| tried[at].0[row].is_finite()).collect();
            order.sort_by(|&a, &b| tried[a].0[row].total_cmp(&tried[b].0[row]));
            for (best, at) in best.iter_mut().zip(order) {
                let (_, found) = &tried[at];
                best.rows[row] = found.rows[row];
                best.steps.iter_mut().zip(&found.steps).for_each(|(best, steps)| best[row] = steps[row]);
            }
        }
        best
    }

    /// Scales of a row that are tried, all in one octave: the coarser the ladder, the more depends on them.
    fn row_scales(&self) -> u8 {
        match self.ladder {
            _ if self.power_of_two => 1,
            Ladder::M2 => 48,
            Ladder::M3 => 12,
            // 12 would lose 1 % less squared error in twice the time.
            Ladder::M8 => 6,
        }
    }

    /// The scale of the row to try: the largest that its groups can have then lies between half of what the largest weight
    /// may get and that.
    fn row_scale(&self, top: f32, candidate: u8) -> f32 {
        let largest = RATIOS[1] * top;
        if self.power_of_two {
            return largest.log2().floor().exp2();
        }
        let below = 1.0 - f32::from(candidate) / f32::from(self.row_scales());
        largest * (-below).exp2() / self.ladder.factor(0)
    }

    /// Finds the step of a group in every row, given the scale of the row; returns the error.
    #[inline(always)]
    fn best_steps(
        &self,
        group: &[Column],
        importance: &[f32],
        widest: &Column,
        rows: &Column,
        steps: &mut [u8; ROWS],
    ) -> Column {
        let octaves = (RATIOS[1] / RATIOS[0]).log2();
        let steps_per_octave = f32::from(self.ladder.steps_per_octave());
        let tried = ((steps_per_octave * octaves).ceil() as u8).min(self.max_shift + 1);
        let mut first = [0u8; ROWS];
        for step in 0..=self.max_shift - tried {
            let factor = self.ladder.factor(step);
            for row in 0..ROWS {
                first[row] += u8::from(rows[row] * factor > RATIOS[1] * widest[row]);
            }
        }
        let mut least = [f32::INFINITY; ROWS];
        for offset in 0..tried {
            let found = GroupScale::on_ladder(self.ladder, rows, &first.map(|step| step + offset));
            let error = squared_error(self.format.format, group, importance, &found);
            for row in 0..ROWS {
                let better = error[row] < least[row];
                least[row] = if better { error[row] } else { least[row] };
                steps[row] = if better { first[row] + offset } else { steps[row] };
            }
        }
        least
    }
}
