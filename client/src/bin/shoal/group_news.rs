//! What has changed in groups since it was looked at last, in a line for people: a name, who came, who went.

use std::collections::BTreeMap;

use shoal_client::io::{Call, Caller, CallerError, ConversationLine, Kind, MemberLine};
use shoal_client::mail::{MemberState, Standing};

use crate::output::plain;

/// The groups as they were when they were looked at last.
#[derive(Default)]
pub(crate) struct GroupNews {
    known: BTreeMap<String, ConversationLine>,
}

impl GroupNews {
    /// Looks at all of them, and says what is new since the last time.
    pub(crate) async fn look(&mut self, caller: &mut Caller) -> Result<Vec<String>, CallerError> {
        let all: Vec<ConversationLine> = caller.call(Call::Conversations).await?;
        let groups = all.into_iter().filter(|line| line.kind == Kind::Group);
        Ok(groups.flat_map(|group| self.take(group)).collect())
    }

    /// What is new about a group; from now on it is known so.
    pub(crate) fn take(&mut self, group: ConversationLine) -> Vec<String> {
        let called = plain(&group.name).replace('\n', " ");
        let mut news = Vec::new();
        match self.known.get(&group.conversation) {
            None => {
                let who = group.added_by.as_deref().map(plain);
                let id = &group.conversation;
                news.extend(match (who, group.request) {
                    (Some(who), false) => Some(format!("{who} added you to {called}")),
                    // the user has made it
                    (None, false) => None,
                    (who, true) => {
                        let who = who.unwrap_or_else(|| "somebody".to_owned());
                        Some(format!("{who} added you to {called}: shoal accept {id}, or shoal block {id}"))
                    }
                });
            }
            Some(before) => {
                if before.name != group.name {
                    news.push(format!("{} is called {called} now", plain(&before.name).replace('\n', " ")));
                }
                if group.standing == Standing::Removed && before.standing != Standing::Removed && !group.quit {
                    news.push(format!("you are not in {called} any more"));
                } else {
                    let went = before.members.iter().filter(|member| is_in(member) && !holds(&group, member));
                    let came = group.members.iter().filter(|member| is_in(member) && !holds(before, member));
                    let (mut went, came): (Vec<_>, Vec<_>) = (went.collect(), came.collect());
                    for member in came {
                        // the same contact under another address
                        let moved = went.iter().position(|other| other.name == member.name);
                        let name = plain(&member.name);
                        news.push(match moved.map(|at| went.remove(at)) {
                            Some(_) => format!("{name} has another address now"),
                            None => format!("{name} is in {called} now"),
                        });
                    }
                    news.extend(
                        went.iter().map(|member| format!("{} is not in {called} any more", plain(&member.name))),
                    );
                }
            }
        }
        self.known.insert(group.conversation.clone(), group);
        news
    }
}

/// Not only wished for by the user.
fn is_in(member: &MemberLine) -> bool {
    !member.oneself && member.state != MemberState::Wanted
}

fn holds(group: &ConversationLine, member: &MemberLine) -> bool {
    group.members.iter().any(|other| is_in(other) && other.address == member.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, members: &[(&str, MemberState)]) -> ConversationLine {
        let line = |(name, state): &(&str, MemberState)| MemberLine {
            name: (*name).to_owned(),
            address: format!("shoal1{name}"),
            oneself: *name == "me",
            state: *state,
        };
        ConversationLine {
            conversation: "c1".to_owned(),
            kind: Kind::Group,
            name: name.to_owned(),
            with: None,
            address: None,
            members: members.iter().map(line).collect(),
            request: false,
            undelivered: 0,
            standing: Standing::Member,
            quit: false,
            added_by: None,
            broken: false,
        }
    }

    #[test]
    fn names_and_members_that_change_are_told_once() {
        use MemberState::{Invited, Member, Wanted};
        let mut news = GroupNews::default();
        assert!(news.take(group("reef", &[("me", Member), ("bob", Member)])).is_empty(), "the user made it");
        assert!(news.take(group("reef", &[("me", Member), ("bob", Member), ("eve", Wanted)])).is_empty());
        let added = group("reef\u{1b}[2J", &[("me", Member), ("bob", Member), ("eve", Invited)]);
        assert_eq!(
            news.take(added.clone()),
            ["reef is called reef\u{fffd}[2J now", "eve is in reef\u{fffd}[2J now"],
            "and nobody is at the mercy of who names groups"
        );
        assert!(news.take(added.clone()).is_empty());
        let mut moved = added;
        moved.members[1].address = "shoal1bobs-next".to_owned();
        assert_eq!(news.take(moved), ["bob has another address now"]);
        assert_eq!(news.take(group("reef", &[("me", Member), ("eve", Member)]))[1], "bob is not in reef any more");
        let out = ConversationLine { standing: Standing::Removed, ..group("reef", &[("eve", Member)]) };
        assert_eq!(news.take(out), ["you are not in reef any more"]);
        let request = ConversationLine {
            conversation: "c2".to_owned(),
            request: true,
            added_by: Some("zoe".to_owned()),
            ..group("club", &[("me", Member)])
        };
        let by_bob = ConversationLine {
            conversation: "c3".to_owned(),
            added_by: Some("bob".to_owned()),
            ..group("swim", &[("me", Member)])
        };
        assert_eq!(news.take(by_bob), ["bob added you to swim"]);
        assert_eq!(news.take(request), ["zoe added you to club: shoal accept c2, or shoal block c2"]);
    }
}
