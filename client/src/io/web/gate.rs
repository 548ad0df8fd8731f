//! What every request must pass, and what every answer says to the browser.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::house::House;
use super::refusal::Refusal;
use crate::web::own::From;

/// Scripts and styles from the page's own files only, nothing inline, no text as markup, no frames, no forms, nothing
/// from or to elsewhere. Pictures come as blobs that the page's scripts have fetched.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// On every answer. What an answer says itself stays: a file is shut off further.
const HEADERS: [(HeaderName, &str); 8] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
];

/// Refuses what another page makes the browser ask, and dresses the answer.
pub(super) async fn guard(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let from = From { host: text(headers, &header::HOST), origin: text(headers, &header::ORIGIN), site: site(headers) };
    let api = request.uri().path().starts_with("/api/");
    let mut response = if !house.own.is_host(from) {
        let next = "use the link that shoal web prints";
        Refusal::new(StatusCode::MISDIRECTED_REQUEST, "other_host", "this page has another name", next).into_response()
    } else if api && !house.own.is_same_origin(from) {
        let next = "nothing: another web page tried to use Shoal, and could not";
        Refusal::new(StatusCode::FORBIDDEN, "other_origin", "another page asked", next).into_response()
    } else {
        next.run(request).await
    };
    let answer = response.headers_mut();
    for (name, value) in HEADERS {
        answer.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Lets through who shows the secret of an open session.
pub(super) async fn session(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    if bearer(request.headers()).is_some_and(|session| house.used(session)) {
        next.run(request).await
    } else {
        let next = "open the page by a fresh link: shoal web";
        let mut refused =
            Refusal::new(StatusCode::UNAUTHORIZED, "no_session", "no session, or it is over", next).into_response();
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        refused
    }
}

/// The secret that a request shows.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    text(headers, &header::AUTHORIZATION)?.strip_prefix("Bearer ")
}

fn site(headers: &HeaderMap) -> Option<&str> {
    text(headers, &HeaderName::from_static("sec-fetch-site"))
}

/// A header that must stand once: of several, or one that is not readable, nothing is believed.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    Some(if all.next().is_some() { "" } else { first.to_str().unwrap_or_default() })
}
