//! Calibration data: inputs of a model that techniques measure on, and what is kept from them for scoring.

use lacuna_ir::eval::Tensor;
use lacuna_ir::{Blob, Module, TensorType};
use lacuna_isa::format::pack;
use lacuna_onnx::Literal;

use crate::codes;
use crate::diagnostics::Diagnostic;
use crate::testset::DataSet;

/// Inputs of a model, set by set.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    sets: Vec<DataSet>,
}

/// Every second sample, for measuring on one half and scoring on the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// Samples 0, 2, 4, ...
    Even,
    /// Samples 1, 3, 5, ...
    Odd,
}

impl Half {
    /// The other one.
    pub const fn other(self) -> Half {
        match self {
            Half::Even => Half::Odd,
            Half::Odd => Half::Even,
        }
    }

    /// Whether it has a sample.
    pub fn has(self, sample: usize) -> bool {
        sample.is_multiple_of(2) == (self == Half::Even)
    }

    /// The elements of this half of the samples, which dimension 0 numbers, and their shape.
    pub fn of<T: Copy>(self, elements: &[T], shape: &[u64]) -> (Vec<T>, Vec<u64>) {
        let n_samples = shape.first().map_or(0, |&n| n as usize);
        let each = elements.len() / n_samples.max(1);
        let samples = (0..n_samples).filter(|&i| self.has(i));
        let half: Vec<T> = samples.flat_map(|i| &elements[i * each..(i + 1) * each]).copied().collect();
        let mut shape = shape.to_vec();
        if let Some(n) = shape.first_mut() {
            *n = (n_samples as u64 + u64::from(self == Half::Even)) / 2;
        }
        (half, shape)
    }
}

fn bad(reason: String) -> Diagnostic {
    Diagnostic::new(codes::TEST_DATA, reason)
}

impl Calibration {
    /// The inputs of these sets.
    pub fn new(sets: Vec<DataSet>) -> Calibration {
        Calibration { sets }
    }

    /// The sets.
    pub fn sets(&self) -> &[DataSet] {
        &self.sets
    }

    /// The same number of samples in each set, but only those of one half: each of the other half is replaced by its
    /// neighbour, so that inputs of fixed shape stay full.
    ///
    /// # Errors
    /// L0012 when a set has not two samples along dimension 0 of its first input.
    pub fn half(&self, half: Half) -> Result<Calibration, Diagnostic> {
        let mut sets = self.sets.clone();
        for set in &mut sets {
            let n = n_samples(set)
                .filter(|&n| n >= 2)
                .ok_or_else(|| bad(format!("{}: one sample cannot be split in two halves", set.name)))?;
            for (_, literal) in &mut set.inputs {
                if literal.ty.shape.first() == Some(&(n as u64)) {
                    let other = |i: usize| if i ^ 1 < n { i ^ 1 } else { i - 1 };
                    *literal = pick(literal, n, (0..n).map(|i| if half.has(i) { i } else { other(i) }));
                }
            }
        }
        Ok(Calibration { sets })
    }

    /// Samples of all sets, where dimension 0 of the first input numbers them.
    pub fn n_samples(&self) -> usize {
        self.sets.iter().map(|set| n_samples(set).unwrap_or(1)).sum()
    }

    /// The inputs of the one entry of a module, batch by batch. A set with another number of samples than the entry
    /// takes is cut into batches; the last is filled up by starting over.
    ///
    /// # Errors
    /// L0012 when the data does not pair with the inputs, L0008 when it does not fit.
    pub fn batches(&self, module: &Module) -> Result<Vec<Vec<Tensor>>, Diagnostic> {
        let [entry] = &module.entries[..] else { return Ok(Vec::new()) };
        let func = &module.functions[entry.func];
        let wanted: Vec<&TensorType> = func.params.iter().map(|&p| func.ty(p)).collect();
        let mut batches = Vec::new();
        for set in &self.sets {
            for batch in cut(set, &entry.inputs, &wanted)? {
                let tensors = batch.inputs.iter().map(|(_, literal)| {
                    Tensor::from_bytes(literal.ty.clone(), literal.data.bytes())
                        .map_err(|e| bad(e.to_string()))
                });
                batches.push(tensors.collect::<Result<_, _>>()?);
            }
        }
        Ok(batches)
    }
}

