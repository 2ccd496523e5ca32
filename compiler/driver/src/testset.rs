//! The ONNX test layout: `model.onnx` beside `test_data_set_*/input_*.pb`, `output_*.pb` and optionally `labels_0.pb`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lacuna_ir::Blob;
use lacuna_isa::format::ScalarType;
use lacuna_onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
use lacuna_onnx::{Dimension, ListKind, Literal, flatten};
use prost::Message;

use crate::codes;
use crate::diagnostics::{Diagnostic, Failed};
use crate::given::{self, Given, Of};
use crate::{files, tensors};

/// One `test_data_set_*` folder.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// Name of the folder.
    pub name: String,
    /// Contents of `input_*.pb` in order, with the names that the files give.
    pub inputs: Vec<(String, Literal)>,
    /// Contents of `output_*.pb` in order.
    pub outputs: Vec<(String, Literal)>,
    /// Labels of the first output.
    pub labels: Option<Literal>,
    /// For inputs that are sequences or optionals: the dimensions that say how many tensors they hold.
    pub lengths: BTreeMap<String, u64>,
    /// Whether outputs are named, and those that are missing are not compared.
    pub is_partial: bool,
    /// Whether every input has the name that the model gives it: then those that nothing asks for, as bound ones are constants, are
    /// left out.
    pub is_named: bool,
}

/// A model with its test data: empty for a model on its own.
#[derive(Debug)]
pub struct TestSet {
    /// The model.
    pub model: PathBuf,
    /// Folders with data, in order of their numbers.
    folders: Vec<PathBuf>,
    /// Data of the command line.
    given: Option<DataSet>,
}

fn bad(path: &Path, reason: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::new(codes::TEST_DATA, format!("{}: {reason}", path.display()))
}

impl TestSet {
    /// Finds model and data of a path that names a model or a test folder.
    ///
    /// # Errors
    /// L0002 when a folder cannot be listed, L0012 when a test folder has no model or no data.
    pub fn find(path: &Path) -> Result<TestSet, Diagnostic> {
        if !path.is_dir() {
            return Ok(TestSet { model: path.to_owned(), folders: Vec::new(), given: None });
        }
        let model = model_in(path)?;
        let folders = numbered(path, "test_data_set_", "")?;
        if folders.is_empty() {
            return Err(bad(path, "the folder has no test_data_set_*")
                .hint(format!("without data: lacuna verify {}", model.display())));
        }
        Ok(TestSet { model, folders, given: None })
    }

    /// A model, or the one of a test folder, with inputs and expected outputs of the command line. Every input must be given.
    ///
    /// # Errors
    /// L0007 for names that are none, L0008 for inputs that are not given, and those of reading.
    pub fn given(path: &Path, inputs: &[Given], expected: &[Given]) -> Result<TestSet, Failed> {
        let model = file_of(path)?;
        // A model that does not decode is the importer's to report.
        let Some(ports) = Ports::read(&files::read(&model)?) else {
            return Ok(TestSet { model, folders: Vec::new(), given: None });
        };
        let names =
            |ports: &[ValueInfoProto]| -> Vec<String> { ports.iter().map(|p| p.name.clone()).collect() };
        let (input_names, output_names) = (names(&ports.inputs), names(&ports.outputs));
        let inputs = given::read(inputs, &[&input_names[..], &names(&ports.defaulted)].concat(), Of::Inputs)?;
        let is_given = |name: &String| inputs.iter().any(|(given, _)| given == name);
        let missing = input_names.iter().filter(|name| !is_given(name));
        let missing: Vec<Diagnostic> = missing
            .map(|name| Diagnostic::new(codes::INPUT, format!("nothing is given for input `{name}`")))
            .collect();
        if !missing.is_empty() {
            return Err(Failed(missing));
        }
        let set = DataSet {
            name: "command line".to_owned(),
            inputs,
            outputs: given::read(expected, &output_names, Of::Outputs)?,
            labels: None,
            lengths: BTreeMap::new(),
            is_partial: true,
            is_named: true,
        };
        Ok(TestSet { model, folders: Vec::new(), given: Some(set) })
    }

    /// Whether there are reference outputs.
    pub fn has_data(&self) -> bool {
        !self.folders.is_empty() || self.given.as_ref().is_some_and(|set| !set.outputs.is_empty())
    }

    /// The inputs of the command line.
    pub fn given_inputs(&self) -> Option<&DataSet> {
        self.given.as_ref()
    }

