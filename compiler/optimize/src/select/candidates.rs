//! The candidates of a contraction, and what they share.

use cranelift_entity::SecondaryMap;
use indexmap::IndexMap;
use lacuna_ir::{ElemType, FuncId, Function, Module, Node, OriginId, Value};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::target::Target;
use lacuna_isa::view::Pattern;

use super::convert::{Forms, castable, grouped_axes, uniform};
use super::extents::Extents;
use super::model::{Model, cast_joins, groups_join};
use super::zeros::Zeros;
use crate::constants::{constant_values, weight_operands};
use crate::module::{dense, summed_dims};
use crate::options::{Options, TargetFeatures};
use crate::weights::Rounding;
use crate::zeros::{WeightSparsity, activity_of, follows};

/// The local error that a gain is best measured with: far above rounding, far below saturation.
const PROBE_NOISE: f64 = 1e-3;

/// One way to compute a contraction.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// Formats of the operands.
    pub formats: [Format; 2],
    /// The pattern in which weights are stored compressed.
    pub pattern: Option<Pattern>,
    /// Whether weights that follow a pattern are stored dense.
    pub dense: bool,
    /// Modelled cycles: the kernel, and conversions and stores of operands that no other contraction reads.
    pub cycles: f64,
    /// Bytes of the weights, 0 where another contraction has a share in them.
    pub bytes: u64,
    /// Noise to signal that it adds to the contraction's own result.
    pub local_error: f64,
    /// Noise to signal that it adds to the worst output.
    pub error: f64,
}

/// A contraction.
#[derive(Clone, Debug)]
pub struct Site {
    /// The node in the exact module's entry function.
    pub node: Node,
    /// ONNX nodes that it implements.
    pub origins: Vec<OriginId>,
    /// The node in text form: operator and shapes.
    pub text: String,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Elements of the constant operand.
    pub weight_elements: u64,
    /// Which operands are constant.
    pub constant: [bool; 2],
    /// Share of its local noise that reaches the worst output.
    pub gain: f64,
    /// Why it has no grouped candidates, if so.
    pub kept: Option<&'static str>,
    /// The candidates; the first keeps the model's formats.
    pub candidates: Vec<Candidate>,
    /// What the precision that is asked for makes of it: a candidate whether or not it is worth one.
    pub asked: [Format; 2],
    values: [Value; 2],
    axes: [u8; 2],
}

/// A value in a format, grouped along an axis (0 for scalars).
pub type Form = (Format, u8);

/// A value that several operands of contractions read: its conversions are shared.
pub struct Shared {
    value: Value,
    /// The contractions.
    pub users: Vec<usize>,
    /// The forms that it may have at once, at most two, each with cycles and bytes.
    pub states: Vec<(Vec<Form>, f64, u64)>,
}

/// What [`list`] finds.
pub struct Listed {
    /// The contractions, in order.
    pub sites: Vec<Site>,
    /// Values that several of them read.
    pub shared: Vec<Shared>,
    /// Bytes of constants that are no weights of contractions.
    pub other_bytes: u64,
}

/// The native formats that are worth a candidate: f32, bf16, and of the grouped ones one for each element type. Elements with
/// more exponent than E4M3, E2M3 and E2M1 have lose precision for a range that the shared scale already gives.
pub fn formats(features: &TargetFeatures) -> Vec<Format> {
    let mut found = vec![Format::F32];
    let bf16 = Format::Scalar(ScalarType::Bf16);
    if features.formats.contains(&bf16) {
        found.push(bf16);
    }
    for element in [ScalarType::I8, ScalarType::E4M3, ScalarType::E2M3, ScalarType::E2M1] {
        let of = |f: &&Format| matches!(f, Format::Grouped(g) if g.element == element && !g.pair_shift && g.scale == ScalarType::E8M0);
        let widest =
            features.formats.iter().filter(of).max_by_key(|f| (f.group_size(), std::cmp::Reverse(**f)));
        found.extend(widest);
    }
    found
}

