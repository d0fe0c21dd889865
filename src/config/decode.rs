//! Serde over the YAML tree, as lenient as people write and as exact as they need to find their mistakes.
//!
//! Keys match in any case, null is absent, text and numbers and booleans stand in for each other where the meaning is
//! clear, one value stands for a list of one. Errors carry line and path. Knows no key of any file.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::nearest::nearest;
use super::scalar::{self, Scalar};
use super::yaml::{Entry, Node, Value};

/// What happens to a fraction where an integer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fractions {
    /// `3.0` is 3, `3.5` an error: the rule of the files.
    Refuse,
    /// 16384.7 is 16384: the rule of `attributes`.
    Drop,
}

/// A key that no field of the wanted type has, or that another spelling of it overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownKey {
    /// Path of the mapping it stands in.
    pub(crate) parent: String,
    /// The key.
    pub(crate) key: String,
    /// Its line.
    pub(crate) line: usize,
    /// The field that may be meant.
    pub(crate) nearest: Option<&'static str>,
}

/// A value of the wrong type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodeError {
    /// Line of the value; 0 while not known.
    pub(crate) line: usize,
    /// Path of the value.
    pub(crate) path: String,
    /// What is wrong.
    pub(crate) wrong: String,
    /// What is there, in JSON's words.
    pub(crate) found: &'static str,
    /// What is wanted, in Go's words.
    pub(crate) wanted: &'static str,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.path, self.wrong)
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { line: 0, path: String::new(), wrong: message.to_string(), found: "value", wanted: "value" }
    }
}

/// Decodes a node that stands at `path`; keys no field has are added to `unknown`.
pub(crate) fn decode<T: DeserializeOwned>(
    node: &Node,
    path: &str,
    fractions: Fractions,
    unknown: &mut Vec<UnknownKey>,
) -> Result<T, DecodeError> {
    let scope = Scope { fractions, unknown: RefCell::new(Vec::new()) };
    let root = Path { parent: None, step: Step::Key(path) };
    let result = T::deserialize(NodeDeserializer { node, line: node.line, path: &root, scope: &scope });
    unknown.append(&mut scope.unknown.into_inner());
    result
}

struct Scope {
    fractions: Fractions,
    unknown: RefCell<Vec<UnknownKey>>,
}

/// Where a node stands; lives on the stack and is only written out when something is wrong.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.map(Path::to_string).unwrap_or_default();
        match self.step {
            Step::Key(key) if parent.is_empty() => f.write_str(key),
            Step::Key(key) => write!(f, "{parent}.{key}"),
            Step::Index(index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[derive(Clone, Copy)]
struct NodeDeserializer<'a> {
    node: &'a Node,
    line: usize,
    path: &'a Path<'a>,
    scope: &'a Scope,
}

impl<'a> NodeDeserializer<'a> {
    fn child(self, node: &'a Node, line: usize, path: &'a Path<'a>) -> Self {
        Self { node, line, path, scope: self.scope }
    }

    fn error(self, wanted: &'static str, wrong: String) -> DecodeError {
        DecodeError { line: self.line, path: self.path.to_string(), wrong, found: self.node.kind(), wanted }
    }

    fn mismatch(self, wanted: &'static str, in_words: &str) -> DecodeError {
        let found = match &self.node.value {
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a map".to_owned(),
        };
        self.error(wanted, format!("expected {in_words}, found {found}"))
    }

    /// A scalar by its meaning; quotes do not matter where a number or boolean is wanted.
    fn meaning(self) -> Option<Scalar<'a>> {
        match &self.node.value {
            Value::Scalar { text, .. } => Some(scalar::resolve(text.trim(), true)),
            _ => None,
        }
    }

    fn integer(self) -> Result<i64, DecodeError> {
        let mismatch = || self.mismatch("int", "an integer");
        match self.meaning().ok_or_else(mismatch)? {
            Scalar::Null => Ok(0),
            Scalar::Integer(value) => i64::try_from(value).map_err(|_| mismatch()),
            Scalar::Float(value) if value.fract() == 0.0 || self.scope.fractions == Fractions::Drop => {
                whole(value).ok_or_else(mismatch)
            }
            _ => Err(mismatch()),
        }
    }

    fn boolean(self) -> Result<bool, DecodeError> {
        match self.meaning() {
            Some(Scalar::Null) => Ok(false),
            Some(Scalar::Bool(value)) => Ok(value),
            _ => Err(self.mismatch("bool", "true or false")),
        }
    }

    fn text(self) -> Result<&'a str, DecodeError> {
        match &self.node.value {
            Value::Scalar { .. } if self.node.is_null() => Ok(""),
            Value::Scalar { text, .. } => Ok(text),
            _ => Err(self.mismatch("string", "text")),
        }
    }

    fn entries(self) -> Result<&'a [Entry], DecodeError> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            Value::Scalar { .. } if self.node.is_null() => Ok(&[]),
            _ => Err(self.mismatch("map", "a map")),
        }
    }

    /// The entries of a mapping that are fields, each field at most once, null left out.
    fn fields(self, names: &'static [&'static str]) -> Result<Vec<(&'static str, &'a Entry)>, DecodeError> {
        let mut found: Vec<(&'static str, &'a Entry)> = Vec::new();
        for entry in self.entries()? {
            let exact = names.iter().find(|name| **name == entry.key);
            let name = exact.or_else(|| names.iter().find(|name| name.eq_ignore_ascii_case(&entry.key)));
            let Some(name) = name else {
                self.unknown(entry, nearest(&entry.key, names.iter().copied()));
                continue;
            };
            match found.iter_mut().find(|(other, _)| other == name) {
                _ if entry.value.is_null() => {}
                None => found.push((name, entry)),
                Some((_, other)) if other.key == **name => self.unknown(entry, None),
                Some((_, other)) => {
                    self.unknown(other, None);
                    *other = entry;
                }
            }
        }
        Ok(found)
    }

    fn unknown(self, entry: &Entry, nearest: Option<&'static str>) {
        let (parent, key) = (self.path.to_string(), entry.key.clone());
        self.scope.unknown.borrow_mut().push(UnknownKey { parent, key, line: entry.line, nearest });
    }

    /// Gives an error that does not know its place this one.
    fn place<T>(self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.map_err(|error| if error.line == 0 { self.error("value", error.wrong) } else { error })
    }
}

