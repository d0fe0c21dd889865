//! [`Slot`]: an EVENT frame as the handler sees it. The event points into the frame; both stay where they are until the
//! answer has been sent.
#![expect(unsafe_code, reason = "an event is shown to the handler as pointers")]

use std::ptr;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Number, Value};

use super::frames::{Fault, Frame};
use crate::abi;
use crate::host::Scratch;

const MORE: u8 = 0x01;
const NO_BODY: u8 = 0x02;
const BODY_JSON: u8 = 0x04;
/// Flag of EVENT: belongs to a batch.
pub(super) const BATCH: u8 = 0x08;
/// Flag of EVENT: the last of its batch.
pub(super) const BATCH_END: u8 = 0x10;
const TYPED: u8 = 0x20;

/// Bytes of the head before its texts.
const FIXED_BYTES: usize = 32;
/// Texts before those of headers and fields.
const TEXTS: usize = 12;
/// Lists in lists of a header's value.
const DEPTH_MAX: usize = 128;

/// Where events come from.
#[derive(Default)]
pub(super) struct Trigger {
    pub(super) class: String,
    pub(super) kind: String,
    pub(super) name: String,
}

/// An event in the shape of the ABI, and the memory that belongs to it.
pub(super) struct Slot {
    pub(super) raw: abi::Event,
    frame: Frame,
    texts: Vec<abi::Str>,
    pairs: Vec<abi::Pair>,
    headers: usize,
    /// Texts of header values that are more than text.
    made: Vec<String>,
    scratch: Mutex<Scratch>,
    /// Lowest level that the event's caller wants.
    pub(super) level: Option<u32>,
}

// SAFETY: the pointers lead into the slot's own memory, which is not written while the handler has the event, but for the
// scratch memory behind its lock.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Default for Slot {
    fn default() -> Self {
        Self {
            raw: abi::Event::EMPTY,
            frame: Frame::default(),
            texts: Vec::new(),
            pairs: Vec::new(),
            headers: 0,
            made: Vec::new(),
            scratch: Mutex::default(),
            level: None,
        }
    }
}

impl Slot {
    /// Takes an EVENT in. `self` and the triggers must stay where they are while the handler has the event.
    pub(super) fn load(&mut self, frame: Frame, triggers: &[Trigger], now_ns: i64) -> Result<(), Fault> {
        self.frame = frame;
        self.scratch.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        let (frame, head) = (&self.frame, self.frame.head());
        let Some((fixed, table)) = head.split_first_chunk::<FIXED_BYTES>() else {
            return Err(Fault::Protocol("EVENT with a head that is too short".to_owned()));
        };
        let headers = usize::from(u16::from_le_bytes([fixed[28], fixed[29]]));
        let fields = usize::from(u16::from_le_bytes([fixed[30], fixed[31]]));
        self.made.clear();
        self.texts.clear();
        let wanted = TEXTS + 2 * (headers + fields);
        if frame.flags & TYPED == 0 {
            self.texts.extend(table.split(|byte| *byte == 0).take(wanted).map(abi::Str::new));
        } else {
            read_items(table, wanted, &mut self.texts, &mut self.made)?;
        }
        if self.texts.len() < wanted {
            return Err(Fault::Protocol(format!(
                "EVENT with {} texts instead of {wanted}",
                self.texts.len()
            )));
        }
        let pair = |pair: &[abi::Str]| abi::Pair { name: pair[0], value: pair[1] };
        self.pairs.clear();
        self.pairs.extend(self.texts[TEXTS..].chunks_exact(2).map(pair));
        self.headers = headers;
        self.level = u32::from(frame.code >> 12).checked_sub(1);
        self.raw = self.event(fixed, triggers, now_ns);
        self.raw.host = ptr::from_ref(self).cast_mut().cast();
        Ok(())
    }

