//! From text to modules: recursive descent over tokens. No text makes it panic, nest deeply or allocate beyond its own
//! length.

use std::collections::BTreeMap;

use cranelift_entity::PrimaryMap;
use lacuna_isa::format::{GroupFormat, ScalarType, pack};

use super::TextError;
use super::attribute::{Attribute, OP_NAMES, parse_op};
use super::cursor::Parser;
use super::lexer::{Spanned, Token};
use crate::module::{
    Constant, ConstantData, Entry, FuncId, Function, Module, Node, NodeData, Origin, OriginId, Value,
    ValueData, ValueDef,
};
use crate::types::{ElemType, Shape, TensorType, TypeError};

/// Reads a whole module.
pub(super) fn module(
    text: &str,
    mut resolve: impl FnMut(&[u8; 32]) -> Option<ConstantData>,
) -> Result<Module, TextError> {
    let mut p = Parser::new(text);
    p.keyword("module")?;
    let mut module = Module { name: p.string()?, ..Module::default() };
    while p.peek().token != Token::End {
        let at = p.peek();
        match p.word()? {
            "origin" => {
                p.numbered("o", module.origins.len())?;
                let (node, op) = (p.string()?, p.string()?);
                module.origins.push(Origin { node, op });
            }
            "const" => {
                p.numbered("c", module.constants.len())?;
                let constant = p.constant(&mut resolve)?;
                module.constants.push(constant);
            }
            "fn" => {
                p.numbered("fn", module.functions.len())?;
                let function = p.function()?;
                module.functions.push(function);
            }
            "entry" => {
                let (name, func) = (p.string()?, FuncId::parse(&mut p)?);
                let names = |p: &mut Parser<'_>| p.list(Token::OpenParen, Token::CloseParen, Parser::string);
                let inputs = names(&mut p)?;
                p.expect(Token::Arrow)?;
                let outputs = names(&mut p)?;
                module.entries.push(Entry { name, func, inputs, outputs });
            }
            other => return Err(p.unknown(at, "an item", other, &["origin", "const", "fn", "entry"])),
        }
    }
    Ok(module)
}

