//! The msgpack form: shortest heads, texts as they are, bodies left out.

use rmp::encode;

use super::{BodyView, Form, Frame};
use crate::event::write_canonical;

/// Writes into a frame. Writing to memory cannot fail, so what the crate returns is dropped.
pub(super) struct MsgPack<'a> {
    pub(super) frame: &'a mut Frame,
}

impl Form for MsgPack<'_> {
    fn open_map(&mut self, len: usize) {
        drop(encode::write_map_len(&mut self.frame.bytes, len as u32));
    }

    fn close_map(&mut self) {}

    fn open_list(&mut self, len: usize) {
        drop(encode::write_array_len(&mut self.frame.bytes, len as u32));
    }

    fn next_item(&mut self) {}

    fn close_list(&mut self) {}

    fn key(&mut self, name: &[u8]) {
        self.text(name);
    }

    fn canonical_key(&mut self, name: &str) {
        drop(encode::write_str_len(&mut self.frame.bytes, name.len() as u32));
        write_canonical(name, &mut self.frame.bytes);
    }

    fn nil(&mut self) {
        drop(encode::write_nil(&mut self.frame.bytes));
    }

    fn bool(&mut self, value: bool) {
        drop(encode::write_bool(&mut self.frame.bytes, value));
    }

    fn int(&mut self, value: i64) {
        drop(encode::write_sint(&mut self.frame.bytes, value));
    }

    fn float(&mut self, value: f64) {
        drop(encode::write_f64(&mut self.frame.bytes, value));
    }

    fn text(&mut self, text: &[u8]) {
        // By hand, for the text need not be UTF-8.
        drop(encode::write_str_len(&mut self.frame.bytes, text.len() as u32));
        self.frame.bytes.extend_from_slice(text);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        drop(encode::write_bin(&mut self.frame.bytes, bytes));
    }

    fn body(&mut self, body: &BodyView<'_>) {
        match body {
            BodyView::Absent => self.nil(),
            BodyView::Object(data) => self.value(data),
            BodyView::Bytes(body) => {
                drop(encode::write_bin_len(&mut self.frame.bytes, body.len() as u32));
                self.frame.cuts.push((self.frame.bytes.len(), body.len()));
            }
        }
    }
}
