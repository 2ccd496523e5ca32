//! One object of several: their entries side by side, what they have in common once.

use std::collections::HashMap;

use indexmap::{IndexMap, IndexSet};

use crate::blob::Blob;
use crate::object::{Address, Kernel, MemSpace, Object, Port, Transfer};
use crate::timing::ALIGN;

/// Why objects cannot become one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    /// They are for different targets.
    #[error("`{0}` and `{1}` are different targets, or have different figures")]
    Targets(String, String),
    /// Two entries have one name.
    #[error("two entries are named `{0}`")]
    Entry(String),
    /// A state has two types.
    #[error("state `{name}` is {first} in one entry and {second} in another")]
    State {
        /// Name of the state.
        name: String,
        /// Element type and shape in the first entry that has it.
        first: String,
        /// The same in another.
        second: String,
    },
}

/// Joins valid objects whose states lie before all else in HBM, as the compiler places them. Kernels and constants that are equal are kept
/// once, states of one name are one tensor, and memory is shared by entries, of which one runs at a time.
///
/// # Errors
/// When they contradict one another.
pub fn link(name: String, objects: Vec<Object>) -> Result<Object, LinkError> {
    let mut states: IndexMap<String, Port> = IndexMap::new();
    for state in objects.iter().flat_map(|object| &object.states) {
        let ty = |port: &Port| format!("{}{:?}", port.elem, port.shape);
        match states.get(&state.name) {
            None => {
                states.insert(state.name.clone(), state.clone());
            }
            Some(known) if (known.elem, &known.shape) == (state.elem, &state.shape) => {}
            Some(known) => {
                let (name, first, second) = (state.name.clone(), ty(known), ty(state));
                return Err(LinkError::State { name, first, second });
            }
        }
    }
    states.sort_unstable_keys();
    let mut states_end = 0;
    for state in states.values_mut() {
        state.address = Address { space: MemSpace::Hbm, offset: states_end };
        states_end = (states_end + bytes(state)).next_multiple_of(ALIGN);
    }
    let mut linked = Linked { kernels: IndexSet::new(), weights: Vec::new(), known: HashMap::new() };
    let mut whole: Option<Object> = None;
    for object in objects {
        let object = linked.relocate(object, &states, states_end);
        match &mut whole {
            None => whole = Some(object),
            Some(whole) => {
                if (&whole.target, &whole.target_file) != (&object.target, &object.target_file) {
                    return Err(LinkError::Targets(whole.target.clone(), object.target));
                }
                append(whole, object)?;
            }
        }
    }
    let Linked { kernels, weights, .. } = linked;
    let mut whole = whole.unwrap_or_default();
    whole.name = name;
    whole.kernels = kernels.into_iter().collect();
    whole.states = states.into_values().collect();
    whole.weights = Blob::new(weights);
    Ok(whole)
}

/// Adds the entries and origins of an object whose tables have their final numbers.
fn append(whole: &mut Object, object: Object) -> Result<(), LinkError> {
    let origins = whole.origins.len() as u32;
    for mut entry in object.entries {
        if whole.entries.iter().any(|other| other.name == entry.name) {
            return Err(LinkError::Entry(entry.name));
        }
        let numbers = entry.launches.iter_mut().flat_map(|launch| &mut launch.origins);
        numbers.for_each(|origin| *origin += origins);
        whole.entries.push(entry);
    }
    whole.origins.extend(object.origins);
    whole.hbm_bytes = whole.hbm_bytes.max(object.hbm_bytes);
    whole.sram_bytes = whole.sram_bytes.max(object.sram_bytes);
    Ok(())
}

/// Bytes of a port of a valid object.
fn bytes(port: &Port) -> u64 {
    port.bytes().unwrap_or(0)
}

/// The tables of all objects so far.
struct Linked {
    kernels: IndexSet<Kernel>,
    weights: Vec<u8>,
    /// Where constants lie, by hash and length.
    known: HashMap<(blake3::Hash, usize), u64>,
}

impl Linked {
    /// Gives kernels, constants, states and other tensors of an object their final numbers and places.
    fn relocate(&mut self, mut object: Object, states: &IndexMap<String, Port>, states_end: u64) -> Object {
        let kernels = std::mem::take(&mut object.kernels);
        let constants = self.constants(&kernels, &object);
        let kernels: Vec<u32> =
            kernels.into_iter().map(|kernel| self.kernels.insert_full(kernel).0 as u32).collect();
        let own_end = object.states.iter().map(|s| s.address.offset + bytes(s)).max().unwrap_or(0);
        let own_end = own_end.next_multiple_of(ALIGN);
        let own: Vec<(u64, u64, u64)> = object
            .states
            .iter()
            .map(|s| (s.address.offset, s.address.offset + bytes(s), states[&s.name].address.offset))
            .collect();
        let place = |at: Address| -> Address {
            let offset = match at.space {
                MemSpace::Sram => at.offset,
                MemSpace::Weights => {
                    let region = constants.iter().rev().find(|(from, _)| *from <= at.offset);
                    region.map_or(at.offset, |(from, to)| to + (at.offset - from))
                }
                MemSpace::Hbm => match own.iter().find(|(from, end, _)| (from..end).contains(&&at.offset)) {
                    Some((from, _, to)) => to + (at.offset - from),
                    None => at.offset.saturating_sub(own_end) + states_end,
                },
            };
            Address { offset, ..at }
        };
        for entry in &mut object.entries {
            let ports = entry.inputs.iter_mut().chain(&mut entry.outputs);
            ports.for_each(|port| port.address = place(port.address));
            for launch in &mut entry.launches {
                launch.kernel = kernels.get(launch.kernel as usize).copied().unwrap_or(launch.kernel);
                launch.bases.iter_mut().for_each(|base| *base = place(*base));
            }
            for Transfer { src, dst, .. } in &mut entry.transfers {
                (*src, *dst) = (place(*src), place(*dst));
            }
        }
        object.hbm_bytes = object.hbm_bytes.saturating_sub(own_end) + states_end;
        object
    }

