//! The dynamic instructions of a launch, each different one once with its cost, and the PEs that do the same.

use std::collections::HashMap;

use indexmap::IndexMap;
use lacuna_isa::target::Target;
use lacuna_isa::timing::{Cost, cost};

use super::walk::Step;

/// Longer sequences are walked again when they are replayed: these take 64 MiB.
const MAX_KEPT: usize = 1 << 24;

/// Multiplier of the hash of a sequence, a polynomial modulo 2^128: odd digits of the golden ratio.
const MULTIPLIER: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;

/// Instructions by number.
pub(super) struct Steps<'t> {
    target: &'t Target,
    all: IndexMap<Step, Cost>,
    /// The last two different instructions of each place in the code: mostly the next one is among them.
    last: Vec<[usize; 2]>,
    n_kept: usize,
}

/// PEs with the same sequence of instructions.
pub(super) struct Class {
    /// The first of them.
    pub pe: usize,
    /// How many there are.
    pub n_pes: u64,
    /// Numbers of the instructions; `None` where they are too many to keep.
    pub sequence: Option<Vec<u32>>,
}

impl<'t> Steps<'t> {
    /// For code of `n_places` instructions.
    pub fn new(target: &'t Target, n_places: usize) -> Steps<'t> {
        Steps { target, all: IndexMap::new(), last: vec![[0; 2]; n_places], n_kept: 0 }
    }

    /// The number of a dynamic instruction of the place `pc`.
    pub fn number(&mut self, pc: usize, step: &Step) -> usize {
        let [newest, older] = self.last[pc];
        let is_again = |number: usize| self.all.get_index(number).is_some_and(|(known, _)| known == step);
        if is_again(newest) {
            return newest;
        }
        if is_again(older) {
            self.last[pc] = [older, newest];
            return older;
        }
        let number = match self.all.get_index_of(step) {
            Some(number) => number,
            None => self.all.insert_full(step.clone(), cost(&step.work(), self.target)).0,
        };
        self.last[pc] = [number, newest];
        number
    }

    /// The instruction of a number, and its cost.
    ///
    /// # Panics
    /// If no instruction has the number.
    pub fn get(&self, number: usize) -> (&Step, &Cost) {
        self.all.get_index(number).expect("a number of an instruction")
    }

    /// The classes of `n_pes` PEs, told apart by the hashes of their sequences; `walk` visits the instructions of
    /// one with their places.
    pub fn classes<E>(
        &mut self,
        n_pes: usize,
        mut walk: impl FnMut(usize, &mut dyn FnMut(usize, &Step)) -> Result<(), E>,
    ) -> Result<Vec<Class>, E> {
        let mut found: HashMap<u128, usize> = HashMap::new();
        let mut classes: Vec<Class> = Vec::new();
        for pe in 0..n_pes {
            let mut hash = 1u128;
            let room = MAX_KEPT - self.n_kept;
            let (mut sequence, mut fits) = (Vec::new(), true);
            walk(pe, &mut |pc, step| {
                let number = self.number(pc, step) as u32;
                hash = hash.wrapping_mul(MULTIPLIER).wrapping_add(u128::from(number));
                fits &= sequence.len() < room;
                if fits {
                    sequence.push(number);
                }
            })?;
            match found.get(&hash) {
                Some(&class) => classes[class].n_pes += 1,
                None => {
                    found.insert(hash, classes.len());
                    self.n_kept += if fits { sequence.len() } else { 0 };
                    classes.push(Class { pe, n_pes: 1, sequence: fits.then_some(sequence) });
                }
            }
        }
        Ok(classes)
    }
}
