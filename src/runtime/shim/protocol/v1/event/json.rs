//! The JSON form: one line of ASCII. Some wrappers decode bytes piece by piece, or with the machine's own character
//! set; ASCII survives both.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{BodyView, Form, Value, joined};
use crate::event::write_canonical;

/// Writes into a buffer.
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
    /// Something stands before in the same map or list.
    follows: bool,
}

impl<'a> Json<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, follows: false }
    }

    fn open(&mut self, bracket: u8) {
        self.out.push(bracket);
        self.follows = false;
    }

    fn close(&mut self, bracket: u8) {
        self.out.push(bracket);
        self.follows = true;
    }

    fn comma(&mut self) {
        if std::mem::replace(&mut self.follows, true) {
            self.out.push(b',');
        }
    }

    fn escape(&mut self, code: u16) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.out.extend_from_slice(b"\\u");
        for shift in [12, 8, 4, 0] {
            self.out.push(HEX[usize::from(code >> shift & 0xf)]);
        }
    }

    fn string(&mut self, text: &[u8]) {
        self.out.push(b'"');
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().for_each(|character| self.character(character));
            chunk.invalid().iter().for_each(|_| self.escape(0xfffd));
        }
        self.out.push(b'"');
    }

    fn character(&mut self, character: char) {
        match character {
            '"' => self.out.extend_from_slice(b"\\\""),
            '\\' => self.out.extend_from_slice(b"\\\\"),
            '\n' => self.out.extend_from_slice(b"\\n"),
            '\r' => self.out.extend_from_slice(b"\\r"),
            '\t' => self.out.extend_from_slice(b"\\t"),
            ' '..='~' => self.out.push(character as u8),
            other => other.encode_utf16(&mut [0; 2]).iter().for_each(|code| self.escape(*code)),
        }
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + base64::encoded_len(bytes.len(), true).unwrap_or_default(), 0);
        let written = STANDARD.encode_slice(bytes, &mut self.out[start..]).unwrap_or_default();
        self.out.truncate(start + written);
        self.out.push(b'"');
    }

    /// An object in place of a body makes these wrappers fail, so they get its text as any other body.
    fn object(&mut self, data: &Value<'_>) {
        let mut text = Vec::new();
        Json::new(&mut text).value(data);
        self.base64(&text);
    }
}

impl Form for Json<'_> {
    fn open_map(&mut self, _: usize) {
        self.open(b'{');
    }

    fn close_map(&mut self) {
        self.close(b'}');
    }

    fn open_list(&mut self, _: usize) {
        self.open(b'[');
    }

    fn next_item(&mut self) {
        self.comma();
    }

    fn close_list(&mut self) {
        self.close(b']');
    }

    fn key(&mut self, name: &[u8]) {
        self.comma();
        self.string(name);
        self.out.push(b':');
    }

    fn canonical_key(&mut self, name: &str) {
        let mut text = Vec::with_capacity(name.len());
        write_canonical(name, &mut text);
        self.key(&text);
    }

    fn nil(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    fn bool(&mut self, value: bool) {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn int(&mut self, value: i64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn float(&mut self, value: f64) {
        // Whole numbers without a fraction; JSON has neither infinities nor NaN.
        write!(self.out, "{}", if value.is_finite() { value } else { 0.0 }).unwrap_or_default();
    }

    fn text(&mut self, text: &[u8]) {
        self.string(text);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.base64(bytes);
    }

    fn body(&mut self, body: &BodyView<'_>) {
        match body {
            BodyView::Absent => self.out.extend_from_slice(b"\"\""),
            BodyView::Object(data) => self.object(data),
            BodyView::Bytes(body) => self.base64(&joined(body)),
        }
    }
}
