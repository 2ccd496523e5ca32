//! Number formats: what a stored code means, and how real numbers become codes.
//!
//! This is the one home of every format of the project. A [`ScalarType`] is an element on its own; a [`GroupFormat`]
//! is elements that share a scale (OCP MX v1.0, NVFP4, shared micro-exponents of arXiv 2302.08007). [`Format`] is
//! either, with the 8-bit code that views and object files use.

pub mod group;
pub mod pack;
pub mod scalar;

use std::fmt;

macro_rules! scalar_types {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $bits:literal;)*) => {
        /// An element type that stands on its own.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum ScalarType { $($(#[$doc])* $name = $code,)* }

        impl ScalarType {
            /// Every type, in code order.
            pub const ALL: &'static [ScalarType] = &[$(ScalarType::$name,)*];

            /// The name in text forms, for example `f32`.
            pub const fn name(self) -> &'static str {
                match self { $(ScalarType::$name => $text,)* }
            }

            /// Width of one element in bits.
            pub const fn bits(self) -> u32 {
                match self { $(ScalarType::$name => $bits,)* }
            }

            /// The type with this code, if there is one.
            pub const fn from_code(code: u8) -> Option<ScalarType> {
                match code { $($code => Some(ScalarType::$name),)* _ => None }
            }

            /// The type with this text name, if there is one.
            pub fn from_name(name: &str) -> Option<ScalarType> {
                match name { $($text => Some(ScalarType::$name),)* _ => None }
            }
        }
    };
}

scalar_types! {
    /// One byte in memory, 0 or 1.
    Bool = 0, "bool", 8;
    /// Two's complement, 2 bits.
    I2 = 1, "i2", 2;
    /// Unsigned, 2 bits.
    U2 = 2, "u2", 2;
    /// Two's complement, 4 bits.
    I4 = 3, "i4", 4;
    /// Unsigned, 4 bits.
    U4 = 4, "u4", 4;
    /// Two's complement, 8 bits.
    I8 = 5, "i8", 8;
    /// Unsigned, 8 bits.
    U8 = 6, "u8", 8;
    /// Two's complement, 16 bits.
    I16 = 7, "i16", 16;
    /// Unsigned, 16 bits.
    U16 = 8, "u16", 16;
    /// Two's complement, 32 bits.
    I32 = 9, "i32", 32;
    /// Unsigned, 32 bits.
    U32 = 10, "u32", 32;
    /// Two's complement, 64 bits.
    I64 = 11, "i64", 64;
    /// Unsigned, 64 bits.
    U64 = 12, "u64", 64;
    /// IEEE 754 binary16.
    F16 = 13, "f16", 16;
    /// The upper half of binary32.
    Bf16 = 14, "bf16", 16;
    /// IEEE 754 binary32.
    F32 = 15, "f32", 32;
    /// IEEE 754 binary64.
    F64 = 16, "f64", 64;
    /// OCP E4M3: no infinity, one NaN magnitude (`S.1111.111`), largest 448.
    E4M3 = 17, "e4m3", 8;
    /// OCP E5M2: IEEE-like with infinities, largest 57344.
    E5M2 = 18, "e5m2", 8;
    /// E4M3 with bias 8, NaN at 0x80 and no negative zero (ONNX FLOAT8E4M3FNUZ).
    E4M3Fnuz = 19, "e4m3fnuz", 8;
    /// E5M2 with bias 16, NaN at 0x80 and no negative zero (ONNX FLOAT8E5M2FNUZ).
    E5M2Fnuz = 20, "e5m2fnuz", 8;
    /// OCP FP6 E3M2: no specials, largest 28.
    E3M2 = 21, "e3m2", 6;
    /// OCP FP6 E2M3: no specials, largest 7.5.
    E2M3 = 22, "e2m3", 6;
    /// OCP FP4 E2M1: no specials, largest 6.
    E2M1 = 23, "e2m1", 4;
    /// An exponent: `2^(code - 127)`, 0xFF is NaN.
    E8M0 = 24, "e8m0", 8;
    /// Sign and magnitude in sixty-fourths, the elements of MX9: below 2, with -0.
    Sm8 = 25, "sm8", 8;
    /// Sign and magnitude in eighths, the elements of MX6: below 2, with -0.
    Sm5 = 26, "sm5", 5;
    /// Sign and magnitude in halves, the elements of MX4: below 2, with -0.
    Sm3 = 27, "sm3", 3;
}

impl ScalarType {
    /// True for every type of fractions: floating-point types, [`ScalarType::E8M0`] and sign and magnitude included.
    pub const fn is_float(self) -> bool {
        self as u8 >= ScalarType::F16 as u8
    }