/// The contractions of a function with their candidates, and the values that several of them read.
pub fn list(module: &Module, id: FuncId, target: &Target, options: &Options) -> Listed {
    let (func, features) = (&module.functions[id], &options.features);
    let model = Model { target };
    let active = activity_of(module, id);
    // Techniques that move weights off zero leave nothing to count on.
    let zeros_stay = options.weights.rounding == Rounding::Nearest && !options.weights.hadamard;
    let constant = constant_values(func);
    let mut uses: SecondaryMap<Value, usize> = SecondaryMap::new();
    func.nodes.values().flat_map(|n| &n.args).chain(&func.results).for_each(|&v| uses[v] += 1);
    let products: Vec<Node> =
        func.nodes.iter().filter(|(_, n)| n.op.is_product()).map(|(id, _)| id).collect();
    let mut readers: IndexMap<Value, Vec<(usize, usize)>> = IndexMap::new();
    for (site, &id) in products.iter().enumerate() {
        for (operand, &v) in func.nodes[id].args.iter().enumerate() {
            readers.entry(v).or_default().push((site, operand));
        }
    }
    let formats = formats(features);
    let mut sites = Vec::new();
    let conversions = Conversions { func, model, uses: &uses, readers: &readers };
    let mut weights = IndexMap::new();
    for id in products {
        let node = &func.nodes[id];
        let values = [node.args[0], node.args[1]];
        let constant = weight_operands(func, node, &constant);
        let grouped = grouped_axes(func, node);
        let extents = Extents::of(func, node, constant);
        let axes = grouped.unwrap_or_default();
        let weight_elements: u64 = (0..2).filter(|&i| constant[i]).map(|i| extents.elements[i]).sum();
        weights.extend(values.iter().filter_map(|&v| Some((func.as_const(v)?, ()))));
        let own = [0, 1].map(|i| func.ty(values[i]).elem.format());
        let mut pairs = pairs(own, constant, castable(func, node).is_ok(), grouped.is_ok(), &formats);
        let (forms, _) = uniform(func, node, constant, options.precision);
        let asked = [0, 1].map(|i| forms.operands[i].unwrap_or(own[i]));
        if !pairs.contains(&asked) {
            pairs.push(asked);
        }
        let exact_zeros = features.sparse_2_4 && zeros_follow(module, func, id);
        let zeros = if zeros_stay {
            let wanted: Vec<Format> = pairs.iter().map(|p| p[1 - extents.first]).collect();
            Zeros::of(module, func, node, &extents, &wanted, active[id].is_some())
        } else {
            Zeros::default()
        };
        let mut candidates = Vec::new();
        for formats in pairs {
            let patterns: &[Option<Pattern>] =
                if exact_zeros { &[Some(Pattern { n: 2, m: 4 }), None] } else { &[None] };
            for &pattern in patterns {
                let product = model.product(&extents, formats, pattern, &zeros);
                let mut cycles = product.cycles;
                let mut bytes = 0;
                for i in 0..2 {
                    let private = readers.get(&values[i]).is_some_and(|r| r.len() == 1);
                    if !private {
                        continue;
                    }
                    if constant[i] && extents.packed && i != extents.first {
                        bytes += product.weight_bytes;
                    } else if constant[i] {
                        bytes += extents.weight_bytes(formats[i], pattern.filter(|_| i == 1), i);
                    } else {
                        cycles += conversions.cycles(values[i], &[form(formats[i], axes[i])]);
                    }
                }
                let dense = exact_zeros && pattern.is_none();
                let unknown = if formats == own { 0.0 } else { f64::INFINITY };
                candidates.push(Candidate {
                    formats,
                    pattern,
                    dense,
                    cycles,
                    bytes,
                    local_error: unknown,
                    error: unknown,
                });
            }
        }
        let shapes: Vec<String> = values.iter().map(|&v| func.ty(v).shape.to_string()).collect();
        sites.push(Site {
            node: id,
            origins: node.origins.clone(),
            text: format!(
                "{} {} x {} -> {}",
                node.op.name(),
                shapes[0],
                shapes[1],
                func.ty(node.results[0]).shape
            ),
            macs: extents.macs(),
            weight_elements,
            constant,
            gain: 0.0,
            kept: grouped.err(),
            candidates,
            asked,
            values,
            axes,
        });
    }
    let shared = conversions.shared(module, &sites, &constant);
    let others = module.constants.iter().filter(|(id, _)| !weights.contains_key(id));
    let other_bytes = others.map(|(_, c)| dense(c).map_or(0, |blob| blob.len() as u64)).sum();
    Listed { sites, shared, other_bytes }
}

impl Shared {
    /// Whether a candidate of a contraction reads only forms that a state has.
    pub fn suits(&self, state: usize, site: &Site, candidate: usize) -> bool {
        self.site_forms(site, candidate).all(|f| self.states[state].0.contains(&f))
    }

