//! Runs a control-flow operator on one sample.

use std::ops::ControlFlow;

use zqc_ir::Graph;

use super::kind::{Kind, Scan};
use super::operator::{Control, RegionResult};
use crate::array::Array;
use crate::inputs::InputSpec;
use crate::interpreter::{ControlOperator, Live};
use crate::run_error::RunError;
use crate::sessions::{LoadedRegions, Sessions};
use crate::slices::{empty_stack, resolve, slice, stack};

/// Called before every iteration with the index of the region, the region, and what is fed to it. When it breaks, the operator
/// is run no further.
pub type Watch<'w> = dyn FnMut(usize, &Graph, &Live) -> ControlFlow<()> + 'w;

impl Control<'_> {
    /// Runs the operator on one sample, from the values that it and its subgraphs read; `watch` is called before every iteration. The
    /// results by value, or `None` when `watch` breaks.
    ///
    /// # Errors
    /// When a value is missing or does not fit, a loop has too many iterations, or a subgraph cannot be run.
    pub fn run(
        &self,
        live: &Live,
        loaded: &mut LoadedRegions,
        watch: &mut Watch,
    ) -> Result<Option<Live>, RunError> {
        let mut run = Run { control: self, live, loaded, watch };
        let results = match &self.kind {
            Kind::If { then_branch, else_branch } => run.branch(*then_branch, *else_branch),
            Kind::Loop => run.iterate(),
            Kind::Scan(scan) => run.scan(scan),
        };
        let named = |results: Vec<Array>| {
            let named = self.outputs.iter().zip(results);
            named.filter_map(|(output, array)| Some(((*output)?, array))).collect()
        };
        Ok(results?.map(named))
    }
}

impl ControlOperator for Control<'_> {
    fn run(&self, live: &Live, loaded: &mut LoadedRegions) -> Result<Live, RunError> {
        let results = Self::run(self, live, loaded, &mut |_, _, _| ControlFlow::Continue(()))?;
        Ok(results.unwrap_or_default())
    }

    fn try_load(&self) -> Result<(), RunError> {
        self.regions.iter().try_for_each(|region| region.interpreter.try_load())
    }
}

/// A run of an operator.
struct Run<'r, 'a, 'w> {
    control: &'r Control<'a>,
    live: &'r Live,
    loaded: &'r mut LoadedRegions,
    watch: &'r mut Watch<'w>,
}

