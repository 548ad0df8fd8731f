//! Received files and pictures, and the own address as a QR code.
//!
//! What others sent is never a page: a file is an attachment without a kind, a picture is one of four raster formats by
//! its first bytes, and both are shut off from everything by a policy of their own.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::unfold;
use qrcode::QrCode;
use qrcode::render::svg;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::house::House;
use super::refusal::Refusal;
use crate::io::control::NotACall;
use crate::io::failure::{Exit, Failure};
use crate::mail::ReceivedFile;
use crate::web::pictures;

/// Not even a picture may do anything.
const SHUT: &str = "sandbox; default-src 'none'; frame-ancestors 'none'";
/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// A received file, to be kept.
pub(super) async fn file(
    State(house): State<Arc<House>>,
    cursor: Result<Path<u64>, PathRejection>,
) -> Result<Response, Refusal> {
    let (found, file) = found(&house, cursor).await?;
    let name = format!("attachment; filename*=UTF-8''{}", escaped(&found.name));
    let mut response = answer(found.size, "application/octet-stream", stream(file));
    if let Ok(name) = HeaderValue::try_from(name) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// A received file, to be shown, if it is a picture.
pub(super) async fn picture(
    State(house): State<Arc<House>>,
    cursor: Result<Path<u64>, PathRejection>,
) -> Result<Response, Refusal> {
    let (found, mut file) = found(&house, cursor).await?;
    let mut head = Vec::with_capacity(pictures::HEAD);
    (&mut file).take(pictures::HEAD as u64).read_to_end(&mut head).await.map_err(|error| unreadable(&error))?;
    let media_type = pictures::media_type(&head).filter(|_| found.size <= pictures::SIZE_MAX).ok_or_else(|| {
        let next = "save it, and open it with a program that you trust with it";
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "no_picture", "this file is not shown as a picture", next)
    })?;
    file.rewind().await.map_err(|error| unreadable(&error))?;
    Ok(answer(found.size, media_type, stream(file)))
}

fn answer(size: u64, media_type: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SHUT)),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
    ];
    (headers, body).into_response()
}

async fn found(house: &House, cursor: Result<Path<u64>, PathRejection>) -> Result<(ReceivedFile, File), Refusal> {
    let Path(cursor) = cursor.map_err(|error| NotACall::Params(error.body_text()))?;
    let (found, opened) = house.daemon()?.received_file(cursor).await?.ok_or_else(|| {
        let next = "take the cursor of a received file from the timeline";
        Refusal::new(StatusCode::NOT_FOUND, "no_file", "no received file stands there", next)
    })?;
    match opened {
        Ok(file) => Ok((found, File::from_std(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let next = "ask the sender for it again";
            Err(Refusal::new(StatusCode::GONE, "file_gone", "the file was removed from the profile's folder", next))
        }
        Err(error) => Err(unreadable(&error)),
    }
}

fn unreadable(error: &io::Error) -> Refusal {
    Failure::new(Exit::Io, "file", error.to_string(), "check the disk and the profile's folder").into()
}

/// A file as a body, some of it at a time.
fn stream(file: File) -> Body {
    Body::from_stream(unfold(file, |mut file| async move {
        let mut chunk = vec![0; CHUNK];
        match file.read(&mut chunk).await {
            Ok(0) => None,
            Ok(length) => {
                chunk.truncate(length);
                Some((Ok(Bytes::from(chunk)), file))
            }
            Err(error) => Some((Err(error), file)),
        }
    }))
}

/// A name in a header: everything but letters, digits and what cannot mean anything there is escaped.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The own address as a QR code.
pub(super) async fn address(State(house): State<Arc<House>>) -> Result<Response, Refusal> {
    let address = house.daemon()?.address().await?;
    // in capitals it needs a third less: codes have a mode for those
    let code = QrCode::new(address.to_uppercase()).map_err(|error| {
        Failure::new(Exit::Usage, "too_long", format!("the address has no QR code: {error}"), "copy the address")
    })?;
    let drawing = code.render::<svg::Color<'_>>().min_dimensions(240, 240).build();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/svg+xml")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SHUT)),
    ];
    Ok((headers, drawing).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_the_header() {
        assert_eq!(escaped("a b\"\r\n;.png"), "a%20b%22%0D%0A%3B.png");
        assert_eq!(escaped("שלום"), "%D7%A9%D7%9C%D7%95%D7%9D");
    }
}
