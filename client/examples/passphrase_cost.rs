//! Prints what a passphrase costs on this machine: `cargo run --release -p shoal-client --example passphrase_cost`.
#![expect(clippy::print_stdout, reason = "an example that prints")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use shoal_client::io::system_rng;
use shoal_client::profile::{Cost, KeyFile, Passphrase, ProfileId, Protector};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let passphrase = Passphrase::first_line(b"correct horse battery staple")?;
    let mut rng = system_rng();
    let id = ProfileId::random(&mut rng);
    for cost in [Cost::LEAST, Cost::new(128 << 10, 3, 1)?, Cost::NEW, Cost::new(512 << 10, 3, 1)?] {
        let protector = Protector::Passphrase(passphrase.clone(), cost);
        let mut times = Vec::new();
        for _ in 0..5 {
            let begun = Instant::now();
            KeyFile::create(id, &[0; 32], &protector, &mut rng)?;
            times.push(begun.elapsed());
        }
        times.sort();
        let [memory_kib, passes, lanes] = cost.numbers();
        let median = times.get(2).map_or(0, std::time::Duration::as_millis);
        println!("{} MiB, {passes} passes, {lanes} lane: {median} ms", memory_kib >> 10);
    }
    Ok(())
}
