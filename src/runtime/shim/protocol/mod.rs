//! Pure codecs between events and the bytes a shim reads and writes. No I/O here.

pub mod v1;
pub mod v2;