    /// True for signed and unsigned integers; false for `bool`.
    pub const fn is_int(self) -> bool {
        self as u8 >= ScalarType::I2 as u8 && self as u8 <= ScalarType::U64 as u8
    }

    /// Elements of the shortest run that fills whole bytes.
    pub const fn unit_elements(self) -> usize {
        let twos = self.bits().trailing_zeros();
        8 >> if twos < 3 { twos } else { 3 }
    }

    /// Bytes of `n` elements stored densely, the last byte padded.
    pub const fn bytes_for(self, n: u64) -> u64 {
        (n * self.bits() as u64).div_ceil(8)
    }
}

impl fmt::Display for ScalarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Elements that share one scale.
///
/// An `i8` element of a group with an E8M0 scale is OCP MXINT8: its value is `code / 64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GroupFormat {
    /// Type of one element.
    pub element: ScalarType,
    /// Type of the shared scale.
    pub scale: ScalarType,
    /// Elements that share a scale.
    pub size: u8,
    /// Whether each pair of elements also shares a one-bit shift (MX9, MX6 and MX4): a set bit halves both. Groups with
    /// shifts have at most 16 elements.
    pub pair_shift: bool,
}

impl GroupFormat {
    /// Type of a group's entry in the scale plane: the scale, or the scale with a byte of pair shifts behind it. It says how
    /// entries are moved; [`group::GroupScale`] reads them.
    pub const fn scale_entry(self) -> ScalarType {
        if self.pair_shift { ScalarType::U16 } else { ScalarType::E8M0 }
    }

    /// Bytes of the scale plane of `n` groups.
    pub const fn scale_bytes(self, n: u64) -> u64 {
        self.scale_entry().bytes_for(n)
    }
}

