//! How a `node.toml` of an older version becomes one of this version: text in, text out. Comments stay.
//!
//! Each version has one step to the next. A new one is a function more at the end of `STEPS`.

use crate::config::ConfigError;
use crate::config_store::StoreConfig;
use shoal_protocol::toml_problem;
use toml_edit::{DocumentMut, Item, Key, Table, TableLike, Value, value};

/// What a step does with a file; says what it changed, for the operator. An error names what keeps it from it.
type Step = fn(&mut DocumentMut) -> Result<Vec<String>, String>;

/// From version 1 to 2, and so on.
const STEPS: [Step; 1] = [one_to_two];

/// Version of the format written and read by this program.
pub const CONFIG_VERSION: u32 = 1 + STEPS.len() as u32;

const VERSION_KEY: &str = "config_version";

/// A file of an older version, brought up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// Its version before.
    pub from: u32,
    /// Its text now.
    pub text: String,
    /// What was changed, besides the version.
    pub changes: Vec<String>,
}

/// Brings a file's text up to date; `None` if it is. A file without a version is left to [`crate::config::Config::parse`].
pub fn upgrade(text: &str) -> Result<Option<Upgraded>, ConfigError> {
    let mut document = document(text)?;
    let Some(found) = document.get(VERSION_KEY).and_then(Item::as_integer) else { return Ok(None) };
    let Ok(from) = u32::try_from(found) else { return Ok(None) };
    if from > CONFIG_VERSION {
        return Err(ConfigError::TooNew { found: from });
    }
    if from == 0 || from == CONFIG_VERSION {
        return Ok(None);
    }
    let mut changes = Vec::new();
    for (version, step) in (1_u32..).zip(STEPS) {
        if version < from {
            continue;
        }
        changes.extend(step(&mut document).map_err(ConfigError::Syntax)?);
        replace(document.as_table_mut(), VERSION_KEY, i64::from(version) + 1);
    }
    Ok(Some(Upgraded { from, text: document.to_string(), changes }))
}

/// The text with another `[store]` table, for a store that has moved. The rest stays as it is.
pub fn with_store(text: &str, store: &StoreConfig) -> Result<String, ConfigError> {
    let mut document = document(text)?;
    let table = toml::to_string(store).map_err(|error| ConfigError::Syntax(error.to_string()))?;
    let mut table = self::document(&table)?.as_table().clone();
    table.set_implicit(false);
    document.insert("store", Item::Table(table));
    Ok(document.to_string())
}

/// The text with another name of the network file, and what it was; `None` if it is that already. The rest stays as it is.
pub fn with_network(text: &str, name: &str) -> Result<Option<(String, String)>, ConfigError> {
    const KEY: &str = "network";
    let mut document = document(text)?;
    // a file that does not say names the default
    let Some(before) = document.get(KEY).and_then(Item::as_str).map(str::to_owned) else { return Ok(None) };
    if before == name {
        return Ok(None);
    }
    replace(document.as_table_mut(), KEY, name);
    Ok(Some((document.to_string(), before)))
}

fn document(text: &str) -> Result<DocumentMut, ConfigError> {
    // the same parser and the same words as everywhere else for what is no TOML
    toml::from_str::<toml::Table>(text).map_err(|error| ConfigError::Syntax(toml_problem(text, &error)))?;
    text.parse().map_err(|_| ConfigError::Syntax("not TOML".to_owned()))
}

