//! `shoal group`: conversations of many.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shoal_client::io::{Call, Caller, ConversationLine, EventLine, Exit, Failure, Kind, MemberLine};
use shoal_client::mail::{MemberState, Standing};
use tokio::time::{Instant, timeout_at};

use crate::args::GroupCommand;
use crate::daemon::reach;
use crate::output::{Out, Problem, plain};

/// How often a change is looked for when no event came.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) async fn group(profile: &Path, command: GroupCommand, out: &Out) -> Result<(), Problem> {
    let mut caller = reach(profile, out).await?;
    match command {
        GroupCommand::Create { name } => {
            let group: ConversationLine = caller.call(Call::GroupCreate { name }).await?;
            out.either(&group, || {
                let id = &group.conversation;
                format!("{id}  {}\n  to add somebody: shoal group add {id} NAME", plain(&group.name))
            })
        }
        GroupCommand::Add { conversation, who, timeout } => add(&mut caller, conversation, who, timeout, out).await,
        GroupCommand::Remove { conversation, who } => {
            let group: ConversationLine = caller.call(Call::GroupRemove { conversation, who }).await?;
            out.either(&group, || {
                match group.members.iter().any(|member| !member.oneself && member.state == MemberState::Leaving) {
                    true => format!(
                        "{}\n  who is leaving is out as soon as the others can know: some seconds",
                        summary(&group)
                    ),
                    false => summary(&group),
                }
            })
        }
        GroupCommand::Leave { conversation } => {
            let group: ConversationLine = caller.call(Call::GroupLeave { conversation }).await?;
            out.either(&group, || summary(&group))
        }
        GroupCommand::Rename { conversation, name } => {
            let group: ConversationLine = caller.call(Call::GroupRename { conversation, name: name.clone() }).await?;
            out.either(&group, || match group.name == name {
                true => summary(&group),
                false => {
                    format!("{}\n  it will be called {} as soon as the others can know", summary(&group), plain(&name))
                }
            })
        }
        GroupCommand::List => {
            let conversations: Vec<ConversationLine> = caller.call(Call::Conversations).await?;
            let groups: Vec<_> = conversations.iter().filter(|line| line.kind == Kind::Group).collect();
            for group in &groups {
                out.either(group, || summary(group))?;
            }
            if groups.is_empty() && !out.json {
                out.text("no groups yet: shoal group create NAME")?;
            }
            Ok(())
        }
    }
}

/// Adds somebody and waits until the group has done it: their card has to be found, and the other members may be changing
/// the group too.
async fn add(
    caller: &mut Caller,
    conversation: String,
    who: String,
    patience: Duration,
    out: &Out,
) -> Result<(), Problem> {
    let _: Value = caller.call(Call::Subscribe).await?;
    let deadline = Instant::now() + patience;
    let before: ConversationLine = caller.call(Call::GroupAdd { conversation, who: who.clone() }).await?;
    let waiting = || before.members.iter().rev().filter(|member| member.state == MemberState::Wanted);
    let named = waiting().find(|member| member.name == who || member.address == who);
    let Some(address) = named.or_else(|| waiting().next()) else {
        return out.either(&before, || summary(&before));
    };
    let address = address.address.clone();
    let mut group = before;
    let spinner = out.spinner("looking for their card");
    while wanted(&group, &address) {
        let look = deadline.min(Instant::now() + LOOK);
        let event = timeout_at(look, caller.event()).await;
        if event.is_err() && Instant::now() >= deadline {
            let message = format!("{} is not in the group yet; it is tried further", plain(&who));
            let next = "nothing is left to do: shoal group list shows when they are in. If they never ran shoal on this network, \
                        they have to, once; and when several members change the group at once, one goes after the other";
            return Err(Failure::new(Exit::Temporary, "not_added_yet", message, next).into());
        }
        if let Ok(event) = event
            && matches!(event?, EventLine::State(_) | EventLine::Message(_) | EventLine::Contact(_))
        {
            continue;
        }
        let all: Vec<ConversationLine> = caller.call(Call::Conversations).await?;
        let now = all.into_iter().find(|line| line.conversation == group.conversation);
        group = now.unwrap_or(group);
    }
    spinner.finish_and_clear();
    out.either(&group, || summary(&group))
}

fn wanted(group: &ConversationLine, address: &str) -> bool {
    group.members.iter().any(|member| member.address == address && member.state == MemberState::Wanted)
}

fn summary(group: &ConversationLine) -> String {
    let asked;
    let note = match (group.standing, group.request, group.broken) {
        (Standing::Left, ..) => "  (you left it: the others are told)",
        (Standing::Removed, ..) if group.quit => "  (you left it)",
        (Standing::Away, ..) => {
            "  (you were away for too long: a member adds you again by itself; what you write waits)"
        }
        (Standing::Removed, ..) => "  (you are not in it any more)",
        (Standing::Member, _, true) => {
            "  (broken: the others went on without you; leave it, and ask one of them to add you again)"
        }
        (Standing::Member, true, false) => {
            let who = group.added_by.as_deref().map_or_else(|| "somebody".into(), plain);
            let id = &group.conversation;
            asked = format!("\n  {who} added you: shoal accept {id}\n              or: shoal block {id}");
            &asked
        }
        (Standing::Member, false, false) => "",
    };
    let mut text = format!("{}  {}{note}", group.conversation, plain(&group.name));
    for member in &group.members {
        text.push_str("\n    ");
        text.push_str(&describe(member));
    }
    if group.members.iter().any(|member| !member.oneself && member.name == member.address) {
        text.push_str("\n  to give somebody a name: shoal add NAME ADDRESS");
    }
    text
}

fn describe(member: &MemberLine) -> String {
    let name = if member.oneself { "you".to_owned() } else { plain(&member.name) };
    let note = match member.state {
        MemberState::Wanted => "  (to be added: no card found yet, or the others are asked)",
        MemberState::Invited => "  (invited; nothing was heard of them yet)",
        MemberState::Leaving => "  (leaving)",
        MemberState::Away => "  (away for too long; added again when they are back)",
        MemberState::Apart => "  (went on from another state: one of you leaves, and is added again)",
        MemberState::Member => "",
    };
    format!("{name}{note}")
}
