//! The page of differences.
