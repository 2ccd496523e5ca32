//! Compiling the models of the repository.

use std::path::{Path, PathBuf};

use lacuna_codegen::{ProductZeros, generate};
use lacuna_ir::{Blob, Node};
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_isa::view::Pattern;
use lacuna_onnx::{ExternalData, Unreadable};
use lacuna_optimize::{Options, WeightSparsity, optimize, select, sparsity_of};

/// Files beside a model.
struct Folder(PathBuf);

impl ExternalData for Folder {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Blob, Unreadable> {
        let bytes = std::fs::read(self.0.join(location))?;
        let length = length.unwrap_or(bytes.len() as u64 - offset) as usize;
        Blob::new(bytes)
            .slice(offset as usize, length)
            .ok_or_else(|| Unreadable::File("it is too short".to_owned()))
    }
}

/// The folder of the repository's models.
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models")
}

/// A target by name.
pub fn target(name: &str) -> Target {
    lacuna_isa::target_file::target(name).unwrap_or_else(|| panic!("no target {name}"))
}

/// The object of the model in `folder`.
pub fn compile(folder: &Path, target: &Target, precision: &str) -> Object {
    let bytes = Blob::new(std::fs::read(folder.join("model.onnx")).expect("a model"));
    let imported =
        lacuna_onnx::import(bytes, &Folder(folder.to_owned()), &Default::default()).expect("a valid model");
    let options = Options { precision: precision.parse().expect("a precision"), ..Options::default() };
    let optimized = optimize(imported.module, &options).expect("a verified module");
    let module = select(optimized.module, &options).expect("a verified module").module;
    let func = module.entries[0].func;
    let native: Vec<_> = target.patterns.iter().map(|(p, _)| WeightSparsity { n: p.n, m: p.m }).collect();
    let found = sparsity_of(&module, func, &native);
    let mut zeros: cranelift_entity::SecondaryMap<Node, ProductZeros> = Default::default();
    for node in module.functions[func].nodes.keys() {
        zeros[node].pattern = found[node].patterns.first().map(|s| Pattern { n: s.n, m: s.m });
    }
    match generate(&module, target, &zeros) {
        Ok(generated) => generated.object,
        Err(failures) => panic!("{}: {failures:?}", folder.display()),
    }
}
