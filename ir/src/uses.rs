//! The places that read a value: a few for most values, and a great many for some.

use std::collections::HashMap;

use crate::graph::Use;

/// Longer lists have an index.
const SHORT: usize = 64;

/// A list of places, each once, from which any can be taken out at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Uses {
    places: Vec<Use>,
    /// Where every place stands in a list that was too long once; else empty.
    index: HashMap<Use, usize>,
}

impl Uses {
    /// The places in the order in which they were added, as long as the list is short.
    pub(crate) fn as_slice(&self) -> &[Use] {
        &self.places
    }

    pub(crate) fn add(&mut self, place: Use) {
        if self.places.len() == SHORT && self.index.is_empty() {
            self.index = self.places.iter().enumerate().map(|(at, &place)| (place, at)).collect();
        }
        if !self.index.is_empty() {
            self.index.insert(place, self.places.len());
        }
        self.places.push(place);
    }

    pub(crate) fn remove(&mut self, place: Use) {
        if self.index.is_empty() {
            self.places.retain(|&other| other != place);
        } else if let Some(at) = self.index.remove(&place) {
            self.places.swap_remove(at);
            if let Some(&moved) = self.places.get(at) {
                self.index.insert(moved, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SHORT, Uses};
    use crate::graph::{NodeId, Port, Use};

    #[test]
    fn what_is_removed_is_gone_and_the_rest_is_there() {
        let place = |number: usize| Use { node: NodeId::new(number), port: Port::Input(0) };
        for count in [3, SHORT, SHORT + 1, 500] {
            let mut uses = Uses::default();
            (0..count).for_each(|number| uses.add(place(number)));
            assert_eq!(uses.as_slice(), (0..count).map(place).collect::<Vec<_>>());
            (0..count).step_by(2).for_each(|number| uses.remove(place(number)));
            uses.remove(place(0));
            let mut left: Vec<usize> = uses.as_slice().iter().map(|place| place.node.index()).collect();
            left.sort_unstable();
            assert_eq!(left, (1..count).step_by(2).collect::<Vec<_>>());
            (0..count).for_each(|number| uses.remove(place(number)));
            assert!(uses.as_slice().is_empty());
            uses.add(place(7));
            assert_eq!(uses.as_slice(), [place(7)]);
        }
    }
}
