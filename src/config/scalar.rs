//! What a YAML scalar means: the words and numbers of YAML 1.1 as the Go library reads them.
//!
//! Knows nothing of fields; the text itself stays available to whoever wants text.

/// Meaning of a scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scalar<'a> {
    /// `~`, `null` or nothing.
    Null,
    /// `yes`, `off`, `true` and the like.
    Bool(bool),
    /// Decimal, octal, hexadecimal or binary.
    Integer(i128),
    /// With point or exponent, infinity, not a number.
    Float(f64),
    /// Everything else.
    Text(&'a str),
}

/// The meaning of a text; a text that is not plain means itself.
pub(crate) fn resolve(text: &str, plain: bool) -> Scalar<'_> {
    if !plain {
        return Scalar::Text(text);
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Scalar::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Scalar::Bool(false)
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        _ => number(text).unwrap_or(Scalar::Text(text)),
    }
}

fn number(text: &str) -> Option<Scalar<'_>> {
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return None;
    }
    let digits = text.replace('_', "");
    let integer = integer(&digits).filter(|number| (i64::MIN.into()..=u64::MAX.into()).contains(number));
    integer.map(Scalar::Integer).or_else(|| float(&digits).map(Scalar::Float))
}

/// An integer in Go's notation: `0x`, `0o`, `0b` or a leading zero for octal.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some(two) if two.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

fn float(text: &str) -> Option<f64> {
    let only_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    // What is too large for a number is text.
    text.parse().ok().filter(|value: &f64| only_number && value.is_finite())
}

/// The integer a float is exactly, when there is one.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

impl Scalar<'_> {
    /// As JSON; what JSON cannot say becomes text or null.
    pub(crate) fn to_json(self) -> serde_json::Value {
        match self {
            Scalar::Null => serde_json::Value::Null,
            Scalar::Bool(value) => value.into(),
            Scalar::Integer(value) => match i64::try_from(value) {
                Ok(value) => value.into(),
                Err(_) => u64::try_from(value).map_or(serde_json::Value::Null, Into::into),
            },
            Scalar::Float(value) => whole(value).map_or_else(|| value.into(), Into::into),
            Scalar::Text(text) => text.into(),
        }
    }

    /// As the key of a mapping.
    pub(crate) fn to_key(self) -> String {
        match self {
            Scalar::Null => "null".into(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Integer(value) => value.to_string(),
            Scalar::Float(value) => value.to_string(),
            Scalar::Text(text) => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_mean_what_the_go_library_reads() {
        let cases = [
            ("010", Scalar::Integer(8)),
            ("0o10", Scalar::Integer(8)),
            ("0x1F", Scalar::Integer(31)),
            ("-0x1F", Scalar::Integer(-31)),
            ("0b11", Scalar::Integer(3)),
            ("1_000", Scalar::Integer(1000)),
            ("+1", Scalar::Integer(1)),
            ("0", Scalar::Integer(0)),
            ("08", Scalar::Float(8.0)),
            ("1.", Scalar::Float(1.0)),
            (".5", Scalar::Float(0.5)),
            ("1e3", Scalar::Float(1000.0)),
            ("18446744073709551616", Scalar::Float(18_446_744_073_709_551_616.0)),
            ("1e400", Scalar::Text("1e400")),
            ("1:30", Scalar::Text("1:30")),
            ("2001-01-01", Scalar::Text("2001-01-01")),
            ("-", Scalar::Text("-")),
            ("+-1", Scalar::Text("+-1")),
            ("0x", Scalar::Text("0x")),
            ("1e", Scalar::Text("1e")),
            ("infinity", Scalar::Text("infinity")),
            ("Yes", Scalar::Bool(true)),
            ("yEs", Scalar::Text("yEs")),
            ("OFF", Scalar::Bool(false)),
            ("NULL", Scalar::Null),
            ("", Scalar::Null),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text, true), expected, "{text}");
            assert_eq!(resolve(text, false), Scalar::Text(text));
        }
    }
}