    /// Reads every data set.
    ///
    /// # Errors
    /// L0012 when a folder has no outputs, or the code of a file that cannot be read.
    pub fn load(&self) -> Result<Vec<DataSet>, Diagnostic> {
        if let Some(set) = &self.given {
            return Ok(vec![set.clone()]);
        }
        let ports = files::read(&self.model).ok().and_then(|blob| Ports::read(&blob)).unwrap_or_default();
        let signature = Signature(ports);
        let load = |folder: &PathBuf| {
            DataSet::load(folder, true, &signature.0).map(|mut set| {
                signature.name_inputs(&mut set);
                set
            })
        };
        self.folders.iter().map(load).collect()
    }
}

/// The file that a path stands for: the model in it where it is a test folder.
///
/// # Errors
/// L0012 for a folder without a model.
pub fn file_of(path: &Path) -> Result<PathBuf, Diagnostic> {
    if path.is_dir() { model_in(path) } else { Ok(path.to_owned()) }
}

fn model_in(folder: &Path) -> Result<PathBuf, Diagnostic> {
    let model = folder.join("model.onnx");
    if model.is_file() { Ok(model) } else { Err(bad(folder, "the folder has no model.onnx")) }
}

/// The protobuf of a model, whose bytes are shared; `None` when it does not decode.
pub fn decode(model: &Blob) -> Option<ModelProto> {
    ModelProto::decode(Bytes::from_owner(Shared(model.clone()))).ok()
}

/// The files that a model says its tensors are in, those of subgraphs and of constants that nothing uses too.
pub fn data_files(graph: &GraphProto) -> BTreeSet<String> {
    let attributes = || graph.node.iter().flat_map(|node| &node.attribute);
    let sparse = graph.sparse_initializer.iter().flat_map(|s| s.values.iter().chain(&s.indices));
    let constants = attributes().flat_map(|a| a.t.iter().chain(&a.tensors));
    let tensors = graph.initializer.iter().chain(sparse).chain(constants);
    let entries = tensors.flat_map(|tensor| &tensor.external_data);
    let mut files: BTreeSet<String> =
        entries.filter(|e| e.key == "location").map(|e| e.value.clone()).collect();
    files.extend(attributes().flat_map(|a| a.g.iter().chain(&a.graphs)).flat_map(data_files));
    files
}

/// Graph inputs that are not initializers, and those that are.
pub fn inputs_by_default(graph: &GraphProto) -> (Vec<ValueInfoProto>, Vec<ValueInfoProto>) {
    let initializers: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.iter().cloned().partition(|i| !initializers.contains(i.name.as_str()))
}

/// Graph inputs and outputs, as a model declares them.
#[derive(Debug, Default)]
struct Ports {
    /// Inputs that are not initializers.
    inputs: Vec<ValueInfoProto>,
    /// Inputs that are, which a caller may give: the initializer is their default.
    defaulted: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
}

impl Ports {
    /// `None` when the model does not decode, which the importer reports.
    fn read(model: &Blob) -> Option<Ports> {
        let graph: GraphProto = decode(model)?.graph?;
        let (inputs, defaulted) = inputs_by_default(&graph);
        Some(Ports { inputs, defaulted, outputs: graph.output })
    }
}

/// Inputs to calibrate with, in any of three layouts: `test_data_set_*` folders, `input_*.pb` in the folder itself, or
/// `NAME.npy` for each input. `labels_0.pb` or `labels.npy` beside the inputs are labels of the first output.
///
/// # Errors
/// L0002 when a folder cannot be listed, L0012 when it has no inputs, or the code of a file that cannot be read.
pub fn calibration(folder: &Path) -> Result<Vec<DataSet>, Diagnostic> {
    let folders = numbered(folder, "test_data_set_", "")?;
    if !folders.is_empty() {
        return folders.iter().map(|folder| DataSet::load(folder, false, &Ports::default())).collect();
    }
    let set = DataSet::load(folder, false, &Ports::default())?;
    if !set.inputs.is_empty() {
        return Ok(vec![set]);
    }
    let unreadable = |e: std::io::Error| Diagnostic::new(codes::READ, format!("{}: {e}", folder.display()));
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).map(str::to_owned);
        if let Some(stem) = stem.filter(|_| path.extension().is_some_and(|e| e == "npy")) {
            files.insert(stem, path);
        }
    }
    let labels = files.remove("labels").map(|path| tensors::read(&path)).transpose()?.map(|(_, l)| l);
    let inputs: Vec<(String, Literal)> = files
        .into_iter()
        .map(|(stem, path)| Ok((stem, tensors::read(&path)?.1)))
        .collect::<Result<_, Diagnostic>>()?;
    if inputs.is_empty() {
        let hint = "test_data_set_* folders, input_*.pb, or NAME.npy for each input";
        return Err(bad(folder, "the folder has no inputs").hint(hint));
    }
    Ok(vec![DataSet { inputs, labels, ..set }])
}

