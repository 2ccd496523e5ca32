//! The fast kernels against the definition, on every vector unit that the host has.

use lacuna_isa::format::Format;
use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{GroupFormat, ScalarType, pack};
use lacuna_isa::view::{Pattern, PlaneMap};

use super::*;

/// A stream of random words.
struct Words(u64);

impl Words {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 20
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
}

/// What the operands of a case hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    /// Any codes and scales: NaN, infinities, subnormals, scales at the ends of their range.
    Wild,
    /// Finite elements under scales around 1.
    Finite,
}

/// Codes, scales and indices of an operand.
struct Planes {
    map: PlaneMap,
    codes: Vec<u8>,
    scales: Vec<u8>,
    indices: Vec<u8>,
}

impl Planes {
    fn new(map: PlaneMap, elements: usize, content: Content, words: &mut Words) -> Planes {
        let [code_bytes, scale_bytes, index_bytes] = map.plane_bytes(elements as u64).map(|n| n as usize);
        let ty = map.format.element();
        let mut codes = vec![0; code_bytes];
        for i in 0..code_bytes * 8 / ty.bits() as usize {
            let random = words.next();
            let code = match content {
                Content::Wild => random,
                Content::Finite if ty.bits() >= 16 => ty.encode((random % 4096) as f64 / 256.0 - 8.0),
                Content::Finite => {
                    if ty.decode(random).is_finite() {
                        random
                    } else {
                        0
                    }
                }
            };
            pack::set(&mut codes, ty, i, code);
        }
        let mut scales = vec![0; scale_bytes];
        if let Format::Grouped(format) = map.format {
            for number in 0..scale_bytes / format.scale_bytes(1) as usize {
                let random = words.next();
                let code = match (content, format.scale) {
                    (Content::Wild, _) => random as u8,
                    (Content::Finite, ScalarType::E8M0) => 112 + (random % 30) as u8,
                    (Content::Finite, _) => 0x28 + (random % 32) as u8,
                };
                GroupScale { code, shifts: (random >> 8) as u8 }.write(format, &mut scales, number);
            }
        }
        let mut indices = vec![0; index_bytes];
        if let Some(Pattern { n, m }) = map.pattern {
            let s = map.k_stride as usize;
            for block in 0..elements / usize::from(m) {
                let first = map.stored_idx(((block / s) * s * usize::from(m) + block % s) as u64) as usize;
                let mut places: Vec<u64> = (0..u64::from(m)).collect();
                while places.len() > usize::from(n) {
                    places.remove(words.below(places.len()));
                }
                for (j, place) in places.into_iter().enumerate() {
                    pack::set(&mut indices, map.pattern.unwrap().index_type(), first + j * s, place);
                }
            }
        }
        Planes { map, codes, scales, indices }
    }

    fn side(&self, k_offsets: Vec<i64>) -> Side<'_> {
        Side {
            planes: [&self.codes, &self.scales, &self.indices],
            map: self.map,
            k_offsets: k_offsets.into(),
        }
    }
}

/// A product to compare on.
#[derive(Clone, Debug)]
struct Case {
    formats: [Format; 2],
    pattern: Option<Pattern>,
    order: Order,
    /// Rows, columns, summed.
    sizes: [usize; 3],
    contents: [Content; 2],
    /// Summed elements at the end that clipping leaves out.
    clipped: usize,
}

fn group_rule([a, b]: [Format; 2]) -> Option<usize> {
    match (a, b) {
        (Format::Grouped(a), Format::Grouped(b)) => Some(usize::from(a.size.min(b.size))),
        (Format::Scalar(_), _) | (_, Format::Scalar(_)) => None,
    }
}

/// Compares all units with the definition; whether a fast kernel took the product.
fn check(case: &Case, words: &mut Words) -> bool {
    let [m, n, k] = case.sizes;
    let (b_k, b_n) = match case.order {
        Order::Nk => (1, k),
        Order::Kn => (n, 1),
    };
    let a_map = PlaneMap { format: case.formats[0], pattern: None, k_stride: 1 };
    let b_map = PlaneMap { format: case.formats[1], pattern: case.pattern, k_stride: b_k as u64 };
    let a = Planes::new(a_map, m * k, case.contents[0], words);
    let b = Planes::new(b_map, n * k, case.contents[1], words);
    // Clips cut whole groups, the flags of `mmact` any element.
    let mask: Vec<bool> = match case.clipped {
        _ if words.next().is_multiple_of(4) => {
            (0..k).map(|i| i == k / 2 || words.next().is_multiple_of(3)).collect()
        }
        0 => Vec::new(),
        clipped => (0..k).map(|i| i + clipped < k).collect(),
    };
    let product = Product {
        a: a.side((0..k as i64).collect()),
        b: b.side((0..k).map(|i| (i * b_k) as i64).collect()),
        rows: (0..m).filter(|i| i % 5 != 3).map(|i| (i, (i * k) as i64)).collect::<Vec<_>>().into(),
        cols: (0..n).map(|j| (j, (j * b_n) as i64)).collect::<Vec<_>>().into(),
        mask: mask.into(),
        stride: n,
        b_origin: Origin::Slot(0),
        group: group_rule(case.formats),
    };
    let start: Vec<f32> = (0..m * n).map(|_| (words.next() % 1000) as f32 - 500.5).collect();
    let mut want = start.clone();
    scalar::multiply(&product, &mut want);
    let mut taken = true;
    let schedule = Schedule::new(&product);
    for &units in Units::all() {
        let mut own = panels::PanelCache::default();
        // The second time, panels come from the cache.
        for _ in 0..2 {
            let mut got = start.clone();
            let caches = Caches { own: &mut own, shared: None, once: false };
            taken &= fast::multiply(units, &product, &schedule, &mut got, caches);
            if !taken {
                break;
            }
            for (i, (want, got)) in want.iter().zip(&got).enumerate() {
                // A drain makes one zero of both and one NaN of all.
                let same = (want + 0.0).to_bits() == (got + 0.0).to_bits() || (want.is_nan() && got.is_nan());
                assert!(same, "{units:?}, {case:?}, element {i}: {want:e} != {got:e}");
            }
        }
    }
    taken
}