/// A float's whole part, when it fits.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
fn whole(value: f64) -> Option<i64> {
    (value.abs() < 9.2e18).then_some(value as i64)
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            let value = self.integer()?;
            self.place(visitor.visit_i64(value))
        }
    )*};
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = DecodeError;

    integers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
              deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match (&self.node.value, self.node.scalar()) {
            (Value::Sequence(_), _) => self.deserialize_seq(visitor),
            (Value::Mapping(_), _) => self.deserialize_map(visitor),
            (_, None | Some(Scalar::Null)) => visitor.visit_unit(),
            (_, Some(Scalar::Bool(value))) => visitor.visit_bool(value),
            (_, Some(Scalar::Integer(_))) => self.deserialize_i64(visitor),
            (_, Some(Scalar::Float(value))) => visitor.visit_f64(value),
            (_, Some(Scalar::Text(text))) => visitor.visit_str(text),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let items = match &self.node.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Scalar { .. } if self.node.is_null() => &[],
            Value::Scalar { .. } => std::slice::from_ref(self.node),
            Value::Mapping(_) => return Err(self.mismatch("slice", "a list")),
        };
        visitor.visit_seq(Items { parent: self, items: items.iter().enumerate() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let entries = self.entries()?.iter().map(|entry| (entry.key.as_str(), entry));
        visitor.visit_map(Entries { parent: self, entries, value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_map(Entries { parent: self, entries: self.fields(fields)?.into_iter(), value: None })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        f32 f64 i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'a, I> {
    parent: NodeDeserializer<'a>,
    items: I,
}

impl<'de, 'a, I: Iterator<Item = (usize, &'a Node)>> SeqAccess<'de> for Items<'a, I> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let path = Path { parent: Some(self.parent.path), step: Step::Index(index) };
        let item = NodeDeserializer { node, line: node.line, path: &path, scope: self.parent.scope };
        item.place(seed.deserialize(item)).map(Some)
    }
}

struct Entries<'a, I> {
    parent: NodeDeserializer<'a>,
    entries: I,
    value: Option<&'a Entry>,
}

impl<'de, 'a, I: Iterator<Item = (&'a str, &'a Entry)>> MapAccess<'de> for Entries<'a, I> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some((name, entry)) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let key = StrDeserializer::<DecodeError>::new(name);
        self.parent.place(seed.deserialize(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let entry = self.value.take().expect("serde asks for a value after its key");
        let path = Path { parent: Some(self.parent.path), step: Step::Key(&entry.key) };
        let value = self.parent.child(&entry.value, entry.line, &path);
        value.place(seed.deserialize(value))
    }
}
