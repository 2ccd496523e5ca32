//! Objects for tests: a small valid one, and generators of arbitrary ones.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::blob::Blob;
use crate::encode::RowSpec;
use crate::field::Field;
use crate::format::{Format, GroupFormat, ScalarType, ScaleMode};
use crate::inst::{Action, Combine, Fill, Inst, InstKind, MaskCode, Multicast, Operand, Order};
use crate::object::{
    Access, Address, Buffer, BufferKind, EntryPoint, Kernel, Launch, MemSpace, Object, ObjectOrigin, Param,
    ParamTerm, Port, TensorDecl, Transfer, Trip,
};
use crate::program::{Lane, Program, Reg, SeBinary, SeOp, SeReduce, SeUnary, Stream};
use crate::view::{Advance, Dim, Pattern, Shift, Space, View};

/// A word of a row with legal values in every field, made from random bits.
fn word(row: &RowSpec, random: u128) -> u128 {
    let mut word = u128::from(row.opcode);
    for field in row.fields {
        let bits = random >> field.bit & ((1 << field.width) - 1);
        let n_values = match field.kind {
            "SeUnary" => SeUnary::NormCdf as u128 + 1,
            "SeBinary" => SeBinary::Le as u128 + 1,
            "ScalarCode" => ScalarType::ALL.len() as u128,
            "MaskCode" => MaskCode::Rows as u128 + 1,
            "Combine" => Combine::Max as u128 + 1,
            _ => 1 << field.width,
        };
        word |= (bits % n_values) << field.bit;
    }
    word
}

/// Any instruction.
pub fn inst() -> impl Strategy<Value = Inst> {
    (select(InstKind::ROWS), any::<u128>())
        .prop_map(|(row, random)| Inst::decode(word(&row, random) | random & 0x300).unwrap())
}

/// Any SE operation.
pub fn se_op() -> impl Strategy<Value = SeOp> {
    (select(SeOp::ROWS), any::<u64>())
        .prop_map(|(row, random)| SeOp::decode(word(&row, u128::from(random)) as u64).unwrap())
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_]{0,8}",
        "[ -~]{0,6}",
        "\\PC{0,4}",
        any::<String>().prop_map(|s| s.chars().take(4).collect())
    ]
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![
        select(ScalarType::ALL).prop_map(Format::Scalar),
        select(GroupFormat::ALL).prop_map(Format::Grouped)
    ]
}

fn small<T: Arbitrary + 'static>(low: std::ops::Range<T>) -> BoxedStrategy<T>
where
    std::ops::Range<T>: Strategy<Value = T>,
{
    prop_oneof![4 => low, 1 => any::<T>()].boxed()
}

fn view() -> impl Strategy<Value = View> {
    let dim = prop_oneof![
        2 => Just(Dim::UNIT),
        3 => (small(0..99u32), small(-99..99i32), small(-9..9i32), small(0..99u32))
            .prop_map(|(size, stride, origin, bound)| Dim { size, stride, origin, bound }),
        1 => (small(0..99u32), small(-99..99i32)).prop_map(|(size, stride)| Dim::free(size, stride)),
    ];
    let shift = (any::<u8>(), any::<u8>(), small(-9..9i32), small(-9..9i32))
        .prop_map(|(param, dim, origin, bound)| Shift { param, dim, origin, bound });
    let advance = || option::of((0..5u8, small(-99..99i32)).prop_map(|(dim, step)| Advance { dim, step }));
    (
        format(),
        option::of((1..=16u8, 1..=16u8).prop_map(|(n, m)| Pattern { n, m })),
        0..5u8,
        prop_oneof![Just(Space::Local), any::<u8>().prop_map(Space::Global)],
        small(-999..999i64),
        proptest::array::uniform5(dim),
        (proptest::array::uniform4(advance()), proptest::array::uniform4(advance()), option::of(shift)),
    )
        .prop_map(|(format, pattern, k_dim, space, offset, dims, (levels, coords, shift))| View {
            format,
            pattern,
            k_dim,
            space,
            offset,
            dims,
            levels,
            coords,
            shift,
        })
}

fn operand() -> impl Strategy<Value = Operand> {
    (0..1u32 << 24).prop_map(|bits| <Operand as Field>::from_bits(bits).unwrap())
}

fn program() -> impl Strategy<Value = Program> {
    let mode = select(&ScaleMode::ALL[..]);
    let stream = (operand(), mode).prop_map(|(operand, mode)| Stream { operand, mode });
    (
        name(),
        any::<u16>(),
        any::<u8>(),
        vec(stream, 0..4),
        vec(any::<u64>(), 0..4),
        vec(se_op(), 0..4),
        vec(se_op(), 0..6),
        vec(se_op(), 0..4),
    )
        .prop_map(|(name, domain, parallel, streams, constants, init, body, finish)| Program {
            name,
            domain,
            parallel,
            streams,
            constants,
            init,
            body,
            finish,
        })
}