/// Sets a value and leaves what stands around it.
fn replace(table: &mut Table, key: &str, new: impl Into<Value>) {
    let mut item = value(new);
    if let (Some(old), Some(new)) = (table.get(key).and_then(Item::as_value), item.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    if let Some(place) = table.get_mut(key) {
        *place = item;
    }
}

/// Takes a key out of a table, with the comment above it, under the name that it has from now on.
fn take(table: &mut dyn TableLike, old: &str, new: &str) -> Option<(Key, Item)> {
    let key = table.key(old)?.clone();
    let item = table.remove(old)?;
    Some((Key::new(new).with_leaf_decor(key.leaf_decor().clone()), item))
}

/// Version 2 has a table for the store: `store_dir` is `store.dir`, `limits.store_records` is `store.records`.
fn one_to_two(document: &mut DocumentMut) -> Result<Vec<String>, String> {
    if document.contains_key("store") {
        return Err(
            "store: unknown in a file of config_version 1; write config_version = 2 if that is meant".to_owned()
        );
    }
    let mut changes = Vec::new();
    let mut store = Table::new();
    let mut moved = |from: &str, taken: Option<(Key, Item)>| {
        if let Some((key, item)) = taken {
            changes.push(format!("{from} is store.{}", key.get()));
            store.insert_formatted(&key, item);
        }
    };
    moved("store_dir", take(document.as_table_mut(), "store_dir", "dir"));
    let limits = document.get_mut("limits").and_then(Item::as_table_like_mut);
    moved("limits.store_records", limits.and_then(|limits| take(limits, "store_records", "records")));
    if !store.is_empty() {
        document.insert("store", Item::Table(store));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const ONE: &str = r#"# my store
config_version = 1 # as of spring
role = "store"
listen = "[::]:4433"
address = "store.example.org:4433"
metrics = "127.0.0.1:9464"
# on the big disk
store_dir = "/srv/boxes"
log = "info"

[limits]
workers = 2
# 44 GB
store_records = 1000
"#;

    #[test]
    fn version_one_becomes_version_two_with_its_comments() {
        let upgraded = upgrade(ONE).expect("can be").expect("is older");
        assert_eq!(upgraded.from, 1);
        assert_eq!(upgraded.changes, ["store_dir is store.dir", "limits.store_records is store.records"]);
        let expected = r#"# my store
config_version = 2 # as of spring
role = "store"
listen = "[::]:4433"
address = "store.example.org:4433"
metrics = "127.0.0.1:9464"
log = "info"

[limits]
workers = 2

[store]
# on the big disk
dir = "/srv/boxes"
# 44 GB
records = 1000
"#;
        assert_eq!(upgraded.text.replace("\n\n\n", "\n\n"), expected);
        let config = Config::parse(&upgraded.text).expect("is of this version");
        assert_eq!((config.store.dir.to_str(), config.store.records), (Some("/srv/boxes"), 1_000));
        assert_eq!(upgrade(&upgraded.text), Ok(None));
    }

    #[test]
    fn what_a_file_does_not_set_is_not_added() {
        let short = ONE.replace("store_dir = \"/srv/boxes\"\n", "").replace("store_records = 1000\n", "");
        let upgraded = upgrade(&short).expect("can be").expect("is older");
        assert!(upgraded.changes.is_empty() && !upgraded.text.contains("[store]"), "{}", upgraded.text);
        let inline =
            short.split("[limits]").next().expect("a beginning").to_owned() + "limits = { store_records = 7 }\n";
        let upgraded = upgrade(&inline).expect("can be").expect("is older");
        assert_eq!(Config::parse(&upgraded.text).expect("parses").store.records, 7, "{}", upgraded.text);
    }

    #[test]
    fn what_is_not_older_is_left_alone() {
        for text in ["", "config_version = 0", "config_version = -1", "config_version = \"1\"", "role = \"mix\""] {
            assert_eq!(upgrade(text), Ok(None), "{text}");
        }
        assert_eq!(upgrade("config_version = 3"), Err(ConfigError::TooNew { found: 3 }));
        for text in ["config_version = ", "config_version = 1\n[store]\nengine = \"redb\""] {
            assert!(matches!(upgrade(text), Err(ConfigError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn another_engine_is_written_beside_what_stands_there() {
        let text = upgrade(ONE).expect("can be").expect("is older").text;
        let mut config = Config::parse(&text).expect("parses");
        config.store.records = 2_000;
        let changed = with_store(&text, &config.store).expect("can be");
        assert_eq!(Config::parse(&changed).expect("parses"), config);
        assert!(changed.contains("# as of spring"), "{changed}");
    }
}