    /// Adds the constants of an object; the old and new place of each, in ascending order of the old. A constant is what launches
    /// name without a gap.
    fn constants(&mut self, kernels: &[Kernel], object: &Object) -> Vec<(u64, u64)> {
        let launches = object.entries.iter().flat_map(|entry| &entry.launches);
        let mut extents: Vec<(u64, u64)> = launches
            .flat_map(|launch| {
                let tensors = kernels.get(launch.kernel as usize).map(|kernel| &kernel.tensors);
                launch.bases.iter().zip(tensors.into_iter().flatten())
            })
            .filter(|(base, _)| base.space == MemSpace::Weights)
            .map(|(base, tensor)| (base.offset, base.offset.saturating_add(tensor.bytes)))
            .collect();
        extents.sort_unstable();
        let mut regions: Vec<(u64, u64)> = Vec::new();
        for (from, end) in extents {
            match regions.last_mut() {
                Some(last) if from < last.1 => last.1 = last.1.max(end),
                Some(_) | None => regions.push((from, end)),
            }
        }
        let place = |(from, end): (u64, u64)| {
            let content = object.weights.bytes().get(from as usize..end as usize).unwrap_or(&[]);
            let key = (blake3::hash(content), content.len());
            let to = *self.known.entry(key).or_insert_with(|| {
                self.weights.resize(self.weights.len().next_multiple_of(ALIGN as usize), 0);
                self.weights.extend_from_slice(content);
                (self.weights.len() - content.len()) as u64
            });
            (from, to)
        };
        regions.into_iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ScalarType;
    use crate::testing::sample;

    fn with_states(name: &str, states: &[(&str, u64)]) -> Object {
        let mut object = sample();
        object.entries[0].name = name.to_owned();
        let mut end = 0;
        for &(name, elements) in states {
            let address = Address { space: MemSpace::Hbm, offset: end };
            let (name, elem, shape) = (name.to_owned(), ScalarType::F32, vec![elements]);
            object.states.push(Port { name, elem, shape, address });
            end = (end + 4 * elements).next_multiple_of(ALIGN);
        }
        let entry = &mut object.entries[0];
        let ports = entry.inputs.iter_mut().chain(&mut entry.outputs);
        ports.for_each(|port| port.address.offset += end);
        let bases = entry.launches.iter_mut().flat_map(|launch| &mut launch.bases);
        bases.filter(|base| base.space == MemSpace::Hbm).for_each(|base| base.offset += end);
        object.hbm_bytes += end;
        object
    }

    #[test]
    fn what_is_equal_is_kept_once() {
        let (a, b) = (with_states("a", &[("v", 100)]), with_states("b", &[("k", 3), ("v", 100)]));
        assert_eq!((a.validate(), b.validate()), (vec![], vec![]));
        let linked = link("both".into(), vec![a.clone(), b.clone()]).expect("they fit");
        assert_eq!(linked.validate(), Vec::<String>::new());
        assert_eq!((linked.kernels.len(), linked.entries.len(), linked.origins.len()), (1, 2, 2));
        assert_eq!(linked.weights.bytes(), a.weights.bytes());
        let offsets: Vec<u64> = linked.states.iter().map(|state| state.address.offset).collect();
        assert_eq!(offsets, [0, 64]);
        assert_eq!(linked.entries[0].inputs[0].address.offset, 512);
        assert_eq!(linked.entries[1].launches[0].origins, [1]);
        assert_eq!(linked.hbm_bytes, b.hbm_bytes);
    }

    #[test]
    fn contradictions_are_refused() {
        let (a, same) = (with_states("a", &[("v", 4)]), with_states("a", &[]));
        assert_eq!(link(String::new(), vec![a.clone(), same]), Err(LinkError::Entry("a".into())));
        let other = with_states("b", &[("v", 5)]);
        let error = link(String::new(), vec![a.clone(), other]).expect_err("another shape");
        assert_eq!(error.to_string(), "state `v` is f32[4] in one entry and f32[5] in another");
        let elsewhere = Object { target: "mtia-500".into(), ..with_states("b", &[]) };
        assert!(matches!(link(String::new(), vec![a, elsewhere]), Err(LinkError::Targets(..))));
    }
}
