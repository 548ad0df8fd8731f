//! The files of the page, inside the program: nothing is fetched from anywhere else.

/// A file of the page.
pub(crate) struct Asset {
    /// Its path on the server.
    pub(crate) path: &'static str,
    /// Its media type.
    pub(crate) media_type: &'static str,
    /// What is in it.
    pub(crate) content: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! asset {
    ($path:literal, $media_type:expr, $file:literal) => {
        Asset { path: $path, media_type: $media_type, content: include_str!($file) }
    };
}

/// All of them.
pub(crate) const ASSETS: &[Asset] = &[
    asset!("/", HTML, "page/index.html"),
    asset!("/page/base.css", CSS, "page/base.css"),
    asset!("/page/frame.css", CSS, "page/frame.css"),
    asset!("/page/talk.css", CSS, "page/talk.css"),
    asset!("/page/last.css", CSS, "page/last.css"),
    asset!("/page/main.js", SCRIPT, "page/main.js"),
    asset!("/page/api.js", SCRIPT, "page/api.js"),
    asset!("/page/dom.js", SCRIPT, "page/dom.js"),
    asset!("/page/words.js", SCRIPT, "page/words.js"),
    asset!("/page/chats.js", SCRIPT, "page/chats.js"),
    asset!("/page/timeline.js", SCRIPT, "page/timeline.js"),
    asset!("/page/files.js", SCRIPT, "page/files.js"),
    asset!("/page/composer.js", SCRIPT, "page/composer.js"),
    asset!("/page/people.js", SCRIPT, "page/people.js"),
    asset!("/page/status.js", SCRIPT, "page/status.js"),
    asset!("/page/setup.js", SCRIPT, "page/setup.js"),
    asset!("/page/icon.svg", "image/svg+xml", "page/icon.svg"),
    asset!("/openapi.json", "application/json", "../../openapi.json"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_runs_nothing_inline() {
        for asset in ASSETS {
            let text = asset.content;
            for outside in ["https://", "//cdn", "@import", "url(", "javascript:"] {
                assert!(!text.contains(outside), "{}: {outside}", asset.path);
            }
            for address in text.match_indices("http://") {
                let rest = text.get(address.0..).unwrap_or_default();
                assert!(rest.starts_with("http://www.w3.org/"), "{}: {rest:.40}", asset.path);
            }
            if asset.media_type == SCRIPT {
                for dangerous in
                    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
                {
                    assert!(!text.contains(dangerous), "{}: {dangerous}", asset.path);
                }
            }
            if asset.media_type == HTML {
                let quiet = text.to_lowercase();
                assert!(!quiet.contains("<style") && !quiet.contains(" style="), "inline style");
                let handler = |word: &str| word.starts_with("on") && word.contains('=');
                assert!(!quiet.split_whitespace().any(handler), "inline script");
                assert_eq!(
                    quiet.matches("<script").count(),
                    quiet.matches("<script type=\"module\" src=\"/page/").count()
                );
            }
        }
    }

    #[test]
    fn every_module_that_is_imported_is_there() {
        for asset in ASSETS.iter().filter(|asset| asset.media_type == SCRIPT) {
            for import in asset.content.split(" from \"./").skip(1) {
                let name = import.split('"').next().unwrap_or_default();
                let path = format!("/page/{name}");
                assert!(ASSETS.iter().any(|asset| asset.path == path), "{} imports {name}", asset.path);
            }
        }
    }
}