/// A set as batches with tensors of the types `wanted`, in the order of `names`, which they get. Where it has another number of samples
/// than a batch takes, the last one is filled up by starting over, and labels of what comes again are not scored.
///
/// # Errors
/// L0012 when the data does not pair with the names, L0008 when it does not fit.
pub fn cut(set: &DataSet, names: &[String], wanted: &[&TensorType]) -> Result<Vec<DataSet>, Diagnostic> {
    let pairs = set.pair_inputs(names)?;
    let given: Vec<&Literal> = pairs.iter().map(|&i| &set.inputs[i].1).collect();
    let samples = |ty: &TensorType| ty.shape.first().map_or(1, |&n| n.max(1)) as usize;
    let misfit = given.iter().zip(wanted).find(|(g, w)| g.ty != ***w);
    let (has, takes) = misfit.map_or((1, 1), |(g, w)| (samples(&g.ty), samples(w)));
    let batch = |batch: usize| {
        let tensors = given.iter().zip(wanted).zip(names);
        let inputs = tensors.map(|((given, wanted), name)| {
            piece(set, name, given, wanted, batch).map(|piece| (name.clone(), piece))
        });
        let labels = set.labels.as_ref().map(|labels| match misfit {
            Some(_) if labels.ty.shape.first() == Some(&(has as u64)) => {
                label_piece(labels, has, takes, batch)
            }
            _ => labels.clone(),
        });
        let inputs = inputs.collect::<Result<Vec<_>, Diagnostic>>()?;
        Ok(DataSet { inputs, labels, is_named: true, ..set.clone() })
    };
    (0..has.div_ceil(takes)).map(batch).collect()
}

/// The labels of one batch of `takes` samples; those of samples that come again are negative.
fn label_piece(labels: &Literal, has: usize, takes: usize, batch: usize) -> Literal {
    let piece = pick(labels, has, (0..takes).map(|i| (batch * takes + i) % has));
    let mut data = piece.data.bytes().to_vec();
    let fresh = has.saturating_sub(batch * takes).min(takes);
    let each = data.len() / takes.max(1);
    data[fresh * each..].fill(0xff);
    Literal { data: Blob::new(data), ..piece }
}

fn n_samples(set: &DataSet) -> Option<usize> {
    set.inputs.first().and_then(|(_, literal)| literal.ty.shape.first()).map(|&n| n as usize)
}

/// Some samples of a tensor, in the order given.
fn pick(literal: &Literal, n_samples: usize, samples: impl Iterator<Item = usize>) -> Literal {
    let bytes = literal.data.bytes();
    let mut ty = literal.ty.clone();
    let picked: Vec<usize> = samples.collect();
    ty.shape.0[0] = picked.len() as u64;
    // A sample of elements below a byte may begin within one.
    let data = match ty.elem.scalar().filter(|elem| elem.bits() < 8) {
        Some(elem) => {
            let each = literal.ty.shape.elements() as usize / n_samples.max(1);
            let mut data = vec![0; ty.bytes() as usize];
            let from = picked.iter().flat_map(|&i| i * each..(i + 1) * each);
            from.enumerate().for_each(|(to, at)| pack::set(&mut data, elem, to, pack::get(bytes, elem, at)));
            data
        }
        None => {
            let each = bytes.len() / n_samples.max(1);
            picked.iter().flat_map(|&i| &bytes[i * each..(i + 1) * each]).copied().collect()
        }
    };
    Literal { ty, data: Blob::new(data) }
}

/// The part of a tensor that one batch takes; all of it where it has the wanted type.
fn piece(
    set: &DataSet,
    name: &str,
    given: &Literal,
    wanted: &TensorType,
    batch: usize,
) -> Result<Literal, Diagnostic> {
    let misfit = || {
        let reason = format!("{}: input `{name}` is {wanted}, but the data is {}", set.name, given.ty);
        let hint = "only the number of samples, along dimension 0, may differ; compile for the shapes of the data with --dim";
        Diagnostic::new(codes::INPUT, reason).hint(hint)
    };
    if given.ty == *wanted {
        return Ok(given.clone());
    }
    let (Some(&has), Some(&takes)) = (given.ty.shape.first(), wanted.shape.first()) else {
        return Err(misfit());
    };
    let alike = given.ty.elem == wanted.elem && given.ty.shape[1..] == wanted.shape[1..];
    if !alike || has == 0 {
        return Err(misfit());
    }
    let (has, takes) = (has as usize, takes as usize);
    Ok(pick(given, has, (0..takes).map(|i| (batch * takes + i) % has)))
}

#[cfg(test)]
mod tests {
    use lacuna_ir::{Entry, Function, ValueData, ValueDef};
    use lacuna_isa::format::ScalarType;

    use super::*;

