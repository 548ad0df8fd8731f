//! Files that a user sends: read whole, bounded, with a hint of what they are.

use std::io;
use std::path::PathBuf;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Daemon, Desk, value};
use crate::io::failure::{Exit, Failure};
use crate::io::lines::SentLine;
use crate::mail::MailError;

impl Daemon {
    /// Queues a file of which all is here.
    pub(in crate::io) async fn send_content(
        &self,
        to: String,
        name: String,
        content: Vec<u8>,
    ) -> Result<Value, Failure> {
        let send = move |desk: &mut Desk<'_>| {
            let mime = media_type(&name);
            let id = desk.mail.send_file(&to, &name, mime, &content, desk.now, desk.rng)?;
            Ok(SentLine::from(desk.mail.state(id)?))
        };
        value(self.mail(send).await?)
    }
}

/// Largest file that is read into memory to be sent; the profile may allow less.
const FILE_MAX: u64 = 64 << 20;

pub(super) async fn read_file(path: PathBuf) -> Result<(String, Vec<u8>), Failure> {
    let failed = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Io };
        Failure::new(exit, "file", format!("{}: {error}", path.display()), "check the path")
    };
    let metadata = tokio::fs::metadata(&path).await.map_err(failed)?;
    if !metadata.is_file() {
        let next = "name a file; put a folder into an archive first";
        return Err(Failure::new(Exit::Usage, "not_a_file", format!("{} is not a file", path.display()), next));
    }
    if metadata.len() > FILE_MAX {
        return Err(MailError::TooLong { length: metadata.len(), limit: FILE_MAX }.into());
    }
    let file = tokio::fs::File::open(&path).await.map_err(failed)?;
    let content = bounded(file, FILE_MAX).await.map_err(failed)?.ok_or_else(|| {
        // it grew while it was read, or never told its size
        Failure::from(MailError::TooLong { length: FILE_MAX + 1, limit: FILE_MAX })
    })?;
    let name = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok((name, content))
}

/// Reads to the end; `None`: there is more than `limit`.
async fn bounded(reader: impl AsyncRead + Unpin, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut content).await?;
    Ok((content.len() as u64 <= limit).then_some(content))
}

/// A hint for the reader, by the file's ending; nobody trusts it.
fn media_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    match ending.as_deref() {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("gif") => "image/gif",
        Some("webp") => "image/webp",
        Some("pdf") => "application/pdf",
        Some("txt" | "md") => "text/plain",
        Some(_) | None => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_does_not_end_is_not_read_to_its_end() {
        assert_eq!(bounded(tokio::io::repeat(7), 1_000).await.unwrap(), None);
        assert_eq!(bounded(&[7; 1_001][..], 1_000).await.unwrap(), None);
        assert_eq!(bounded(&[7; 1_000][..], 1_000).await.unwrap(), Some(vec![7; 1_000]));
    }

    #[test]
    fn media_types_are_hints() {
        assert_eq!(media_type("a.PNG"), "image/png");
        assert_eq!(media_type("Makefile"), "application/octet-stream");
    }
}
