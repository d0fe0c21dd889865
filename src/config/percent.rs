//! Percent-encoding (RFC 3986 2.1), decoded: in addresses, paths, queries, headers and variables alike.

/// Decodes `%XX`, and `+` where it is a blank; bad escapes stay as they are.
pub fn decode(text: &[u8], plus_is_blank: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    decode_into(text, plus_is_blank, &mut out);
    out
}

/// The same, behind what `out` holds.
pub fn decode_into(text: &[u8], plus_is_blank: bool, out: &mut Vec<u8>) {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'+' if plus_is_blank => out.push(b' '),
            b'%' => match escaped_byte(&text[at..]) {
                Some(byte) => {
                    out.push(byte);
                    at += 2;
                }
                None => out.push(b'%'),
            },
            byte => out.push(byte),
        }
        at += 1;
    }
}

/// The byte that `%XX` at the start of `text` stands for.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let hex = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    Some(hex(*text.get(1)?)? << 4 | hex(*text.get(2)?)?)
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(decode(b"a%20b%2f+%C3%a9", false), "a b/+é".as_bytes());
        assert_eq!(decode(b"a+b", true), b"a b");
        for text in ["%", "%2", "%g0", "%+1", "100%", "%%"] {
            assert_eq!(decode(text.as_bytes(), false), text.as_bytes());
        }
    }
}
