//! From modules to text. Any module prints, sound or not; what is missing prints as `?`.

use std::fmt;

use lacuna_isa::format::pack;

use super::attribute::{print_attributes, put};
use super::lexer::quote;
use crate::module::{Constant, ConstantData, Entry, FuncId, Function, Module, NodeData, Value};
use crate::types::ElemType;

/// Constants of up to this many bytes are printed whole.
const INLINE_BYTES: usize = 64;

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::from("module ");
        quote(&self.name, &mut out);
        out.push('\n');
        for (id, origin) in &self.origins {
            put(&mut out, format_args!("origin {id} "));
            quote(&origin.node, &mut out);
            out.push(' ');
            quote(&origin.op, &mut out);
            out.push('\n');
        }
        for (id, constant) in &self.constants {
            put(&mut out, format_args!("const {id} "));
            quote(&constant.name, &mut out);
            put(&mut out, format_args!(" {} = ", constant.ty));
            print_data(constant, &mut out);
            out.push('\n');
        }
        for (id, function) in &self.functions {
            print_function(id, function, &mut out);
        }
        for entry in &self.entries {
            print_entry(entry, &mut out);
        }
        f.write_str(&out)
    }
}

fn print_data(constant: &Constant, out: &mut String) {
    match &constant.data {
        ConstantData::Splat(code) => put(out, format_args!("splat {code:#x}")),
        ConstantData::Dense(blob) if blob.len() > INLINE_BYTES => {
            out.push_str("blake3:");
            print_hex(constant.hash(), out);
        }
        ConstantData::Dense(blob) => match codes(constant, blob.bytes()) {
            Some(codes) => {
                print_list(out, "[", &codes, "]", |&code, out| put(out, format_args!("{code:#x}")))
            }
            None => {
                out.push_str("bytes \"");
                print_hex(blob.bytes(), out);
                out.push('"');
            }
        },
    }
}

/// The element codes of a small constant, when they are all that its bytes say.
fn codes(constant: &Constant, bytes: &[u8]) -> Option<Vec<u64>> {
    let ElemType::Scalar(elem) = constant.ty.elem else { return None };
    constant.ty.check().ok()?;
    if bytes.len() as u64 != constant.ty.bytes() {
        return None;
    }
    let n = constant.ty.shape.elements() as usize;
    let mut again = vec![0; bytes.len()];
    let mut codes = Vec::new();
    for i in 0..n {
        codes.push(pack::get(bytes, elem, i));
        pack::set(&mut again, elem, i, codes[i]);
    }
    (again == bytes).then_some(codes)
}

fn print_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        put(out, format_args!("{byte:02x}"));
    }
}

fn print_list<T>(
    out: &mut String,
    open: &str,
    items: &[T],
    close: &str,
    mut print: impl FnMut(&T, &mut String),
) {
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        print(item, out);
    }
    out.push_str(close);
}

fn print_function(id: FuncId, function: &Function, out: &mut String) {
    put(out, format_args!("fn {id} @"));
    if is_word(&function.name) {
        out.push_str(&function.name);
    } else {
        quote(&function.name, out);
    }
    print_list(out, "(", &function.params, ")", |&v, out| print_definition(function, v, out));
    print_list(out, " -> (", &function.results, ") {\n", |v, out| put(out, v));
    for node in function.nodes.values() {
        print_node(function, node, out);
    }
    out.push_str("}\n");
}

fn is_word(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

fn print_definition(function: &Function, value: Value, out: &mut String) {
    let Some(data) = function.values.get(value) else {
        put(out, format_args!("{value}: ?"));
        return;
    };
    put(out, format_args!("{value}: {}", data.ty));
    if !data.name.is_empty() {
        out.push(' ');
        quote(&data.name, out);
    }
}

fn print_node(function: &Function, node: &NodeData, out: &mut String) {
    let separator = if node.results.is_empty() { "= " } else { " = " };
    print_list(out, "  ", &node.results, separator, |&v, out| print_definition(function, v, out));
    out.push_str(node.op.name());
    if !node.args.is_empty() {
        print_list(out, " ", &node.args, "", |v, out| put(out, v));
    }
    let mut attributes = String::new();
    print_attributes(&node.op, &mut attributes);
    if !attributes.is_empty() {
        out.push(' ');
        out.push_str(&attributes);
    }
    if !node.origins.is_empty() {
        print_list(out, " @ [", &node.origins, "]", |o, out| put(out, o));
    }
    out.push('\n');
}

fn print_entry(entry: &Entry, out: &mut String) {
    out.push_str("entry ");
    quote(&entry.name, out);
    put(out, format_args!(" {} ", entry.func));
    print_list(out, "(", &entry.inputs, ")", |name, out| quote(name, out));
    print_list(out, " -> (", &entry.outputs, ")\n", |name, out| quote(name, out));
}