fn kernel() -> impl Strategy<Value = Kernel> {
    let access = select(vec![Access::In, Access::Out, Access::InOut]);
    let tensor = (access, small(0..9999u64), proptest::array::uniform3(small(0..99u64)))
        .prop_map(|(access, bytes, planes)| TensorDecl { access, bytes, planes });
    let kind = select(vec![BufferKind::Local, BufferKind::Bank]);
    let buffer = (name(), kind, small(0..4096u32), any::<u8>())
        .prop_map(|(name, kind, slot_bytes, slots)| Buffer { name, kind, slot_bytes, slots });
    let factors = || proptest::array::uniform4(prop_oneof![3 => Just(0i32), 1 => any::<i32>()]);
    let term = (any::<u8>(), any::<i32>(), any::<u32>()).prop_map(|(param, factor, divisor)| ParamTerm {
        param,
        factor,
        divisor,
    });
    let param = (name(), any::<i32>(), any::<i32>()).prop_map(|(name, lo, hi)| Param { name, lo, hi });
    let trip = prop_oneof![
        any::<u32>().prop_map(Trip::constant),
        (any::<i64>(), factors(), factors(), option::of(term), any::<u32>())
            .prop_map(|(base, levels, coords, param, max)| Trip { base, levels, coords, param, max })
    ];
    let tables = (vec(param, 0..3), vec(tensor, 0..3), vec(buffer, 0..3), vec(view(), 0..5), vec(trip, 0..3));
    (
        name(),
        proptest::array::uniform4(small(1..12u16)),
        tables,
        vec(program(), 0..3),
        vec(any::<u64>(), 0..3),
        vec(inst(), 0..12),
    )
        .prop_map(|(name, grid, (params, tensors, buffers, views, trips), programs, constants, code)| {
            Kernel { name, grid, params, tensors, buffers, views, trips, programs, constants, code }
        })
}

fn address() -> impl Strategy<Value = Address> {
    (select(vec![MemSpace::Weights, MemSpace::Hbm, MemSpace::Sram]), small(0..9999u64))
        .prop_map(|(space, offset)| Address { space, offset })
}

fn port() -> impl Strategy<Value = Port> {
    (name(), select(ScalarType::ALL), vec(small(0..99u64), 0..4), address())
        .prop_map(|(name, elem, shape, address)| Port { name, elem, shape, address })
}

fn entry() -> impl Strategy<Value = EntryPoint> {
    let lists = (vec(address(), 0..3), vec(any::<i32>(), 0..3), vec(any::<u32>(), 0..3));
    let launch = (any::<u32>(), small(0..u64::MAX), lists)
        .prop_map(|(kernel, macs, (bases, params, origins))| Launch { kernel, bases, params, macs, origins });
    let combine = select(vec![Combine::Replace, Combine::Add, Combine::Mul, Combine::Min, Combine::Max]);
    let transfer =
        (address(), address(), select(ScalarType::ALL), any::<u64>(), combine, any::<i32>()).prop_map(
            |(src, dst, elem, elements, combine, peer)| Transfer { src, dst, elem, elements, combine, peer },
        );
    let ports = (vec(port(), 0..3), vec(port(), 0..3));
    (name(), any::<u16>(), ports, vec(launch, 0..3), vec(transfer, 0..3), vec(inst(), 0..4)).prop_map(
        |(name, ranks, (inputs, outputs), launches, transfers, code)| EntryPoint {
            name,
            ranks,
            inputs,
            outputs,
            launches,
            transfers,
            code,
        },
    )
}

/// Any object that can be written; hardly ever a valid one.
pub fn object() -> impl Strategy<Value = Object> {
    let weights = prop_oneof![
        vec(any::<u8>(), 0..200),
        (vec(any::<u8>(), 0..70), 0..200usize, vec(any::<u8>(), 0..70)).prop_map(|(a, zeros, b)| [
            a,
            vec![0; zeros],
            b
        ]
        .concat()),
    ];
    let origin = (name(), name()).prop_map(|(node, op)| ObjectOrigin { node, op });
    (
        (name(), name(), name()),
        vec(kernel(), 0..3),
        (vec(entry(), 0..3), vec(port(), 0..3)),
        vec(origin, 0..3),
        any::<u64>(),
        any::<u64>(),
        weights,
    )
        .prop_map(
            |(
                (name, target, target_file),
                kernels,
                (entries, states),
                origins,
                hbm_bytes,
                sram_bytes,
                weights,
            )| {
                Object {
                    name,
                    target,
                    target_file,
                    kernels,
                    entries,
                    states,
                    origins,
                    hbm_bytes,
                    sram_bytes,
                    weights: Blob::new(weights),
                }
            },
        )
}