impl Run<'_, '_, '_> {
    /// An `If`.
    fn branch(&mut self, then_branch: usize, else_branch: usize) -> Result<Option<Vec<Array>>, RunError> {
        let condition = self.truth(self.control.required(0, self.live)?)?;
        self.run_region(if condition { then_branch } else { else_branch }, Vec::new())
    }

    /// A `Loop`.
    fn iterate(&mut self) -> Result<Option<Vec<Array>>, RunError> {
        let (control, live) = (self.control, self.live);
        let trips = match control.input(0, live) {
            Some(count) => {
                Some(single(count).ok_or_else(|| control.fail("its trip count is not a single integer"))?)
            }
            None => None,
        };
        let mut proceeds = control.input(1, live).map_or(Ok(true), |condition| self.truth(condition))?;
        let carried = control.inputs.len().saturating_sub(2);
        let mut state =
            (0..carried).map(|at| control.required(2 + at, live).cloned()).collect::<Result<Vec<_>, _>>()?;
        let stacks = self.stacks(1 + carried)?;
        let mut stacked = vec![Vec::new(); stacks];
        let mut iteration = 0usize;
        while proceeds
            && trips.is_none_or(|trips| i64::try_from(iteration).is_ok_and(|iteration| iteration < trips))
        {
            if iteration == control.most_iterations {
                return Err(control.fail(format!("it does not end within {iteration} iterations")));
            }
            let counter = Array { shape: Vec::new(), data: vec![iteration as i64].into() };
            let condition = Array { shape: Vec::new(), data: vec![proceeds].into() };
            let given = [counter, condition].into_iter().chain(state).collect();
            let Some(results) = self.run_region(0, given)? else { return Ok(None) };
            let mut results = results.into_iter();
            proceeds = results.next().map_or(Ok(false), |condition| self.truth(&condition))?;
            state = results.by_ref().take(carried).collect();
            stacked.iter_mut().zip(results).for_each(|(parts, part)| parts.push(part));
            iteration += 1;
        }
        for (at, parts) in stacked.iter().enumerate() {
            state.push(self.stack(parts, 1 + carried + at, 0)?);
        }
        Ok(Some(state))
    }

    /// A `Scan`.
    fn scan(&mut self, scan: &Scan) -> Result<Option<Vec<Array>>, RunError> {
        let (control, live) = (self.control, self.live);
        let misfit = || control.fail("it has fewer inputs than it scans");
        let carried = control.inputs.len().checked_sub(scan.inputs).ok_or_else(misfit)?;
        let mut state =
            (0..carried).map(|at| control.required(at, live).cloned()).collect::<Result<Vec<_>, _>>()?;
        let mut scanned = Vec::new();
        for at in 0..scan.inputs {
            let array = control.required(carried + at, live)?;
            let axis = scan.input_axes.get(at).copied().unwrap_or(0);
            let axis = resolve(axis, array.shape.len())
                .ok_or_else(|| control.fail(format!("its input {} has no axis {axis}", carried + at)))?;
            let is_reversed = scan.input_directions.get(at).is_some_and(|&direction| direction != 0);
            scanned.push((array, axis, is_reversed));
        }
        let lengths = || scanned.iter().map(|&(array, axis, _)| array.shape[axis]);
        let length = lengths().next().ok_or_else(|| control.fail("it scans no input"))?;
        if lengths().any(|other| other != length) {
            return Err(
                control.fail(format!("it scans inputs of lengths {:?}", lengths().collect::<Vec<_>>()))
            );
        }
        let stacks = self.stacks(carried)?;
        let mut stacked = vec![Vec::new(); stacks];
        for iteration in 0..length {
            let cut = |&(array, axis, is_reversed): &(&Array, usize, bool)| {
                slice(array, axis, if is_reversed { length - 1 - iteration } else { iteration })
            };
            let given = state.into_iter().chain(scanned.iter().filter_map(cut)).collect();
            let Some(results) = self.run_region(0, given)? else { return Ok(None) };
            let mut results = results.into_iter();
            state = results.by_ref().take(carried).collect();
            stacked.iter_mut().zip(results).for_each(|(parts, part)| parts.push(part));
        }
        for (at, parts) in stacked.iter_mut().enumerate() {
            if scan.output_directions.get(at).is_some_and(|&direction| direction != 0) {
                parts.reverse();
            }
            let axis = scan.output_axes.get(at).copied().unwrap_or(0);
            state.push(self.stack(parts, carried + at, axis)?);
        }
        Ok(Some(state))
    }

    /// How many results of the subgraph are stacked: those after the first `carried`.
    fn stacks(&self, carried: usize) -> Result<usize, RunError> {
        let results = self.control.body()?.results.len();
        let misfit = || self.control.fail(format!("its body has {results} results, {carried} are carried"));
        results.checked_sub(carried).ok_or_else(misfit)
    }

    /// Result `at` of all iterations, stacked along `axis`.
    fn stack(&self, parts: &[Array], at: usize, axis: i64) -> Result<Array, RunError> {
        let control = self.control;
        let Some(first) = parts.first() else {
            let graph = control.body()?.interpreter.graph();
            let part = graph.outputs().get(at).and_then(|&output| InputSpec::of_value(graph, output).ok());
            return empty_stack(part, axis).map_err(|error| control.fail(error.to_string()));
        };
        let misfit = || {
            control.fail(format!(
                "result {at} differs in shape or type from one iteration to the next, or has no axis {axis}"
            ))
        };
        let axis = resolve(axis, first.shape.len() + 1);
        axis.and_then(|axis| stack(parts, axis)).ok_or_else(misfit)
    }

    /// Runs a region once on the values of its declared inputs; its results, or `None` when the watcher breaks.
    fn run_region(&mut self, index: usize, given: Vec<Array>) -> Result<Option<Vec<Array>>, RunError> {
        let control = self.control;
        let body = control.regions.get(index).ok_or_else(|| control.fail("it has no body"))?;
        let (found, expected) = (given.len(), body.inputs.len());
        if found != expected {
            return Err(control.fail(format!("its body has {expected} inputs, {found} are given")));
        }
        let mut inner: Live = body.inputs.iter().copied().zip(given).collect();
        for (outer, input) in &body.captures {
            if let Some(array) = outer.get(self.live) {
                inner.insert(*input, array.clone());
            }
        }
        if (self.watch)(index, body.interpreter.graph(), &inner).is_break() {
            return Ok(None);
        }
        let repeats = self.loaded.in_loop || !matches!(control.kind, Kind::If { .. });
        let sessions = self.loaded.by_index.entry(index).or_insert_with(|| Sessions::new(repeats));
        let computed = body.interpreter.run_with(sessions, inner)?;
        let result = |result: &RegionResult| match result {
            RegionResult::Computed(at) => computed[*at].clone(),
            RegionResult::Constant(array) => array.clone(),
        };
        Ok(Some(body.results.iter().map(result).collect()))
    }

    fn truth(&self, condition: &Array) -> Result<bool, RunError> {
        let number =
            single(condition).ok_or_else(|| self.control.fail("its condition is not a single boolean"))?;
        Ok(number != 0)
    }
}

/// The only element of an array of integers or truth values.
fn single(array: &Array) -> Option<i64> {
    match (array.len(), array.to_i64()) {
        (1, Some(elements)) => elements.first().copied(),
        _ => None,
    }
}
