//! The headers `traceparent` and `tracestate` of W3C Trace Context (levels 1 and 2): strict reading, writing. Bytes in,
//! bytes out.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that names trace and parent.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what vendors add.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The sender records the trace.
pub const FLAG_SAMPLED: u8 = 1;
/// The trace's id is random (level 2).
pub const FLAG_RANDOM: u8 = 2;

/// Bytes of a `traceparent` of version 00.
const PARENT_BYTES: usize = 55;
/// Members of a list in `tracestate`.
const MEMBERS_MAX: usize = 32;
/// Bytes of a member's key, and of its value.
const PART_BYTES_MAX: usize = 256;

/// What a `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// Those we know: [`FLAG_SAMPLED`], [`FLAG_RANDOM`].
    pub flags: u8,
}

impl Context {
    /// Reads the header's value; `None` for everything that is not exactly what the standard has. Of a version that
    /// is not known yet only what version 00 has is read.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(PARENT_BYTES)?;
        let dashes = [known[2], known[35], known[52]] == [b'-'; 3];
        let version = hex(&known[..2])?;
        let complete = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let trace_id = u128::from(hex(&known[3..19])?) << 64 | u128::from(hex(&known[19..35])?);
        let span_id = hex(&known[36..52])?;
        let flags = hex(&known[53..])? as u8 & (FLAG_SAMPLED | FLAG_RANDOM);
        (dashes && complete && trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags })
    }

    /// As a header's value, version 00.
    pub fn header(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex((self.trace_id >> 64) as u64, &mut text[3..19]);
        write_hex(self.trace_id as u64, &mut text[19..35]);
        write_hex(self.span_id, &mut text[36..52]);
        write_hex(self.flags.into(), &mut text[53..]);
        // Digits and dashes only: this cannot fail.
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// What each byte is worth as a lower-case hexadecimal digit; [`NO_DIGIT`]: it is none.
const DIGITS: [u8; 256] = {
    let mut worth = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        worth[HEX[digit] as usize] = digit as u8;
        digit += 1;
    }
    worth
};
const HEX: &[u8; 16] = b"0123456789abcdef";
const NO_DIGIT: u8 = 0xff;

/// Up to 16 lower-case hexadecimal digits. No branch per digit: every event comes by here.
fn hex(digits: &[u8]) -> Option<u64> {
    let (mut number, mut worst) = (0, 0);
    for digit in digits {
        let worth = DIGITS[usize::from(*digit)];
        number = number << 4 | u64::from(worth & 0xf);
        worst |= worth;
    }
    (worst < 16).then_some(number)
}

/// Fills `digits` with the last lower-case hexadecimal digits of a number.
pub fn write_hex(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = HEX[number as usize & 0xf];
        number >>= 4;
    }
}

/// Where an event came from.
#[derive(Debug)]
pub struct Parent {
    /// Ids and flags.
    pub context: Context,
    /// `tracestate` to pass on, as one valid header.
    pub state: Option<HeaderValue>,
}

impl Parent {
    /// Reads both headers. `None`: there is no `traceparent`, or several, or it is invalid; then the state does not
    /// count either. Invalid state is dropped, the parent stays.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        // One walk: that costs less than two look-ups, which hash names.
        let (mut parent, mut has_state) = (None, false);
        for (name, value) in headers {
            if *name == TRACEPARENT {
                if parent.replace(value).is_some() {
                    return None;
                }
            } else if *name == TRACESTATE {
                has_state = true;
            }
        }
        let context = Context::parse(parent?.as_bytes().trim_ascii())?;
        let state = if has_state { read_state(headers) } else { None };
        Some(Self { context, state })
    }
}

/// All lines as one list; `None` if a member is invalid or there are too many.
fn read_state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(TRACESTATE).iter();
    let first = lines.next()?;
    let members = |line: &HeaderValue| count_members(line.as_bytes());
    let rest: Vec<&HeaderValue> = lines.collect(); // Empty, without memory of its own, as a rule.
    let count = rest.iter().try_fold(members(first)?, |count, line| Some(count + members(line)?))?;
    if count == 0 || count > MEMBERS_MAX {
        return None;
    }
    if rest.is_empty() {
        return Some(first.clone());
    }
    let lines = std::iter::once(first).chain(rest).map(HeaderValue::as_bytes);
    let lines: Vec<&[u8]> = lines.filter(|line| !line.trim_ascii().is_empty()).collect();
    HeaderValue::from_bytes(&lines.join(&b","[..])).ok()
}

/// Members of one line; empty ones are allowed and do not count.
fn count_members(line: &[u8]) -> Option<usize> {
    let members = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty()).try_fold(0, |count, member| {
        let at = member.iter().position(|byte| *byte == b'=')?;
        (is_key(&member[..at]) && is_value(&member[at + 1..])).then_some(count + 1)
    })
}

/// As level 2 has it, which takes everything that level 1 takes.
fn is_key(key: &[u8]) -> bool {
    let [first, rest @ ..] = key else { return false };
    let begins = first.is_ascii_lowercase() || first.is_ascii_digit();
    let goes_on = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    begins && key.len() <= PART_BYTES_MAX && rest.iter().all(goes_on)
}

/// Printable, without comma and equals sign. Blanks at the end have been trimmed; one alone is no value.
fn is_value(value: &[u8]) -> bool {
    let fine = |byte: &u8| matches!(byte, 0x20..=0x7e) && !b",=".contains(byte);
    !value.is_empty() && value.len() <= PART_BYTES_MAX && value.iter().all(fine)
}
