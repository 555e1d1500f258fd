//! The default back end: rten, and ONNX Runtime for pieces that rten cannot run.
//!
//! ONNX Runtime is looked for when the first such piece comes up, so that nobody needs it whose model rten runs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::ort::Ort;
use super::rten::Rten;
use super::{Backend, BackendError, Piece, Session, UsedLibrary};
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

    fn load(&self, piece: &Piece) -> Result<Box<dyn Session>, BackendError> {
        match self.rten.load(piece) {
            Ok(session) => {
                let (piece, second) = (piece.clone(), self.second.clone());
                Ok(Box::new(AutoSession { session, first_try: Some((piece, second)) }))
            }
            Err(refusal) => {
                let operator = operator(&refusal);
                let session = self.second.load(piece).map_err(|error| refusal.and(error))?;
                self.second.note(operator);
                Ok(Box::new(AutoSession { session, first_try: None }))
            }
        }
    }

    fn used_library(&self) -> Option<UsedLibrary> {
        let operators = self.second.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ort = self.second.ort.get()?.as_ref().ok()?;
        (!operators.is_empty()).then(|| UsedLibrary { operators, ..ort.library() })
    }
}

/// What rten refuses: the operator, or the reason where it names none.
fn operator(refusal: &BackendError) -> String {
    match refusal {
        BackendError::UnsupportedNode { op_type, .. } => op_type.clone(),
        BackendError::Load { reason, .. }
        | BackendError::Run { reason, .. }
        | BackendError::Panic { reason, .. } => reason.clone(),
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
    fn load(&self, piece: &Piece) -> Result<Box<dyn Session>, String> {
        let reason = |error| match error {
            // Whoever chose neither back end has no use for the advice to choose the other.
            BackendError::Library(error) => error.to_string(),
            other => other.to_string(),
        };
        let ort = self.ort.get_or_init(|| Ort::new(self.threads).map_err(reason));
        ort.as_ref().map_err(String::clone)?.load(piece).map_err(|error| error.to_string())
    }

    fn note(&self, operator: String) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(operator);
    }
}

struct AutoSession {
    session: Box<dyn Session>,
    /// The piece, as long as rten runs it.
    first_try: Option<(Piece, Arc<Second>)>,
}

impl Session for AutoSession {
    fn run(&mut self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError> {
        let error = match (self.session.run(feeds, fetch), &self.first_try) {
            (Err(error), Some(_)) if error.is_of_the_backend() => error,
            (result, _) => return result,
        };
        let Some((piece, second)) = &self.first_try else { return Err(error) };
        let mut session = match second.load(piece) {
            Ok(session) => session,
            Err(reason) => return Err(error.and(reason)),
        };
        let results = match session.run(feeds, fetch) {
            Ok(results) => results,
            Err(other) => return Err(error.and(other.to_string())),
        };
        second.note(operator(&error));
        (self.session, self.first_try) = (session, None);
        Ok(results)
    }
}