    fn event(&self, fixed: &[u8; FIXED_BYTES], triggers: &[Trigger], now_ns: i64) -> abi::Event {
        let none = Trigger::default();
        let trigger = triggers.get(usize::from(self.frame.code & 0xfff)).unwrap_or(&none);
        let text = |text: &str| abi::Str::new(text.as_bytes());
        let at = |place: usize| self.texts[place];
        let long = |at: usize| fixed[at..].first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
        let short = |at: usize| fixed[at..].first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
        let timeout_ms = i64::from(short(24) as u32);
        // Cloud events come from another source than the trigger, whose class nobody knows.
        let replaced = at(10).len + at(11).len > 0;
        let flag = |theirs: u8, ours: u32| if self.frame.flags & theirs == 0 { 0 } else { ours };
        let cloud = replaced || self.frame.flags & BODY_JSON != 0;
        abi::Event {
            flags: flag(MORE, abi::EVENT_MORE)
                | flag(NO_BODY, abi::EVENT_NO_BODY)
                | flag(BODY_JSON, abi::EVENT_BODY_JSON)
                | flag(BATCH_END, abi::EVENT_LAST_IN_BATCH)
                | if cloud { abi::EVENT_CLOUD } else { 0 },
            id: at(0),
            method: at(1),
            path: at(2),
            query: at(3),
            url: at(4),
            content_type: at(5),
            topic: at(6),
            type_: at(7),
            type_version: at(8),
            version: at(9),
            trigger_class: text(if replaced { "unsupported" } else { &trigger.class }),
            trigger_kind: if replaced { at(10) } else { text(&trigger.kind) },
            trigger_name: if replaced { at(11) } else { text(&trigger.name) },
            body: abi::Str::new(self.frame.body()),
            headers: abi::Pairs::new(&self.pairs[..self.headers]),
            // What is earlier than the year 1677, such as Go's zero time, becomes the lowest number.
            timestamp_ns: long(0).checked_mul(1000).unwrap_or(i64::MIN),
            deadline_ns: if timeout_ms == 0 { 0 } else { now_ns + timeout_ms * 1_000_000 },
            offset: long(8),
            shard_id: short(16),
            num_shards: short(20),
            ..abi::Event::EMPTY
        }
    }

    /// The event's number in the protocol.
    pub(super) fn id(&self) -> u32 {
        self.frame.id
    }

    /// Whether more of its body comes.
    pub(super) fn has_more(&self) -> bool {
        self.frame.flags & MORE != 0
    }

    /// Query arguments.
    pub(super) fn fields(&self) -> abi::Pairs {
        abi::Pairs::new(&self.pairs[self.headers..])
    }

    /// First value of a header; names are compared without case.
    pub(super) fn header(&self, name: &[u8]) -> Option<abi::Str> {
        // SAFETY: the names are in the frame.
        let named = |pair: &&abi::Pair| unsafe { pair.name.bytes() }.eq_ignore_ascii_case(name);
        self.pairs[..self.headers].iter().find(named).map(|pair| pair.value)
    }

    /// Memory that lives as long as the event.
    pub(super) fn alloc(&self, size: usize, align: usize) -> *mut u8 {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take(size, align)
    }

    /// Gives the frame back.
    pub(super) fn unload(&mut self) -> Frame {
        self.raw = abi::Event::EMPTY;
        std::mem::take(&mut self.frame)
    }
}

fn truncated() -> Fault {
    Fault::Protocol("EVENT with a typed item that is cut off or unknown".to_owned())
}

/// The next item: type, bytes and what follows.
fn item(table: &[u8]) -> Result<(u8, &[u8], &[u8]), Fault> {
    let (kind, rest) = table.split_first().ok_or_else(truncated)?;
    let (len, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
    let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(truncated)?;
    Ok((*kind, bytes, rest))
}

/// Typed items as texts: their own bytes, or for what is more than text its JSON.
fn read_items(
    mut table: &[u8],
    wanted: usize,
    texts: &mut Vec<abi::Str>,
    made: &mut Vec<String>,
) -> Result<(), Fault> {
    while texts.len() < wanted && !table.is_empty() {
        let (kind, bytes, rest) = item(table)?;
        table = rest;
        texts.push(if matches!(kind, b's' | b'b') {
            abi::Str::new(bytes)
        } else {
            let text = value(kind, bytes, 0)?.to_string();
            let shown = abi::Str::new(text.as_bytes());
            made.push(text); // Moves the text's handle, not its bytes.
            shown
        });
    }
    Ok(())
}

fn value(kind: u8, bytes: &[u8], depth: usize) -> Result<Value, Fault> {
    if depth > DEPTH_MAX {
        return Err(truncated());
    }
    let mut inside = bytes;
    let mut next = || -> Result<Option<Value>, Fault> {
        if inside.is_empty() {
            return Ok(None);
        }
        let (kind, bytes, rest) = item(inside)?;
        inside = rest;
        value(kind, bytes, depth + 1).map(Some)
    };
    let eight = || bytes.first_chunk::<8>().copied().ok_or_else(truncated);
    Ok(match kind {
        b's' | b'b' => String::from_utf8_lossy(bytes).into(),
        b'i' => i64::from_le_bytes(eight()?).into(),
        b'f' => Number::from_f64(f64::from_le_bytes(eight()?)).map_or(Value::Null, Value::Number),
        b't' => bytes.first().is_some_and(|byte| *byte != 0).into(),
        b'n' => Value::Null,
        b'l' => {
            let mut list = Vec::new();
            while let Some(value) = next()? {
                list.push(value);
            }
            list.into()
        }
        b'm' => {
            let mut map = Map::new();
            while let Some(name) = next()? {
                map.insert(name.as_str().unwrap_or_default().to_owned(), next()?.unwrap_or_default());
            }
            map.into()
        }
        _ => return Err(truncated()),
    })
}
