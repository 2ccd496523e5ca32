//! Registers of SE programs: each is read only after it was written, in a lane of the same width. Otherwise a program's
//! result would be what its lanes held before.

use super::Faults;
use crate::part::Item;
use crate::program::{Program, REGISTERS, RegisterUse};

/// Checks the order of writes and reads: `init`, then `body` (whose first round finds what `init` wrote), then `finish`.
pub(super) fn check(program: &Program, faults: &mut Faults) {
    let mut written = [None; REGISTERS];
    let sections =
        [(Item::Init, &program.init), (Item::Body, &program.body), (Item::Finish, &program.finish)];
    let ops = sections.iter().flat_map(|(item, ops)| ops.iter().enumerate().map(|(i, op)| (*item, i, op)));
    for (item, i, op) in ops {
        faults.at(item, i);
        let RegisterUse { reads, writes: write } = op.registers();
        for (reg, lane) in reads {
            let Some(found) = written.get(usize::from(reg.0)) else { continue };
            faults.check(*found == Some(lane.bits()), || match found {
                None => format!("register r{} is read before it is written", reg.0),
                Some(bits) => {
                    format!("register r{} of {bits} bits is read as {lane:?}", reg.0)
                }
            });
        }
        if let Some((reg, lane)) = write
            && let Some(slot) = written.get_mut(usize::from(reg.0))
        {
            *slot = Some(lane.bits());
        }
    }
}
