//! A small YAML tree that remembers how scalars were written and where everything stands.
//!
//! Only the first document is read; of duplicate keys the last wins; aliases are copied in and merge keys applied, so
//! a reader sees plain scalars, sequences and mappings. Size and depth are bounded, whatever the text says. What a
//! scalar *means* is the business of `scalar.rs`, which field wants it that of `decode.rs`.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::scalar::{self, Scalar};
use super::tabs::TabsAreBlanks;

/// Most nodes of one document, aliases expanded.
const NODES_MAX: usize = 200_000;
/// Most bytes of text of one document, aliases expanded.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Deepest nesting.
const DEPTH_MAX: usize = 100;

/// One node of the tree.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// What it is.
    pub(crate) value: Value,
    /// Line of its first character, counted from 1.
    pub(crate) line: usize,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Text as written; `plain` when neither quoted nor a block, so that it may mean a number, a boolean or null.
    Scalar { text: String, plain: bool },
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in order, each key once.
    Mapping(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// The key as text: numbers in decimal, booleans as `true` and `false`.
    pub(crate) key: String,
    /// Line of the key.
    pub(crate) line: usize,
    /// Line where the same key is written before, without effect.
    pub(crate) before: Option<usize>,
    /// Its value.
    pub(crate) value: Node,
}

/// Text that is not YAML, or more of it than we accept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("line {line}: {wrong}")]
pub(crate) struct SyntaxError {
    /// Line, counted from 1.
    pub(crate) line: usize,
    /// Column, counted from 1.
    pub(crate) column: usize,
    /// What is wrong.
    pub(crate) wrong: String,
}

/// Reads the first document of a text; `None` when there is none.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, SyntaxError> {
    let mut builder = Builder::default();
    let mut parser = parser(text);
    while let Some(event) = next_event(&mut parser)? {
        let (event, span) = event;
        match event {
            Event::DocumentEnd | Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
            event => builder.take(event, &span)?,
        }
    }
    Ok(builder.root)
}

/// The line where a further document with anything in it begins, counted from 1. Nothing of it is read.
pub(super) fn further_document(text: &str) -> Option<usize> {
    let mut parser = parser(text);
    let (mut ended, mut begun) = (false, None);
    // What follows a mistake cannot be told.
    while let Ok(Some((event, span))) = next_event(&mut parser) {
        match event {
            Event::DocumentStart(_) if ended => begun = Some(span.start.line()),
            Event::DocumentEnd => (ended, begun) = (true, None),
            // A line `---` with nothing behind it is no loss.
            Event::Scalar(text, ScalarStyle::Plain, 0, None) if text.is_empty() || text == "~" => {}
            _ if begun.is_some() => return begun,
            _ => {}
        }
    }
    begun
}

fn parser(text: &str) -> Parser<'_, TabsAreBlanks<'_>> {
    Parser::new(TabsAreBlanks::new(text.strip_prefix('\u{feff}').unwrap_or(text)))
}

fn next_event<'a>(
    parser: &mut Parser<'a, TabsAreBlanks<'a>>,
) -> Result<Option<(Event<'a>, Span)>, SyntaxError> {
    parser.next_event().transpose().map_err(|error| SyntaxError {
        line: error.marker().line(),
        column: error.marker().col() + 1,
        wrong: wording(error.info()),
    })
}

/// The parser's words in those of the Go library, where users may search for them.
fn wording(info: &str) -> String {
    if info.contains("tabs disallowed") || info.contains("found a tab") || info.contains("tab cannot") {
        "found character that cannot start any token (a tab; indent with blanks)".into()
    } else {
        info.strip_prefix("while parsing a node, ").unwrap_or(info).into()
    }
}

