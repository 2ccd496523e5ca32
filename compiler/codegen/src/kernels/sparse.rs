//! What a product makes of the zeros of its operands.
//!
//! A constant second operand has zeros that are known, and they are used in one of three ways: an N:M pattern of the target,
//! multiplied with `mmnm`; records without the zeros, expanded on the way in (`ldx`), which saves bytes; and blocks that are not
//! zero, which `mmblk` multiplies and slots hold alone ([`super::blocks`]), which saves cycles too. A first operand that is
//! probably zero in many places when the program runs, behind a ReLU, is looked at: rows of the second operand that only
//! meet zeros are neither loaded (`ldmask`) nor multiplied (`mmact`). Which of these forms a product takes is a matter of
//! modelled time, see [`super::product_tiles`].

use std::rc::Rc;

use lacuna_ir::{ConstId, Constant, Node};
use lacuna_isa::inst::MaskCode;
use lacuna_isa::sparse::record_bytes;
use lacuna_isa::timing::WORTHWHILE;

use crate::lower::Lowering;
use crate::place::{Packing, Panels, Storage, StorageKind};
use crate::refusal::Refusal;
use crate::weights;
pub use crate::zeros::{Form, ProductZeros, Survey};

impl Lowering<'_> {
    /// The forms that a product may take, the sparsest first.
    pub(super) fn forms(&self, hero: Node) -> Vec<Form> {
        let Some((constant, swapped)) = self.second_constant(hero) else { return vec![Form::Dense] };
        let zeros = self.zeros[hero];
        if let Some(form) = zeros.only {
            return vec![form];
        }
        let sparse = is_sparse(&self.module.constants[constant]);
        let pattern = zeros.pattern.filter(|_| !swapped);
        let mut forms = Vec::new();
        if sparse {
            forms.push(Form::Blocks);
        }
        forms.extend(pattern.map(Form::Pattern));
        if sparse {
            forms.push(Form::Compressed);
        }
        if zeros.active {
            forms.push(Form::Active);
        }
        // A pattern of the target is taken to be better than none.
        if pattern.is_none() {
            forms.push(Form::Dense);
        }
        forms
    }

    /// Compresses the storage of a constant in panels, if that pays.
    pub(super) fn compress(
        &mut self,
        id: ConstId,
        panels: &Panels,
        dense: Storage,
    ) -> Result<Storage, Refusal> {
        let survey = self.survey(id, panels);
        let constant = &self.module.constants[id];
        let (code, share) = survey.best;
        if share > WORTHWHILE {
            return Err(Refusal::Form("its records are hardly shorter than its codes".into()));
        }
        let records = weights::compress(constant, panels, &survey.codes, code)
            .map_err(|e| Refusal::Form(e.to_string()))?;
        let panels = Panels { code: Some(code), ..panels.clone() };
        let kind = StorageKind::Const(id, Packing::Panels(panels));
        Ok(Storage { kind, records: Some(records), ..dense })
    }

    /// What the zeros of a constant in panels are worth; the last one is kept, as forms are tried one after the other.
    pub(super) fn survey(&mut self, id: ConstId, panels: &Panels) -> Rc<Survey> {
        if let Some((of, survey)) = &self.surveyed
            && of.0 == id
            && of.1 == *panels
        {
            return Rc::clone(survey);
        }
        let constant = &self.module.constants[id];
        let codes = weights::panel_codes(constant, panels);
        let elem = panels.stored(constant);
        let n = codes.len() * 8 / elem.bits() as usize;
        let sizes = record_bytes(&codes, elem, n);
        let best = sizes.into_iter().min_by_key(|&(_, bytes)| bytes).unwrap_or((MaskCode::Bitmap, u64::MAX));
        let survey = Rc::new(Survey { best: (best.0, best.1 as f64 / codes.len().max(1) as f64), codes });
        self.surveyed = Some(((id, panels.clone()), Rc::clone(&survey)));
        survey
    }
}

/// Whether enough codes of a constant are zero for any form to pay: a bit for each element must be won back.
fn is_sparse(constant: &Constant) -> bool {
    weights::has_zeros(constant, constant.ty.elem.format().element().bits() as usize)
}
