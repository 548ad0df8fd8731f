//! Which files are shown as pictures: few kinds, known by their first bytes and never by what their sender calls them.
//!
//! Only raster formats that every browser decodes in a sandbox. SVG is a document that can carry scripts, and is not
//! among them.

/// Bytes that decide: the longest beginning below.
pub(crate) const HEAD: usize = 12;
/// Largest file that is shown as a picture: a photograph of a good camera has 20 MB.
pub(crate) const SIZE_MAX: u64 = 24 << 20;

/// The media type of a picture by its first bytes; `None`: it is not shown.
pub(crate) fn media_type(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pictures_are_known_by_their_beginning() {
        assert_eq!(media_type(b"\x89PNG\r\n\x1a\n...."), Some("image/png"));
        assert_eq!(media_type(b"\xff\xd8\xff\xe0"), Some("image/jpeg"));
        assert_eq!(media_type(b"GIF89a"), Some("image/gif"));
        assert_eq!(media_type(b"RIFF\0\0\0\0WEBP"), Some("image/webp"));
        for other in
            [&b""[..], b"<svg xmlns", b"<html>", b"<?xml", b"%PDF-1.7", b"RIFF\0\0\0\0WAVE", b"GIF90a", b"\x89PNG"]
        {
            assert_eq!(media_type(other), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_browser_could_take_for_a_document_is_no_picture(rest: Vec<u8>) {
            let mut file = b"<".to_vec();
            file.extend(&rest);
            prop_assert_eq!(media_type(&file), None);
            let _ = media_type(&rest);
        }
    }
}