impl Node {
    /// The value of a key: exact, else the last that differs only in case; `None` for null too.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        let Value::Mapping(entries) = &self.value else { return None };
        let exact = entries.iter().find(|entry| entry.key == key);
        exact
            .or_else(|| entries.iter().rev().find(|entry| entry.key.eq_ignore_ascii_case(key)))
            .filter(|entry| !entry.value.is_null())
    }

    /// The value of a key, as `entry` finds it.
    pub(crate) fn child(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Line of a key, else of this node.
    pub(crate) fn line_of(&self, key: &str) -> usize {
        self.entry(key).map_or(self.line, |entry| entry.line)
    }

    /// Whether it is null or empty plain text.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.scalar(), Some(Scalar::Null))
    }

    /// Meaning of a scalar.
    pub(crate) fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.value {
            Value::Scalar { text, plain } => Some(scalar::resolve(text, *plain)),
            _ => None,
        }
    }

    /// What it is in the words of JSON, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match (&self.value, self.scalar()) {
            (Value::Sequence(_), _) => "array",
            (Value::Mapping(_), _) => "object",
            (_, Some(Scalar::Null)) => "null",
            (_, Some(Scalar::Bool(_))) => "bool",
            (_, Some(Scalar::Integer(_) | Scalar::Float(_))) => "number",
            _ => "string",
        }
    }

    /// The tree as JSON, scalars by their meaning.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar { text, plain } => scalar::resolve(text, *plain).to_json(),
            Value::Sequence(items) => items.iter().map(Node::to_json).collect(),
            Value::Mapping(entries) => serde_json::Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
            ),
        }
    }

    fn measure(&self) -> Size {
        let children: Box<dyn Iterator<Item = (&Node, usize)>> = match &self.value {
            Value::Scalar { text, .. } => return Size { nodes: 1, bytes: text.len(), depth: 1 },
            Value::Sequence(items) => Box::new(items.iter().map(|item| (item, 0))),
            Value::Mapping(entries) => Box::new(entries.iter().map(|entry| (&entry.value, entry.key.len()))),
        };
        children.fold(Size { nodes: 1, bytes: 0, depth: 1 }, |sum, (child, key_bytes)| {
            let size = child.measure();
            Size {
                nodes: sum.nodes + size.nodes,
                bytes: sum.bytes + size.bytes + key_bytes,
                depth: sum.depth.max(size.depth + 1),
            }
        })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

/// Turns events into a tree without recursion.
#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Frame>,
    anchors: HashMap<usize, (Node, Size)>,
    built: Size,
}

/// A list or mapping whose end has not come yet.
struct Frame {
    line: usize,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, places: HashMap<String, Place>, key: Option<Key> },
}

/// Where a key of a mapping is among its entries, and whether it is written there itself, not only merged in.
struct Place {
    at: usize,
    written: bool,
}

