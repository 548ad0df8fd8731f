//! Commands on files: nothing runs.

use super::*;

fn line(byte: &str, role: &str) -> String {
    format!("shoal-node-1 {role} {} {role}.example:4000", byte.repeat(32))
}

#[test]
fn admission_is_explained_shown_listed_and_undone() {
    let alone = Operator::ceremony(1).remove(0);
    let identity = "ab".repeat(32);
    for (line, word) in [
        (format!("shoal-node-1 mix {} mix.example:4000", &"ab".repeat(32).replacen('a', "", 1)), "63 characters"),
        (format!("shoal-node-1 mix {identity} mix.example:99999"), "mix.example:99999"),
        (format!("shoal-node-1 mix {identity} mix.example"), "mix.example"),
        (format!("shoal-node-1 mxi {identity} mix.example:4000"), "mxi"),
    ] {
        let said = alone.refused(64, "admit", &[&line]);
        assert!(said.contains(word), "{line}: {said}");
    }
    assert!(!alone.dir().join("admitted.toml").exists(), "a refused line changes nothing");

    let new = alone.fine("admit", &[&line("ab", "mix")]);
    assert_eq!((&new["new"], &new["role"], &new["address"]), (&true.into(), &"mix".into(), &"mix.example:4000".into()));
    assert_eq!((&new["count"], &new["running_authority_told"]), (&1.into(), &false.into()));
    let again = alone.fine("admit", &[&line("ab", "mix")]);
    assert_eq!((&again["new"], &again["changed"]), (&false.into(), &false.into()));
    let moved = alone.fine("admit", &[&line("ab", "mix").replace(":4000", ":4001")]);
    assert_eq!((&moved["new"], &moved["changed"]), (&false.into(), &true.into()));
    assert!(alone.refused(64, "admit", &[&line("ab", "store")]).contains("--remove"));
    alone.fine("admit", &[&line("cd", "gateway")]);

    let listed = alone.fine("admit", &["--list"]);
    assert_eq!(listed["count"], 2);
    assert_eq!(listed["nodes"][0]["address"], "mix.example:4001");
    for whom in [identity.clone(), line("cd", "gateway")] {
        assert_eq!(alone.fine("admit", &["--remove", &whom])["removed"], true, "{whom}");
    }
    assert_eq!(alone.fine("admit", &["--remove", &identity])["removed"], false);
    assert!(alone.refused(64, "admit", &["--remove", &"ab".repeat(31)]).contains("62 characters"));
    assert_eq!(alone.fine("admit", &["--list"])["count"], 0);
}

#[test]
fn gateways_are_checked_against_what_is_known_and_can_be_taken_out() {
    let all = Operator::ceremony(4);
    let (one, gateway, mix) = (&all[0], "ab".repeat(32), "cd".repeat(32));
    assert!(texts(&one.fine("network", &[])["warnings"])[0].contains("--add-gateway"), "clients cannot begin");
    assert!(texts(&one.fine("verify", &[])["warnings"])[0].contains("--add-gateway"));

    one.fine("admit", &[&line("cd", "mix")]);
    let said = one.refused(64, "network", &["--add-gateway", &format!("{mix}@127.0.0.1:5")]);
    assert!(said.contains("admitted as a mix"), "{said}");
    let said = one.refused(64, "network", &["--add-gateway", &format!("{}@127.0.0.1:5", all[2].identity)]);
    assert!(said.contains("an authority of this network"), "{said}");
    assert!(one.network().hints.gateways.is_empty());

    let hint = format!("{gateway}@127.0.0.1:7000");
    let added = one.fine("network", &["--add-gateway", &hint]);
    assert!(texts(&added["warnings"])[0].starts_with("UNCHECKED"), "{added}");
    assert_eq!(one.network().hints.gateways.len(), 1);
    assert_eq!(one.network().genesis_hash(), all[1].network().genesis_hash());
    assert_eq!(one.fine("network", &[])["warnings"], Value::Null);
    assert!(one.refused(64, "network", &["--remove-gateway", &mix]).contains("names no gateway"));
    one.fine("network", &["--remove-gateway", &gateway]);
    assert!(one.network().hints.gateways.is_empty());

    let other = &all[1].identity;
    let taken = format!("{other}@{}", all[2].address);
    assert!(one.refused(64, "network", &["--add-authority", &taken]).contains(&all[2].identity));
    let stranger = format!("{gateway}@127.0.0.1:9");
    assert!(texts(&one.fine("network", &["--add-authority", &stranger])["warnings"])[0].contains("not an authority"));
    one.fine("network", &["--remove-authority", &gateway, "--remove-authority", other]);
    assert_eq!(one.network().hints.authorities.len(), 3);
}

#[test]
fn an_address_is_changed_with_the_same_keys_before_and_after_the_ceremony() {
    let one = Operator::new();
    let (key, new) = (one.read("authority.key"), free_address().to_string());
    let changed = one.fine("init", &["--key-only", "--address", &new]);
    assert_eq!((&changed["identity"], &changed["address"]), (&one.identity.as_str().into(), &new.as_str().into()));
    assert!(texts(&changed["changed"])[0].contains(&one.address.to_string()), "{changed}");
    assert!(one.read("authority.pub").contains(&new));
    assert_eq!(one.read("authority.key"), key);
    assert!(one.refused(64, "init", &["--key-only", "--address", "0.0.0.0:7"]).contains("--address"));

    let all = Operator::ceremony(4);
    let (one, words) = (&all[0], all[0].network().fingerprint_words());
    let moved = one.fine("init", &["--key-only", "--listen", &new]);
    assert_eq!(moved["address"], new.as_str(), "the public address was the one it listened on: {moved}");
    assert!(one.read("authority.toml").contains(&new));
    let hint = one.network().hints.authorities.iter().find(|hint| hint.identity.to_string() == one.identity).copied();
    assert_eq!(hint.unwrap().address.to_string(), new);
    assert_eq!(one.network().fingerprint_words(), words);
    let status = one.fine("status", &[]);
    assert_eq!((&status["address"], &status["listen"]), (&new.as_str().into(), &new.as_str().into()));
}

