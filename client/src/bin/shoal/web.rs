//! `shoal web`: a link to the page of the running daemon.

use std::path::Path;

use serde::{Deserialize, Serialize};
use shoal_client::io::Call;

use crate::daemon::reach;
use crate::output::{Out, Problem};

#[derive(Serialize, Deserialize)]
struct LinkLine {
    url: String,
}

/// Starts the daemon when it does not run, and the page when it is not served.
pub(crate) async fn web(profile: &Path, out: &Out) -> Result<(), Problem> {
    let link: LinkLine = reach(profile, out).await?.call(Call::WebLink { address: None }).await?;
    out.either(&link, || {
        format!(
            "{}\n\nOpen it in a browser on this machine. It is good once, for ten minutes; show it to nobody.",
            link.url
        )
    })
}