enum Key {
    Named { name: String, line: usize },
    Merge,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), SyntaxError> {
        let line = span.start.line();
        let at = |wrong: String| SyntaxError { line, column: span.start.col() + 1, wrong };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = is_plain(style, tag.as_deref());
                if matches!(plain, Some(true)) && text == "<<" && self.wants_key() {
                    self.set_key(Key::Merge);
                    return Ok(());
                }
                let plain = plain.unwrap_or(style == ScalarStyle::Plain);
                let node = Node { value: Value::Scalar { text: text.into_owned(), plain }, line };
                self.finish(node, anchor).map_err(at)
            }
            Event::Alias(anchor) => {
                let (node, size) = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| at("an anchor's value contains itself".to_owned()))?;
                self.grow(size).map_err(at)?;
                self.place(Node { line, ..node }).map_err(at)
            }
            Event::SequenceStart(anchor, _) => {
                self.open(line, anchor, Content::Sequence(Vec::new())).map_err(at)
            }
            Event::MappingStart(anchor, _) => {
                let content = Content::Mapping { entries: Vec::new(), places: HashMap::new(), key: None };
                self.open(line, anchor, content).map_err(at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close().map_err(at),
            _ => Ok(()),
        }
    }

    fn open(&mut self, line: usize, anchor: usize, content: Content) -> Result<(), String> {
        self.grow(Size { nodes: 1, bytes: 0, depth: 1 })?;
        self.open.push(Frame { line, anchor, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(frame) = self.open.pop() else { return Ok(()) };
        let value = match frame.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { entries, .. } => Value::Mapping(entries),
        };
        self.keep(Node { value, line: frame.line }, frame.anchor)
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        self.grow(node.measure())?;
        self.keep(node, anchor)
    }

    /// Remembers an anchored node, then puts it where it belongs.
    fn keep(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        if anchor > 0 {
            // The copy kept for aliases counts too: anchors within anchors are copies of copies.
            let size = node.measure();
            self.grow(Size { depth: 0, ..size })?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        self.place(node)
    }

    fn grow(&mut self, more: Size) -> Result<(), String> {
        self.built.nodes += more.nodes;
        self.built.bytes += more.bytes;
        if self.built.nodes > NODES_MAX || self.built.bytes > TEXT_BYTES_MAX {
            return Err(format!(
                "document contains excessive aliasing: more than {NODES_MAX} nodes or {TEXT_BYTES_MAX} bytes"
            ));
        }
        if self.open.len() + more.depth > DEPTH_MAX {
            return Err(format!("exceeded max depth of {DEPTH_MAX}"));
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Frame { content: Content::Mapping { key: None, .. }, .. }))
    }

    fn set_key(&mut self, new: Key) {
        if let Some(Frame { content: Content::Mapping { key, .. }, .. }) = self.open.last_mut() {
            *key = Some(new);
        }
    }

    fn place(&mut self, node: Node) -> Result<(), String> {
        let Some(frame) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut frame.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { entries, places, key } => match key.take() {
                None => *key = Some(key_of(&node)?),
                Some(Key::Named { name, line }) => {
                    let before =
                        places.get(&name).filter(|place| place.written).map(|place| entries[place.at].line);
                    insert(entries, places, Entry { key: name, line, before, value: node }, true);
                }
                Some(Key::Merge) => merge(entries, places, node)?,
            },
        }
        Ok(())
    }
}

/// `None` when the tag does not say; quoted and block scalars are text, unless a tag asks for a meaning.
fn is_plain(style: ScalarStyle, tag: Option<&Tag>) -> Option<bool> {
    let Some(tag) = tag else { return Some(style == ScalarStyle::Plain) };
    if tag.is_yaml_core_schema() { Some(tag.suffix != "str" && tag.suffix != "binary") } else { None }
}

fn key_of(node: &Node) -> Result<Key, String> {
    let name = match node.scalar() {
        None => return Err(format!("invalid map key: an {} cannot be a key", node.kind())),
        Some(scalar) => scalar.to_key(),
    };
    Ok(Key::Named { name, line: node.line })
}

fn insert(entries: &mut Vec<Entry>, places: &mut HashMap<String, Place>, entry: Entry, written: bool) {
    match places.get_mut(&entry.key) {
        Some(place) => {
            place.written |= written;
            entries[place.at] = entry;
        }
        None => {
            places.insert(entry.key.clone(), Place { at: entries.len(), written });
            entries.push(entry);
        }
    }
}

