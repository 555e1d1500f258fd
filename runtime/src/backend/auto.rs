//! The default back end: rten, and ONNX Runtime for subgraphs that rten cannot run.
//!
//! ONNX Runtime is looked for when the first such subgraph comes up, so that nobody needs it whose model rten runs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use super::error::BackendError;
use super::interface::{Backend, Session, Subgraph, UsedLibrary};
use super::ort::Ort;
use super::rten::Rten;
use crate::array::Array;

/// The back end.
pub struct Auto {
    rten: Rten,
    second: Arc<Second>,
}

impl Auto {
    /// A back end whose sessions run on `threads` threads.
    pub fn new(threads: Option<usize>) -> Self {
        let second = Second { threads, ort: OnceLock::new(), refused: Mutex::default() };
        Self { rten: Rten::new(threads), second: Arc::new(second) }
    }
}

impl Backend for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn knows_control(&self, op_type: &str) -> bool {
        self.rten.knows_control(op_type)
    }

    fn load(&self, subgraph: &Subgraph) -> Result<Box<dyn Session>, BackendError> {
        let (session, next) = match self.rten.load(subgraph) {
            Ok(session) => (session, Next::Second(Box::new(subgraph.clone()))),
            Err(refusal) => match self.second.load(subgraph) {
                Ok(session) => (session, Next::Judge(refusal)),
                Err(error) => return Err(refusal.and(error)),
            },
        };
        Ok(Box::new(AutoSession {
            current: RwLock::new(Current { session, next }),
            second: self.second.clone(),
        }))
    }

    fn used_library(&self) -> Option<UsedLibrary> {
        let operators = self.second.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ort = self.second.ort.get()?.as_ref().ok()?;
        (!operators.is_empty()).then(|| UsedLibrary { operators, ..ort.library() })
    }
}

impl BackendError {
    /// Whether another back end may get along with what this one failed on.
    fn is_of_the_backend(&self) -> bool {
        self.is_refusal() || matches!(self, Self::Run { .. })
    }

    /// This error of rten, after which ONNX Runtime failed too.
    fn and(self, ort: String) -> Self {
        Self::Both { rten: Box::new(self), ort }
    }
}

/// What rten refuses: the operator, or the reason where it names none, without the node.
fn operator(refusal: &BackendError) -> String {
    match refusal {
        BackendError::UnsupportedNode { op_type, .. } => op_type.clone(),
        BackendError::Load { reason, .. }
        | BackendError::Run { reason, .. }
        | BackendError::Panic { reason, .. } => reason.rsplit(": ").next().unwrap_or(reason).to_string(),
        other => other.to_string(),
    }
}

/// ONNX Runtime, where it is needed and found, and the operators that it was needed for.
struct Second {
    threads: Option<usize>,
    ort: OnceLock<Result<Ort, String>>,
    refused: Mutex<BTreeSet<String>>,
}

impl Second {
    fn load(&self, subgraph: &Subgraph) -> Result<Box<dyn Session>, String> {
        let reason = |error| match error {
            // Whoever chose neither back end has no use for the advice to choose the other.
            BackendError::Library(error) => error.to_string(),
            other => other.to_string(),
        };
        let ort = self.ort.get_or_init(|| Ort::new(self.threads).map_err(reason));
        ort.as_ref().map_err(String::clone)?.load(subgraph).map_err(|error| error.to_string())
    }

    /// Loads a subgraph and runs it.
    fn run(
        &self,
        subgraph: &Subgraph,
        feeds: &[(&str, &Array)],
        fetch: &[&str],
    ) -> Result<(Box<dyn Session>, Vec<Array>), String> {
        let session = self.load(subgraph)?;
        let results = session.run(feeds, fetch).map_err(|error| error.to_string())?;
        Ok((session, results))
    }

    fn note(&self, operator: String) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(operator);
    }
}

struct AutoSession {
    current: RwLock<Current>,
    second: Arc<Second>,
}

struct Current {
    session: Box<dyn Session>,
    next: Next,
}

/// What comes of the session's next run.
enum Next {
    /// It is rten's: where it fails, ONNX Runtime gets the subgraph.
    Second(Box<Subgraph>),
    /// It is the first of ONNX Runtime, after rten refused the subgraph for this: only now it is seen whether it does better.
    Judge(BackendError),
    /// It is ONNX Runtime's.
    Nothing,
}

impl Session for AutoSession {
    fn run(&self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let error = match (&current.next, current.session.run(feeds, fetch)) {
            (Next::Second(_), Err(error)) if error.is_of_the_backend() => error,
            (Next::Judge(_), result) => {
                drop(current);
                return self.judge(result);
            }
            (_, result) => return result,
        };
        drop(current);
        self.run_second(error, feeds, fetch)
    }
}

impl AutoSession {
    /// Runs the subgraph, of rten until now, on ONNX Runtime, which has it from then on.
    fn run_second(
        &self,
        error: BackendError,
        feeds: &[(&str, &Array)],
        fetch: &[&str],
    ) -> Result<Vec<Array>, BackendError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been here first.
        let Next::Second(subgraph) = &current.next else { return current.session.run(feeds, fetch) };
        match self.second.run(subgraph, feeds, fetch) {
            Ok((session, results)) => {
                self.second.note(operator(&error));
                *current = Current { session, next: Next::Nothing };
                Ok(results)
            }
            Err(reason) => Err(error.and(reason)),
        }
    }

    /// The result of ONNX Runtime's run, after rten refused the subgraph.
    fn judge(&self, result: Result<Vec<Array>, BackendError>) -> Result<Vec<Array>, BackendError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let Next::Judge(refusal) = std::mem::replace(&mut current.next, Next::Nothing) else { return result };
        match result {
            Ok(results) => {
                self.second.note(operator(&refusal));
                Ok(results)
            }
            Err(error) => Err(refusal.and(error.to_string())),
        }
    }
}
