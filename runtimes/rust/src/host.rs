//! What those share who call handlers over the ABI: the processor, in its own process, and the executable form.
//!
//! Not for handlers.
#![expect(unsafe_code, reason = "the C boundary: calls back into handlers, and pointers they hand out")]

use std::mem::size_of;
use std::ptr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value};

use crate::abi;

/// Most bytes a handler may ask for per event.
const SCRATCH_BYTES_MAX: usize = 64 << 20;

/// What a plugin wrote into a response; released exactly once, when it is dropped.
pub struct Answer {
    raw: abi::Response,
}

// SAFETY: the ABI lets `release` come from any thread, and what the response points to stays unchanged until then.
unsafe impl Send for Answer {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Answer {}

impl Default for Answer {
    fn default() -> Self {
        Self::new()
    }
}

impl Answer {
    /// To be filled in.
    pub const fn new() -> Self {
        Self { raw: abi::Response::EMPTY }
    }

    /// For a call of the plugin. Who writes into it by other means must leave something that may be released.
    pub fn raw_mut(&mut self) -> &mut abi::Response {
        &mut self.raw
    }

    /// Status as the plugin set it.
    pub fn status(&self) -> u16 {
        self.raw.status
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.raw.flags & flag != 0
    }

    /// Whether something waits for release: it may point anywhere, the event included.
    pub fn is_owned(&self) -> bool {
        self.raw.release.is_some()
    }

    /// What is impossible about it, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        if self.raw.body.is_broken() {
            return Some("a body at address 0");
        }
        if self.raw.content_type.is_broken() || self.raw.headers.is_broken() {
            return Some("headers at address 0");
        }
        if self.raw_headers().iter().any(|pair| pair.name.is_broken() || pair.value.is_broken()) {
            return Some("a header at address 0");
        }
        (self.has(abi::RESPONSE_STREAM) && self.raw.next.is_none()).then_some("a stream without `next`")
    }

    /// Content type, or empty.
    pub fn content_type(&self) -> &[u8] {
        // SAFETY: the plugin keeps what it points to until release, and `self` has not released it.
        unsafe { self.raw.content_type.bytes() }
    }

    /// Names and values.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // SAFETY: as in `content_type`, for each text.
        self.raw_headers().iter().map(|pair| unsafe { (pair.name.bytes(), pair.value.bytes()) })
    }

    /// Body, or the text of an error.
    pub fn body(&self) -> &[u8] {
        // SAFETY: as in `content_type`.
        unsafe { self.raw.body.bytes() }
    }

    /// What a failed call says for itself, if it does not go without words.
    pub fn is_empty(&self) -> bool {
        self.status() == 0 && self.body().is_empty()
    }

    /// What a plugin said about its failure to start.
    pub fn failure_text(&self, code: abi::CallResult) -> String {
        match (self.fault(), self.body()) {
            (None, text @ [_, ..]) => String::from_utf8_lossy(text).into_owned(),
            _ => format!("it returned {code} and no text"),
        }
    }

    /// Pulls a piece of a stream: the code, and the bytes until the next pull.
    pub fn pull(&mut self) -> (abi::CallResult, Option<&[u8]>) {
        let mut chunk = abi::Str::EMPTY;
        let Some(next) = self.raw.next else { return (abi::END, None) };
        // SAFETY: not released yet; `&mut self` makes pulls come one at a time.
        let result = unsafe { next(self.raw.owner, &mut chunk) };
        if result != abi::OK || chunk.is_broken() {
            return (result, None);
        }
        // SAFETY: valid until the next pull or release, both of which need `&mut self`.
        (result, Some(unsafe { chunk.bytes() }))
    }

    fn raw_headers(&self) -> &[abi::Pair] {
        // SAFETY: as in `content_type`.
        unsafe { self.raw.headers.pairs() }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(release) = self.raw.release {
            // SAFETY: called once, and nothing reads the answer afterwards.
            unsafe { release(self.raw.owner) }
        }
    }
}