/// Files or folders called `prefix` number `suffix`, by number.
fn numbered(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>, Diagnostic> {
    let unreadable = |e: std::io::Error| Diagnostic::new(codes::READ, format!("{}: {e}", folder.display()));
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(suffix)?.parse::<u64>().ok());
        if let Some(number) = number {
            found.insert(number, entry.path());
        }
    }
    Ok(found.into_values().collect())
}

impl DataSet {
    fn load(folder: &Path, needs_outputs: bool, ports: &Ports) -> Result<DataSet, Diagnostic> {
        let read = |prefix: &str, ports: &[ValueInfoProto]| -> Result<_, Diagnostic> {
            let (mut all, mut lengths) = (Vec::new(), BTreeMap::new());
            let files = numbered(folder, prefix, ".pb")?;
            for (i, path) in files.iter().enumerate() {
                let kind = ports.get(i).map_or(ListKind::Tensor, ListKind::of);
                match ports.get(i).filter(|_| kind != ListKind::Tensor) {
                    Some(port) => all.extend(tensors::read_list(path, &port.name, kind, &mut lengths)?),
                    None => all.push(tensors::read(path)?),
                }
            }
            Ok((all, lengths))
        };
        let (outputs, n_elements) = read("output_", &ports.outputs)?;
        let (inputs, lengths) = read("input_", &ports.inputs)?;
        if outputs.is_empty() && n_elements.is_empty() && needs_outputs {
            return Err(bad(folder, "there is no output_*.pb"));
        }
        let labels = folder.join("labels_0.pb");
        let labels = if labels.is_file() { Some(tensors::read(&labels)?.1) } else { None };
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(DataSet { name, inputs, outputs, labels, lengths, is_partial: false, is_named: false })
    }

    /// Whether a tensor of this name is among the inputs.
    fn gives(&self, name: &str) -> bool {
        self.inputs.iter().any(|(given, _)| given == name)
    }

    /// The number of the input for each of `names`.
    ///
    /// # Errors
    /// L0012 when inputs and names cannot be paired.
    pub fn pair_inputs(&self, names: &[String]) -> Result<Vec<usize>, Diagnostic> {
        if self.is_named {
            let number = |name: &String| self.inputs.iter().position(|(given, _)| given == name);
            if let Some(paired) = names.iter().map(number).collect() {
                return Ok(paired);
            }
        }
        self.pair(&self.inputs, names, "inputs")
    }

    /// The number of the tensor for each of `names`: by the name in the file, or by order where no name fits.
    ///
    /// # Errors
    /// L0012 when tensors and names cannot be paired.
    pub fn pair(
        &self,
        tensors: &[(String, Literal)],
        names: &[String],
        what: &str,
    ) -> Result<Vec<usize>, Diagnostic> {
        let mut of_name: Vec<Option<usize>> = vec![None; names.len()];
        let mut rest = Vec::new();
        for (i, (name, _)) in tensors.iter().enumerate() {
            match names.iter().position(|n| n == name && !n.is_empty()) {
                Some(at) if of_name[at].is_some() => {
                    let reason = format!("{}: two tensors are called `{name}`", self.name);
                    return Err(Diagnostic::new(codes::TEST_DATA, reason));
                }
                Some(at) => of_name[at] = Some(i),
                None => rest.push(i),
            }
        }
        let count = || {
            let reason = format!("{}: {} {what} for the graph's {}", self.name, tensors.len(), names.len());
            let hint = format!("the graph's {what} are {}", names.join(", "));
            Diagnostic::new(codes::TEST_DATA, reason).hint(hint)
        };
        let mut rest = rest.into_iter();
        let paired: Option<Vec<usize>> =
            of_name.into_iter().map(|found| found.or_else(|| rest.next())).collect();
        match (paired, rest.next()) {
            (Some(paired), None) => Ok(paired),
            _ => Err(count()),
        }
    }