/// A valid object: 64 x 64 times 64 x 64 in f32 on a 2 x 2 grid, with a ReLU.
pub fn sample() -> Object {
    let global = |base: u8, row_advance: [Option<Advance>; 4], sizes: [u32; 5], strides: [i32; 5]| {
        let mut view = View::dense(Format::F32, sizes);
        view.space = Space::Global(base);
        for (dim, stride) in view.dims.iter_mut().zip(strides) {
            dim.stride = stride;
        }
        view.dims[1].bound = 64;
        view.coords = row_advance;
        view
    };
    let row = Some(Advance { dim: 1, step: 32 });
    let col = Some(Advance { dim: 4, step: 32 });
    let mut a = global(0, [row, None, None, None], [1, 32, 1, 1, 32], [0, 64, 0, 0, 1]);
    a.levels[0] = Some(Advance { dim: 4, step: 32 });
    let mut b = global(1, [None, None, col, None], [1, 1, 1, 32, 32], [0, 0, 0, 64, 1]);
    b.levels[0] = Some(Advance { dim: 3, step: 32 });
    let c = global(2, [row, None, col, None], [1, 32, 1, 1, 32], [0, 64, 0, 0, 1]);
    let tile = View::dense(Format::F32, [1, 32, 1, 1, 32]);
    let panel = View::dense(Format::F32, [1, 1, 1, 32, 32]);
    let (read, push, pop, update) = (Action::Read, Action::Push, Action::Pop, Action::Update);
    let operand = Operand::new;
    let local =
        |name: &str| Buffer { name: name.into(), kind: BufferKind::Local, slot_bytes: 4096, slots: 2 };
    let tensor = |access| TensorDecl { access, bytes: 16384, planes: [0; 3] };
    let in_stage = |stage, kind| Inst { stage, kind };
    let relu = Program {
        name: "relu".into(),
        domain: 3,
        parallel: 5,
        streams: vec![
            Stream { operand: operand(2, read, 3), mode: ScaleMode::Floor },
            Stream { operand: operand(3, push, 3), mode: ScaleMode::Floor },
        ],
        constants: vec![0],
        init: vec![],
        body: vec![
            SeOp::Load { dst: Reg(0), lane: Lane::F32, stream: 0 },
            SeOp::Const { dst: Reg(1), lane: Lane::F32, index: 0 },
            SeOp::Binary { f: SeBinary::Max, lane: Lane::F32, dst: Reg(2), a: Reg(0), b: Reg(1) },
            SeOp::Store { stream: 1, lane: Lane::F32, src: Reg(2) },
        ],
        finish: vec![SeOp::Tree { f: SeReduce::Sum, lane: Lane::F32, dst: Reg(0), acc: 7 }],
    };
    let kernel = Kernel {
        name: "matmul_relu".into(),
        grid: [2, 1, 2, 1],
        params: vec![],
        tensors: vec![tensor(Access::In), tensor(Access::In), tensor(Access::Out)],
        buffers: vec![
            local("a"),
            local("b"),
            Buffer { name: "sum".into(), kind: BufferKind::Bank, slot_bytes: 4096, slots: 1 },
            local("out"),
        ],
        views: vec![a, b, c, tile, panel],
        trips: vec![Trip::constant(2)],
        programs: vec![relu],
        constants: vec![0],
        code: vec![
            InstKind::Ld { dst: operand(0, push, 3), src: 0, cast: Multicast::Row, fill: Fill::Zero }.into(),
            InstKind::Pop { n: 1, buffer: 0 }.into(),
            InstKind::Zero { bank: operand(2, push, 3) }.into(),
            InstKind::Loop { trip: 0, level: 0, stages: 2 }.into(),
            InstKind::Ld { dst: operand(0, push, 3), src: 0, cast: Multicast::Row, fill: Fill::Zero }.into(),
            InstKind::Ld { dst: operand(1, push, 4), src: 1, cast: Multicast::Col, fill: Fill::Least }.into(),
            in_stage(
                1,
                InstKind::Mm {
                    bank: operand(2, update, 3),
                    a: operand(0, pop, 3),
                    b: operand(1, pop, 4),
                    order: Order::Kn,
                },
            ),
            InstKind::End {}.into(),
            InstKind::Run { program: 0 }.into(),
            InstKind::Pop { n: 1, buffer: 2 }.into(),
            InstKind::St { src: operand(3, pop, 3), dst: 2 }.into(),
            InstKind::Halt {}.into(),
        ],
    };
    let hbm = |offset| Address { space: MemSpace::Hbm, offset };
    let port = |name: &str, offset| Port {
        name: name.into(),
        elem: ScalarType::F32,
        shape: vec![64, 64],
        address: hbm(offset),
    };
    Object {
        name: "sample".into(),
        target: "mtia-300".into(),
        target_file: String::new(),
        kernels: vec![kernel],
        entries: vec![EntryPoint {
            name: "main".into(),
            ranks: 1,
            inputs: vec![port("x", 0)],
            outputs: vec![port("y", 16384)],
            launches: vec![Launch {
                kernel: 0,
                bases: vec![hbm(0), Address { space: MemSpace::Weights, offset: 0 }, hbm(16384)],
                params: vec![],
                macs: 0,
                origins: vec![0],
            }],
            transfers: vec![],
            code: vec![InstKind::Launch { launch: 0 }.into(), InstKind::Halt {}.into()],
        }],
        states: vec![],
        origins: vec![ObjectOrigin { node: "/fc/MatMul".into(), op: "MatMul".into() }],
        hbm_bytes: 32768,
        sram_bytes: 0,
        weights: Blob::new((0..16384u32).map(|i| ((i * i) >> 7) as u8).collect::<Vec<u8>>()),
    }
}