    /// Cycles and bytes of the forms that a choice needs: of the states that have them the cheapest. More than two forms at once are
    /// charged one by one.
    pub fn cost(&self, sites: &[Site], choice: &[usize]) -> (f64, u64) {
        let forms = self.forms(sites, choice);
        let fits = self.states.iter().filter(|s| forms.iter().all(|f| s.0.contains(f)));
        let best = fits.min_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)));
        let alone = || self.states.iter().filter(|s| s.0.len() == 1 && forms.contains(&s.0[0]));
        best.map_or_else(|| alone().fold((0.0, 0), |sum, s| (sum.0 + s.1, sum.1 + s.2)), |s| (s.1, s.2))
    }

    fn site_forms<'s>(&'s self, site: &'s Site, candidate: usize) -> impl Iterator<Item = Form> + 's {
        let formats = site.candidates[candidate].formats;
        (0..2).filter(|&i| site.values[i] == self.value).map(move |i| form(formats[i], site.axes[i]))
    }

    fn forms(&self, sites: &[Site], choice: &[usize]) -> Vec<Form> {
        let mut forms: Vec<Form> =
            self.users.iter().flat_map(|&s| self.site_forms(&sites[s], choice[s])).collect();
        forms.sort_unstable();
        forms.dedup();
        forms
    }
}

impl Site {
    /// The candidates that a run for `format` measures.
    pub(super) fn probes(&self, format: Format) -> Vec<(Forms, [Format; 2])> {
        let measured = |c: &&Candidate| {
            let both = c.formats == [format; 2];
            let weights_alone =
                (0..2).all(|i| c.formats[i] == if self.constant[i] { format } else { Format::F32 });
            // Noise of operands that are measured apart adds; what is asked for is measured as it is.
            let asked = self.asked == c.formats && c.formats.contains(&format);
            !c.dense && (both || asked || (weights_alone && self.constant != [false; 2]))
        };
        let found = self.candidates[1..].iter().filter(measured);
        found.map(|c| (Forms { operands: c.formats.map(Some), dense: false }, c.formats)).collect()
    }

    pub(super) fn set_local(&mut self, formats: [Format; 2], ratio: f64) {
        for c in self.candidates.iter_mut().filter(|c| c.formats == formats) {
            c.local_error = ratio;
        }
    }

    fn local(&self, formats: [Format; 2]) -> Option<f64> {
        self.candidates.iter().find(|c| c.formats == formats).map(|c| c.local_error)
    }

    /// Local errors of pairs that no run measured: noise of both operands adds.
    pub(super) fn combine_local(&mut self) {
        let pair = |weights: Format, activations: Format| {
            self.constant.map(|c| if c { weights } else { activations })
        };
        let errors: Vec<f64> = self
            .candidates
            .iter()
            .map(|c| {
                if c.local_error.is_finite() {
                    return c.local_error;
                }
                let Some(w) = self.constant.iter().position(|&c| c) else { return c.local_error };
                let (weights, activations) = (c.formats[w], c.formats[1 - w]);
                let of_weights = |f: Format| self.local(pair(f, Format::F32));
                // What both lose, less what the weights lose; a cast loses little, and all of it is counted.
                let both = self.local([activations; 2]);
                let of_activations = both.map(|b| match activations {
                    Format::Scalar(_) => b,
                    Format::Grouped(_) => (b - of_weights(activations).unwrap_or(0.0)).max(0.0),
                });
                of_weights(weights).zip(of_activations).map_or(f64::INFINITY, |(w, a)| w + a)
            })
            .collect();
        for (candidate, error) in self.candidates.iter_mut().zip(errors) {
            candidate.local_error = error;
        }
    }

    /// The candidate with both operands in one format whose local error suits the measurement of the gain best.
    pub(super) fn gain_probe(&self) -> Option<usize> {
        let suited = |c: &Candidate| c.local_error > 0.0 && c.local_error.is_finite() && !c.dense;
        let distance = |c: &Candidate| (c.local_error / PROBE_NOISE).ln().abs();
        let same = (0..self.candidates.len()).filter(|&i| {
            let c = &self.candidates[i];
            suited(c) && c.formats[0] == c.formats[1]
        });
        same.min_by(|&a, &b| distance(&self.candidates[a]).total_cmp(&distance(&self.candidates[b])))
    }
}

fn form(format: Format, axis: u8) -> Form {
    match format {
        Format::Scalar(_) => (format, 0),
        Format::Grouped(_) => (format, axis),
    }
}

/// Whether the constant second operand of a contraction is 2:4 sparse as it is.
fn zeros_follow(module: &Module, func: &Function, id: Node) -> bool {
    let node = &func.nodes[id];
    summed_dims(&node.op).into_iter().any(|(operand, axis)| {
        operand == 1
            && func
                .as_const(node.args[1])
                .is_some_and(|c| follows(&module.constants[c], axis, WeightSparsity::TWO_OF_FOUR))
    })
}