/// Every format that the engine multiplies.
fn formats() -> Vec<Format> {
    let floats = ScalarType::ALL.iter().copied().filter(|ty| ty.is_float());
    let scalars = floats.filter(|ty| !matches!(ty, ScalarType::F64 | ScalarType::E8M0)).map(Format::Scalar);
    scalars.chain(GroupFormat::ALL.iter().copied().map(Format::Grouped)).collect()
}

fn pairs() -> Vec<[Format; 2]> {
    formats().into_iter().flat_map(|a| formats().into_iter().map(move |b| [a, b])).collect()
}

/// Whether pattern groups lie within the groups of the grouped rule.
fn fits(formats: [Format; 2], pattern: Option<Pattern>) -> bool {
    match (group_rule(formats), pattern) {
        (Some(size), Some(pattern)) => size.is_multiple_of(usize::from(pattern.m)),
        (None, _) | (_, None) => true,
    }
}

const ORDERS: [Order; 2] = [Order::Kn, Order::Nk];

/// Every pair of formats in both orders, dense, on any bits at all.
#[test]
fn every_pair_of_formats_dense() {
    let mut words = Words(1);
    for (formats, order) in pairs().into_iter().flat_map(|formats| ORDERS.map(|order| (formats, order))) {
        let contents = [Content::Wild; 2];
        let case = Case { formats, pattern: None, order, sizes: [2, 35, 64], contents, clipped: 0 };
        assert!(check(&case, &mut words), "{case:?} is left to the definition");
    }
}

/// Every pair of formats in both orders under the patterns that targets have. A fast kernel takes a first operand that is
/// finite, whatever the second.
#[test]
fn every_pair_of_formats_sparse() {
    let mut words = Words(2);
    for (n, m) in [(1, 2), (1, 4), (2, 4), (2, 8), (4, 8), (4, 12), (4, 16)] {
        let pattern = Some(Pattern { n, m });
        // 96 is whole groups of every format and pattern.
        let k = if m == 12 { 96 } else { 32 };
        for (formats, order) in pairs().into_iter().flat_map(|formats| ORDERS.map(|order| (formats, order))) {
            let contents = [Content::Finite, Content::Wild];
            let case = Case { formats, pattern, order, sizes: [1, 33, k], contents, clipped: 0 };
            if fits(formats, pattern) {
                assert!(check(&case, &mut words), "{case:?} is left to the definition");
            }
        }
    }
}

/// Every N:M that a view can hold, on one format of each kind.
#[test]
fn every_pattern() {
    let mut words = Words(3);
    let kinds = [
        Format::F32,
        Format::Scalar(ScalarType::E4M3),
        Format::Grouped(GroupFormat::MXFP4),
        Format::Grouped(GroupFormat::MX6),
    ];
    let patterns = (1..=16).flat_map(|m| (1..=m).map(move |n| Pattern { n, m }));
    for (pattern, order) in patterns.flat_map(|p| ORDERS.map(|order| (p, order))) {
        for formats in kinds.iter().flat_map(|&a| kinds.map(|b| [a, b])) {
            let pattern = Some(pattern);
            let unit = |format| PlaneMap { format, pattern, k_stride: 1 }.unit() as usize;
            let k = (1..).map(|i| i * unit(formats[0])).find(|k| k.is_multiple_of(unit(formats[1])));
            let contents = [Content::Finite; 2];
            let sizes = [1, 33, k.unwrap_or(1)];
            if fits(formats, pattern) {
                let case = Case { formats, pattern, order, sizes, contents, clipped: 0 };
                assert!(check(&case, &mut words), "{case:?} is left to the definition");
            }
        }
    }
}

