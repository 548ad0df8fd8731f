//! Sends a text with a client inside of this program, and waits until two stores have it.
//!
//! ```sh
//! cargo run --example send -- PROFILE TO TEXT
//! ```
//!
//! PROFILE is a folder that `shoal init` made, and whose daemon does not run: a profile is one client's at a time.

use shoal_client::io::Client;
use shoal_client::mail::{Event, Mail, MessageState};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile, to, text] = arguments.as_slice() else { return Err("usage: send PROFILE TO TEXT".into()) };
    let client = Client::start(Mail::open(Path::new(profile))?)?;
    // from here on cover traffic flows, whether there is anything to say or not
    tokio::time::timeout(Duration::from_secs(60), client.connected()).await?;

    // before the message exists, so that none of its steps is missed
    let mut events = client.events();
    let (to, text) = (to.clone(), text.clone());
    let id = client.mail(move |desk| desk.mail.send(&to, &text, desk.now, desk.rng)).await??;
    loop {
        if let Event::State { id: of, state } = events.recv().await?
            && of == id
        {
            eprintln!("{state:?}");
            if state >= MessageState::Stored {
                break;
            }
        }
    }
    client.stop().await;
    Ok(())
}
