//! What compressed tensors hold: every record that a load reads is decoded once.

use std::collections::HashSet;

use lacuna_isa::format::ScalarType;
use lacuna_isa::inst::MaskCode;
use lacuna_isa::object::{Address, Kernel, Launch, Object};
use lacuna_isa::sparse::{BLOCK, expand_record, find_record};

use super::{Fault, Rule, record};

/// The blocks of a compressed tensor that an instruction reads.
#[derive(Debug)]
pub(super) struct Reads {
    pub pc: usize,
    pub register: usize,
    pub code: MaskCode,
    pub ty: ScalarType,
    /// End of the offsets from the tensor's base, and of the records.
    pub ends: [u64; 2],
    /// Runs of blocks.
    pub blocks: Vec<(u64, u64)>,
}

/// Blocks that were found to be well formed: address of the tensor, element type, code of the mask, number.
pub(super) type Known = HashSet<(Address, ScalarType, MaskCode, u64)>;

/// Examines the records that a launch reads.
pub(super) fn check(
    object: &Object,
    kernel: &Kernel,
    launch: &Launch,
    all: &[Reads],
    known: &mut Known,
    faults: &mut Vec<Fault>,
) {
    for reads in all {
        let (base, decl) = (launch.bases[reads.register], &kernel.tensors[reads.register]);
        let part = |from: u64, to: u64| {
            let (from, to) = (base.offset.saturating_add(from), base.offset.saturating_add(to));
            object.weights.bytes().get(from as usize..to as usize).unwrap_or(&[])
        };
        let records = part(decl.planes[0], reads.ends[1]);
        let offsets = part(decl.planes[2], reads.ends[0]);
        let mut scratch = vec![0; reads.ty.bytes_for(BLOCK as u64) as usize];
        for block in reads.blocks.iter().flat_map(|&(from, to)| from..to) {
            if !known.insert((base, reads.ty, reads.code, block)) {
                continue;
            }
            let found = usize::try_from(block).ok().and_then(|b| find_record(records, offsets, b));
            let outcome = found.map(|bytes| expand_record(bytes?, reads.ty, reads.code, &mut scratch, 0));
            let reason = match outcome {
                Some(Ok(())) => continue,
                None => {
                    let n = (offsets.len() / 4).saturating_sub(1);
                    (
                        Rule::TensorBounds,
                        format!("block {block} of tensor r{}, which has {n}", reads.register),
                    )
                }
                Some(Err(e)) => {
                    (Rule::BadRecord, format!("block {block} of tensor r{}: {e}", reads.register))
                }
            };
            record(faults, Fault::at(reads.pc, None, reason));
            break;
        }
    }
}
