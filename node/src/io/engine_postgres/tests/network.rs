//! A server over a network.

use super::*;

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output();
    let output = output.expect("openssl runs (Debian package openssl)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_server_over_a_network_shows_a_certificate_and_asks_for_a_password() {
    let mut server = server(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["server", "stranger"] {
        openssl(
            folder.path(),
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
                 -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
                 -keyout {name}.key -out {name}.pem"
            ),
        );
    }
    for name in ["server.key", "server.pem"] {
        let there = server.data().join(name);
        fs::copy(folder.path().join(name), &there).expect("copied");
        fs::set_permissions(&there, fs::Permissions::from_mode(0o600)).expect("closed");
        std::os::unix::fs::chown(&there, server.user(), server.user()).expect("given");
    }
    server.sql("CREATE ROLE store LOGIN PASSWORD 'secret'; GRANT CREATE ON DATABASE postgres TO store").expect("made");
    let rules = "local all all trust\nhostssl all store 127.0.0.1/32 scram-sha-256\n";
    fs::write(server.data().join("pg_hba.conf"), rules).expect("written");
    for setting in ["ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"] {
        let (name, value) = setting.split_once('=').expect("a setting");
        server.sql(&format!("ALTER SYSTEM SET {name} = '{value}'")).expect("set");
    }
    server.stop();
    server.run().expect("starts");
    let password = folder.path().join("password");
    let config = PostgresConfig {
        url: DatabaseUrl(format!("postgres://store@localhost:{}/postgres", server.port())),
        schema: Some("far".to_owned()),
        password_file: Some("password".into()),
        ca_file: Some("server.pem".into()),
        connections: 2,
    };
    let check = |config: &PostgresConfig| {
        let place = Place::of(config, folder.path(), &ME).map_err(EngineError::from)?;
        PostgresEngine::new(&place, ME, LIMITS)?.check()
    };
    fs::write(&password, "secret\n").expect("written");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).expect("opened");
    match check(&config) {
        Err(EngineError::Refused(text)) => assert!(text.contains("chmod 600"), "{text}"),
        other => panic!("{other:?}"),
    }
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("closed");
    check(&config).expect("a certificate that is known, a password that is right");
    let stranger = PostgresConfig { ca_file: Some("stranger.pem".into()), ..config.clone() };
    match check(&stranger) {
        Err(EngineError::Unavailable(text)) => assert!(text.contains("certificate"), "{text}"),
        other => panic!("{other:?}"),
    }
    // in clear the server does not even ask for the password
    assert!(check(&PostgresConfig { ca_file: None, ..config.clone() }).is_err());
    fs::write(&password, "wrong").expect("written");
    match check(&config) {
        Err(EngineError::Refused(text)) => assert!(text.contains("28P01") && !text.contains("wrong"), "{text}"),
        other => panic!("{other:?}"),
    }
}