/// Applies `<<`.
///
/// compat: like any duplicate, a merged key replaces one that stands before it; of a list the first mapping wins.
fn merge(entries: &mut Vec<Entry>, places: &mut HashMap<String, Place>, node: Node) -> Result<(), String> {
    let mappings = match node.value {
        Value::Mapping(_) => vec![node],
        Value::Sequence(items) => items,
        Value::Scalar { .. } => return Err("map merge requires map or sequence of maps as the value".into()),
    };
    for mapping in mappings.into_iter().rev() {
        let Value::Mapping(merged) = mapping.value else {
            return Err("map merge requires map or sequence of maps as the value".into());
        };
        merged.into_iter().for_each(|entry| insert(entries, places, Entry { before: None, ..entry }, false));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        parse(text).expect(text).map(|node| node.to_json().to_string()).unwrap_or_default()
    }

    #[test]
    fn documents_read_as_the_go_library_reads_them() {
        let cases = [
            ("", ""),
            ("# only a comment\n", ""),
            ("--- \n", "null"),
            ("a: 1\n---\nb: [\n", r#"{"a":1}"#),
            ("a: 1\nb: 2\na: 3\n", r#"{"a":3,"b":2}"#),
            ("y: 1\non: 2\n010: 3\n1.5: 4\n'y': 5\n", r#"{"true":2,"8":3,"1.5":4,"y":5}"#),
            ("a: !!str 5\nb: !!int \"5\"\nc: !foo 7\n", r#"{"a":"5","b":5,"c":7}"#),
            ("a: |\n  yes\nb: >-\n  1\n", r#"{"a":"yes\n","b":"1"}"#),
            ("b: &b {a: 1, c: 2}\nx: {<<: *b, a: 7}\n", r#"{"b":{"a":1,"c":2},"x":{"a":7,"c":2}}"#),
            // compat: a merge that comes later wins, as in the Go library.
            ("b: &b {a: 1}\nx: {a: 9, <<: *b}\n", r#"{"b":{"a":1},"x":{"a":1}}"#),
            ("x: {<<: [{a: 1}, {a: 2, b: 3}]}\n", r#"{"x":{"a":1,"b":3}}"#),
            (
                "a:\tb\nc:\t1\nd: {\"e\":\ttrue}\nf: 'a:\tb'\n",
                r#"{"a":"b","c":1,"d":{"e":true},"f":"a:\tb"}"#,
            ),
            ("x: {'<<': 1}\n", r#"{"x":{"<<":1}}"#),
            ("\u{feff}{\"a\": [true, null, 1.5]}\r\n", r#"{"a":[true,null,1.5]}"#),
        ];
        for (text, expected) in cases {
            assert_eq!(json(text), expected, "{text}");
        }
    }

    #[test]
    fn a_further_document_is_found_where_it_begins_unless_it_is_empty() {
        let cases = [
            ("", None),
            ("a: 1\n", None),
            ("---\na: 1\n...\n", None),
            ("a: 1\n---\n", None),
            ("a: 1\n---\n# nothing\n---\n", None),
            ("a: 1\n---\nb: 2\n", Some(2)),
            ("a: |\n  x\n  ---\nb: '---'\n", None),
            ("# helm\n---\n---\na: 1\n", Some(3)),
            ("a: 1\n---\n---\n- x\n---\nz\n", Some(3)),
            ("\u{feff}a: 1\n\n--- text\n", Some(3)),
            ("a: 1\n---\nb: [\n", Some(2)),
        ];
        for (text, expected) in cases {
            assert_eq!(further_document(text), expected, "{text:?}");
        }
    }

    #[test]
    fn mistakes_have_their_line() {
        let cases = [
            ("a:\n\tb: 1\n", 2, "found character that cannot start any token"),
            ("a: *x\n", 1, "unknown anchor"),
            ("a: &x [*x]\n", 1, "contains itself"),
            ("a: 1\nb: c: d\n", 2, "mapping values are not allowed"),
            ("a: 1\n<<: 3\n", 2, "map merge requires"),
            ("a: 1\n? [b]\n: 1\n", 2, "invalid map key"),
        ];
        for (text, line, wrong) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.wrong.contains(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn lines_are_those_of_the_keys() {
        let node = parse("a:\n  b:\n\n  c: 1\nD: |\n  x\n").unwrap().unwrap();
        let a = node.child("a").unwrap();
        assert_eq!((node.line_of("a"), a.line_of("c"), node.line_of("d")), (1, 4, 5));
        assert!(a.child("b").is_none());
    }

    #[test]
    fn keys_match_exactly_before_they_match_in_any_case() {
        let node = parse("NAME: 1\nname: 2\nNAme: 3\n").unwrap().unwrap();
        assert_eq!(node.child("name").unwrap().to_json(), 2);
        assert_eq!(node.child("Name").unwrap().to_json(), 3);
    }

    #[test]
    fn alias_bombs_and_deep_nesting_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().wrong.contains("excessive aliasing"));

        let mut chain = "a0: &a0 [x]\n".to_owned();
        for level in 1..150 {
            chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(parse(&chain).unwrap_err().wrong.contains("max depth"));

        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            parse(&deep).expect_err("too deep");
        }
        let big = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
        assert!(parse(&big).unwrap_err().wrong.contains("excessive aliasing"));
    }
}
