//! What an operator has to know of his own wishes: how they differ from what is in force, and why they may come to nothing.

use serde::Serialize;
use serde_json::Value;
use shoal_protocol::Identity;
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::parameters::Parameters;

use super::{MEAN_DELAY_MIN_MS, Wishes, set};

/// A parameter that somebody wants otherwise than it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name, as in the file.
    pub name: String,
    /// Its value in force.
    pub in_force: Value,
    /// The value wanted.
    pub wanted: Value,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} ({} in force)", self.name, self.wanted, self.in_force)
    }
}

/// In what `wanted` differs from `in_force`.
#[must_use]
pub fn differences(in_force: &Parameters, wanted: &Parameters) -> Vec<Difference> {
    // numbers under names: this cannot fail
    let fields = |parameters: &Parameters| match serde_json::to_value(parameters) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let before = fields(in_force);
    let mut found = Vec::new();
    for (name, wanted) in fields(wanted) {
        let in_force = before.get(&name).cloned().unwrap_or_default();
        if in_force != wanted {
            found.push(Difference { name, in_force, wanted });
        }
    }
    found
}

/// Why no document takes `wanted` while `now` is in force, whoever wants it.
#[must_use]
pub fn obstacle(now: &Parameters, wanted: &Parameters) -> Option<String> {
    let floor = now.anonymity_floor > 0;
    let fixed = |name: &str, now: u64, wanted: u64| {
        format!("{name} is {now} for ever, {wanted} is asked for: it is fixed when the network is founded")
    };
    if wanted.epoch_ms != now.epoch_ms {
        Some(fixed("epoch_ms", now.epoch_ms, wanted.epoch_ms))
    } else if wanted.mean_delay_max_ms != now.mean_delay_max_ms {
        Some(fixed("mean_delay_max_ms", now.mean_delay_max_ms, wanted.mean_delay_max_ms))
    } else if (wanted.anonymity_floor > 0) != floor {
        Some(format!(
            "anonymity_floor is {}, {} is asked for: whether there is a floor is fixed when the network is founded",
            now.anonymity_floor, wanted.anonymity_floor
        ))
    } else if floor && wanted.mean_delay_ms < MEAN_DELAY_MIN_MS.min(now.mean_delay_ms) {
        Some(format!(
            "mean_delay_ms = {} is asked for: with an anonymity floor it stays at {MEAN_DELAY_MIN_MS} or more",
            wanted.mean_delay_ms
        ))
    } else {
        None
    }
}

/// What to tell the operator who has these wishes: `parameters` and `set` are in force, `own` is his authority.
#[must_use]
pub fn advice(wishes: &Wishes, parameters: &Parameters, current: &[AuthorityKey], own: &Identity) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(wanted) = &wishes.parameters {
        let differs = differences(parameters, wanted);
        match obstacle(parameters, wanted) {
            Some(obstacle) => said.push(format!("parameters.toml changes nothing: {obstacle}")),
            None if differs.is_empty() => said.push(
                "parameters.toml asks for what is in force: remove it, or it stands in the way of the next change"
                    .to_owned(),
            ),
            None => {}
        }
    }
    if let Some(wanted) = &wishes.authorities {
        if wanted == current {
            said.push(
                "authorities.toml asks for the set in force: remove it, or it stands in the way of the next change"
                    .to_owned(),
            );
        } else {
            said.extend(set::waste(wanted.len()).map(|waste| format!("authorities.toml: {waste}")));
            if wanted.len() == 1 && current.len() > 1 {
                said.push(
                    "authorities.toml: one authority alone would be the network, and nobody could watch it".to_owned(),
                );
            }
            let is_in = |set: &[AuthorityKey]| set.iter().any(|key| key.identity == *own);
            if is_in(current) && !is_in(wanted) {
                said.push("authorities.toml leaves this authority out: it asks to leave".to_owned());
            }
        }
    }
    said
}

/// Who comes and who goes, in one line: with the first digits of each identity.
#[must_use]
pub fn exchange(current: &[AuthorityKey], wanted: &[AuthorityKey]) -> String {
    let names = |of: &[AuthorityKey], without: &[AuthorityKey]| {
        let those = of.iter().filter(|key| !without.contains(key));
        those.map(|key| short(&key.identity)).collect::<Vec<_>>().join(", ")
    };
    let (comes, goes) = (names(wanted, current), names(current, wanted));
    match (comes.is_empty(), goes.is_empty()) {
        (true, true) => "the same set".to_owned(),
        (false, true) => format!("with {comes}"),
        (true, false) => format!("without {goes}"),
        (false, false) => format!("with {comes}, without {goes}"),
    }
}

/// The first digits of an identity, enough to tell a few authorities apart.
#[must_use]
pub fn short(identity: &Identity) -> String {
    identity.to_string().chars().take(8).collect::<String>() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::authority::AuthoritySecret;

    fn keys(count: u64) -> Vec<AuthorityKey> {
        let key = |seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed)).public().clone();
        let mut keys: Vec<_> = (0..count).map(key).collect();
        keys.sort_by_key(|key| key.identity);
        keys
    }

    #[test]
    fn differences_have_both_values() {
        let now = Parameters::test_network();
        let wanted = Parameters { service_ms: now.service_ms + 1, ..now };
        assert_eq!(differences(&now, &now), []);
        let found = differences(&now, &wanted);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), format!("service_ms = {} ({} in force)", now.service_ms + 1, now.service_ms));
    }

    #[test]
    fn wishes_that_come_to_nothing_are_named() {
        let (now, set) = (Parameters::production(), keys(4));
        let own = set[0].identity;
        let say = |parameters: Option<Parameters>, authorities: Option<Vec<AuthorityKey>>| {
            advice(&Wishes { parameters, authorities, ..Wishes::default() }, &now, &set, &own).join("\n")
        };
        assert_eq!(say(None, None), "");
        assert_eq!(say(Some(Parameters { append_bits: now.append_bits + 1, ..now }), None), "");
        for (wish, word) in [
            (Parameters { epoch_ms: 60_000, ..now }, "epoch_ms"),
            (Parameters { mean_delay_max_ms: 1 + now.mean_delay_max_ms, ..now }, "mean_delay_max_ms"),
            (Parameters { anonymity_floor: 0, ..now }, "anonymity_floor"),
            (Parameters { mean_delay_ms: 1, ..now }, "mean_delay_ms = 1"),
            (now, "what is in force"),
        ] {
            let said = say(Some(wish), None);
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(say(None, Some(set.clone())).contains("the set in force"));
        assert!(say(None, Some(set[1..].to_vec())).contains("asks to leave"));
        assert!(say(None, Some(keys(5))).contains("of 5 authorities 4 must run"));
        assert!(say(None, Some(set[..1].to_vec())).contains("one authority alone"));
        assert_eq!(exchange(&set, &set[1..]), format!("without {}", short(&set[0].identity)));
    }
}