/// Memory that a handler asked for, as long as its event.
#[derive(Default)]
pub struct Scratch {
    // Never resized, so the memory stays where it is.
    blocks: Vec<Vec<u128>>,
    bytes: usize,
}

impl Scratch {
    /// Fresh memory, not initialized; NULL past 64 MiB and for an alignment that is no power of two.
    pub fn take(&mut self, size: usize, align: usize) -> *mut u8 {
        // Room to move the start to the alignment asked for.
        let spare = align.saturating_sub(align_of::<u128>());
        let Some(bytes) = size.checked_add(spare).map(|bytes| bytes.max(1)) else { return ptr::null_mut() };
        if !align.is_power_of_two() || bytes > SCRATCH_BYTES_MAX - self.bytes {
            return ptr::null_mut();
        }
        let mut block = Vec::<u128>::with_capacity(bytes.div_ceil(size_of::<u128>()));
        let start = block.as_mut_ptr().cast::<u8>();
        self.bytes += bytes;
        self.blocks.push(block);
        start.wrapping_add(start.align_offset(align))
    }

    /// Address and length of each piece.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        self.blocks.iter().map(|block| (block.as_ptr().addr(), block.capacity() * size_of::<u128>()))
    }

    /// Gives it all back; costs nothing where there is none.
    pub fn clear(&mut self) {
        if self.bytes != 0 {
            *self = Self::default();
        }
    }
}

/// The fields of a record as JSON. A JSON text that is none becomes a text, bytes that are no text become base64, and a
/// number JSON does not know becomes its name.
///
/// # Safety
/// `fields` is NULL, or `n` fields are readable there during `'a`, whose members that `kind` names are set and readable.
pub unsafe fn fields_json<'a>(
    fields: *const abi::Field,
    n: usize,
) -> impl Iterator<Item = (String, Value)> + 'a {
    let fields: &[abi::Field] = if fields.is_null() {
        &[]
    } else {
        // SAFETY: passed on to the caller.
        unsafe { std::slice::from_raw_parts(fields, n) }
    };
    fields.iter().map(|field| {
        // SAFETY: as above, for each text.
        unsafe { (String::from_utf8_lossy(field.name.bytes()).into_owned(), json(&field.value)) }
    })
}

/// # Safety
/// The member that `kind` names is set, and its text is readable.
unsafe fn json(value: &abi::Value) -> Value {
    // SAFETY: passed on to the caller. Every member may be read as bytes of that size; only `text` is followed.
    unsafe {
        let value_as = value.value;
        match value.kind {
            abi::TEXT => Value::from(String::from_utf8_lossy(value_as.text.bytes())),
            abi::INT => Value::from(value_as.integer),
            abi::BOOL => Value::from(value_as.integer != 0),
            abi::FLOAT => Number::from_f64(value_as.real)
                .map_or_else(|| Value::from(value_as.real.to_string()), Value::Number),
            abi::JSON => serde_json::from_slice(value_as.text.bytes())
                .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(value_as.text.bytes()))),
            abi::BYTES => match std::str::from_utf8(value_as.text.bytes()) {
                Ok(text) => Value::from(text),
                Err(_) => Value::from(STANDARD.encode(value_as.text.bytes())),
            },
            _ => Value::Null,
        }
    }
}

/// `nh_host::ack`, which nobody serves yet.
///
/// # Safety
/// None needed: it looks at nothing.
pub unsafe extern "C" fn ack(
    _: *mut std::ffi::c_void,
    _topic: abi::Str,
    _partition: i32,
    _offset: i64,
) -> abi::CallResult {
    abi::UNSUPPORTED
}

/// `nh_host::call_function`, which nobody serves yet.
///
/// # Safety
/// None needed: it looks at nothing.
pub unsafe extern "C" fn call_function(
    _: *mut std::ffi::c_void,
    _call: *const abi::Call,
    _answer: *mut abi::Response,
) -> abi::CallResult {
    abi::UNSUPPORTED
}