/// The pairs of operand formats of a contraction, its own first. Activations are at least as wide as weights: the narrower operand gains nothing
/// while the wider one sets the rate, and activations cost a conversion.
fn pairs(
    own: [Format; 2],
    constant: [bool; 2],
    castable: bool,
    groupable: bool,
    formats: &[Format],
) -> Vec<[Format; 2]> {
    let mut pairs = vec![own];
    let has_weights = constant[0] != constant[1];
    // Groups that weights have already stay.
    let stored = (0..2).find(|&i| constant[i] && matches!(own[i], Format::Grouped(_))).map(|i| [own[i]]);
    let weights = stored.as_ref().map_or(formats, |stored| &stored[..]);
    for &weights in weights {
        for &activations in formats {
            let allowed = match (weights, activations) {
                (Format::Scalar(w), Format::Scalar(a)) => castable && w == a,
                (Format::Grouped(_), Format::Scalar(a)) => {
                    has_weights && groupable && (castable || a == own[usize::from(constant[0])].element())
                }
                (Format::Grouped(w), Format::Grouped(a)) => {
                    groupable && w.size == a.size && (weights == activations || has_weights)
                }
                (Format::Scalar(_), Format::Grouped(_)) => false,
            };
            let pair = constant.map(|c| if c { weights } else { activations });
            if allowed && !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    pairs
}

/// What conversions of values cost.
struct Conversions<'a> {
    func: &'a Function,
    model: Model<'a>,
    uses: &'a SecondaryMap<Value, usize>,
    readers: &'a IndexMap<Value, Vec<(usize, usize)>>,
}

impl Conversions<'_> {
    /// Cycles for a computed value to exist in `forms` at once: stores by the kernel that computes it, and a kernel for each
    /// conversion that does not join that one.
    fn cycles(&self, value: Value, forms: &[Form]) -> f64 {
        let ty = self.func.ty(value);
        let (elements, own) = (ty.shape.elements(), ty.elem.format());
        let others = self.uses[value] > self.readers.get(&value).map_or(0, Vec::len);
        let joins = |&(format, axis): &Form| match format {
            Format::Scalar(_) => !others && forms.len() == 1 && cast_joins(self.func, value),
            Format::Grouped(_) => groups_join(self.func, value, format, axis),
        };
        let converted = || forms.iter().filter(|f| f.0 != own);
        let plain = others || forms.iter().any(|f| f.0 == own) || converted().any(|f| !joins(f));
        let one = |f: &Form| {
            if joins(f) { self.model.store(elements, f.0) } else { self.model.convert(elements, f.0) }.cycles
        };
        let stored = if plain { self.model.store(elements, own).cycles } else { 0.0 };
        stored + converted().map(one).sum::<f64>()
    }

    /// Values that several operands of contractions read.
    fn shared(&self, module: &Module, sites: &[Site], constant: &SecondaryMap<Value, bool>) -> Vec<Shared> {
        let mut all = Vec::new();
        for (&value, readers) in self.readers.iter().filter(|(_, r)| r.len() > 1) {
            let mut users: Vec<usize> = readers.iter().map(|r| r.0).collect();
            users.dedup();
            let mut forms: Vec<Form> = Vec::new();
            for &(site, operand) in readers {
                let site = &sites[site];
                forms.extend(site.candidates.iter().map(|c| form(c.formats[operand], site.axes[operand])));
            }
            forms.sort_unstable();
            forms.dedup();
            let mut sets: Vec<Vec<Form>> = forms.iter().map(|&f| vec![f]).collect();
            for (i, &a) in forms.iter().enumerate() {
                sets.extend(forms[i + 1..].iter().map(|&b| vec![a, b]));
            }
            let bytes = |form: Form| {
                let ty = self.func.ty(value);
                let elem = match form.0 {
                    Format::Scalar(s) => ElemType::Scalar(s),
                    Format::Grouped(format) => ElemType::Grouped { format, axis: form.1 },
                };
                let stored = self.func.as_const(value).is_some_and(|c| dense(&module.constants[c]).is_some());
                if stored { (lacuna_ir::TensorType { elem, shape: ty.shape.clone() }).bytes() } else { 0 }
            };
            let states = sets.into_iter().map(|set| {
                let cycles = if constant[value] { 0.0 } else { self.cycles(value, &set) };
                let bytes = if constant[value] { set.iter().map(|&f| bytes(f)).sum() } else { 0 };
                (set, cycles, bytes)
            });
            all.push(Shared { value, users, states: states.collect() });
        }
        all
    }
}