    fn set(n: u64) -> DataSet {
        let data: Vec<u8> = (0..n as u8).flat_map(|i| [i, 100 + i]).collect();
        let literal = Literal { ty: TensorType::new(ScalarType::U8, vec![n, 2]), data: Blob::new(data) };
        let inputs = vec![("x".to_owned(), literal)];
        DataSet {
            name: "set".to_owned(),
            inputs,
            outputs: Vec::new(),
            labels: None,
            lengths: Default::default(),
            is_partial: false,
            is_named: false,
        }
    }

    fn module(n: u64) -> Module {
        let mut module = Module::default();
        let mut func = Function::default();
        let ty = TensorType::new(ScalarType::U8, vec![n, 2]);
        let x = func.values.push(ValueData { ty, def: ValueDef::Param(0), name: "x".to_owned() });
        func.params.push(x);
        let func = module.functions.push(func);
        let inputs = vec!["x".to_owned()];
        module.entries.push(Entry { name: "main".to_owned(), func, inputs, outputs: Vec::new() });
        module
    }

    fn samples(calibration: &Calibration, n: u64) -> Vec<Vec<f64>> {
        let batches = calibration.batches(&module(n)).unwrap();
        batches.iter().map(|b| b[0].to_f64().chunks(2).map(|c| c[0]).collect()).collect()
    }

    #[test]
    fn sets_are_cut_into_batches() {
        let check = |has: u64, takes: u64, expect: &[&[f64]]| {
            let calibration = Calibration { sets: vec![set(has)] };
            assert_eq!(samples(&calibration, takes), expect, "{has} into {takes}");
        };
        check(3, 3, &[&[0.0, 1.0, 2.0]]);
        check(4, 2, &[&[0.0, 1.0], &[2.0, 3.0]]);
        check(3, 2, &[&[0.0, 1.0], &[2.0, 0.0]]);
        check(1, 3, &[&[0.0, 0.0, 0.0]]);
    }

    #[test]
    fn labels_of_samples_that_come_again_are_not_scored() {
        let ty = TensorType::new(ScalarType::I64, vec![3]);
        let data: Vec<u8> = [5i64, 6, 7].iter().flat_map(|l| l.to_le_bytes()).collect();
        let labels = Some(Literal { ty, data: Blob::new(data) });
        let wanted = TensorType::new(ScalarType::U8, vec![2, 2]);
        let batches = cut(&DataSet { labels, ..set(3) }, &["x".to_owned()], &[&wanted]).unwrap();
        let found: Vec<_> = batches.iter().map(|b| b.label_values(&[2, 9]).unwrap().unwrap()).collect();
        assert_eq!(found, [[5, 6], [7, -1]]);
    }

    #[test]
    fn samples_within_a_byte() {
        let ty = TensorType::new(ScalarType::U4, vec![3, 3]);
        let literal = Literal { ty, data: Blob::new(vec![0x21, 0x43, 0x65, 0x87, 0x09]) };
        let picked = pick(&literal, 3, [1, 2, 1, 0].into_iter());
        assert_eq!(picked.ty, TensorType::new(ScalarType::U4, vec![4, 3]));
        assert_eq!(picked.data.bytes(), [0x54, 0x76, 0x98, 0x54, 0x16, 0x32]);
    }

    #[test]
    fn a_half_never_shows_the_other() {
        let check = |n: u64, half, expect: &[f64]| {
            let calibration = Calibration { sets: vec![set(n)] }.half(half).unwrap();
            assert_eq!(samples(&calibration, n), [expect], "{n} {half:?}");
        };
        check(4, Half::Even, &[0.0, 0.0, 2.0, 2.0]);
        check(4, Half::Odd, &[1.0, 1.0, 3.0, 3.0]);
        check(3, Half::Even, &[0.0, 0.0, 2.0]);
        check(3, Half::Odd, &[1.0, 1.0, 1.0]);
        assert!(Calibration { sets: vec![set(1)] }.half(Half::Even).is_err());
    }

    #[test]
    fn halves_of_outputs() {
        let elements = [0, 1, 10, 11, 20, 21];
        assert_eq!(Half::Even.of(&elements, &[3, 2]), (vec![0, 1, 20, 21], vec![2, 2]));
        assert_eq!(Half::Odd.of(&elements, &[3, 2]), (vec![10, 11], vec![1, 2]));
    }

    #[test]
    fn data_that_does_not_fit_is_refused() {
        let mut wide = set(2);
        wide.inputs[0].1.ty.shape.0 = vec![2, 1, 2];
        assert!(Calibration { sets: vec![wide] }.batches(&module(2)).is_err());
    }
}
