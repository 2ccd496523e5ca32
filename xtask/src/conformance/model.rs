//! The operator types of an ONNX model, read off its protobuf without a schema.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Field numbers of the messages of `onnx.proto` that lead to operator types.
mod field {
    pub const MODEL_GRAPH: u64 = 7;
    pub const GRAPH_NODE: u64 = 1;
    pub const NODE_OP_TYPE: u64 = 4;
    pub const NODE_DOMAIN: u64 = 7;
}

/// Operator types of the nodes of a model's graph, without those of its subgraphs and functions, each once.
///
/// # Errors
/// When the file cannot be read or is cut short.
pub fn operators(path: &Path) -> Result<Vec<String>, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let malformed = || format!("{}: not a protobuf message", path.display());
    let mut found = BTreeSet::new();
    for graph in fields(&bytes, field::MODEL_GRAPH).ok_or_else(malformed)? {
        for node in fields(graph, field::GRAPH_NODE).ok_or_else(malformed)? {
            let text = |number| -> Option<String> {
                let last = fields(node, number)?.pop().unwrap_or_default();
                Some(String::from_utf8_lossy(last).into_owned())
            };
            let (Some(op), Some(domain)) = (text(field::NODE_OP_TYPE), text(field::NODE_DOMAIN)) else {
                return Err(malformed());
            };
            let standard = domain.is_empty() || domain == "ai.onnx";
            found.insert(if standard { op } else { format!("{domain}.{op}") });
        }
    }
    Ok(found.into_iter().collect())
}

/// Contents of the length-delimited fields with this number, in order; `None` for bytes that are no message.
fn fields(mut bytes: &[u8], number: u64) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let length = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let content = bytes.get(..length)?;
        bytes = &bytes[length..];
        if key & 7 == 2 && key >> 3 == number {
            found.push(content);
        }
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_among_others() {
        // Field 1 varint 300, field 2 "ab", field 3 fixed 32 bits, field 2 "".
        let bytes = [8, 0xac, 2, 18, 2, b'a', b'b', 29, 1, 2, 3, 4, 18, 0];
        assert_eq!(fields(&bytes, 2), Some(vec![b"ab".as_slice(), b""]));
        assert_eq!(fields(&bytes, 1), Some(vec![]));
        assert_eq!(fields(&bytes[..5], 2), None);
    }
}
