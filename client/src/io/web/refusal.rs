//! Failures as answers: the JSON of the command line, and a status that fits.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::io::failure::{Exit, Failure};

/// A failure that is told to a browser or program.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    failure: Failure,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &str, message: &str, next: &str) -> Self {
        Self { status, failure: Failure::new(Exit::Usage, code, message, next) }
    }
}

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Self {
        let failure = error.into();
        Self { status: status(&failure), failure }
    }
}

fn status(failure: &Failure) -> StatusCode {
    match (failure.code.as_str(), failure.exit.unwrap_or(Exit::Temporary)) {
        ("unknown_contact" | "unknown_message" | "unknown_method", _) => StatusCode::NOT_FOUND,
        ("too_long", _) => StatusCode::PAYLOAD_TOO_LARGE,
        (_, Exit::Usage) => StatusCode::BAD_REQUEST,
        (_, Exit::Permission) => StatusCode::FORBIDDEN,
        (_, Exit::Configuration) => StatusCode::UNPROCESSABLE_ENTITY,
        (_, Exit::Temporary) => StatusCode::CONFLICT,
        (_, Exit::Unreachable) => StatusCode::SERVICE_UNAVAILABLE,
        (_, Exit::Io) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.failure.to_json())).into_response()
    }
}
