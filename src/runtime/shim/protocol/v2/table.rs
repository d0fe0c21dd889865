//! The texts of an EVENT's head, as bytes: no event is known here, only what is appended.

use serde_json::Value;

use super::push_text;
use crate::config::percent;
use crate::event::write_canonical;

/// A run of texts: separated by NULs, or typed items where a text may hold a NUL.
pub(super) struct Table<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) typed: bool,
    /// All of them so far are.
    pub(super) utf8: bool,
}

impl Table<'_> {
    /// A text.
    pub(super) fn push(&mut self, text: &[u8]) {
        self.utf8 &= text.is_ascii() || std::str::from_utf8(text).is_ok();
        if self.typed {
            self.item(b's', text);
        } else {
            push_text(self.out, text);
        }
    }

    /// A header's name, as handlers know it.
    pub(super) fn push_name(&mut self, name: &str) {
        if self.typed {
            self.open_item(b's', name.len());
            write_canonical(name, self.out);
        } else {
            write_canonical(name, self.out);
            self.out.push(0);
        }
    }

    /// A text of a query, decoded in its place.
    pub(super) fn push_encoded(&mut self, text: &[u8]) {
        if self.typed {
            return self.push(&percent::decode(text, true));
        }
        let start = self.out.len();
        percent::decode_into(text, true, self.out);
        let text = &self.out[start..];
        self.utf8 &= text.is_ascii() || std::str::from_utf8(text).is_ok();
        self.out.push(0);
    }

    fn open_item(&mut self, kind: u8, len: usize) {
        self.out.push(kind);
        self.out.extend_from_slice(&(len as u32).to_le_bytes());
    }

    fn item(&mut self, kind: u8, bytes: &[u8]) {
        self.open_item(kind, bytes.len());
        self.out.extend_from_slice(bytes);
    }

    /// A value as an item of its own type; only a typed table has such.
    pub(super) fn push_json(&mut self, value: &Value) {
        match value {
            Value::Null => self.item(b'n', &[]),
            Value::Bool(value) => self.item(b't', &[u8::from(*value)]),
            Value::String(text) => self.item(b's', text.as_bytes()),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => self.item(b'i', &number.to_le_bytes()),
                (None, number) => self.item(b'f', &number.unwrap_or(f64::NAN).to_le_bytes()),
            },
            Value::Array(items) => self.nested(b'l', |table| {
                items.iter().for_each(|item| table.push_json(item));
            }),
            Value::Object(members) => self.nested(b'm', |table| {
                for (name, value) in members {
                    table.item(b's', name.as_bytes());
                    table.push_json(value);
                }
            }),
        }
    }

    /// An item that holds items.
    fn nested(&mut self, kind: u8, fill: impl FnOnce(&mut Self)) {
        self.open_item(kind, 0);
        let start = self.out.len();
        fill(self);
        let len = (self.out.len() - start) as u32;
        self.out[start - 4..start].copy_from_slice(&len.to_le_bytes());
    }
}
