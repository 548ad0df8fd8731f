//! Which path is answered by what. `client/openapi.json` describes it, and a test holds the two together.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::house::House;
use super::refusal::Refusal;
use super::{calls, downloads, events, gate, setup, uploads};
use crate::web::assets::ASSETS;

/// The whole page.
pub(super) fn router(house: Arc<House>) -> Router {
    let inside = Router::new()
        .route("/api/call/{method}", post(calls::call))
        .route("/api/events", get(events::events))
        .route("/api/files", post(uploads::upload))
        .route("/api/files/{cursor}", get(downloads::file))
        .route("/api/pictures/{cursor}", get(downloads::picture))
        .route("/api/address.svg", get(downloads::address))
        .route("/api/setup", get(setup::needed).post(setup::make))
        .route("/api/setup/look", post(setup::look))
        .route("/api/session/end", post(calls::end_session))
        .route_layer(from_fn_with_state(Arc::clone(&house), gate::session));
    let outside = ASSETS.iter().fold(Router::new(), |router, asset| {
        let answer = || async { ([(header::CONTENT_TYPE, asset.media_type)], asset.content) };
        router.route(asset.path, get(answer))
    });
    outside
        .route("/api/session", post(calls::open_session))
        .merge(inside)
        .fallback(nothing)
        .layer(map_response(wrong_method))
        // bodies are bounded where they are read, each by its own limit
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&house), gate::guard))
        .with_state(house)
}

async fn nothing() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no_such_page", "there is nothing here", "see /openapi.json for what there is")
}

/// axum's own refusal of a method has no body; every refusal here is JSON.
async fn wrong_method(response: Response) -> Response {
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let allow = response.headers().get(header::ALLOW).cloned();
    let error =
        json!({ "error": { "code": "method", "message": "not with this method", "next": "see /openapi.json" } });
    let mut refused = (StatusCode::METHOD_NOT_ALLOWED, Json(error)).into_response();
    refused.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    refused
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_description_has_every_route_and_no_other() {
        let source = include_str!("routes.rs").split("#[cfg(test)]").next().unwrap_or_default();
        let routes = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let routes: BTreeSet<&str> = routes.filter(|path| *path != "/api/call/{method}").collect();
        let description: serde_json::Value = serde_json::from_str(include_str!("../../../openapi.json")).unwrap();
        let described = description["paths"].as_object().unwrap().keys().map(String::as_str);
        let described: BTreeSet<&str> = described.filter(|path| !path.starts_with("/api/call/")).collect();
        assert_eq!(routes, described);
    }
}
