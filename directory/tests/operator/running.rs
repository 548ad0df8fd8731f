//! Mistakes around running authorities.

use super::*;

fn runs(status: &Value) -> bool {
    status["running"] == true
}

#[test]
fn a_copy_never_runs_beside_the_first() {
    let all = Operator::ceremony(4);
    let one = &all[0];
    let _first = one.run();
    one.until("it runs", runs);
    let said = one.refused(75, "run", &[]);
    assert!(said.contains("another process runs this authority") && said.contains("status"), "{said}");

    let copy = one.twin();
    for name in ["authority.key", "authority.pub", "authority.toml", "network.toml", "votes.log"] {
        std::fs::copy(one.file(name), copy.file(name)).unwrap();
    }
    let said = copy.refused(78, "run", &[]);
    assert!(said.contains("this authority's key") && said.contains(&one.address.to_string()), "{said}");
    // with an address of its own it finds the first where the network file says that it is
    let config = one.read("authority.toml").replace(&one.address.to_string(), &free_address().to_string());
    copy.write("authority.toml", &config);
    let said = copy.refused(78, "run", &[]);
    assert!(said.contains("this authority's key") && said.contains(&one.address.to_string()), "{said}");
}

#[test]
fn a_wrong_file_at_sighup_is_named_and_the_others_are_taken() {
    let all = Operator::ceremony(4);
    let one = &all[0];
    let process = one.run();
    one.until("it runs", runs);
    one.write("parameters.toml", "epoch_ms = soon\n");
    one.write("authorities.toml", "authorities = []\n");
    one.write(
        "admitted.toml",
        &format!("config_version = 1\n[[nodes]]\nidentity = \"{}\"\nrole = \"mix\"\n", "ab".repeat(32)),
    );
    process.hang_up();
    let line = process.logged(&["ERROR", "parameters.toml: line 1"]);
    assert!(line.contains("no other parameters are asked for, as before") && !line.contains("admission"), "{line}");
    let line = process.logged(&["ERROR", "authorities.toml: it names 0 authorities"]);
    assert!(line.contains("no other set of authorities is asked for, as before"), "{line}");
    process.logged(&["INFO", "read again", "admitted=1"]);
    assert_eq!(one.fine("status", &[])["admitted"], 1, "one wrong file does not keep back the others");

    let all_of_it = one.fine("network", &[])["parameters"].clone();
    let lines = all_of_it.as_object().unwrap().iter().map(|(name, value)| match name.as_str() {
        "service_ms" => format!("{name} = {}\n", value.as_u64().unwrap() + 7),
        _ => format!("{name} = {value}\n"),
    });
    one.write("parameters.toml", &lines.collect::<String>());
    std::fs::remove_file(one.file("authorities.toml")).unwrap();
    process.hang_up();
    let status = one.until("it asks for it", |status| !texts(&status["asks"]).is_empty());
    assert!(texts(&status["asks"])[0].starts_with("service_ms = "), "{status}");
    // a wrong one later leaves what was asked for
    one.write("parameters.toml", "");
    process.hang_up();
    process.logged(&["ERROR", "parameters.toml: line 1", "what was asked for before stays: service_ms = "]);
    assert!(texts(&one.fine("status", &[])["asks"])[0].starts_with("service_ms = "));

    // the admission list of a running authority is told by the command, and a wrong one by its own name
    let answer = one.fine("admit", &[&format!("mix {} mix.example:4000", "cd".repeat(32))]);
    assert_eq!((&answer["running_authority_told"], &answer["count"]), (&true.into(), &2.into()));
    assert!(texts(&answer["warnings"]).iter().any(|warning| warning.contains("parameters.toml")), "{answer}");
}

#[test]
fn who_is_missing_is_said_and_one_that_moved_is_found_without_a_restart() {
    let all = Operator::ceremony(4);
    let _running = [all[0].run(), all[1].run()];
    let one = &all[0];
    let missing = |status: &Value| {
        let mut missing: Vec<String> = texts(&status["missing"]).iter().map(|one| (*one).to_owned()).collect();
        missing.sort();
        missing
    };
    let mut gone = vec![all[2].identity.clone(), all[3].identity.clone()];
    gone.sort();
    let status = one.until("two are here", |status| runs(status) && missing(status) == gone);
    let next = texts(&status["next"]);
    assert!(next[0].contains("2 of 4 authorities are missing and 3 must run"), "{next:?}");
    for at in [2, 3] {
        assert!(next[0].contains(&all[at].address.to_string()), "the address that was tried: {next:?}");
    }
    let said = |status: &Value, at: usize| {
        let authorities = status["authorities"].as_array().unwrap().clone();
        authorities.into_iter().find(|one| one["identity"] == all[at].identity.as_str()).unwrap()
    };
    assert!(said(&status, 1)["answered"].is_u64(), "{status:#}");
    assert_eq!(said(&status, 2)["address"], all[2].address.to_string());

    // the third one runs, but somewhere else than the network file says
    let new = free_address().to_string();
    all[2].fine("init", &["--key-only", "--listen", &new]);
    let _third = all[2].run();
    all[2].until("it runs", runs);
    let hint = format!("{}@{new}", all[2].identity);
    one.fine("network", &["--add-authority", &hint]);
    let status = one.until("it is reached", |status| missing(status) == [all[3].identity.clone()]);
    assert_eq!(said(&status, 2)["address"], new.as_str());
    let next = texts(&status["next"]);
    assert!(
        next[0].contains("1 of 4 authorities missing") && next[0].contains("none of the others may fail"),
        "{next:?}"
    );
}