    /// The labels as numbers, checked against the shape of the first output.
    ///
    /// # Errors
    /// L0012.
    pub fn label_values(&self, output_shape: &[u64]) -> Result<Option<Vec<i64>>, Diagnostic> {
        let Some(labels) = &self.labels else { return Ok(None) };
        let positions = output_shape.split_last().map_or(&[][..], |(_, positions)| positions);
        let fits = labels.ty.elem.scalar() == Some(ScalarType::I64)
            && *labels.ty.shape == *positions
            && !positions.is_empty();
        if !fits {
            let reason = format!("{}: labels are {}, not i64{positions:?}", self.name, labels.ty);
            return Err(Diagnostic::new(codes::TEST_DATA, reason));
        }
        let values = labels.data.bytes().chunks_exact(8);
        Ok(Some(values.map(|b| b.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b)) as i64).collect()))
    }
}

struct Shared(Blob);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// What the driver reads off a model's graph before it is imported.
pub struct Signature(Ports);

impl Signature {
    /// The signature of a model; `None` when it does not decode, which the importer reports.
    pub fn read(model: &Blob) -> Option<Signature> {
        Ports::read(model).map(Signature)
    }

    /// Inputs with the tensors of a data set for sequences and optionals.
    fn inputs(&self, data: &DataSet) -> Vec<ValueInfoProto> {
        // Where the rank is not declared, the data has it.
        let mut sizes = data.lengths.clone();
        for (name, literal) in &data.inputs {
            let axes = literal.ty.shape.iter().enumerate();
            sizes.extend(axes.map(|(axis, &size)| (format!("{name}.{axis}"), size)));
        }
        let given = self.0.defaulted.iter().filter(|input| data.gives(&input.name));
        flatten(self.0.inputs.iter().chain(given), &sizes).inputs
    }

    /// Inputs with a default in the model for which the data set has another value.
    pub fn overridden<'a>(&self, data: &'a DataSet) -> Vec<&'a (String, Literal)> {
        let is_default = |name: &str| self.0.defaulted.iter().any(|input| input.name == name);
        data.inputs.iter().filter(|(name, _)| is_default(name)).collect()
    }

    /// Names of the inputs.
    pub fn names(&self, data: &DataSet) -> Vec<String> {
        self.inputs(data).into_iter().map(|input| input.name).collect()
    }

    /// Gives the inputs of a data set the names of the model's, where they can be told apart.
    pub fn name_inputs(&self, data: &mut DataSet) {
        let names = self.names(data);
        let Ok(paired) = data.pair_inputs(&names) else { return };
        for (name, i) in names.into_iter().zip(paired) {
            data.inputs[i].0 = name;
        }
        data.is_named = true;
    }

    /// Sizes of symbolic dimensions, read off the inputs of a data set.
    pub fn dims(&self, data: &DataSet) -> BTreeMap<String, u64> {
        let mut sizes = data.lengths.clone();
        let inputs = self.inputs(data);
        let names: Vec<String> = inputs.iter().map(|input| input.name.clone()).collect();
        let Ok(paired) = data.pair_inputs(&names) else { return sizes };
        for (input, i) in inputs.iter().zip(paired) {
            let shape = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.shape.as_ref());
            let dims = shape.map(|s| s.dim.as_slice()).unwrap_or_default();
            for (axis, (dim, &size)) in dims.iter().zip(data.inputs[i].1.ty.shape.iter()).enumerate() {
                if let Dimension::Name(name) = Dimension::of(dim, &input.name, axis) {
                    sizes.entry(name).or_insert(size);
                }
            }
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use lacuna_ir::TensorType;

    use super::*;

    #[test]
    fn tensors_pair_by_name_then_by_order() {
        let check = |tensors: &[&str], names: &[&str], expect: Option<&[usize]>| {
            let ty = TensorType::new(ScalarType::U8, [].as_slice());
            let literal = Literal { ty, data: Blob::new([0]) };
            let inputs: Vec<_> = tensors.iter().map(|n| ((*n).to_owned(), literal.clone())).collect();
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let set = DataSet {
                name: "set".to_owned(),
                inputs,
                outputs: Vec::new(),
                labels: None,
                lengths: BTreeMap::new(),
                is_partial: false,
                is_named: false,
            };
            let found = set.pair_inputs(&names).ok();
            assert_eq!(found.as_deref(), expect, "{tensors:?} {names:?}");
        };
        check(&["a", "b"], &["a", "b"], Some(&[0, 1]));
        check(&["b", "a"], &["a", "b"], Some(&[1, 0]));
        check(&["", ""], &["a", "b"], Some(&[0, 1]));
        check(&["b", "x"], &["a", "b"], Some(&[1, 0]));
        check(&["a"], &["a", "b"], None);
        check(&["a", "b", "c"], &["a", "b"], None);
        check(&["a", "a"], &["a", "b"], None);
        check(&[], &[], Some(&[]));
    }
}