#[test]
fn a_directory_that_is_in_use_says_how_to_go_on_with_it() {
    let (all, other) = (Operator::ceremony(4), Operator::ceremony(1));
    let one = &all[1];
    let said = one.refused(78, "init", &["--name", "reef"]);
    assert!(said.contains("shoal-directory run --dir") && said.contains("\"reef\""), "{said}");
    let said = one.refused(78, "init", &["--network", &other[0].file("network.toml")]);
    assert!(said.contains(&other[0].network().fingerprint_words()), "{said}");

    // the same network again, published with a gateway
    all[0].fine("network", &["--add-gateway", &format!("{}@127.0.0.1:7000", "ab".repeat(32))]);
    one.fine("init", &["--network", &all[0].file("network.toml")]);
    assert_eq!(one.network().hints.gateways.len(), 1);
}

#[test]
fn a_founder_is_told_of_a_wrong_number_and_of_twins() {
    let (one, two) = (Operator::new(), Operator::new());
    let file = two.file("authority.pub");
    let said = one.refused(64, "init", &["--name", "reef", "--authority", &file]);
    assert!(said.contains("of 2 authorities 2 must run and 0 may fail"), "{said}");
    let said = one.refused(64, "init", &["--name", "reef", "--authority", &file, "--authority", &file]);
    assert!(said.contains(&two.identity), "{said}");
    let key = one.refused(78, "init", &["--name", "reef", "--authority", &two.file("authority.key")]);
    assert!(key.contains("no authority.pub") && !key.contains(two.read("authority.key").trim()), "{key}");
}

#[test]
fn files_of_two_authorities_do_not_run() {
    let (all, other) = (Operator::ceremony(4), Operator::ceremony(1));
    let one = &all[1];
    one.fine("check-config", &[]);
    let (key, public) = (one.read("authority.key"), one.read("authority.pub"));

    one.write("authority.key", &other[0].read("authority.key"));
    for command in ["run", "check-config"] {
        let said = one.refused(78, command, &[]);
        assert!(said.contains("authority.pub") && said.contains(&other[0].identity), "{said}");
    }
    one.write("authority.pub", &other[0].read("authority.pub"));
    for command in ["run", "check-config"] {
        let said = one.refused(78, command, &[]);
        assert!(
            said.contains("network.toml") && said.contains(&other[0].identity) && said.contains("--later"),
            "{said}"
        );
    }
    // it is said where the operator looks, too
    assert!(texts(&one.fine("status", &[])["next"]).iter().any(|next| next.contains("network.toml")));
    // one that says that it comes later may
    one.fine("init", &["--network", &one.file("network.toml"), "--later"]);
    one.fine("check-config", &[]);

    let two = &all[2];
    two.write("authority.pub", &public);
    assert!(two.refused(78, "run", &[]).contains("authority.pub"));
    assert_ne!(key, two.read("authority.key"));
}

#[test]
fn all_that_is_wrong_with_the_files_is_said_with_file_and_line() {
    let all = Operator::ceremony(4);
    let one = &all[0];
    let shown = one.fine("network", &[])["parameters"].clone();
    let table = |change: &dyn Fn(&str, &Value) -> Option<String>| {
        let lines =
            shown.as_object().unwrap().iter().map(|(name, value)| {
                format!("{name} = {}\n", change(name, value).unwrap_or_else(|| value.to_string()))
            });
        lines.collect::<String>()
    };
    one.write("parameters.toml", &table(&|name, _| (name == "epoch_ms").then(|| "\"soon\"".to_owned())));
    let network = one.read("network.toml");
    // up to the next table
    let block = network.split("[[authorities]]").nth(1).unwrap().split('[').next().unwrap().to_owned();
    one.write("authorities.toml", &format!("[[authorities]]{block}\n[[authorities]]{block}"));
    one.write("admitted.toml", "config_version = 1\nnodes = 3\n");
    let said = one.refused(78, "check-config", &[]);
    for word in ["parameters.toml: line ", "authorities.toml: line ", "admitted.toml: line 2"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(one.refused(78, "run", &[]).contains("toml: line "));

    // what can be read but comes to nothing is told, and what is asked for is shown with both values
    std::fs::remove_file(one.file("admitted.toml")).unwrap();
    one.write("authorities.toml", &format!("[[authorities]]{block}"));
    one.write("parameters.toml", &table(&|name, _| (name == "epoch_ms").then(|| "20000".to_owned())));
    let checked = one.fine("check-config", &[]);
    let warnings = texts(&checked["warnings"]).join("\n");
    assert!(warnings.contains("epoch_ms is 10000 for ever") && warnings.contains("one authority alone"), "{warnings}");
    assert!(texts(&checked["asks"]).contains(&"epoch_ms = 20000 (10000 in force)"), "{checked}");
}