macro_rules! group_formats {
    ($($(#[$doc:meta])* $konst:ident = $code:literal, $text:literal, $element:ident, $scale:ident, $size:literal, $shift:literal;)*) => {
        impl GroupFormat {
            $($(#[$doc])* pub const $konst: GroupFormat = GroupFormat {
                element: ScalarType::$element, scale: ScalarType::$scale, size: $size, pair_shift: $shift };)*

            /// Every named format, in code order.
            pub const ALL: &'static [GroupFormat] = &[$(GroupFormat::$konst,)*];

            /// The name in text forms, for example `mxfp8`.
            pub fn name(self) -> &'static str {
                match self { $(GroupFormat::$konst => $text,)* _ => "unnamed" }
            }

            /// The format's 8-bit code.
            pub fn code(self) -> Option<u8> {
                match self { $(GroupFormat::$konst => Some($code),)* _ => None }
            }

            /// The format with this code, if there is one.
            pub fn from_code(code: u8) -> Option<GroupFormat> {
                match code { $($code => Some(GroupFormat::$konst),)* _ => None }
            }

            /// The format with this text name, if there is one.
            pub fn from_name(name: &str) -> Option<GroupFormat> {
                match name { $($text => Some(GroupFormat::$konst),)* _ => None }
            }
        }
    };
}

group_formats! {
    /// OCP MXFP8 with E4M3 elements.
    MXFP8 = 64, "mxfp8", E4M3, E8M0, 32, false;
    /// OCP MXFP8 with E5M2 elements.
    MXFP8_E5M2 = 65, "mxfp8e5m2", E5M2, E8M0, 32, false;
    /// OCP MXFP6 with E2M3 elements.
    MXFP6 = 66, "mxfp6", E2M3, E8M0, 32, false;
    /// OCP MXFP6 with E3M2 elements.
    MXFP6_E3M2 = 67, "mxfp6e3m2", E3M2, E8M0, 32, false;
    /// OCP MXFP4.
    MXFP4 = 68, "mxfp4", E2M1, E8M0, 32, false;
    /// OCP MXINT8.
    MXINT8 = 69, "mxint8", I8, E8M0, 32, false;
    /// MXFP8 (E4M3) in groups of 16, as MTIA 400 has it.
    MXFP8_G16 = 70, "mxfp8g16", E4M3, E8M0, 16, false;
    /// MXFP6 (E2M3) in groups of 16.
    MXFP6_G16 = 71, "mxfp6g16", E2M3, E8M0, 16, false;
    /// MXFP4 in groups of 16.
    MXFP4_G16 = 72, "mxfp4g16", E2M1, E8M0, 16, false;
    /// MXINT8 in groups of 16.
    MXINT8_G16 = 73, "mxint8g16", I8, E8M0, 16, false;
    /// NVFP4: groups of 16 with an E4M3 scale; the tensor's f32 scale is a separate operand.
    NVFP4 = 74, "nvfp4", E2M1, E4M3, 16, false;
    /// MX9 of arXiv 2302.08007: 7 magnitude bits, 9 bits an element with scale and shifts.
    MX9 = 75, "mx9", Sm8, E8M0, 16, true;
    /// MX6 of arXiv 2302.08007: 4 magnitude bits, 6 bits an element with scale and shifts.
    MX6 = 76, "mx6", Sm5, E8M0, 16, true;
    /// MX4 of arXiv 2302.08007, which is not MXFP4: 2 magnitude bits, 4 bits an element with scale and shifts.
    MX4 = 77, "mx4", Sm3, E8M0, 16, true;
    /// MXFP8 with E5M2 elements in groups of 16.
    MXFP8_E5M2_G16 = 78, "mxfp8e5m2g16", E5M2, E8M0, 16, false;
    /// MXFP6 with E3M2 elements in groups of 16.
    MXFP6_E3M2_G16 = 79, "mxfp6e3m2g16", E3M2, E8M0, 16, false;
}

impl fmt::Display for GroupFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a view or a tensor stores: scalars, or groups of elements with their scales.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Format {
    /// Elements on their own.
    Scalar(ScalarType),
    /// Elements that share scales.
    Grouped(GroupFormat),
}

impl Format {
    /// Plain `f32`, the format of accumulator banks.
    pub const F32: Format = Format::Scalar(ScalarType::F32);

    /// The 8-bit code used in views and object files.
    ///
    /// # Panics
    /// On a group format that [`GroupFormat::ALL`] does not list: nothing in the project makes one.
    pub fn code(self) -> u8 {
        match self {
            Format::Scalar(s) => s as u8,
            Format::Grouped(g) => g.code().expect("group formats come from the table"),
        }
    }

    /// The format with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Format> {
        ScalarType::from_code(code)
            .map(Format::Scalar)
            .or_else(|| GroupFormat::from_code(code).map(Format::Grouped))
    }

    /// The format with this text name, if there is one.
    pub fn from_name(name: &str) -> Option<Format> {
        ScalarType::from_name(name)
            .map(Format::Scalar)
            .or_else(|| GroupFormat::from_name(name).map(Format::Grouped))
    }

    /// Type of one element.
    pub const fn element(self) -> ScalarType {
        match self {
            Format::Scalar(s) => s,
            Format::Grouped(g) => g.element,
        }
    }

    /// Elements that share a scale: 1 for scalars.
    pub const fn group_size(self) -> u32 {
        match self {
            Format::Scalar(_) => 1,
            Format::Grouped(g) => g.size as u32,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Scalar(s) => s.fmt(f),
            Format::Grouped(g) => g.fmt(f),
        }
    }
}

/// How the shared scale of a group is chosen from the group's largest magnitude (amax).
///
/// Sources: OCP MX v1.0 section 6.3 (`floor`), NVIDIA's and torchao's RCEIL, AMD Quark's and torchao's EVEN, torchao's
/// CEIL, TOSA 1.1's `calc_block_scale`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum ScaleMode {
    /// `floor(log2 amax) - emax`: the OCP rule, and the default at run time.
    #[default]
    Floor = 0,
    /// `ceil(log2(amax / largest))`.
    Rceil = 1,
    /// Floor after rounding amax half up at the element's mantissa width.
    Even = 2,
    /// `ceil(log2 amax) - emax`.
    Ceil = 3,
    /// The smallest scale under which amax does not overflow: the default ahead of time.
    Tosa = 4,
}

impl ScaleMode {
    /// Every mode, in code order.
    pub const ALL: [ScaleMode; 5] =
        [ScaleMode::Floor, ScaleMode::Rceil, ScaleMode::Even, ScaleMode::Ceil, ScaleMode::Tosa];

    /// The mode with this code, if there is one.
    pub fn from_code(code: u8) -> Option<ScaleMode> {
        Self::ALL.get(code as usize).copied()
    }

    /// The name in text forms.
    pub const fn name(self) -> &'static str {
        match self {
            ScaleMode::Floor => "floor",
            ScaleMode::Rceil => "rceil",
            ScaleMode::Even => "even",
            ScaleMode::Ceil => "ceil",
            ScaleMode::Tosa => "tosa",
        }
    }

    /// The mode with this text name, if there is one.
    pub fn from_name(name: &str) -> Option<ScaleMode> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }
}

impl fmt::Display for ScaleMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
