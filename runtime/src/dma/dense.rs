//! Dense images of compressed constants, expanded once for all loads of a machine.
//!
//! The machine expands a record whenever a box touches it; the interpreter may as well keep the codes. An image holds the
//! tensor's blocks up to the first that is not well formed, so that a load of a bad one still finds its fault where it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lacuna_isa::format::ScalarType;
use lacuna_isa::inst::{InstKind, MaskCode};
use lacuna_isa::object::{Access, Address, Kernel, MemSpace};
use lacuna_isa::sparse::{BLOCK, expand_record};
use lacuna_isa::view::Space;

use super::expand::Records;
use crate::memory::{Image, Memory};

/// Most bytes of an image for each byte of its tensor: nearly empty tensors are expanded load by load.
const MAX_GROWTH: u64 = 32;

/// Tensor, bytes, planes, element type and mask code of an image.
type Key = (Address, u64, [u64; 3], ScalarType, MaskCode);

/// The images of a machine.
#[derive(Default, Debug)]
pub(crate) struct Images(Mutex<HashMap<Key, Arc<[u8]>>>);

impl Images {
    /// For every tensor of a launch, its image where `ldx` reads it.
    pub fn of(
        &self,
        kernel: &Kernel,
        tensors: &[(Address, u64, Access)],
        memory: &Memory<'_>,
    ) -> Vec<Option<Image>> {
        let mut images: Vec<Option<Image>> = vec![None; tensors.len()];
        for inst in &kernel.code {
            let InstKind::Ldx { src, code, .. } = inst.kind else { continue };
            let view = &kernel.views[usize::from(src)];
            let Space::Global(register) = view.space else { continue };
            let register = usize::from(register);
            let (address, bytes, _) = tensors[register];
            if images[register].is_some() || address.space != MemSpace::Weights {
                continue;
            }
            let (ty, planes) = (view.format.element(), kernel.tensors[register].planes);
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let codes = known.entry((address, bytes, planes, ty, code)).or_insert_with(|| {
                let at = address.offset as usize;
                let all = &memory.bytes(address.space)[at..at + bytes as usize];
                expand(all, planes, ty, code).into()
            });
            images[register] = Some(Image { code, ty, codes: codes.clone() });
        }
        images
    }
}

fn expand(bytes: &[u8], planes: [u64; 3], ty: ScalarType, code: MaskCode) -> Vec<u8> {
    let records = Records::new(bytes, planes);
    let block_bytes = ty.bytes_for(BLOCK as u64) as usize;
    let (mut codes, mut block) = (Vec::new(), vec![0; block_bytes]);
    let room = (bytes.len() as u64).saturating_mul(MAX_GROWTH);
    // Offsets take four bytes of the tensor for each block.
    for number in 0..bytes.len() as u64 / 4 {
        block.fill(0);
        let Ok(record) = records.record(number) else { break };
        if codes.len() as u64 >= room || expand_record(record, ty, code, &mut block, 0).is_err() {
            break;
        }
        codes.extend_from_slice(&block);
    }
    codes
}