impl Parser<'_> {
    fn ty(&mut self) -> Result<TensorType, TextError> {
        let scalars = ScalarType::ALL.iter().map(|s| s.name());
        let names: Vec<&str> = scalars.chain(GroupFormat::ALL.iter().map(|g| g.name())).collect();
        let at = self.peek();
        let elem = self.named("a type", &names, |name| {
            let grouped = |format| ElemType::Grouped { format, axis: 0 };
            let scalar = ScalarType::from_name(name).map(ElemType::Scalar);
            scalar.or_else(|| GroupFormat::from_name(name).map(grouped))
        })?;
        let axis = match self.accept(Token::At) {
            Some(_) => Some(u8::parse(self)?),
            None => None,
        };
        let elem = match (elem, axis) {
            (ElemType::Grouped { format, .. }, Some(axis)) => ElemType::Grouped { format, axis },
            (ElemType::Scalar(_), None) => elem,
            (ElemType::Grouped { .. }, None) => {
                return Err(self.error(at, "a grouped type names its dimension: `mxfp8@1[64,576]`"));
            }
            (ElemType::Scalar(_), Some(_)) => return Err(self.error(at, "a scalar type has no groups")),
        };
        Ok(TensorType { elem, shape: Shape::parse(self)? })
    }

    fn constant(
        &mut self,
        resolve: &mut impl FnMut(&[u8; 32]) -> Option<ConstantData>,
    ) -> Result<Constant, TextError> {
        let name = self.string()?;
        let ty = self.ty()?;
        self.expect(Token::Equals)?;
        let at = self.peek();
        match at.token {
            Token::Hash => {
                self.next += 1;
                let hex = self.slice(at).trim_start_matches("blake3:");
                let hash = unhex(hex).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                let hash = hash.ok_or_else(|| self.error(at, "a hash has 64 hexadecimal digits"))?;
                let data = resolve(&hash)
                    .ok_or_else(|| self.error(at, format!("there is no content for constant \"{name}\"")))?;
                let constant = Constant::new(ty, data, name);
                if *constant.hash() != hash {
                    return Err(self.error(at, "the content has another type or hash"));
                }
                Ok(constant)
            }
            Token::OpenBracket => {
                let codes = self.list(Token::OpenBracket, Token::CloseBracket, Parser::code)?;
                let bytes = pack_codes(&ty, &codes).map_err(|e| self.error(at, e.to_string()))?;
                Ok(Constant::dense(ty, bytes, name))
            }
            _ => match self.named("the elements of a constant", &["splat", "bytes"], |w| {
                Some(w.to_owned()).filter(|w| w == "splat" || w == "bytes")
            })? {
                word if word == "splat" => Ok(Constant::new(ty, ConstantData::Splat(self.code()?), name)),
                _ => Ok(Constant::dense(ty, self.string_as("bytes in hexadecimal", unhex)?, name)),
            },
        }
    }

    fn function(&mut self) -> Result<Function, TextError> {
        self.expect(Token::At)?;
        let name = match self.accept(Token::Word) {
            Some(at) => self.slice(at).to_owned(),
            None => self.string()?,
        };
        let mut values = Definitions::default();
        let mut number = 0;
        let params = self.list(Token::OpenParen, Token::CloseParen, |p| {
            number += 1;
            p.definition(&mut values, ValueDef::Param(number - 1))
        })?;
        self.expect(Token::Arrow)?;
        let mut uses = Vec::new();
        let results = self.list(Token::OpenParen, Token::CloseParen, |p| p.value(&mut uses))?;
        self.expect(Token::OpenBrace)?;
        let mut nodes = PrimaryMap::new();
        while self.accept(Token::CloseBrace).is_none() {
            let node = self.node(nodes.next_key(), &mut values, &mut uses)?;
            nodes.push(node);
        }
        let mut map = PrimaryMap::new();
        for (next, (id, (at, data))) in values.0.into_iter().enumerate() {
            if id as usize != next {
                return Err(self.error(at, format!("v{id} is defined, but v{next} is not")));
            }
            map.push(data);
        }
        match uses.into_iter().find(|&(_, value)| !map.is_valid(value)) {
            Some((at, value)) => Err(self.error(at, format!("{value} is not defined"))),
            None => Ok(Function { name, values: map, nodes, params, results }),
        }
    }

    fn value(&mut self, uses: &mut Vec<(Spanned, Value)>) -> Result<Value, TextError> {
        let at = self.peek();
        let value = Value::from_u32(self.id("v")?);
        uses.push((at, value));
        Ok(value)
    }

    fn definition(&mut self, values: &mut Definitions, def: ValueDef) -> Result<Value, TextError> {
        let at = self.peek();
        let id = self.id("v")?;
        self.expect(Token::Colon)?;
        let ty = self.ty()?;
        let name = if self.peek().token == Token::String { self.string()? } else { String::new() };
        match values.0.insert(id, (at, ValueData { ty, def, name })) {
            Some(_) => Err(self.error(at, format!("v{id} is defined twice"))),
            None => Ok(Value::from_u32(id)),
        }
    }

    fn node(
        &mut self,
        id: Node,
        values: &mut Definitions,
        uses: &mut Vec<(Spanned, Value)>,
    ) -> Result<NodeData, TextError> {
        let mut results = Vec::new();
        if self.accept(Token::Equals).is_none() {
            loop {
                results.push(self.definition(values, ValueDef::Result(id, results.len() as u32))?);
                if self.accept(Token::Equals).is_some() {
                    break;
                }
                if self.accept(Token::Comma).is_none() {
                    return Err(self.wanted(self.peek(), "`,` or `=`"));
                }
            }
        }
        let at = self.peek();
        let name = self.word()?;
        if !OP_NAMES.contains(&name) {
            return Err(self.unknown(at, "an operator", name, OP_NAMES));
        }
        let mut args = Vec::new();
        let next = self.peek();
        // Without operands the next word, if any, begins the next node: `v8: ...`.
        let is_definition = self.tokens.get(self.next + 1).is_some_and(|t| t.token == Token::Colon);
        if next.token == Token::Word && !is_definition {
            args.push(self.value(uses)?);
            while self.accept(Token::Comma).is_some() {
                args.push(self.value(uses)?);
            }
        }
        let op = parse_op(name, self)?.ok_or_else(|| self.wanted(at, "an operator"))?;
        let origins = match self.accept(Token::At) {
            Some(_) => {
                self.list(Token::OpenBracket, Token::CloseBracket, |p| p.id("o").map(OriginId::from_u32))?
            }
            None => Vec::new(),
        };
        Ok(NodeData { op, args, results, origins })
    }
}

/// Values of a function by number, with the places of their definitions.
#[derive(Default)]
struct Definitions(BTreeMap<u32, (Spanned, ValueData)>);

/// Why codes are no elements of a constant.
#[derive(Debug, thiserror::Error)]
enum CodeError {
    #[error(transparent)]
    Type(#[from] TypeError),
    #[error("{0} is grouped: its elements are given as bytes")]
    Grouped(TensorType),
    #[error("{n} elements given for {ty}")]
    Count { n: usize, ty: TensorType },
    #[error("{code:#x} is not a code of {elem}")]
    Code { code: u64, elem: ScalarType },
}

fn pack_codes(ty: &TensorType, codes: &[u64]) -> Result<Vec<u8>, CodeError> {
    ty.check()?;
    let ElemType::Scalar(elem) = ty.elem else {
        return Err(CodeError::Grouped(ty.clone()));
    };
    if ty.shape.elements() != codes.len() as u64 {
        return Err(CodeError::Count { n: codes.len(), ty: ty.clone() });
    }
    let mut bytes = vec![0; ty.bytes() as usize];
    for (i, &code) in codes.iter().enumerate() {
        if elem.bits() < 64 && code >> elem.bits() != 0 {
            return Err(CodeError::Code { code, elem });
        }
        pack::set(&mut bytes, elem, i, code);
    }
    Ok(bytes)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let (pairs, rest) = digits.as_ref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|&[high, low]| (high * 16 + low) as u8).collect())
}
