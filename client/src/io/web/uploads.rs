//! Files that a page sends: `POST /api/files?to=…&name=…` with the file as body.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::calls::bounded;
use super::house::House;
use super::refusal::Refusal;
use crate::blobs::BLOB_SIZE_MAX;
use crate::io::control::NotACall;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upload {
    to: String,
    name: String,
}

/// Queues a file. Its name is reduced to a safe one, whatever the page says.
pub(super) async fn upload(
    State(house): State<Arc<House>>,
    query: Result<Query<Upload>, QueryRejection>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Query(Upload { to, name }) = query.map_err(|error| NotACall::Params(error.body_text()))?;
    let _place = house.uploads.try_acquire().map_err(|_| {
        let next = "wait until the other files are taken in";
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", "other files are being taken in", next)
    })?;
    let limit = usize::try_from(BLOB_SIZE_MAX).unwrap_or(usize::MAX);
    let content = bounded(body, limit).await?;
    Ok(Json(house.daemon()?.send_content(to, name, content.to_vec()).await?))
}
