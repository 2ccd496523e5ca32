//! Straight-line SE code under construction, and the lanes that hold the types of elements.

use lacuna_isa::format::ScalarType;
use lacuna_isa::program::{Lane, REGISTERS, Reg, SeBinary, SeOp, SeUnary};

use crate::refusal::Refusal;

/// The lane type that elements of `ty` are computed in.
pub fn lane(ty: ScalarType) -> Lane {
    match ty {
        ScalarType::F64 => Lane::F64,
        ScalarType::Bool
        | ScalarType::I2
        | ScalarType::U2
        | ScalarType::I4
        | ScalarType::U4
        | ScalarType::I8
        | ScalarType::U8
        | ScalarType::I16
        | ScalarType::U16
        | ScalarType::I32 => Lane::I32,
        ScalarType::U32 | ScalarType::I64 | ScalarType::U64 => Lane::I64,
        ScalarType::F16
        | ScalarType::Bf16
        | ScalarType::F32
        | ScalarType::E4M3
        | ScalarType::E5M2
        | ScalarType::E4M3Fnuz
        | ScalarType::E5M2Fnuz
        | ScalarType::E3M2
        | ScalarType::E2M3
        | ScalarType::E2M1
        | ScalarType::E8M0
        | ScalarType::Sm8
        | ScalarType::Sm5
        | ScalarType::Sm3 => Lane::F32,
    }
}

/// The bits that a lane holds for code `code` of type `ty`.
pub fn lane_bits(ty: ScalarType, code: u64) -> u64 {
    match lane(ty) {
        Lane::F64 => code,
        Lane::F32 => u64::from(ty.decode_f32(code as u32).to_bits()),
        Lane::I32 | Lane::I64 => {
            // Sign extension; unsigned and bool codes are their own value.
            let bits = ty.bits();
            let signed = matches!(
                ty,
                ScalarType::I2
                    | ScalarType::I4
                    | ScalarType::I8
                    | ScalarType::I16
                    | ScalarType::I32
                    | ScalarType::I64
            );
            let value =
                if signed && bits < 64 { ((code << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { code };
            if lane(ty) == Lane::I32 { value & 0xFFFF_FFFF } else { value }
        }
    }
}

/// Straight-line code under construction.
#[derive(Debug, Default)]
pub struct Code {
    /// Operations so far.
    pub ops: Vec<SeOp>,
    /// Constants of the program.
    pub constants: Vec<u64>,
    next: usize,
    free: Vec<Reg>,
}

impl Code {
    /// A register that nothing uses.
    ///
    /// # Errors
    /// When all registers are in use.
    pub fn reg(&mut self) -> Result<Reg, Refusal> {
        if let Some(reg) = self.free.pop() {
            return Ok(reg);
        }
        if self.next >= REGISTERS {
            return Err(Refusal::Limit(
                "an element-wise region needs more registers than the SIMD engine has".into(),
            ));
        }
        self.next += 1;
        Ok(Reg((self.next - 1) as u8))
    }

    /// Gives a register back.
    pub fn release(&mut self, reg: Reg) {
        self.free.push(reg);
    }

    /// A constant in a new register.
    ///
    /// # Errors
    /// When all registers are in use.
    pub fn constant(&mut self, lane: Lane, bits: u64) -> Result<Reg, Refusal> {
        let index = self.constants.iter().position(|&c| c == bits).unwrap_or_else(|| {
            self.constants.push(bits);
            self.constants.len() - 1
        });
        let dst = self.reg()?;
        self.ops.push(SeOp::Const { dst, lane, index: index as u16 });
        Ok(dst)
    }

    /// Takes the operations, keeping registers and constants.
    pub fn take(&mut self) -> Vec<SeOp> {
        std::mem::take(&mut self.ops)
    }

    /// A function of one register in a new one.
    ///
    /// # Errors
    /// When all registers are in use.
    pub fn unary(&mut self, f: SeUnary, lane: Lane, a: Reg) -> Result<Reg, Refusal> {
        let dst = self.reg()?;
        self.ops.push(SeOp::Unary { f, lane, dst, a });
        Ok(dst)
    }

    /// A function of two registers in a new one.
    ///
    /// # Errors
    /// When all registers are in use.
    pub fn binary(&mut self, f: SeBinary, lane: Lane, a: Reg, b: Reg) -> Result<Reg, Refusal> {
        let dst = self.reg()?;
        self.ops.push(SeOp::Binary { f, lane, dst, a, b });
        Ok(dst)
    }
}
