//! Invites that the user makes.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_client::io::{Call, CallerError, InviteLine};
use tokio::time::{Instant, sleep};

use crate::daemon::reach;
use crate::output::{Out, Problem, plain};
use crate::qr;
use crate::time::readable;

/// How long the first document of a new profile may take.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(30);
const DOCUMENT_RETRY: Duration = Duration::from_millis(500);

pub(crate) async fn make(profile: &Path, name: Option<String>, drawn: bool, out: &Out) -> Result<(), Problem> {
    let mut caller = reach(profile, out).await?;
    let spinner = out.spinner("waiting for the network");
    let deadline = Instant::now() + DOCUMENT_TIMEOUT;
    let made: InviteLine = loop {
        match caller.call(Call::Invite { name: name.clone() }).await {
            Err(CallerError::Refused(failure)) if failure.code == "no_document" && Instant::now() < deadline => {
                sleep(DOCUMENT_RETRY).await;
            }
            made => break made?,
        }
    };
    spinner.finish_and_clear();
    out.either(&made, || {
        let code = if drawn {
            qr::drawn(&made.invite).map_or_else(|small| format!("({small})\n\n"), |code| format!("{code}\n\n"))
        } else {
            String::new()
        };
        let whom = made.name.as_deref().map_or("them".into(), plain);
        format!(
            "{code}{}\n\n  good once, until {}, for whoever uses it first: give it to {whom} over a channel that you trust.\n  \
             They type: shoal add A-NAME-FOR-YOU {}\n  To take it back: shoal invite --withdraw {}",
            made.invite,
            readable(made.ends_at),
            made.invite,
            made.number
        )
    })
}

pub(crate) async fn list(profile: &Path, out: &Out) -> Result<(), Problem> {
    let invites: Vec<InviteLine> = reach(profile, out).await?.call(Call::Invites).await?;
    for invite in &invites {
        out.either(invite, || {
            let name = invite.name.as_deref().map_or("(no name)".into(), plain);
            let state = if invite.claimed { "being used" } else { "waits" };
            format!(
                "{:>3}  {name:<20} {state}, until {}\n     {}",
                invite.number,
                readable(invite.ends_at),
                invite.invite
            )
        })?;
    }
    if invites.is_empty() && !out.json {
        out.text("no invite waits: shoal invite NAME makes one")?;
    }
    Ok(())
}

pub(crate) async fn withdraw(profile: &Path, number: u64, out: &Out) -> Result<(), Problem> {
    let _: Value = reach(profile, out).await?.call(Call::Withdraw { number }).await?;
    out.either(&json!({}), || format!("invite {number} is withdrawn: whoever uses it from now on is told so"))
}
