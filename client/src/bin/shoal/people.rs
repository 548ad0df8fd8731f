//! Addresses, contacts, conversations.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use shoal_client::io::{AcceptedLine, Call, ContactLine, ConversationLine, Kind};
use shoal_client::mail::Standing;

use crate::daemon::reach;
use crate::output::{Out, Problem, plain};
use crate::qr;
use crate::time::readable;

#[derive(Deserialize)]
struct AddressLine {
    address: String,
    moving: u64,
}

pub(crate) async fn address(profile: &Path, drawn: bool, new: bool, out: &Out) -> Result<(), Problem> {
    let call = if new { Call::NewAddress } else { Call::Address };
    let AddressLine { address, moving } = reach(profile, out).await?.call(call).await?;
    let mut note = String::new();
    if new {
        note.push_str("\nThis is your address from now on. Strangers who write to the one before it are not heard.");
    }
    if moving > 0 {
        let conversations = if moving == 1 { "1 conversation has" } else { &format!("{moving} conversations have") };
        note.push_str(&format!(
            "\n{conversations} not heard of it yet: that takes up to an hour while shoal runs (shoal address)."
        ));
    }
    if !drawn {
        return out.either(&json!({ "address": address, "moving": moving }), || format!("{address}{note}"));
    }
    // what the code holds: in capitals it is smaller, and an address all the same
    let line = json!({ "address": address, "moving": moving, "qr": address.to_uppercase() });
    out.either(&line, || match qr::drawn(&address) {
        Ok(drawn) => format!("{drawn}\n\n{address}{note}"),
        Err(too_small) => format!("{address}\n({too_small}){note}"),
    })
}

pub(crate) async fn add(profile: &Path, name: String, address: String, out: &Out) -> Result<(), Problem> {
    // an invite on the command line can be seen by everybody on this machine
    let address = if address == "-" { crate::messages::standard_input()?.trim().to_owned() } else { address };
    let invite = address.to_lowercase().starts_with("shoal-invite");
    let done = if invite { "the invite is being used (shoal contacts); added" } else { "added" };
    changed(profile, Call::Add { name, address }, done, out).await
}

pub(crate) async fn accept(profile: &Path, who: String, out: &Out) -> Result<(), Problem> {
    changed(profile, Call::Accept { who }, "accepted", out).await
}

pub(crate) async fn block(profile: &Path, who: String, out: &Out) -> Result<(), Problem> {
    changed(profile, Call::Block { who }, "blocked", out).await
}

async fn changed(profile: &Path, call: Call, done: &str, out: &Out) -> Result<(), Problem> {
    let accepted: AcceptedLine = reach(profile, out).await?.call(call).await?;
    out.either(&accepted, || {
        let contact = match &accepted {
            AcceptedLine::Contact(contact) => contact,
            AcceptedLine::Group(group) => return format!("{done} group {}", plain(&group.name)),
        };
        let name = plain(&contact.name);
        if let Some(was) = &contact.was {
            return format!("{} is called {name} now: it is the same person's address", plain(was));
        }
        if contact.name == contact.address && !contact.blocked {
            format!("{done} {name}\n  to give it a name: shoal add NAME {name}")
        } else {
            format!("{done} {name}")
        }
    })
}

pub(crate) async fn contacts(profile: &Path, out: &Out) -> Result<(), Problem> {
    let mut caller = reach(profile, out).await?;
    let contacts: Vec<ContactLine> = caller.call(Call::Contacts).await?;
    for contact in &contacts {
        out.either(contact, || {
            let note = match (contact.blocked, contact.request, contact.waiting_since) {
                (true, ..) => "  (blocked)".to_owned(),
                (false, true, _) => {
                    let who = quoted(contact);
                    format!("\n  a request: shoal accept {who}\n         or: shoal block {who}")
                }
                (false, false, Some(since)) => {
                    let since = readable(since);
                    format!(
                        "  (since {since} nothing of them is found: they have not run shoal on this network yet, or an \
                         invite is being used)"
                    )
                }
                (false, false, None) => String::new(),
            };
            let note = if contact.verified { format!("  (verified){note}") } else { note };
            let name = match contact.name == contact.address {
                true if contact.request => "a stranger",
                true => "(no name)",
                false => &contact.name,
            };
            format!("{:<20} {}{note}", plain(name), contact.address)
        })?;
    }
    if contacts.is_empty() && !out.json {
        out.text("no contacts yet: shoal add NAME ADDRESS, or invite somebody: shoal invite NAME")?;
    }
    if !out.json {
        let conversations: Vec<ConversationLine> = caller.call(Call::Conversations).await?;
        if conversations.iter().any(|line| line.kind == Kind::Group && line.request) {
            out.text("somebody added you to a group: shoal conversations")?;
        }
    }
    Ok(())
}

/// What to type for somebody: the address of a stranger, the name of others, which has no character that a shell takes
/// between single quotes but the quote.
fn quoted(contact: &ContactLine) -> String {
    let word = |letter: char| letter.is_alphanumeric() || "-_.@".contains(letter);
    match contact.name.as_str() {
        name if name.chars().all(word) => name.to_owned(),
        name if !name.contains('\'') => format!("'{name}'"),
        _ => contact.address.clone(),
    }
}

pub(crate) async fn conversations(profile: &Path, out: &Out) -> Result<(), Problem> {
    let mut caller = reach(profile, out).await?;
    let conversations: Vec<ConversationLine> = caller.call(Call::Conversations).await?;
    let contacts: Vec<ContactLine> = if out.json { Vec::new() } else { caller.call(Call::Contacts).await? };
    let blocked = |address: &String| contacts.iter().any(|contact| contact.blocked && contact.address == *address);
    for conversation in &conversations {
        out.either(conversation, || {
            let waiting = match conversation.undelivered {
                _ if conversation.address.as_ref().is_some_and(blocked) => "  (blocked)".to_owned(),
                _ if conversation.standing == Standing::Left => "  (you left it)".to_owned(),
                _ if conversation.standing == Standing::Removed && conversation.quit => "  (you left it)".to_owned(),
                _ if conversation.standing == Standing::Removed => "  (you are not in it any more)".to_owned(),
                _ if conversation.standing == Standing::Away => {
                    "  (you were away for too long: a member adds you again by itself)".to_owned()
                }
                _ if conversation.broken => {
                    "  (broken: its members cannot read each other any more; begin anew)".to_owned()
                }
                _ if conversation.request => {
                    let id = &conversation.conversation;
                    let by = conversation.added_by.as_deref().map(|who| format!("\n  {} added you to it", plain(who)));
                    let by = by.unwrap_or_default();
                    format!("{by}\n  a request: shoal accept {id}\n         or: shoal block {id}")
                }
                0 => String::new(),
                some => format!("  ({some} not delivered yet)"),
            };
            format!("{}  {}{waiting}", conversation.conversation, plain(&conversation.name))
        })?;
    }
    if conversations.is_empty() && !out.json {
        out.text("no conversations yet: shoal send TO TEXT")?;
    }
    Ok(())
}