/// Sizes, clipping and contents at random. With a pattern and a first operand that is not finite the definition runs alone,
/// because there a stored zero and a skipped term differ.
#[test]
fn random_products() {
    let mut words = Words(4);
    let mut refused = 0;
    for (number, formats) in pairs().into_iter().cycle().step_by(7).take(1200).enumerate() {
        let pattern = (number % 4 == 1).then_some(Pattern::P2_4);
        let k = 32 * (1 + words.below(3));
        let content = |wild: bool| if wild { Content::Wild } else { Content::Finite };
        let case = Case {
            formats,
            pattern,
            order: ORDERS[words.below(2)],
            sizes: [1 + words.below(15), 1 + words.below(70), k],
            contents: [content(number % 3 == 0), content(number % 5 == 0)],
            clipped: words.below(2) * 32 * usize::from(k > 32),
        };
        if !check(&case, &mut words) {
            assert!(
                pattern.is_some() && case.contents[0] == Content::Wild,
                "{case:?} is left to the definition"
            );
            refused += 1;
        }
    }
    assert!(refused > 0, "no product met the one condition of the fast kernels");
}

/// Tiles of every height beside panels of every width, and more panels than a tile takes.
#[test]
fn tall_and_wide_products() {
    let mut words = Words(5);
    let kinds = [
        Format::F32,
        Format::Scalar(ScalarType::Bf16),
        Format::Grouped(GroupFormat::MXFP8),
        Format::Grouped(GroupFormat::MXFP4),
        Format::Grouped(GroupFormat::MXINT8),
        Format::Grouped(GroupFormat::NVFP4),
    ];
    for rows in 1..=40 {
        for format in kinds {
            let case = Case {
                formats: [format; 2],
                pattern: None,
                order: ORDERS[words.below(2)],
                sizes: [rows, 1 + words.below(170), 32 * (1 + words.below(2))],
                contents: [if rows % 3 == 0 { Content::Wild } else { Content::Finite }; 2],
                clipped: 0,
            };
            assert!(check(&case, &mut words), "{case:?} is left to the definition");
        }
    }
}

/// Sums of bytes at the ends of their range: every element the least or the greatest code.
#[test]
fn extreme_integers() {
    for format in [GroupFormat::MXFP4, GroupFormat::MXINT8, GroupFormat::MXFP6] {
        let (m, n, k) = (7, 45, 64);
        let map = PlaneMap { format: Format::Grouped(format), pattern: None, k_stride: 1 };
        for codes in [[0xFF, 0xFF], [0x80, 0x80], [0x7F, 0x80], [0x00, 0x88]] {
            let planes = |rows: usize, code: u8| Planes {
                map,
                codes: vec![code; map.plane_bytes((rows * k) as u64)[0] as usize],
                scales: vec![127; map.plane_bytes((rows * k) as u64)[1] as usize],
                indices: Vec::new(),
            };
            let (a, b) = (planes(m, codes[0]), planes(n, codes[1]));
            let product = Product {
                a: a.side((0..k as i64).collect()),
                b: b.side((0..k as i64).collect()),
                rows: (0..m).map(|i| (i, (i * k) as i64)).collect::<Vec<_>>().into(),
                cols: (0..n).map(|j| (j, (j * k) as i64)).collect::<Vec<_>>().into(),
                mask: Cow::default(),
                stride: n,
                b_origin: Origin::Slot(0),
                group: Some(32),
            };
            let schedule = Schedule::new(&product);
            let mut want = vec![0.25; m * n];
            scalar::multiply(&product, &mut want);
            for &units in Units::all() {
                let mut got = vec![0.25; m * n];
                let mut own = panels::PanelCache::default();
                let caches = Caches { own: &mut own, shared: None, once: true };
                assert!(fast::multiply(units, &product, &schedule, &mut got, caches));
                assert_eq!(got, want, "{units:?} {format} {codes:x?}");
            }
        }
    }
}

#[test]
fn one_rounding_beyond_f32() {
    // 2^-149 * 2^-1 is half the least subnormal: alone it rounds to zero, beside another half it does not.
    let least = f32::from_bits(1);
    assert_eq!(scalar::scaled_add(1.0, 2f64.powi(-150), 0.0), 0.0);
    assert_eq!(scalar::scaled_add(3.0, 2f64.powi(-150), 0.0), f32::from_bits(2));
    assert_eq!(scalar::scaled_add(1.0, 2f64.powi(-150), least), f32::from_bits(2));
    assert_eq!(scalar::scaled_add(2f32.powi(-20), 2f64.powi(140), -2f32.powi(120)), 0.0);
    // Just above a tie of f32: rounding twice would lose the last term.
    let tie = 1.0 + 2f32.powi(-23);
    assert_eq!(scalar::scaled_add(2f32.powi(100), 2f64.powi(-160), tie), tie);
    assert_eq!(
        scalar::scaled_add(2f32.powi(-24) + 2f32.powi(-40), 2f64.powi(254) * 2f64.powi(-254), 1.0),
        tie
    );
}
