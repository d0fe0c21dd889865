//! `/metrics`.

use http::StatusCode;

use super::{Page, not_found};
use crate::metrics::text::Exposition;

pub(super) fn page(path: &str, exposition: &Exposition, instance: &str) -> Page {
    if path != "/metrics" {
        return not_found();
    }
    super::page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", exposition.text(instance))
}
